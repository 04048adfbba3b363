"""Lets attention read and write its rows where others have them: no copies of turned heads.

    transpose(q) · transpose(k) · transpose(v) · attention · transpose
    becomes one group of kind `attention`, with the transposes in it

Input: a Grouping. Output: a Grouping in which a group that does nothing but move rows along the
last axis (turned heads, slices of a wider product) stands inside of the attention (or its gradient)
and the loops that read what it made, and one that moves a result inside of the attention that made
that. Loops that read the result as well read it through the inverse. The templates take strides,
and `strided` says which. What only gradients need of attention is not stored where there are none.

Non-goals: contractions, which read rows that lie side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim, product, strides_of
from dslc.lowering.grouping.group import Group, Grouping
from dslc.ops.attention_formula import AttentionAttrs, by_name
from dslc.ops.shape import ReshapeAttrs, TransposeAttrs, inverse
from dslc.ops.slicing import SliceAttrs

# What reads a value element by element, by whatever index.
_BY_ELEMENT = ("loop", "reduce")


@dataclass(frozen=True, slots=True)
class Strided:
    """A value as it lies in another's memory: strides and offset in elements."""

    base: Value
    strides: tuple[Dim, ...]
    offset: Dim


def strided(group: Group, value: Value) -> Strided:
    """Where the group finds an operand: in its inputs, or moved from one of them."""
    move = next((e for e in group.eqns if value in e.outputs), None)
    if value in group.inputs or move is None:
        return Strided(value, strides_of(value.type.dims), 0)
    source = strided(group, move.inputs[0])
    match move.attrs:
        case TransposeAttrs(perm):
            return replace(source, strides=tuple(source.strides[axis] for axis in perm))
        case SliceAttrs(starts, _, steps):
            offset = source.offset
            for start, stride in zip(starts, source.strides):
                offset = offset + start * stride
            strides = tuple(step * stride for step, stride in zip(steps, source.strides))
            return Strided(source.base, strides, offset)
        case ReshapeAttrs():
            return replace(source, strides=_split(move, source.strides))
    raise InternalError(f"{value} is not read by strides")


def placed(group: Group, value: Value) -> tuple[Value, tuple[int, ...]]:
    """The output that holds a result of the group, and which of the result's axes each of its own
    is."""
    if value not in group.outputs:
        for eqn in group.eqns:
            if eqn.inputs == (value,) and isinstance(eqn.attrs, TransposeAttrs):
                return eqn.outputs[0], eqn.attrs.perm
    return value, tuple(range(value.type.rank))


def is_move(eqn: Eqn) -> bool:
    """Whether it leaves rows along the last axis as they are."""
    match eqn.attrs:
        case TransposeAttrs(perm):
            return perm[-1] == len(perm) - 1
        case SliceAttrs(_, _, steps):
            return steps[-1] == 1
    return False


def _split(reshape: Eqn, strides: Sequence[Dim]) -> tuple[Dim, ...]:
    """The strides of a result that has some axes of the operand in parts; () if it is another."""
    left = list(reshape.outputs[0].type.dims)
    found: list[Dim] = []
    for size, stride in zip(reshape.inputs[0].type.dims, strides):
        parts = [left.pop(0)] if left else []
        while left and product(parts) != size:
            parts.append(left.pop(0))
        if product(parts) != size:
            return ()
        found += [inner * stride for inner in strides_of(parts)]
    return () if left else tuple(found)


def join_moves(function: Function, grouping: Grouping) -> Grouping:
    """The grouping with moves joined to attention."""
    if all(group.kind != "attention" for group in grouping.groups):
        return grouping
    groups = list(grouping.groups)
    kept = {grouping.base(result) for result in function.results}
    splits = {eqn.outputs[0]: eqn for eqn in function.eqns if _is_split(eqn)}
    for move in reversed(grouping.groups):  # the last move of a chain first
        if not _is_moving(move) or kept.intersection(move.outputs):
            continue
        search = _Search(grouping, move, splits)
        readers = [g for g in groups if _reads(g, move.outputs[0], grouping)]
        attentions = [g for g in readers if search.can_read(g)]
        if attentions and all(_by_element(g, move.outputs[0]) or g in attentions for g in readers):
            groups = [search.reading(g) if g in readers else g for g in groups if g is not move]
    for move in grouping.groups:
        maker = next((g for g in groups if move.inputs and move.inputs[0] in g.outputs), None)
        if move in groups and maker is not None and _is_moving(move):
            (source,) = move.inputs
            others = [g for g in groups if g is not move and _reads(g, source, grouping)]
            if _can_write(maker, move, kept) and all(_by_element(g, source) for g in others):
                back = _inverse(move)
                groups = [
                    _writing(g, move) if g is maker else _behind(g, back) if g in others else g
                    for g in groups
                    if g is not move
                ]
    read = kept.union(grouping.base(value) for group in groups for value in group.inputs)
    return replace(grouping, groups=tuple(_without_unread(group, read) for group in groups))


def _without_unread(group: Group, read: set[Value]) -> Group:
    """Attention without the logarithms of its sums, where no gradient needs them."""
    if group.anchor is None or group.anchor.op.name != "attention":
        return group
    _, logarithms = group.anchor.outputs
    outputs = (v for v in group.outputs if v is not logarithms or v in read)
    return replace(group, outputs=tuple(outputs))


def _is_moving(group: Group) -> bool:
    """Whether all that it does is to move one value."""
    return (
        group.kind == "loop"
        and len(group.inputs) == len(group.outputs) == 1
        and all(is_move(eqn) for eqn in group.eqns)
    )


# --- what attention reads -------------------------------------------------------------------------


def _reads(group: Group, value: Value, grouping: Grouping) -> bool:
    return any(grouping.base(read) is value for read in group.inputs)


@dataclass(frozen=True, slots=True)
class _Search:
    """For groups that can read what a move reads. `splits` make results that are their operand
    with some axes in parts."""

    grouping: Grouping
    move: Group
    splits: Mapping[Value, Eqn]

    def can_read(self, group: Group) -> bool:
        """Whether it is an attention that reads rows of the moved value, and nothing else does."""
        if group.anchor is None or not isinstance(group.anchor.attrs, AttentionAttrs):
            return False
        named = by_name(group.anchor.attrs, group.anchor.inputs)
        rows = {named[name] for name in ("q", "k", "v", "g") if name in named}
        rows.update(value for e in group.eqns if is_move(e) or _is_split(e) for value in e.inputs)
        elsewhere = {read for name, read in named.items() if name not in ("q", "k", "v", "g")}
        for eqn in group.eqns:
            if eqn is not group.anchor and not is_move(eqn) and not _is_split(eqn):
                elsewhere.update(eqn.inputs)
        return all(
            read in rows and read not in elsewhere and self.between(read) is not None
            for read in self.read(group)
        )

    def read(self, group: Group) -> list[Value]:
        """The moved value, as the group reads it: itself, or under other dims."""
        (value,) = self.move.outputs
        return [read for read in group.inputs if self.grouping.base(read) is value]

    def between(self, read: Value) -> tuple[Eqn, ...] | None:
        """What makes `read` of the moved value, if strides can say it."""
        (value,) = self.move.outputs
        if read is value:
            return ()
        split = self.splits.get(read)
        return (split,) if split is not None and split.inputs == (value,) else None

    def reading(self, group: Group) -> Group:
        """The group, with the move in it."""
        read, (source,) = self.read(group), self.move.inputs
        between = [eqn for value in read for eqn in self.between(value) or ()]
        inputs = dict.fromkeys(source if value in read else value for value in group.inputs)
        return replace(
            group, eqns=(*self.move.eqns, *between, *group.eqns), inputs=tuple(inputs),
            pointwise=group.pointwise.difference(read, [source]),
        )  # fmt: skip


def _is_split(eqn: Eqn) -> bool:
    """Whether the result is the operand with some axes in parts."""
    known = isinstance(eqn.attrs, ReshapeAttrs) and bool(eqn.outputs[0].type.rank)
    return known and bool(_split(eqn, strides_of(eqn.inputs[0].type.dims)))


# --- what attention writes ------------------------------------------------------------------------


def _can_write(maker: Group, move: Group, kept: set[Value]) -> bool:
    (source,) = move.inputs
    (eqn, *more) = move.eqns
    turned = isinstance(eqn.attrs, TransposeAttrs) and not more
    return maker.kind == "attention" and turned and source not in kept


def _by_element(group: Group, value: Value) -> bool:
    """Whether it reads the value itself, at any index that is asked for."""
    return group.kind in _BY_ELEMENT and value in group.inputs


def _inverse(move: Group) -> Eqn:
    (eqn,) = move.eqns
    perm = inverse(cast(TransposeAttrs, eqn.attrs).perm)
    return Eqn(eqn.op, eqn.outputs, TransposeAttrs(perm), eqn.inputs, eqn.origin)


def _writing(group: Group, move: Group) -> Group:
    (source,), (value,) = move.inputs, move.outputs
    outputs = tuple(value if made is source else made for made in group.outputs)
    return replace(group, eqns=(*group.eqns, *move.eqns), outputs=outputs)


def _behind(group: Group, back: Eqn) -> Group:
    """The group, with a value made from where it is kept now."""
    (value,), (source,) = back.inputs, back.outputs
    inputs = dict.fromkeys(value if read is source else read for read in group.inputs)
    return replace(
        group, eqns=(back, *group.eqns), inputs=tuple(inputs),
        pointwise=group.pointwise - {source, value},
    )  # fmt: skip
