"""Reductions on a CPU: scalar loops shaped so that LLVM makes vectors of them.

Input: a `Task` whose group reduces. Output: statements in the TIR builder's current scope.
- Along the last axis, an array of partial results is kept (floats may not be reordered by LLVM).
- Across it, a block of neighbouring results is kept in registers.

Non-goals: the accumulators themselves (`accumulate.py`), positions of extrema (`loops.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from tvm import tirx

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr, Index
from dslc.lowering.kernels.accumulate import TERMS, Accumulators
from dslc.lowering.kernels.scalar import Reduction
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.tasks import GUESS, Task, for_rows

KEPT_LANES = 64  # neighbouring results that a reduction keeps at a time
LONG_LANES = 1024  # the same where each is the result of at least so many rows:
MANY_ROWS = 256


def emit_reduction(task: Task, anchor: Eqn) -> bool:
    """A group that reduces; False, with nothing emitted, if that is to be done point by point."""
    k, value = task.k, anchor.outputs[0]
    origin = tuple(k.dim(0) for _ in value.type.dims)
    reader = task.graph.reader(value)
    asked = k.reduction(lambda: reader(origin))
    if asked is None or asked.kind in ("argmax", "argmin"):
        return False
    if _along_last_axis(anchor):
        _emit_along(task, value, asked)
        return True
    if value.type.rank:
        _emit_across(task, value, asked)
    return bool(value.type.rank)


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


@dataclass(frozen=True, slots=True)
class Beside:
    """What is done while a row is reduced: at each index `also`, and behind each block of elements
    `behind`, with the index of the first and how many they are."""

    also: Callable[[Index], None] | None = None
    behind: Callable[[Index, int], None] | None = None


def reduce_row(task: Task, value: Value, index: Index, beside: Beside | None = None) -> None:
    """One result of a reduction along the last axis."""
    lanes = _lanes(task, _reduction_at(task, value, index))
    _finish(task, value, index, _total(task, value, index, lanes, beside or Beside()))


def _finish(task: Task, value: Value, index: Index, total: Expr) -> None:
    """Stores the outputs at `index`, given the reduction's total there."""
    reader = task.graph.reader(value)
    result = task.k.finish(lambda: reader(index), total)
    task.graph.pin(value, index, task.k.bind(result))
    task.store_all(index)


def _lanes(task: Task, asked: Reduction) -> int:
    """Accumulators of a reduction over a last axis: of long ones many."""
    last = asked.dims[-1]
    return 16 if isinstance(last, int) and last < 256 else task.k.sums


def _emit_along(task: Task, value: Value, asked: Reduction) -> None:
    """Reduces the last axis (and maybe others): partial results in `lanes` accumulators."""
    lanes = _lanes(task, asked)
    steps = product(asked.dims)
    weight = task.weight * (steps if isinstance(steps, int) else GUESS * lanes)

    def row(index: Index) -> None:
        with task.k.nest(value.type.dims[len(index) :]) as rest:
            full = (*index, *rest)
            reduce_row(task, value, full)

    for_rows(task, value.type.dims, (), weight, row)


def _total(task: Task, value: Value, index: Index, lanes: int, beside: Beside) -> Expr:
    k = task.k
    asked = _reduction_at(task, value, index)
    outer, last = asked.dims[:-1], asked.dims[-1]
    blocks, rest = last // lanes, last % lanes
    sums = Accumulators(k, asked, lanes, k.dim(lanes))

    def add(r: Index, lane: Expr) -> None:
        sums.add(lane, asked.body(r))
        if beside.also is not None:
            beside.also((*index, *r))

    def block(r: Index) -> None:
        start = k.binary("mul", r[-1], k.dim(lanes), "index")
        with k.loop(lanes) as lane:
            add((*r[:-1], k.binary("add", start, lane, "index")), lane)
        if beside.behind is not None:
            beside.behind((*index, *r[:-1], start), lanes)

    def tail(r: Index) -> None:
        if rest == 0:
            return
        start = k.dim(blocks * lanes)
        with k.loop(rest) as lane:
            add((*r, k.binary("add", start, lane, "index")), lane)
        if beside.behind is not None and isinstance(rest, int):
            beside.behind((*index, *r, start), rest)

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
    weight = task.weight * (steps if isinstance(steps, int) else GUESS * GUESS)
    lanes = _kept(task, last, steps)
    blocks = (last + (lanes - 1)) // lanes
    dims = (*outer, blocks)

    def block(index: Index) -> None:
        k = task.k
        with k.nest(dims[len(index) :]) as rest:
            full = (*index, *rest)
            row, number = full[:-1], full[-1]
            start = k.binary("mul", number, k.dim(lanes), "index")
            if isinstance(last, int) and (last < lanes or last % lanes == 0):
                size = k.dim(min(last, lanes))
            else:
                size = tirx.min(k.binary("sub", k.dim(last), start, "index"), i64(lanes))
            _accumulate(task, value, row, start, k.bind(size), lanes)

    for_rows(task, dims, (), weight * lanes, block)


def _kept(task: Task, last: Dim, steps: Dim) -> int:
    """Neighbouring results at a time: few stay in registers. Many, in the L1 cache, where there are
    many rows: of each a long piece is read."""
    known = isinstance(last, int) and isinstance(steps, int)
    if not known or cast(int, steps) < MANY_ROWS:
        return KEPT_LANES
    each = -(-cast(int, last) // task.tasks)
    return max(1, min(LONG_LANES, -(-each // KEPT_LANES) * KEPT_LANES))


def _accumulate(task: Task, value: Value, row: Index, start: Expr, size: Expr, lanes: int) -> None:
    """The results `row + (start + lane,)` for every lane below `size`."""
    k = task.k

    def at(lane: Expr) -> Index:
        return (*row, k.binary("add", start, lane, "index"))

    asked = _reduction_at(task, value, at(k.dim(0)))
    sums = Accumulators(k, asked, lanes, size)

    def add(r: Index) -> None:
        with k.loop(size) as lane:
            sums.add(lane, _reduction_at(task, value, at(lane)).body(r))

    sums.over(asked.dims, 1, add)
    with k.loop(size) as lane:
        _finish(task, value, at(lane), sums.total(lane))
