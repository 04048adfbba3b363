"""Emits a ranking on the CPU: which elements of a row come first.

Input: a `Task` whose equation gives a `Ranking`. Output: statements in the TIR builder's current
scope. The result's own row is the working memory: a heap of the first `count` positions seen, with
the one that comes last on top, through which all others pass; then the heap is sorted. That is
heapsort for a whole row, and O(n log count) for the first few of it. The order is total, so the
result is that of a stable sort.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ir.core import Value
from dslc.ir.op import Expr, Index, Ranking
from dslc.lowering.kernels.scalar import ScalarKernels
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.stack import local
from dslc.lowering.kernels.tasks import Task, for_rows

_STEPS = 64  # comparisons that an element of a row counts as


def ranking_of(task: Task) -> tuple[Value, Ranking]:
    """The result of the group's equation, and the order."""
    anchor = task.group.anchor
    made = None if anchor is None else task.graph.computed(anchor)
    if anchor is None or not isinstance(made, Ranking):
        raise InternalError(f"{task.group.outputs[0]} ranks nothing")
    return anchor.outputs[0], made


def emit_ranking(task: Task) -> None:
    """All rows, in parallel where they are many."""
    value, ranking = ranking_of(task)
    dims = [dim for axis, dim in enumerate(value.type.dims) if axis != ranking.axis]
    length = ranking.length if isinstance(ranking.length, int) else _STEPS
    weight = task.weight * _STEPS * length

    def rows(prefix: Index) -> None:
        with task.k.nest(dims[len(prefix) :]) as rest:
            _Row(task, value, ranking, (*prefix, *rest)).emit()

    for_rows(task, dims, (), weight, rows)


class _Row:
    """One row: its slots are the elements of the result, which hold positions in the input."""

    def __init__(self, task: Task, value: Value, ranking: Ranking, row: Index) -> None:
        self.k: ScalarKernels = task.k
        self.memory = task.graph.memory[value]
        self.ranking, self.row = ranking, row
        self.count = self.k.dim(value.type.dims[ranking.axis])

    def at(self, place: Expr) -> Index:
        axis = self.ranking.axis
        return (*self.row[:axis], place, *self.row[axis:])

    def get(self, slot: Expr) -> Expr:
        return self.k.intern(T.bind(self.memory.load(self.k, self.at(slot))))

    def put(self, slot: Expr, place: Expr) -> None:
        self.memory.store(self.k, self.at(slot), place)

    def before(self, a: Expr, b: Expr) -> Expr:
        return self.ranking.before(self.at(a), self.at(b))

    def emit(self) -> None:
        k, count = self.k, self.count
        one = i64(1)
        with k.loop(count) as slot:
            self.put(slot, slot)
        half = k.intern(T.bind(tirx.floordiv(count, i64(2))))
        with k.loop(half) as step:
            self.sink(k.intern(T.bind(half - one - step)), count)
        more = k.dim(self.ranking.length) - count
        with T.If(tirx.GT(count, i64(0))), T.Then(), k.scope(), k.loop(T.bind(more)) as step:
            self.offer(k.intern(T.bind(count + step)))
        with k.loop(T.bind(tirx.max(count - one, i64(0)))) as step:
            end = k.intern(T.bind(count - one - step))
            self.swap(k.dim(0), end)
            self.sink(k.dim(0), end)

    def offer(self, place: Expr) -> None:
        """A position takes the top's place if it comes before that."""
        k = self.k
        with T.If(self.before(place, self.get(k.dim(0)))), T.Then(), k.scope():
            self.put(k.dim(0), place)
            self.sink(k.dim(0), self.count)

    def swap(self, a: Expr, b: Expr) -> None:
        x, y = self.get(a), self.get(b)
        self.put(a, y)
        self.put(b, x)

    def sink(self, start: Expr, end: Expr) -> None:
        """Moves what is in slot `start` down to where nothing below it comes after it."""
        k = self.k
        cells: Any = local(3, "int64")  # the slot, the later one of its children, whether to go on
        T.buffer_store(cells, start, [0])
        T.buffer_store(cells, i64(1), [2])
        with T.While(tirx.EQ(cells[2], i64(1))), k.scope():
            T.buffer_store(cells, i64(0), [2])
            slot = k.intern(T.bind(cells[0]))
            left = k.intern(T.bind(slot * i64(2) + i64(1)))
            with T.If(tirx.LT(left, end)), T.Then(), k.scope():
                self._descend(cells, slot, left, end)

    def _descend(self, cells: Any, slot: Expr, left: Expr, end: Expr) -> None:
        k = self.k
        right = k.intern(T.bind(left + i64(1)))
        T.buffer_store(cells, left, [1])
        with T.If(tirx.LT(right, end)), T.Then(), k.scope():
            later = self.before(self.get(left), self.get(right))
            with T.If(later), T.Then():
                T.buffer_store(cells, right, [1])
        child = k.intern(T.bind(cells[1]))
        with T.If(self.before(self.get(slot), self.get(child))), T.Then(), k.scope():
            self.swap(slot, child)
            T.buffer_store(cells, child, [0])
            T.buffer_store(cells, i64(1), [2])
