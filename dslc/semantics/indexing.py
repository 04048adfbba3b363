"""Indexing and slicing of tensors and tuples, as NumPy has it.

Input: a value and the items in its `[ ]`. Output: the part of it. Ends of slices are clamped to the
dim as NumPy clamps them; an index must provably be inside. Integer tensors gather: several read at
the positions that they make together. Non-goals: static arguments (`statics.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from dslc._frozen import dataclass
from dslc.diagnostics import Label
from dslc.ir.core import Value
from dslc.ir.dims import Dim, Poly, maximum, minimum, product
from dslc.ir.types import is_integer
from dslc.semantics import errors
from dslc.semantics.context import Context, Mistake, Silent
from dslc.semantics.operators import Operand, broadcast, expand, own, to_tensor
from dslc.semantics.values import BAD, Bad, Tensor, Thing, TupleOf, describe, show_type
from dslc.source import Span
from dslc.syntax import ast


@dataclass(frozen=True, slots=True)
class _Cut:
    """What becomes of one dim: `start:stop:step`, or one element if `drop`."""

    start: Dim
    stop: Dim
    step: int = 1
    drop: bool = False


def element(value: TupleOf, index: int, span: Span) -> Thing:
    """Element `index` of a tuple; negative ones count from the end."""
    if not -len(value.elements) <= index < len(value.elements):
        last = len(value.elements) - 1
        help = f"its elements are .0 to .{last}" if last > 0 else None
        raise Mistake(errors.no_element(index, describe(value), span, help))
    return value.elements[index]


def index_tuple(ctx: Context, value: TupleOf, items: Sequence[ast.Item], span: Span) -> Thing:
    """`t[0]`, `t[1:]`."""
    item = items[0] if len(items) == 1 else None
    if isinstance(item, ast.Slice):
        ends = [_static_end(ctx, part) for part in (item.start, item.stop, item.step)]
        return TupleOf(value.elements[slice(*ends)])
    if isinstance(item, ast.Argument) and item.name is None:
        found = ctx.evaluate(ctx, item.value)
        if isinstance(found, Bad):
            return BAD
        if isinstance(found, int) and not isinstance(found, bool):
            return element(value, found, item.span)
    raise Mistake(errors.bad_index("a tuple is indexed by one whole number", span, ""))


def _static_end(ctx: Context, expr: ast.Expr | None) -> int | None:
    if expr is None:
        return None
    found = ctx.evaluate(ctx, expr)
    if isinstance(found, Bad):
        raise Silent
    if isinstance(found, bool) or not isinstance(found, int):
        raise Mistake(errors.bad_index("a slice of a tuple has static ends", expr.span, ""))
    return found


@dataclass(frozen=True, slots=True)
class _At:
    """A dim of what a tensor of integers reads."""

    indices: Tensor
    span: Span


_Slot = Literal["new", "kept"] | _At  # a dim of 1 that is new, one that is there, what is read


def index(ctx: Context, tensor: Tensor, items: Sequence[ast.Item], span: Span) -> Tensor:
    """`x[items]`."""
    source = own(ctx, tensor, span)
    cuts: list[_Cut] = []
    slots: list[_Slot] = []  # of the dims that are left
    for item in _spread_out(tensor, items, span):
        if isinstance(item, ast.Argument) and _is_new(item):
            slots.append("new")
            continue
        axis = len(cuts)
        dim = source.type.dims[axis]
        if item is None:
            cuts.append(_Cut(0, dim))
            slots.append("kept")
        elif isinstance(item, ast.Slice):
            cuts.append(_slice(ctx, item, dim))
            slots.append("kept")
        else:
            found = _item_value(ctx, item)
            if isinstance(found, Tensor):
                cuts.append(_Cut(0, dim))
                slots.append(_At(found, item.span))
            else:
                cuts.append(_element(ctx, found, dim, item.span, tensor, axis))
    value = _arranged(ctx, _cut(ctx, source, cuts, span), slots, span)
    return ctx.tensor(value, span, "from an index")


def _is_new(item: ast.Item) -> bool:
    """Whether the item is NumPy's word for a new dim of 1."""
    if not isinstance(item, ast.Argument) or item.name is not None:
        return False
    return isinstance(item.value, ast.Name) and item.value.name == "None"


def _arranged(ctx: Context, value: Value, slots: Sequence[_Slot], span: Span) -> Value:
    """`value` read at the tensors among the `slots`, with new dims of 1."""
    places = [i for i, slot in enumerate(slots) if isinstance(slot, _At)]
    if places:
        axes = [sum(slot != "new" for slot in slots[:place]) for place in places]
        together = places[-1] - places[0] == len(places) - 1
        to = axes[0] if together else 0
        at = [slot for slot in slots if isinstance(slot, _At)]
        value, read = _gather(ctx, value, at, axes, to, span)
        others: list[_Slot] = [slot for slot in slots if not isinstance(slot, _At)]
        first = places[0] if together else 0
        kept: list[_Slot] = ["kept"] * len(read)
        slots = [*others[:first], *kept, *others[first:]]
    if "new" not in slots:
        return value
    rest = iter(value.type.dims)
    dims = tuple(1 if slot == "new" else next(rest) for slot in slots)
    return ctx.emit("reshape", (value,), span, dims=dims)


def _positions(ctx: Context, at: _At) -> Operand:
    """The tensor as i64."""
    value = own(ctx, at.indices, at.span)
    if value.type.dtype != "i64":
        value = ctx.emit("cast", (value,), at.span, dtype="i64")
    return Operand(Tensor(value, at.indices.note, ctx.emission.builder), at.span)


def _gather(
    ctx: Context, value: Value, at: Sequence[_At], axes: Sequence[int], to: int, span: Span
) -> tuple[Value, tuple[Dim, ...]]:
    """`value` read at tensors, one for each of `axes`: their common dims, which are returned too,
    stand where dim `to` stood."""
    if len(at) == 1:
        indices = own(ctx, at[0].indices, at[0].span)
        return ctx.emit("gather", (value, indices), span, axis=to), indices.type.dims
    # The dims become one, and so do the positions in them, each made to lie inside of its own.
    rest = [axis for axis in range(value.type.rank) if axis not in axes]
    perm = (*rest[:to], *axes, *rest[to:])
    if perm != tuple(range(value.type.rank)):
        value = ctx.emit("transpose", (value,), span, perm=perm)
    dims, end = value.type.dims, to + len(axes)
    flat: Value | None = None
    for i, size in zip(
        broadcast(ctx, "index by", [_positions(ctx, each) for each in at]), dims[to:end]
    ):
        i = _inside(ctx, i, size, span)
        if flat is not None:
            flat = ctx.emit("mul", (flat, _number(ctx, size, flat, span)), span)
        flat = i if flat is None else ctx.emit("add", (flat, i), span)
    assert flat is not None
    merged = (*dims[:to], product(dims[to:end]), *dims[end:])
    value = ctx.emit("reshape", (value,), span, dims=merged)
    return ctx.emit("gather", (value, flat), span, axis=to), flat.type.dims


def _inside(ctx: Context, i: Value, size: Dim, span: Span) -> Value:
    """Positions from 0 on: negative ones count from the end, and none is outside."""
    zero, last = _number(ctx, 0, i, span), _number(ctx, size - 1, i, span)
    behind = ctx.emit("add", (i, _number(ctx, size, i, span)), span)
    i = ctx.emit("select", (ctx.emit("lt", (i, zero), span), behind, i), span)
    return ctx.emit("minimum", (ctx.emit("maximum", (i, zero), span), last), span)


def _number(ctx: Context, number: Dim, like: Value, span: Span) -> Value:
    return expand(ctx, to_tensor(ctx, number, "i64", span), like.type.dims, span)


def _spread_out(
    tensor: Tensor, items: Sequence[ast.Item], span: Span
) -> list[ast.Slice | ast.Argument | None]:
    """One item for each dim, and those that make new ones; None takes the whole dim."""
    rank = tensor.type.rank
    dots = [i for i, item in enumerate(items) if isinstance(item, ast.Ellipsis)]
    if len(dots) > 1:
        raise Mistake(errors.bad_index("an index has one `...` at most", items[dots[1]].span, ""))
    count = len(items) - len(dots) - sum(map(_is_new, items))
    if count > rank:
        message = f"{count} indices for a tensor of {rank} dims"
        raise Mistake(errors.bad_index(message, span, tensor.told))
    out: list[ast.Slice | ast.Argument | None] = []
    for item in items:
        match item:
            case ast.Ellipsis():
                out += [None] * (rank - count)
            case ast.Slice():
                out.append(item)
            case ast.Argument() if item.name is None:
                out.append(item)
            case _:
                raise Mistake(errors.bad_index("this can't be an index", item.span, ""))
    return out + [None] * (0 if dots else rank - count)


def _item_value(ctx: Context, item: ast.Argument) -> int | Poly | Tensor:
    found = ctx.evaluate(ctx, item.value)
    if isinstance(found, Bad):
        raise Silent
    if isinstance(found, int | Poly) and not isinstance(found, bool):
        return found
    if isinstance(found, Tensor) and is_integer(found.type.dtype):
        return found
    message = f"an index is a whole number, a slice or a tensor of integers, not {describe(found)}"
    help = None
    if isinstance(found, Tensor) and found.type.dtype == "bool":
        help = "a result has one size: where(condition, a, b) chooses element by element"
    raise Mistake(errors.bad_index(message, item.span, "", help))


def _element(ctx: Context, at: int | Poly, dim: Dim, span: Span, tensor: Tensor, axis: int) -> _Cut:
    negative = isinstance(at, int) and at < 0
    start = dim + at if negative else at
    for left, op, right in ((start, ">=", 0), (start, "<", dim)):
        inside = ctx.holds(left, op, right)  # type: ignore[arg-type]
        if inside is False:
            message = f"index {at} is outside of dim {axis}, which has {dim} elements"
            raise Mistake(errors.bad_index(message, span, tensor.told))
        if inside is None:
            needed = f"{dim} >= {-at}" if negative else f"{left} {op} {right}"
            message = f"cannot prove that {needed}, which index {at} of dim {axis} needs"
            help = f"if it always holds, say so: assert {needed}"
            raise Mistake(errors.bad_index(message, span, tensor.told, help))
    return _Cut(start, start + 1, drop=True)


def _slice(ctx: Context, item: ast.Slice, dim: Dim) -> _Cut:
    step = 1 if item.step is None else _step(ctx, item.step)
    if step < 0:
        if item.start is not None or item.stop is not None:
            message = "a slice with a negative step has no ends: x[::-1]"
            raise Mistake(errors.bad_index(message, item.span, ""))
        return _Cut(dim - 1, -1, step)
    start = 0 if item.start is None else _end(ctx, item.start, dim)
    stop = dim if item.stop is None else _end(ctx, item.stop, dim)
    if ctx.prover.compare(start, "<=", stop) is not True:
        stop = maximum(start, stop)
    return _Cut(start, stop, step)


def _step(ctx: Context, expr: ast.Expr) -> int:
    found = ctx.evaluate(ctx, expr)
    if isinstance(found, Bad):
        raise Silent
    if isinstance(found, bool) or not isinstance(found, int) or found == 0:
        message = f"the step of a slice is a whole number other than 0, not {describe(found)}"
        raise Mistake(errors.bad_index(message, expr.span, ""))
    return found


def _end(ctx: Context, expr: ast.Expr, dim: Dim) -> Dim:
    found = ctx.evaluate(ctx, expr)
    if isinstance(found, Bad):
        raise Silent
    if isinstance(found, bool) or not isinstance(found, int | Poly):
        message = f"the ends of a slice are whole numbers, not {describe(found)}"
        raise Mistake(errors.bad_index(message, expr.span, ""))
    end: Dim = dim + found if isinstance(found, int) and found < 0 else found
    if ctx.prover.compare(end, ">=", 0) is not True:
        end = maximum(end, 0)
    return end if ctx.prover.compare(end, "<=", dim) is True else minimum(end, dim)


def _cut(ctx: Context, value: Value, cuts: Sequence[_Cut], span: Span) -> Value:
    dims = value.type.dims
    if any(c.start != 0 or c.stop != d or c.step != 1 for c, d in zip(cuts, dims)):
        value = ctx.emit(
            "slice",
            (value,),
            span,
            starts=tuple(c.start for c in cuts),
            stops=tuple(c.stop for c in cuts),
            steps=tuple(c.step for c in cuts),
        )
    kept = tuple(d for d, c in zip(value.type.dims, cuts) if not c.drop)
    if len(kept) < len(cuts):
        value = ctx.emit("reshape", (value,), span, dims=kept)
    return value


def transposed(ctx: Context, tensor: Tensor, span: Span) -> Tensor:
    """`x.T`: the last two dims change places."""
    rank = tensor.type.rank
    if rank < 2:
        message = f".T needs two dims, {show_type(tensor.type)} has {rank}"
        labels = [Label(span, tensor.told)]
        raise Mistake(errors.op_mismatch("E0205", message, labels, (), None))
    perm = (*range(rank - 2), rank - 1, rank - 2)
    value = ctx.emit("transpose", (own(ctx, tensor, span),), span, perm=perm)
    return ctx.tensor(value, tensor.note.span, f"{tensor.note.words}, transposed")


def check_top_k(ctx: Context, k: Dim, axis: int, operand: Operand, span: Span) -> None:
    """There must be k elements along the axis."""
    thing = operand.thing
    if not isinstance(thing, Tensor) or not -thing.type.rank <= axis < thing.type.rank:
        return
    dim = thing.type.dims[axis]
    for left, right in ((k, dim), (0, k)):
        known = ctx.holds(left, "<=", right)
        if known is not True:
            what = f"top_k[{k}] along dim {axis % thing.type.rank}"
            needed = f"{left} <= {right}"
            never = known is False
            raise Mistake(errors.too_few_elements(what, needed, never, operand.span, thing.told))
