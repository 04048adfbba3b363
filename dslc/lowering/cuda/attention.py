"""Emits attention and its gradient for a GPU by plain loops: a block of threads for each row.

Input: a `Task` of kind `attention`. Output: the body of its kernel, thread bindings included. A row
of a result is a weighted sum of rows (`ops/attention.py` says of which). Each thread of a block
makes one weight of a tile; they meet in shared memory, and then each thread adds up one column.
Forwards, the sum is scaled down whenever a larger score comes up. Keys that no query of a row sees
by its position are not read. In the gradient, the first blocks make cotangents of queries, the next
ones those of keys, the last ones those of values.

Non-goals: tensor cores, tiles of several rows, the CPU (`kernels/attention.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.ir.core import Value
from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr, Index
from dslc.lowering.cuda.threads import THREADS, each_block, meet, shared
from dslc.lowering.kernels.scalar import COMPUTED
from dslc.lowering.kernels.scores import LOWEST, Scores
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.stack import local
from dslc.lowering.kernels.tasks import Task, unflatten
from dslc.schedules.cuda.block import barrier


def emit_device_attention(task: Task) -> None:
    """The whole kernel."""
    scores = Scores(task.group, task.graph)
    forward = scores.eqn.op.name == "attention"
    parts: tuple[Part, ...] = (_forward,) if forward else (_queries, _keys, _values)
    results = scores.eqn.outputs[: len(parts)]  # of a forward pass, not the rows' logarithms
    counts = [product(value.type.dims[:-1]) for value in results]
    with each_block(task.k, _sum(counts)) as (block, thread):
        for i, (value, part) in enumerate(zip(results, parts)):
            first = _sum(counts[:i])
            with _within(task, block, first, counts[i], alone=forward) as number:
                rows = value.type.dims[:-1]
                index = unflatten(task.k, number, rows) if rows else ()
                _Row(task, scores, value, index, thread).emit(part)


def _sum(counts: list[Dim]) -> Dim:
    total: Dim = 0
    for count in counts:
        total = total + count
    return total


@contextmanager
def _within(task: Task, block: Expr, first: Dim, count: Dim, alone: bool) -> Iterator[Expr]:
    """For the blocks from `first` on that are below `first + count`: their numbers from there."""
    k = task.k
    if alone:
        yield block
        return
    begins = tirx.GE(block, k.dim(first))
    with T.If(tirx.And(begins, tirx.LT(block, k.dim(first + count)))), T.Then(), k.scope():
        yield k.intern(T.bind(block - k.dim(first)))


class _Row:
    """One row of `value`, which the threads of a block sum up, THREADS columns at a time."""

    def __init__(
        self, task: Task, scores: Scores, value: Value, index: Index, thread: Expr
    ) -> None:
        self.task, self.k, self.s = task, task.k, scores
        self.value, self.index, self.thread = value, index, thread
        self.columns = value.type.dims[-1]

    def emit(self, part: Part) -> None:
        """`part(row, chunk, column)` for each chunk of columns."""
        chunks = (self.columns + (THREADS - 1)) // THREADS
        # The row of logarithms is stored with the first chunk, so there is one.
        count = max(1, chunks) if isinstance(chunks, int) else tirx.max(self.k.dim(chunks), i64(1))
        with self.k.loop(count) as chunk:
            start = self.k.binary("mul", chunk, self.k.dim(THREADS), "index")
            part(self, chunk, self.k.intern(T.bind(start + self.thread)))

    def cell(self, value: float) -> Any:
        cell = local(1, COMPUTED[self.s.dtype])
        T.buffer_store(cell, self.s.constant(value), [0])
        return cell

    def tiles(self, start: Expr, stop: Expr, body: Callable[[Expr, Expr], None]) -> None:
        """`body(first, count)` for tiles of the numbers from `start` to `stop`."""
        count = T.bind(tirx.max(stop - start, i64(0)))
        with self.k.loop(T.bind(tirx.floordiv(count + i64(THREADS - 1), i64(THREADS)))) as number:
            first = self.k.intern(T.bind(start + number * i64(THREADS)))
            body(first, self.k.intern(T.bind(tirx.min(stop - first, i64(THREADS)))))
            barrier()

    def mine(
        self, cells: Any, first: Expr, count: Expr, otherwise: float, weigh: Callable[[Expr], Expr]
    ) -> None:
        """cells[thread] = the weight of row `first + thread`, if there is one in the tile."""
        T.buffer_store(cells, self.s.constant(otherwise), [self.thread])
        with T.If(tirx.LT(self.thread, count)), T.Then(), self.k.scope():
            at = self.k.intern(T.bind(first + self.thread))
            T.buffer_store(cells, weigh(at), [self.thread])

    def add(
        self, total: Any, cells: Any, name: str, batch: Index, first: Expr, count: Expr,
        column: Expr,
    ) -> None:  # fmt: skip
        """Adds this thread's column of the tile's rows of an operand, weighed; all weights are
        there."""
        inside = tirx.LT(column, self.k.dim(self.columns))
        with T.If(inside), T.Then(), self.k.scope(), self.k.loop(count) as n:
            at = self.k.binary("add", first, n, "index")
            element = self.s.element(name, (*batch, at, column))
            T.buffer_store(total, total[0] + cells[n] * element, [0])

    def dot(self, x: tuple[str, Index], y: tuple[str, Index]) -> Expr:
        total = self.cell(0.0)
        with self.k.loop(self.s.width(x[0])) as d:
            product_ = self.s.element(x[0], (*x[1], d)) * self.s.element(y[0], (*y[1], d))
            T.buffer_store(total, total[0] + product_, [0])
        return T.bind(total[0])

    def store(self, column: Expr, result: Expr) -> None:
        with T.If(tirx.LT(column, self.k.dim(self.columns))), T.Then(), self.k.scope():
            self.task.store(self.value, (*self.index, column), result)

    def exp(self, x: Expr) -> Expr:
        return self.k.bind(self.k.unary("exp", self.k.bind(x), self.s.dtype))

    # --- what flows into a score ------------------------------------------------------------------

    def weight(self, batch: Index, query: Expr, key: Expr) -> Expr:
        """The weight of a key, made again from the row's logarithm."""
        s = self.s
        product_ = self.dot(("q", (*batch, query)), ("k", (*s.shared(batch), key)))
        score = s.score(batch, query, key, product_)
        return self.exp(score - s.element("lse", (*batch, query)))

    def moved(self, batch: Index, query: Expr, key: Expr) -> Expr:
        """The cotangent of the scaled product of query and key."""
        s = self.s
        weight = self.weight(batch, query, key)
        product_ = self.dot(("g", (*batch, query)), ("v", (*s.shared(batch), key)))
        delta = s.element("delta", (*batch, query))
        return s.score_gradient(batch, query, key, weight, product_, delta)


# Emits the threads' part of a row: (row, chunk of columns, this thread's column).
Part = Callable[[_Row, Expr, Expr], None]


def _forward(row: _Row, chunk: Expr, column: Expr) -> None:
    k, s, batch, query = row.k, row.s, row.index[:-1], row.index[-1]
    total, top, mass = row.cell(0.0), row.cell(LOWEST[s.dtype]), row.cell(0.0)
    scores = shared(s.dtype)
    keys = s.shared(batch)

    def score(key: Expr) -> Expr:
        return s.score(batch, query, key, row.dot(("q", row.index), ("k", (*keys, key))))

    def tile(first: Expr, count: Expr) -> None:
        row.mine(scores, first, count, float("-inf"), score)
        highest = k.bind(tirx.max(top[0], meet(k, "max", s.dtype, scores[row.thread], row.thread)))
        shrink = row.exp(top[0] - highest)
        weight = row.exp(scores[row.thread] - highest)
        sum_ = meet(k, "sum", s.dtype, weight, row.thread)
        T.buffer_store(mass, mass[0] * shrink + sum_, [0])
        T.buffer_store(total, total[0] * shrink, [0])
        T.buffer_store(top, highest, [0])
        row.mine(scores, first, count, 0.0, lambda key: s.times_factor(weight, batch, query, key))
        barrier()
        row.add(total, scores, "v", keys, first, count, column)

    row.tiles(*s.key_range(query, query), tile)
    some = tirx.NE(mass[0], s.constant(0.0))
    safe = k.bind(k.select(some, mass[0], s.constant(1.0)))
    row.store(column, tirx.div(total[0], safe))
    first_of_all = tirx.And(tirx.EQ(chunk, i64(0)), tirx.EQ(row.thread, i64(0)))
    with T.If(first_of_all), T.Then(), k.scope():
        logarithm = k.bind(top[0] + k.unary("log", safe, s.dtype))
        result = k.select(some, logarithm, s.constant(0.0))
        row.task.store(s.eqn.outputs[1], row.index, result)


def _queries(row: _Row, chunk: Expr, column: Expr) -> None:
    s, batch, query = row.s, row.index[:-1], row.index[-1]
    total, weights = row.cell(0.0), shared(s.dtype)
    keys = s.shared(batch)

    def tile(first: Expr, count: Expr) -> None:
        row.mine(weights, first, count, 0.0, lambda key: row.moved(batch, query, key))
        barrier()
        row.add(total, weights, "k", keys, first, count, column)

    row.tiles(*s.key_range(query, query), tile)
    row.store(column, total[0] * s.constant(s.attrs.scale))


def _keys(row: _Row, chunk: Expr, column: Expr) -> None:
    total = _over_queries(row, column, "q", row.moved)
    row.store(column, total * row.s.constant(row.s.attrs.scale))


def _values(row: _Row, chunk: Expr, column: Expr) -> None:
    def weight(batch: Index, query: Expr, key: Expr) -> Expr:
        return row.s.times_factor(row.weight(batch, query, key), batch, query, key)

    row.store(column, _over_queries(row, column, "g", weight))


def _over_queries(
    row: _Row, column: Expr, name: str, weigh: Callable[[Index, Expr, Expr], Expr]
) -> Expr:
    """The sum of rows of q or g, over the queries of all heads that share the row's key."""
    s, heads, key = row.s, row.index[:-1], row.index[-1]
    total, weights = row.cell(0.0), shared(s.dtype)
    queries = s.query_range(key, key)
    with row.k.loop(s.attrs.group) as member:
        batch = s.sharing(heads, member)

        def tile(first: Expr, count: Expr) -> None:
            row.mine(weights, first, count, 0.0, lambda query: weigh(batch, query, key))
            barrier()
            row.add(total, weights, name, batch, first, count, column)

        row.tiles(*queries, tile)
    return T.bind(total[0])
