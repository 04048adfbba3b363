"""Emits a group as CPU loops: scalar code shaped so that LLVM makes vectors of it.

Input: a `Task` (group, readers, machine). Output: statements in the TIR builder's current scope.
- A loop group runs over its dims in row-major order; when nothing in it cares about positions, it
  runs over elements, flat; where parts lie beside each other, each part has a loop.
- A reduction along the last axis keeps an array of partial results (floats may not be reordered
  by LLVM); any other reduction keeps a block of neighbouring results in registers.
- Small windows (pooling) are written out, so that the loop over channels becomes vectors.
- Joined rows run their parts one after the other for each row.
Big groups are cut into parallel tasks; a group of unknown size decides when it runs.

Non-goals: contractions (`contract.py`), devices other than the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, cast

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr, Index, Scatter
from dslc.lowering.accumulate import TERMS, Accumulators
from dslc.lowering.buffers import STORED, Memory
from dslc.lowering.cost import cost_of
from dslc.lowering.graph import Graph
from dslc.lowering.group import Group
from dslc.lowering.scalar import Reduction, ScalarKernels, local
from dslc.lowering.sizes import i64
from dslc.ops.shape import ConcatAttrs
from dslc.ops.slicing import PadAttrs
from dslc.ops.windows import PoolAttrs

KEPT_LANES = 64  # neighbouring results that a reduction keeps at a time
PARALLEL_OPERATIONS = 400_000  # about 50 µs of work: less is not worth waking a thread
REPEATED_OPERATIONS = 16_000  # about 2 µs: in a loop that threads go through together
LARGEST_STEP = 4  # of a pool, whose gradient is written out for each position between two steps
POOL_GRADIENTS = ("max_pool2d_gradient", "avg_pool2d_gradient")
_MOST_PIECES = 8  # of one axis, each with a loop of its own
_GUESS = 32  # what an unknown extent counts as when deciding what to cut into tasks


@dataclass(slots=True, eq=False)
class Task:
    """One kernel being emitted. `tasks` is the number of parallel parts; `turn` the step of the
    loop that it is called in, if it is, which threads go through together; `parallel` tells
    afterwards whether a parallel loop was emitted."""

    group: Group
    graph: Graph
    tasks: int
    turn: Expr | None = None
    parallel: bool = False
    weight: int = field(init=False)

    def __post_init__(self) -> None:
        self.weight = sum(max(1, cost_of(eqn).weight) for eqn in self.group.eqns)

    @property
    def k(self) -> ScalarKernels:
        return self.graph.k

    @property
    def least(self) -> int:
        """Operations from which there are several parts."""
        return PARALLEL_OPERATIONS if self.turn is None else REPEATED_OPERATIONS

    def store(self, value: Value, index: Index, result: Expr) -> None:
        self.graph.memory[value].store(self.k, index, result)

    def store_all(self, index: Index) -> None:
        """Computes and stores every output at `index`."""
        results = [(value, self.graph.at(value, index)) for value in self.group.outputs]
        for value, result in results:
            self.store(value, index, result)


def emit_loops(task: Task) -> None:
    """Any group; contractions by their plain definition."""
    group = task.group
    if group.kind == "scatter":
        _emit_scatter(task)
    elif group.kind == "rows":
        _emit_rows(task)
    elif group.kind in ("loop", "put") or group.anchor is None:
        _emit_points(task, group.anchor)
    else:
        _emit_reduction(task, group.anchor)


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
    if anchor is None and len(dims) > 1 and is_flat(group):
        dims = (product(dims),)
    steps = _window_steps(group)
    if steps is not None:
        _emit_blocks(task, steps)
        return
    weight = task.weight if anchor is None or group.kind == "put" else task.weight * 64
    for_rows(task, dims[:-1], dims[-1:], weight, lambda index: _points(task, index, dims))


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


def for_rows(
    task: Task,
    outer: Sequence[Dim],
    inner: Sequence[Dim],
    weight: int,
    body: Callable[[Index], None],
) -> None:
    """Runs `body` for every index into a prefix of `outer + inner`: all of `outer` when serial,
    enough of its dims for all tasks when parallel. `weight`: operations per element."""
    total = product([*outer, *inner]) * weight
    if task.tasks == 1 or (isinstance(total, int) and total < task.least):
        _serial(task, outer, body)
        return
    if not outer:
        outer = inner  # a flat loop: cut the elements themselves
    if not outer:
        _serial(task, outer, body)  # one result: nothing to share out
        return
    prefix = _prefix(outer, 4 * task.tasks)
    if isinstance(total, int):
        _parallel(task, outer[:prefix], body)
        return
    big = tirx.GE(task.k.dim(total), i64(task.least))
    with T.If(big):
        with T.Then(), task.k.scope():
            _parallel(task, outer[:prefix], body)
        with T.Else(), task.k.scope():
            _serial(task, outer[: len(outer) - (outer is inner)], body)


def _serial(task: Task, outer: Sequence[Dim], body: Callable[[Index], None]) -> None:
    with task.k.nest(outer) as index:
        body(index)


def _prefix(dims: Sequence[Dim], wanted: int) -> int:
    """How many leading dims hold at least `wanted` items."""
    count = 1
    for i, dim in enumerate(dims):
        count *= dim if isinstance(dim, int) else _GUESS
        if count >= wanted:
            return i + 1
    return len(dims)


def _parallel(task: Task, dims: Sequence[Dim], body: Callable[[Index], None]) -> None:
    """Balanced parts of the items of `dims`, in parallel."""
    k, total = task.k, product(dims)
    task.parallel = True
    with k.loop(task.tasks, parallel=True) as part:
        count = k.dim(total)
        start = T.bind(tirx.floordiv(part * count, i64(task.tasks)))
        stop = T.bind(tirx.floordiv((part + i64(1)) * count, i64(task.tasks)))
        with T.serial(start, stop) as item, k.scope():
            body(unflatten(k, k.intern(item), dims))


def unflatten(k: ScalarKernels, item: Expr, dims: Sequence[Dim]) -> Index:
    index: list[Expr] = []
    for dim in reversed(dims[1:]):
        index.append(k.binary("mod", item, k.dim(dim), "index"))
        item = k.binary("floordiv", item, k.dim(dim), "index")
    return (item, *reversed(index))


# --- reductions -----------------------------------------------------------------------------------


def _emit_reduction(task: Task, anchor: Eqn) -> None:
    k, value = task.k, anchor.outputs[0]
    origin = tuple(k.dim(0) for _ in value.type.dims)
    reader = task.graph.reader(value)
    asked = k.reduction(lambda: reader(origin))
    if asked is None or asked.kind in ("argmax", "argmin"):
        _emit_points(task, anchor)
    elif _along_last_axis(anchor):
        _emit_along(task, value, asked)
    elif value.type.rank:
        _emit_across(task, value, asked)
    else:
        _emit_points(task, anchor)


def _along_last_axis(anchor: Eqn) -> bool:
    axes = getattr(anchor.attrs, "axes", None)
    if not anchor.op.name.startswith("reduce_") or axes is None:
        return False
    return anchor.inputs[0].type.rank - 1 in axes


def _reduction_at(task: Task, value: Value, index: Index) -> Reduction:
    reader = task.graph.reader(value)
    asked = task.k.reduction(lambda: reader(index))
    if asked is None:
        raise InternalError(f"{value} reduces at some indices only")
    return asked


def _finish(task: Task, value: Value, index: Index, total: Expr) -> None:
    """Stores the outputs at `index`, given the reduction's total there."""
    reader = task.graph.reader(value)
    result = task.k.finish(lambda: reader(index), total)
    task.graph.pin(value, index, task.k.bind(result))
    task.store_all(index)


def _lanes(asked: Reduction) -> int:
    """Accumulators of a reduction over a last axis: of long ones many, since an addition waits for
    the one before into the same."""
    last = asked.dims[-1]
    return 16 if isinstance(last, int) and last < 256 else 64


def _emit_along(task: Task, value: Value, asked: Reduction) -> None:
    """Reduces the last axis (and maybe others): partial results in `lanes` accumulators."""
    lanes = _lanes(asked)
    steps = product(asked.dims)
    weight = task.weight * (steps if isinstance(steps, int) else _GUESS * lanes)

    def row(index: Index) -> None:
        with task.k.nest(value.type.dims[len(index) :]) as rest:
            full = (*index, *rest)
            total = _total(task, value, full, lanes)
            _finish(task, value, full, total)

    for_rows(task, value.type.dims, (), weight, row)


def _total(task: Task, value: Value, index: Index, lanes: int) -> Expr:
    k = task.k
    asked = _reduction_at(task, value, index)
    outer, last = asked.dims[:-1], asked.dims[-1]
    blocks, rest = last // lanes, last % lanes
    sums = Accumulators(k, asked, lanes, k.dim(lanes))

    def add(r: Index, lane: Expr) -> None:
        sums.add(lane, asked.body(r))

    def block(r: Index) -> None:
        start = k.binary("mul", r[-1], k.dim(lanes), "index")
        with k.loop(lanes) as lane:
            add((*r[:-1], k.binary("add", start, lane, "index")), lane)

    def tail(r: Index) -> None:
        if rest != 0:
            with k.loop(rest) as lane:
                add((*r, k.binary("add", k.dim(blocks * lanes), lane, "index")), lane)

    def row(r: Index) -> None:
        if blocks != 0:
            with k.loop(blocks) as number:
                block((*r, number))
        tail(r)

    if isinstance(blocks, int) and blocks < TERMS:
        sums.over(outer, blocks + 1, row)
    else:
        sums.over((*outer, blocks), 1, block)
        sums.over(outer, 1, tail)
    return sums.folded(lanes)


def _emit_across(task: Task, value: Value, asked: Reduction) -> None:
    """Keeps the last axis: a block of its results is accumulated at a time."""
    *outer, last = value.type.dims
    steps = product(asked.dims)
    weight = task.weight * (steps if isinstance(steps, int) else _GUESS * _GUESS)
    count = last if isinstance(last, int) and last <= KEPT_LANES else None
    blocks: Dim = 1 if count is not None else (last + (KEPT_LANES - 1)) // KEPT_LANES
    dims = (*outer, blocks)

    def block(index: Index) -> None:
        k = task.k
        with k.nest(dims[len(index) :]) as rest:
            full = (*index, *rest)
            row, number = full[:-1], full[-1]
            start = k.binary("mul", number, k.dim(KEPT_LANES), "index")
            left = k.binary("sub", k.dim(last), start, "index")
            size = k.dim(count) if count is not None else tirx.min(left, i64(KEPT_LANES))
            _accumulate(task, value, row, start, k.bind(size))

    for_rows(task, dims, (), weight * KEPT_LANES, block)


def _accumulate(task: Task, value: Value, row: Index, start: Expr, size: Expr) -> None:
    """The results `row + (start + lane,)` for every lane below `size`."""
    k = task.k

    def at(lane: Expr) -> Index:
        return (*row, k.binary("add", start, lane, "index"))

    asked = _reduction_at(task, value, at(k.dim(0)))
    sums = Accumulators(k, asked, KEPT_LANES, size)

    def add(r: Index) -> None:
        with k.loop(size) as lane:
            sums.add(lane, _reduction_at(task, value, at(lane)).body(r))

    sums.over(asked.dims, 1, add)
    with k.loop(size) as lane:
        _finish(task, value, at(lane), sums.total(lane))


# --- rows -----------------------------------------------------------------------------------------


def _emit_rows(task: Task) -> None:
    """For each row, the parts one after the other."""
    group, k = task.group, task.k
    count = len(group.rows)

    def row(index: Index) -> None:
        with k.nest(group.rows[len(index) :]) as rest:
            memory = {**task.graph.memory}
            for value, *views in group.kept:
                buffer = _stack_row(value, count)
                memory.update((v, Memory(buffer, v.type, count)) for v in (value, *views))
            for part in group.parts:
                _emit_row(Task(part, Graph(k, part.eqns, memory), 1), (*index, *rest))

    longest = [product(v.type.dims[count:]) for part in group.parts for v in part.inputs]
    size = max((n for n in longest if isinstance(n, int)), default=_GUESS * KEPT_LANES)
    for_rows(task, group.rows, (), task.weight * max(1, size), row)


def _stack_row(value: Value, rows: int) -> Any:
    elements = product(value.type.dims[rows:])
    if not isinstance(elements, int):
        raise InternalError(f"a row of {value} has no known size, and is kept on the stack")
    return local(max(1, elements), STORED[value.type.dtype])


def _emit_row(task: Task, row: Index) -> None:
    """One row of a part."""
    anchor = task.group.anchor
    if anchor is None:
        with task.k.nest(task.group.dims[len(row) :]) as inner:
            task.store_all((*row, *inner))
        return
    value = anchor.outputs[0]
    lanes = _lanes(_reduction_at(task, value, row))
    _finish(task, value, row, _total(task, value, row, lanes))


# --- scatter --------------------------------------------------------------------------------------


def _emit_scatter(task: Task) -> None:
    """Zeros, then additions one after the other."""
    anchor = task.group.anchor
    if anchor is None:
        raise InternalError("a scatter group without its equation")
    k, value = task.k, anchor.outputs[0]
    memory = task.graph.memory[value]
    zero = k.const(0, value.type.dtype)
    with k.loop(value.type.size) as position:
        flat = Memory(memory.buffer, value.type.with_dims((value.type.size,)))
        flat.store(k, (position,), zero)
    scatter = task.graph.computed(anchor)
    if not isinstance(scatter, Scatter):
        raise InternalError(f"{anchor.op.name} does not scatter")
    with k.nest(scatter.domain) as index:
        target = scatter.target(index)
        before = memory.load(k, target)
        memory.store(k, target, k.binary("add", before, scatter.value(index), value.type.dtype))
