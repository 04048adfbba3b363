"""Emits a group as CPU loops: scalar code shaped so that LLVM makes vectors of it.

Input: a `Task` (group, readers, machine). Output: statements in the TIR builder's current scope.
- A loop group runs over its dims in row-major order; when nothing in it cares about positions, it
  runs over elements, flat; where parts lie beside each other, each part has a loop.
- Small windows (pooling) are written out, so that the loop over channels becomes vectors.
- Results too large for the caches are stored past them (`stream.py`).

Non-goals: how it is cut into tasks (`tasks.py`), reductions and joined rows (`reductions.py`,
`row_loops.py`), contractions (`contract.py`), devices other than the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import cast

from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr, Index, Scatter
from dslc.lowering.grouping.group import Group
from dslc.lowering.kernels.buffers import Memory
from dslc.lowering.kernels.reductions import emit_reduction
from dslc.lowering.kernels.row_loops import emit_rows
from dslc.lowering.kernels.stream import BLOCK, fenced, imported, past_caches, store_block
from dslc.lowering.kernels.tasks import Task, for_rows
from dslc.ops.shape import ConcatAttrs
from dslc.ops.slicing import PadAttrs
from dslc.ops.windows import PoolAttrs

LARGEST_STEP = 4  # of a pool, whose gradient is written out for each position between two steps
POOL_GRADIENTS = ("max_pool2d_gradient", "avg_pool2d_gradient")
_MOST_PIECES = 16  # a larger kernel of code takes longer to compile than it saves


def emit_loops(task: Task) -> None:
    """Any group; contractions by their plain definition."""
    group = task.group
    if group.kind == "scatter":
        _emit_scatter(task)
    elif group.kind == "rows":
        emit_rows(task)
    else:
        points = group.kind in ("loop", "put") or group.anchor is None
        if points or not emit_reduction(task, cast(Eqn, group.anchor)):
            _emit_points(task, group.anchor)


# --- points ---------------------------------------------------------------------------------------


def is_flat(group: Group) -> bool:
    """Whether every equation, but for the anchor of a contraction, maps position to position (or
    takes scalars only)."""
    sizes = {str(product(output.type.dims)) for output in group.outputs}
    anchor = group.anchor if group.kind == "contract" else None
    return len(sizes) == 1 and all(e is anchor or _keeps_position(e) for e in group.eqns)


def _keeps_position(eqn: Eqn) -> bool:
    name = eqn.op.name
    if eqn.op.elementwise or name in ("reshape", "relabel", "constant", "dim_value"):
        return True
    return name == "broadcast" and eqn.inputs[0].type.rank == 0


def _emit_points(task: Task, anchor: Eqn | None) -> None:
    group = task.group
    dims: tuple[Dim, ...] = group.dims
    if anchor is None and dims and is_flat(group):
        dims = (product(dims),)
        if group.kind == "loop" and (past := past_caches(task)):
            _emit_past(task, past, cast(int, dims[0]))
            return
    steps = _window_steps(group)
    if steps is not None:
        _emit_blocks(task, steps)
        return
    weight = task.weight if anchor is None or group.kind == "put" else task.weight * 64
    for_rows(task, dims[:-1], dims[-1:], weight, lambda index: _points(task, index, dims))


def _emit_past(task: Task, past: frozenset[Value], size: int) -> None:
    """A flat loop over `size` elements, in blocks."""
    k = task.k

    def block(index: Index) -> None:
        with k.nest((size // BLOCK,)[len(index) :]) as rest:
            number = (*index, *rest)[0]
            start = k.binary("mul", number, k.dim(BLOCK), "index")
            store_block(task, past, lambda lane: (k.binary("add", start, lane, "index"),))

    with imported(past):
        for_rows(task, (size // BLOCK,), (BLOCK,), task.weight, block, lambda: fenced(past))
        with k.loop(size % BLOCK) as lane:
            task.store_all((k.binary("add", lane, k.dim(size - size % BLOCK), "index"),))


def _window_steps(group: Group) -> tuple[int, int] | None:
    """The stride of the pool whose gradient the group computes, over images of known size."""
    for eqn in group.eqns:
        attrs = eqn.attrs
        if eqn.op.name not in POOL_GRADIENTS or not isinstance(attrs, PoolAttrs):
            continue
        dims = eqn.outputs[0].type.dims
        sizes = [dim for dim in dims[1:3] if isinstance(dim, int)]
        if attrs.layout != "NHWC" or dims != group.dims or len(sizes) != 2:
            return None
        fits = all(step <= min(size, LARGEST_STEP) for step, size in zip(attrs.stride, sizes))
        return attrs.stride if fits else None
    return None


def _emit_blocks(task: Task, steps: tuple[int, int]) -> None:
    """Images in blocks of as many rows and columns as a window steps on by: in such a block it is
    known which windows cover an element, and which of its positions the element is. The blocks'
    elements are computed together and share what they read; what blocks leave over goes alone."""
    n, *sizes, channels = task.group.dims
    (down, across), (height, width) = steps, cast(tuple[int, int], tuple(sizes))
    count, columns = height // down, width // across
    weight = task.weight * width * down

    def block(image: Expr, rows: Sequence[Expr]) -> None:
        """Some rows of an image."""
        k = task.k
        with k.span(0, columns) as column, k.nest((channels,)) as last:
            first = k.binary("mul", column, k.dim(across), "index")
            for row in rows:
                for j in range(across):
                    at = k.binary("add", first, k.dim(j), "index")
                    task.store_all((image, row, at, *last))
        if columns * across < width:
            with k.span(columns * across, width) as at, k.nest((channels,)) as last:
                for row in rows:
                    task.store_all((image, row, at, *last))

    def item(index: Index) -> None:
        k = task.k
        with k.nest((n, count)[len(index) :]) as rest:
            at = (*index, *rest)
            first = k.binary("mul", k.within(at[1], count), k.dim(down), "index")
            block(at[0], [k.binary("add", first, k.dim(i), "index") for i in range(down)])

    for_rows(task, (n, count), (channels,), weight, item)
    if count * down < height:
        with task.k.loop(n) as image, task.k.span(count * down, height) as row:
            block(image, [row])


def _points(task: Task, outer: Index, dims: Sequence[Dim]) -> None:
    k, inner = task.k, dims[len(outer) :]
    pieces = _pieces(task.group, inner[-1]) if inner else []
    if len(pieces) < 2:
        with k.nest(inner) as index:
            task.store_all((*outer, *index))
        return
    with k.nest(inner[:-1]) as index:
        for first, stop in pieces:
            with k.span(first, stop) as last:
                task.store_all((*outer, *index, last))


def _pieces(group: Group, last: Dim) -> list[tuple[int, int]]:
    """The last axis, cut where parts meet that lie beside each other along it: each piece has a
    loop of its own, which asks for no element which part it is in, and which vectors can do."""
    if not isinstance(last, int):
        return []
    cuts = {0, last}
    for eqn in group.eqns:
        (*_, size) = eqn.outputs[0].type.dims or (None,)
        if size == last:
            cuts.update(cut for cut in _joints(eqn) if isinstance(cut, int) and 0 < cut < last)
    places = sorted(cuts)
    return list(pairwise(places)) if len(places) <= _MOST_PIECES + 1 else []


def _joints(eqn: Eqn) -> list[Dim]:
    """Where the parts of the result meet along its last axis."""
    match eqn.attrs:
        case PadAttrs(low, high, _, interior) if not (interior and interior[-1]):
            return [low[-1], eqn.outputs[0].type.dims[-1] - high[-1]]
        case ConcatAttrs(axis) if axis == eqn.outputs[0].type.rank - 1:
            return list(accumulate(v.type.dims[-1] for v in eqn.inputs))
    return []


# --- scatter --------------------------------------------------------------------------------------


def _emit_scatter(task: Task) -> None:
    """What a reduction of nothing is, then what is added to it (or joined), one after the other."""
    anchor = task.group.anchor
    if anchor is None:
        raise InternalError("a scatter group without its equation")
    k, value = task.k, anchor.outputs[0]
    memory = task.graph.memory[value]
    scatter = task.graph.computed(anchor)
    if not isinstance(scatter, Scatter):
        raise InternalError(f"{anchor.op.name} does not scatter")
    nothing = k.identity(scatter.kind, value.type.dtype)
    with k.loop(value.type.size) as position:
        flat = Memory(memory.buffer, value.type.with_dims((value.type.size,)))
        flat.store(k, (position,), nothing)
    with k.nest(scatter.domain) as index:
        target = scatter.target(index)
        before = memory.load(k, target)
        joined = k.combine(scatter.kind, before, scatter.value(index), value.type.dtype)
        memory.store(k, target, joined)
