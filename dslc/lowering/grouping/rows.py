"""Joins groups that work row by row into one kernel, so that a row stays in the cache.

    max of each row · exp(x - max) and its sum · the quotient    become    one group of kind `rows`

Input: a Grouping. Output: a Grouping in which a reduction over last axes stands together with the
groups that read its result for the same row only. Each of them is a part of the joined group: for
each row, the parts run one after the other. What only parts read is kept on the stack, if a row of
it is small.

Which op it is does not matter: that a value is read for the same row follows from the equations on
the way. Non-goals: what a part is (`group.py`), how it runs (`kernels/loops.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import product
from dslc.ir.types import ITEMSIZE
from dslc.lowering.grouping.group import Group, Grouping, Rows
from dslc.ops.broadcast import BroadcastAttrs, ReduceAttrs
from dslc.ops.shape import TransposeAttrs

KEPT_BYTES = 16 << 10  # of a row of one value, on the stack
ALL_KEPT_BYTES = 64 << 10
FEW_ROWS = 4  # for each task: of fewer, each is better cut into pieces


def join_rows(
    function: Function, grouping: Grouping, tasks: int, room: int = ALL_KEPT_BYTES
) -> Grouping:
    """The grouping with rows joined, for a machine with `tasks` tasks, which keeps up to `room`
    bytes of a row."""
    items: list[_Item] = []
    for group in grouping.groups:
        joined = _Search(grouping, items, tasks).joined(group)
        items = [item for item in items if item not in joined]
        if joined:
            parts = tuple(part for item in joined for part in item.parts)
            items.append(_Item((*parts, group), joined[0].rows))
        else:
            items.append(_Item((group,), _rows_of(group)))
    if len(items) == len(grouping.groups):
        return grouping
    outside = [_read_outside(function, grouping, items, item) for item in items]
    groups = tuple(_join(item, read, grouping, room) for item, read in zip(items, outside))
    return Grouping(groups, grouping.views, grouping.reasons)


@dataclass(frozen=True, slots=True, eq=False)
class _Item:
    """Groups that become one kernel; `rows`: the dims that count its rows, if it reduces any."""

    parts: tuple[Group, ...]
    rows: Rows | None

    @property
    def outputs(self) -> list[Value]:
        return [value for part in self.parts for value in part.outputs]

    @property
    def inputs(self) -> list[Value]:
        return [value for part in self.parts for value in part.inputs]


def _rows_of(group: Group) -> Rows | None:
    """The dims that count the rows of a reduction over last axes."""
    if group.anchor is None or group.kind != "reduce":
        return None
    attrs, (x, *_) = group.anchor.attrs, group.anchor.inputs
    if not isinstance(attrs, ReduceAttrs):
        return None
    rank = x.type.rank - len(attrs.axes)
    last = attrs.axes == tuple(range(rank, x.type.rank))
    return group.dims if last and rank and group.dims == x.type.dims[:rank] else None


# --- what may be joined ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Search:
    """`items` come before the group that is looked at."""

    grouping: Grouping
    items: Sequence[_Item]
    tasks: int

    def joined(self, group: Group) -> list[_Item]:
        """The items, all of the same rows, that the group can be joined with."""
        own = _rows_of(group)
        if group.kind != "loop" and own is None:
            return []
        found: list[_Item] = []
        for item in self.items:
            rows = item.rows
            if rows is None or own not in (None, rows) or (found and found[0].rows != rows):
                continue
            if self.enough(rows) and self.fits(item, group, rows):
                found.append(item)
        return found

    def enough(self, rows: Rows) -> bool:
        count = product(rows)
        return not isinstance(count, int) or self.tasks == 1 or count >= FEW_ROWS * self.tasks

    def fits(self, item: _Item, group: Group, rows: Rows) -> bool:
        """Whether the group can be a part of `item`, whose kernel then comes as late as it."""
        if any(value.type.dims[: len(rows)] != rows for value in group.outputs):
            return False
        made = set(item.outputs)
        reads = [value for value in group.inputs if self.grouping.base(value) in made]
        if not reads or not aligned(group, rows).issuperset(reads):
            return False
        between = self.items[self.items.index(item) + 1 :]
        return made.isdisjoint(self.grouping.base(v) for other in between for v in other.inputs)


def aligned(group: Group, rows: Rows) -> frozenset[Value]:
    """The inputs that the group reads for a row of its outputs in the same row only."""
    away: set[Value] = set()
    outputs = set(group.outputs)
    for eqn in reversed(group.eqns):
        near = not any(value in away for value in eqn.outputs)
        near = near and all(v.type.dims[: len(rows)] == rows for v in eqn.outputs if v in outputs)
        away.update(v for v in eqn.inputs if not near or not _keeps_row(eqn, v, rows))
    return frozenset(value for value in group.inputs if value not in away)


def _keeps_row(eqn: Eqn, value: Value, rows: Rows) -> bool:
    """Whether the equation reads an operand in the row of its result only."""
    count = len(rows)
    if value.type.dims[:count] != rows:
        return False
    if eqn.op.elementwise or eqn.op.name in ("reshape", "relabel"):
        return all(out.type.dims[:count] == rows for out in eqn.outputs)
    match eqn.attrs:
        case BroadcastAttrs():
            return eqn.attrs.axes[:count] == tuple(range(count))
        case ReduceAttrs():
            return min(eqn.attrs.axes, default=count) >= count
        case TransposeAttrs():
            return eqn.attrs.perm[:count] == tuple(range(count))
    return False


# --- the joined group -----------------------------------------------------------------------------


def _read_outside(
    function: Function, grouping: Grouping, items: Sequence[_Item], item: _Item
) -> set[Value]:
    """The stored values that the function returns, or that another item reads."""
    if len(item.parts) == 1:
        return set()
    read = {grouping.base(result) for result in function.results}
    read.update(grouping.base(v) for other in items if other is not item for v in other.inputs)
    return read


def _join(item: _Item, outside: set[Value], grouping: Grouping, room: int) -> Group:
    if len(item.parts) == 1:
        return item.parts[0]
    rows = cast(Rows, item.rows)
    kept: list[Value] = []
    size = 0
    for value in item.outputs:
        row = product(value.type.dims[len(rows) :])
        nbytes = row * ITEMSIZE[value.type.dtype] if isinstance(row, int) else KEPT_BYTES + 1
        if value not in outside and nbytes <= KEPT_BYTES and size + nbytes <= room:
            kept.append(value)
            size += nbytes
    outputs = tuple(value for value in item.outputs if value not in kept)
    inputs = dict.fromkeys(v for v in item.inputs if grouping.base(v) not in kept)
    return Group(
        "rows", tuple(dict.fromkeys(eqn for part in item.parts for eqn in part.eqns)),
        tuple(inputs), outputs, None,
        frozenset(value for value in inputs if _is_pointwise(value, item, outputs)),
        item.parts, rows, tuple((value, *_views(value, item, grouping)) for value in kept),
    )  # fmt: skip


def _views(value: Value, item: _Item, grouping: Grouping) -> list[Value]:
    """Other values that the parts read in the same memory."""
    read = dict.fromkeys(item.inputs)
    return [view for view in read if view is not value and grouping.base(view) is value]


def _is_pointwise(value: Value, item: _Item, outputs: Sequence[Value]) -> bool:
    """Whether the outputs may be written over an input: only the last part writes any, at the index
    that it reads, and the parts before read the same row."""
    rows, (*before, last) = cast(Rows, item.rows), item.parts
    if not set(outputs) <= set(last.outputs) or value.type.dims != last.dims:
        return False
    if value in last.inputs and value not in last.pointwise:
        return False
    return all(value in aligned(part, rows) for part in before if value in part.inputs)
