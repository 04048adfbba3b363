"""Elements moved, not computed, as ONNX: reshape, transpose, concat, slice, pad, broadcast, iota.

Sizes that are known only at a call are computed from the inputs' shapes; a reshape says them by -1
(what is left) or 0 (as it was) where that can only be read one way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from dslc.ir.dims import Dim, Poly
from dslc.ir.types import TensorType
from dslc.onnx.writing.elementwise import Rule
from dslc.onnx.writing.graph import END, Case, Graph, Held
from dslc.ops.broadcast import BroadcastAttrs
from dslc.ops.shape import ConcatAttrs, IotaAttrs, TransposeAttrs
from dslc.ops.slicing import PadAttrs, SliceAttrs


def reshaped(graph: Graph, name: str, old: Sequence[Dim], new: Sequence[Dim]) -> str:
    """A tensor of dims `old` under dims `new`."""
    if tuple(old) == tuple(new):
        return name
    told = None if 0 in new else _told(old, new)
    if told is None:
        return graph.node("Reshape", name, graph.sizes(new), allowzero=1)
    return graph.node("Reshape", name, graph.ints(told))


def _told(old: Sequence[Dim], new: Sequence[Dim]) -> list[int] | None:
    """`new` in numbers: 0 for a dim that stays where it is, -1 for one that follows from the
    others, which must not be 0 then; None if that does not say it."""
    moved = [i for i, dim in enumerate(new) if isinstance(dim, Poly)]
    if len(moved) == 1 and (len(old) <= moved[0] or old[moved[0]] != new[moved[0]]):
        return [dim if isinstance(dim, int) else -1 for dim in new]
    if all(i < len(old) and old[i] == new[i] for i in moved):
        return [dim if isinstance(dim, int) else 0 for dim in new]
    return None


def _reshape(case: Case) -> Held:
    if case.inputs[0].type.dims == ():
        return case.inputs[0]
    old, new = case.types[0].dims, case.results[0].dims
    return case.whole(reshaped(case.graph, case.full(0), old, new))


def transposed(graph: Graph, name: str, perm: Sequence[int]) -> str:
    """With dim i what was dim `perm[i]`; of a tensor that is one with its dims moved already, it is
    made in one step."""
    if name in graph.perms:
        name, before = graph.perms[name]
        perm = [before[axis] for axis in perm]
    if list(perm) == sorted(perm):
        return name
    made = graph.node("Transpose", name, perm=list(perm))
    graph.perms[made] = (name, tuple(perm))
    return made


def _transpose(case: Case) -> Held:
    (held,) = case.inputs
    if held.type.dims == ():
        return held
    perm = cast(TransposeAttrs, case.eqn.attrs).perm
    return case.whole(transposed(case.graph, case.full(0), perm))


def _concat(case: Case) -> Held:
    parts = [case.full(i) for i in range(len(case.inputs))]
    if len(parts) == 1:
        return case.whole(parts[0])
    return case.whole(case.node("Concat", *parts, axis=cast(ConcatAttrs, case.eqn.attrs).axis))


def _broadcast(case: Case) -> Held:
    """The tensor as it is, with dims of 1 where others come between."""
    (held,), attrs = case.inputs, cast(BroadcastAttrs, case.eqn.attrs)
    axes = attrs.axes[len(attrs.axes) - len(held.type.dims) :]
    if not axes:
        return held
    new = [axis for axis in range(axes[0], len(attrs.dims)) if axis not in axes]
    dims: list[Dim] = [1] * (len(attrs.dims) - axes[0])
    for axis, dim in zip(axes, held.type.dims):
        dims[axis - axes[0]] = dim
    name = case.graph.unsqueezed(held.name, [axis - axes[0] for axis in new])
    return Held(name, held.type.with_dims(tuple(dims)), held.constant)


def counted(graph: Graph, size: Dim) -> str:
    """0, 1, ... below a size, as i64."""
    zero, one = graph.scalar(0, "i64"), graph.scalar(1, "i64")
    return graph.once("Range", zero, graph.size_scalar(size), one)


def _iota(case: Case) -> Held:
    attrs, graph = cast(IotaAttrs, case.eqn.attrs), case.graph
    size, after = attrs.dims[attrs.axis], len(attrs.dims) - attrs.axis - 1
    name = graph.unsqueezed(counted(graph, size), range(1, after + 1))
    return graph.cast(Held(name, TensorType("i64", (size, *(1,) * after))), attrs.dtype)


# --- slices ---------------------------------------------------------------------------------------


def sliced(
    graph: Graph,
    name: str,
    dims: Sequence[Dim],
    starts: Sequence[Dim],
    stops: Sequence[Dim],
    steps: Sequence[int] | None = None,
) -> str:
    """The elements start, start + step, ... before stop along each axis of `dims`; steps are
    positive."""
    steps = steps or [1] * len(dims)
    cut = [i for i, d in enumerate(dims) if (starts[i], stops[i], steps[i]) != (0, d, 1)]
    if not cut:
        return name
    ends = [END if stops[i] == dims[i] else stops[i] for i in cut]
    operands = [graph.sizes([starts[i] for i in cut]), graph.sizes(ends), graph.ints(cut)]
    if any(steps[i] != 1 for i in cut):
        operands.append(graph.ints([steps[i] for i in cut]))
    return graph.node("Slice", name, *operands)


def _slice(case: Case) -> Held:
    """Where a step is negative, a slice that walks up first: its elements are walked down then,
    from the last one, which needs no number."""
    attrs, graph, dims = cast(SliceAttrs, case.eqn.attrs), case.graph, case.types[0].dims
    if case.inputs[0].type.dims == ():
        return case.inputs[0]
    starts, stops, steps = list(attrs.starts), list(attrs.stops), list(attrs.steps)
    down = [axis for axis, step in enumerate(steps) if step < 0]
    for axis in down:
        starts[axis], stops[axis], steps[axis] = stops[axis] + 1, starts[axis] + 1, 1
    name = sliced(graph, case.full(0), dims, starts, stops, steps)
    if down:
        from_, to = graph.ints([-1] * len(down)), graph.ints([-END] * len(down))
        by = graph.ints([attrs.steps[axis] for axis in down])
        name = graph.node("Slice", name, from_, to, graph.ints(down), by)
    return case.whole(name)


# --- padding --------------------------------------------------------------------------------------


def padded(
    graph: Graph, name: str, low: Sequence[Dim], high: Sequence[Dim], value: str | None = None
) -> str:
    """With so many elements before and after along each axis; zeros unless a `value` is given."""
    if all(size == 0 for size in (*low, *high)):
        return name
    operands = [name, graph.sizes([*low, *high]), *([value] if value else [])]
    return graph.node("Pad", *operands)


def _pad(case: Case) -> Held:
    attrs, graph, dims = cast(PadAttrs, case.eqn.attrs), case.graph, case.types[0].dims
    value = graph.scalar(attrs.value, case.types[0].dtype)
    name, high = case.full(0), list(attrs.high)
    for axis, inner in enumerate(attrs.interior):
        if inner:
            # Each element with those behind it along an axis of its own; then the last ones go.
            name = graph.unsqueezed(name, [axis + 1])
            none = [0] * (len(dims) + 1)
            behind = [inner if i == axis + 1 else 0 for i in range(len(dims) + 1)]
            name = padded(graph, name, none, behind, value)
            wide = dims[axis] * (inner + 1)
            dims = (*dims[:axis], wide, *dims[axis + 1 :])
            name = graph.node("Reshape", name, graph.sizes(dims), allowzero=1)
            short = [wide - inner if i == axis else d for i, d in enumerate(dims)]
            if dims[axis] != 0:
                name = sliced(graph, name, dims, [0] * len(dims), short)
                dims = tuple(short)
    return case.whole(padded(graph, name, attrs.low, high, value))


RULES: dict[str, Rule] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "concat": _concat,
    "broadcast": _broadcast,
    "iota": _iota,
    "slice": _slice,
    "pad": _pad,
}
