"""Emits attention and its gradient by plain loops on the CPU, for every dtype and size.

Input: a `Task` of kind `attention`. Output: statements in the TIR builder's current scope. A row
of a result is a weighted sum of rows: of values by the weights, in the gradient of keys, queries
and cotangents by what flows into the scores. Weights are made for a block of those rows at a time
and kept on the stack, so nothing is as big as the matrix of scores. Forwards, the sum is scaled
down whenever a larger score comes up (Milakov and Gimelshein 2018, arXiv:1805.02867; Dao 2023,
arXiv:2307.08691). Keys that no query of the row sees by its position are not read.

Non-goals: speed to the last bit (templates of `schedules/cpu` are for that), the GPU
(`lowering/cuda/attention.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.ir.core import Value
from dslc.ir.dims import Dim
from dslc.ir.op import Expr, Index
from dslc.lowering.kernels.scalar import COMPUTED
from dslc.lowering.kernels.scores import LOWEST, Scores
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.stack import local
from dslc.lowering.kernels.tasks import Task, for_rows

BLOCK = 64  # rows whose weights are made at a time
LANES = 256  # columns of a result that are summed at a time, where their number is not known: 64
UNKNOWN_LANES = 64
_STRIP = 4  # rows that are added at a time
_GUESS = 64  # what an unknown size counts as

Row = Callable[[Expr], Index]  # from the number of a row to its index (without the column)


def emit_attention(task: Task) -> None:
    """The whole group."""
    scores = Scores(task.group, task.graph)
    if scores.eqn.op.name == "attention":
        _Forward(task, scores).emit()
    else:
        _Queries(task, scores).emit()
        _Keys(task, scores).emit()
        _Values(task, scores).emit()


class _Sums(ABC):
    """Rows of `target` that are weighted sums. `columns` are cut into chunks of at most `lanes`."""

    def __init__(self, task: Task, scores: Scores, target: Value) -> None:
        self.task, self.k, self.s, self.target = task, task.k, scores, target
        self.rows, columns = target.type.dims[:-1], target.type.dims[-1]
        self.columns: Dim = columns
        known = isinstance(columns, int) and columns <= LANES
        self.lanes = columns if isinstance(columns, int) and known else UNKNOWN_LANES
        self.chunks: Dim = 1 if known else (columns + (self.lanes - 1)) // self.lanes
        self.type = COMPUTED[scores.dtype]

    def emit(self) -> None:
        dims = (*self.rows, self.chunks)
        weight = 2 * BLOCK * sum(_number(size) for size in (self.s.width("q"), self.columns))

        def row(prefix: Index) -> None:
            with self.task.k.nest(dims[len(prefix) :]) as rest:
                whole = (*prefix, *rest)
                index, chunk = whole[:-1], whole[-1]
                first = self.k.binary("mul", chunk, self.k.dim(self.lanes), "index")
                left = tirx.min(self.k.dim(self.columns) - first, i64(self.lanes))
                size = self.k.dim(self.lanes) if self.chunks == 1 else self.k.bind(left)
                self.row(index, chunk, first, size)

        for_rows(self.task, dims, (), weight, row)

    @abstractmethod
    def row(self, index: Index, chunk: Expr, first: Expr, size: Expr) -> None:
        """Columns `first .. first + size` of one row."""

    # --- what rows are made of -------------------------------------------------------------------

    def cells(self, count: int, value: float | None = None, size: Expr = None) -> Any:
        """Working memory on the stack."""
        cells = local(max(1, count), self.type)
        if value is not None:
            with self.k.loop(self.k.dim(count) if size is None else size) as lane:
                T.buffer_store(cells, self.s.constant(value), [lane])
        return cells

    def blocks(self, start: Expr, stop: Expr, body: Callable[[Expr, Expr], None]) -> None:
        """`body(first, count)` for blocks of the numbers from `start` to `stop`."""
        count = T.bind(tirx.max(stop - start, i64(0)))
        with self.k.loop(tirx.floordiv(count + i64(BLOCK - 1), i64(BLOCK))) as number:
            first = self.k.intern(T.bind(start + number * i64(BLOCK)))
            body(first, self.k.intern(T.bind(tirx.min(stop - first, i64(BLOCK)))))

    def dots(
        self, cells: Any, first: Expr, count: Expr, x: tuple[str, Row], y: tuple[str, Row]
    ) -> None:
        """cells[n] = the product of row `first + n` of x with that of y."""
        with self.k.loop(count) as n:
            at = self.k.intern(T.bind(first + n))
            T.buffer_store(cells, self.dot((x[0], x[1](at)), (y[0], y[1](at))), [n])

    def dot(self, x: tuple[str, Index], y: tuple[str, Index]) -> Expr:
        k, width = self.k, self.s.width(x[0])
        lanes = 8 if not isinstance(width, int) or width < 64 else 16
        parts = self.cells(lanes, 0.0)

        def add(lane: Expr, column: Expr) -> None:
            product = self.s.element(x[0], (*x[1], column)) * self.s.element(y[0], (*y[1], column))
            T.buffer_store(parts, parts[lane] + product, [lane])

        if width // lanes != 0:
            with k.loop(width // lanes) as number:
                start = k.binary("mul", number, k.dim(lanes), "index")
                with k.loop(lanes) as lane:
                    add(lane, k.binary("add", start, lane, "index"))
        if width % lanes != 0:
            with k.loop(width % lanes) as lane:
                add(lane, k.binary("add", k.dim(width // lanes * lanes), lane, "index"))
        half = lanes // 2
        while half:
            with k.loop(half) as lane:
                T.buffer_store(parts, parts[lane] + parts[lane + i64(half)], [lane])
            half //= 2
        return parts[0]

    def add_rows(
        self, sums: Any, weights: Any, rows: tuple[Expr, Expr], name: str, batch: Index,
        columns: tuple[Expr, Expr],
    ) -> None:  # fmt: skip
        """sums += weights[n] * row `start + n` of an operand, for all n below `count`; `rows` are
        start and count, `columns` the first and how many."""
        k, (begin, count), (first, size) = self.k, rows, columns

        def strip(start: Expr, height: int) -> None:
            with k.loop(size) as lane:
                column = k.binary("add", first, lane, "index")
                total = sums[lane]
                for n in range(height):
                    at = k.binary("add", start, k.dim(n), "index")
                    index = (*batch, k.binary("add", begin, at, "index"), column)
                    total = total + weights[at] * self.s.element(name, index)
                T.buffer_store(sums, total, [lane])

        whole = self.k.intern(T.bind(tirx.floordiv(count, i64(_STRIP))))
        with k.loop(whole) as number:
            strip(k.intern(T.bind(number * i64(_STRIP))), _STRIP)
        with k.loop(T.bind(count - whole * i64(_STRIP))) as rest:
            strip(k.intern(T.bind(whole * i64(_STRIP) + rest)), 1)

    def store(self, sums: Any, index: Index, first: Expr, size: Expr, scale: Expr = None) -> None:
        with self.k.loop(size) as lane:
            total = sums[lane] if scale is None else sums[lane] * scale
            at = (*index, self.k.binary("add", first, lane, "index"))
            self.s.store(self.target, at, total)

    def exp(self, x: Expr) -> Expr:
        return self.k.unary("exp", x, self.s.dtype)


def _number(size: Dim) -> int:
    return size if isinstance(size, int) else _GUESS


# --- forwards -------------------------------------------------------------------------------------


class _Forward(_Sums):
    """Rows of the result: sums of values. The largest score and the sum of weights go along."""

    def __init__(self, task: Task, scores: Scores) -> None:
        super().__init__(task, scores, scores.eqn.outputs[0])

    def row(self, index: Index, chunk: Expr, first: Expr, size: Expr) -> None:
        k, s, (*batch, query) = self.k, self.s, index
        top, total = self.cells(1, LOWEST[s.dtype]), self.cells(1, 0.0)
        sums, weights = self.cells(self.lanes, 0.0, size), self.cells(BLOCK)
        shared = s.shared(tuple(batch))

        def block(start: Expr, count: Expr) -> None:
            self.dots(
                weights, start, count, ("q", lambda at: index), ("k", lambda at: (*shared, at))
            )
            self.weigh(weights, start, count, tuple(batch), query, top, total, sums, size)
            self.add_rows(sums, weights, (start, count), "v", shared, (first, size))

        start, stop = s.key_range(query, query)
        self.blocks(start, stop, block)
        some = tirx.NE(total[0], s.constant(0.0))
        safe = k.bind(k.select(some, total[0], s.constant(1.0)))
        self.store(sums, index, first, size, k.bind(tirx.div(s.constant(1.0), safe)))
        with T.If(tirx.EQ(chunk, i64(0))), T.Then(), k.scope():
            sum_ = k.bind(top[0] + k.unary("log", safe, s.dtype))
            s.store(s.eqn.outputs[1], index, k.select(some, sum_, s.constant(0.0)))

    def weigh(
        self, weights: Any, start: Expr, count: Expr, batch: Index, query: Expr,
        top: Any, total: Any, sums: Any, size: Expr,
    ) -> None:  # fmt: skip
        """Products of query and keys become weights, relative to the largest score so far."""
        k, s = self.k, self.s
        before = k.bind(self.copied(top))
        with k.loop(count) as n:
            key = k.binary("add", start, n, "index")
            score = k.bind(s.score(batch, query, key, weights[n]))
            T.buffer_store(weights, score, [n])
            T.buffer_store(top, tirx.max(top[0], score), [0])
        after = k.bind(self.copied(top))
        shrink = k.bind(self.exp(k.bind(before - after)))
        T.buffer_store(total, total[0] * shrink, [0])
        with k.loop(size) as lane:
            T.buffer_store(sums, sums[lane] * shrink, [lane])
        with k.loop(count) as n:
            T.buffer_store(weights, self.exp(k.bind(weights[n] - after)), [n])
        with k.loop(count) as n:
            T.buffer_store(total, total[0] + weights[n], [0])
        if s.attrs.factor:
            with k.loop(count) as n:
                key = k.binary("add", start, n, "index")
                T.buffer_store(weights, s.times_factor(weights[n], batch, query, key), [n])

    def copied(self, cell: Any) -> Expr:
        """What the cell holds now."""
        return T.bind(cell[0])


# --- the gradient ---------------------------------------------------------------------------------


class _Queries(_Sums):
    """Cotangents of queries: sums of keys."""

    def __init__(self, task: Task, scores: Scores) -> None:
        super().__init__(task, scores, scores.eqn.outputs[0])

    def row(self, index: Index, chunk: Expr, first: Expr, size: Expr) -> None:
        k, s, (*batch, query) = self.k, self.s, index
        sums = self.cells(self.lanes, 0.0, size)
        weights, products = self.cells(BLOCK), self.cells(BLOCK)
        shared = s.shared(tuple(batch))
        lse, delta = (k.bind(s.element(name, index)) for name in ("lse", "delta"))

        def block(start: Expr, count: Expr) -> None:
            self.dots(
                weights, start, count, ("q", lambda at: index), ("k", lambda at: (*shared, at))
            )
            self.dots(
                products, start, count, ("g", lambda at: index), ("v", lambda at: (*shared, at))
            )
            with k.loop(count) as n:
                place = (tuple(batch), query, k.binary("add", start, n, "index"))
                weight = self.exp(k.bind(s.score(*place, weights[n]) - lse))
                moved = s.score_gradient(*place, k.bind(weight), products[n], delta)
                T.buffer_store(weights, moved, [n])
            self.add_rows(sums, weights, (start, count), "k", shared, (first, size))

        start, stop = s.key_range(query, query)
        self.blocks(start, stop, block)
        self.store(sums, index, first, size, s.constant(s.attrs.scale))


class _ByKeys(_Sums):
    """Cotangents of keys or values: sums over all queries of the heads that share them."""

    def row(self, index: Index, chunk: Expr, first: Expr, size: Expr) -> None:
        s, (*shared, key) = self.s, index
        sums = self.cells(self.lanes, 0.0, size)
        start, stop = s.query_range(key, key)
        with self.k.loop(s.attrs.group) as member:
            batch = s.sharing(tuple(shared), member)
            self.head(sums, batch, index, (start, stop), (first, size))
        self.finish(sums, index, first, size)

    @abstractmethod
    def head(
        self, sums: Any, batch: Index, index: Index, queries: tuple[Expr, Expr],
        columns: tuple[Expr, Expr],
    ) -> None:  # fmt: skip
        """Adds what flows from one head's queries into the key (or value) at `index`."""

    def finish(self, sums: Any, index: Index, first: Expr, size: Expr) -> None:
        self.store(sums, index, first, size)


class _Keys(_ByKeys):
    def __init__(self, task: Task, scores: Scores) -> None:
        super().__init__(task, scores, scores.eqn.outputs[1])

    def head(
        self, sums: Any, batch: Index, index: Index, queries: tuple[Expr, Expr],
        columns: tuple[Expr, Expr],
    ) -> None:  # fmt: skip
        k, s, key = self.k, self.s, index[-1]
        weights, products = self.cells(BLOCK), self.cells(BLOCK)

        def block(start: Expr, count: Expr) -> None:
            self.dots(
                weights, start, count, ("q", lambda at: (*batch, at)), ("k", lambda at: index)
            )
            self.dots(
                products, start, count, ("g", lambda at: (*batch, at)), ("v", lambda at: index)
            )
            with k.loop(count) as n:
                query = k.binary("add", start, n, "index")
                lse, delta = (s.element(name, (*batch, query)) for name in ("lse", "delta"))
                weight = self.exp(k.bind(s.score(batch, query, key, weights[n]) - lse))
                moved = s.score_gradient(batch, query, key, k.bind(weight), products[n], delta)
                T.buffer_store(weights, moved, [n])
            self.add_rows(sums, weights, (start, count), "q", batch, columns)

        self.blocks(*queries, block)

    def finish(self, sums: Any, index: Index, first: Expr, size: Expr) -> None:
        self.store(sums, index, first, size, self.s.constant(self.s.attrs.scale))


class _Values(_ByKeys):
    def __init__(self, task: Task, scores: Scores) -> None:
        super().__init__(task, scores, scores.eqn.outputs[2])

    def head(
        self, sums: Any, batch: Index, index: Index, queries: tuple[Expr, Expr],
        columns: tuple[Expr, Expr],
    ) -> None:  # fmt: skip
        k, s, key = self.k, self.s, index[-1]
        weights = self.cells(BLOCK)

        def block(start: Expr, count: Expr) -> None:
            self.dots(
                weights, start, count, ("q", lambda at: (*batch, at)), ("k", lambda at: index)
            )
            with k.loop(count) as n:
                query = k.binary("add", start, n, "index")
                lse = s.element("lse", (*batch, query))
                weight = self.exp(k.bind(s.score(batch, query, key, weights[n]) - lse))
                T.buffer_store(weights, s.times_factor(weight, batch, query, key), [n])
            self.add_rows(sums, weights, (start, count), "g", batch, columns)

        self.blocks(*queries, block)
