"""Emits attention for a GPU by tiles of queries: scores stay in registers and shared memory.

Input: a `Task` of kind `attention`, of whole tiles' worth of queries and vectors that fit. Output:
the body of its kernel. A block makes a tile of rows of the result. It goes over the keys in tiles:
scores (a thread has a few rows by a few keys), their maxima and sums by shuffles among the threads
that share rows, weights to shared memory, weights times values to the rows in registers, which are
scaled down whenever a larger score comes up (flash attention, Dao et al. 2022). Keys that no query
of the tile sees by its position are not read.

Non-goals: gradients and single rows (`attention.py`), tensor cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr, Index
from dslc.lowering.cuda.threads import shuffled
from dslc.lowering.grouping.group import Group
from dslc.lowering.grouping.operands import scores_of
from dslc.lowering.kernels.scores import LOWEST, Scores, anchor_of
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.stack import local
from dslc.lowering.kernels.tasks import Task, unflatten
from dslc.ops.attention_formula import by_name
from dslc.schedules.cuda.block import barrier
from dslc.schedules.cuda.block import shared as shared_array

ACROSS = 8  # threads that share a row; its keys and columns lie ACROSS apart among them
DOWN = 16
THREADS = ACROSS * DOWN
_VECTOR = 4
_ROOM = 46 << 10  # bytes of shared memory
FEWEST_QUERIES = 16


@dataclass(frozen=True, slots=True)
class Tiling:
    """Queries and keys of a tile; widths of keys and values. Rows are padded by a vector, so that
    those of neighbouring threads lie in different banks."""

    queries: int
    keys: int
    width: int
    columns: int

    @property
    def pitch(self) -> int:
        return self.width + _VECTOR

    @property
    def weights_pitch(self) -> int:
        return self.keys + _VECTOR

    @property
    def elements(self) -> int:
        rows = (self.queries + self.keys) * self.pitch + self.keys * self.columns
        return rows + self.queries * self.weights_pitch


def tiling_of(group: Group) -> Tiling | None:
    """The tiles of a forward pass; None where its vectors don't fit, or its queries are few."""
    eqn = anchor_of(group)
    values = by_name(eqn.attrs, eqn.inputs)  # type: ignore[arg-type]
    width, columns = values["k"].type.dims[-1], values["v"].type.dims[-1]
    queries = scores_of(eqn)[-2]
    if eqn.op.name != "attention" or values["q"].type.dtype == "f64":
        return None
    if not isinstance(width, int) or not isinstance(columns, int):
        return None
    if width % _VECTOR or columns % (_VECTOR * ACROSS) or not width or not columns:
        return None
    if isinstance(queries, int) and queries < FEWEST_QUERIES:
        return None
    few = isinstance(queries, int) and queries <= 256
    for rows in (32,) if few else (64, 32):
        for keys in (32, 16):
            tiling = Tiling(rows, keys, width, columns)
            if tiling.elements * 4 <= _ROOM:
                return tiling
    return None


def emit_flash(task: Task, tiling: Tiling) -> None:
    """The whole kernel."""
    scores = Scores(task.group, task.graph)
    k, queries = task.k, scores.queries
    tiles: Dim = (queries + (tiling.queries - 1)) // tiling.queries
    count = product(scores.batch) * tiles
    blocks = i64(max(1, count)) if isinstance(count, int) else tirx.max(k.dim(count), i64(1))
    with (
        T.launch_thread("blockIdx.x", blocks) as block,
        T.launch_thread("threadIdx.x", i64(THREADS)) as thread,
        T.If(tirx.LT(block, k.dim(count))),
        T.Then(),
        k.scope(),
    ):
        *batch, tile = unflatten(k, k.intern(block), (*scores.batch, tiles))
        _Block(task, scores, tiling, tuple(batch), tile, thread).emit()


@contextmanager
def _unrolled(count: int) -> Iterator[Expr]:
    with T.unroll(i64(0), i64(count)) as i:
        yield i


def _vector(first: Expr) -> Expr:
    """The places of a vector, from a multiple of its length on."""
    groups = tirx.shift_right(first, i64(2))
    return tirx.Ramp(groups * i64(_VECTOR), i64(1), _VECTOR)


class _Block:
    """One tile of rows."""

    def __init__(
        self, task: Task, scores: Scores, tiling: Tiling, batch: Index, tile: Expr, thread: Expr
    ) -> None:
        self.task, self.k, self.s, self.t, self.batch = task, task.k, scores, tiling, batch
        self.thread = self.k.intern(thread)
        self.y = T.bind(tirx.floordiv(thread, i64(ACROSS)))
        self.x = T.bind(tirx.floormod(thread, i64(ACROSS)))
        self.first = self.k.intern(T.bind(tile * i64(tiling.queries)))
        self.rows, self.own = tiling.queries // DOWN, tiling.keys // ACROSS
        self.groups = tiling.columns // (_VECTOR * ACROSS)
        self.memory = shared_array(tiling.elements, "float32")
        self.q, self.kk = 0, tiling.queries * tiling.pitch
        self.v = self.kk + tiling.keys * tiling.pitch
        self.p = self.v + tiling.keys * tiling.columns
        self.sums = local(self.rows * self.groups * _VECTOR, "float32")
        self.top, self.mass = local(self.rows, "float32"), local(self.rows, "float32")
        self.score = local(self.rows * self.own, "float32")

    def emit(self) -> None:
        k, s, t = self.k, self.s, self.t
        for cells, count, value in (
            (self.sums, self.rows * self.groups * _VECTOR, 0.0),
            (self.top, self.rows, LOWEST["f32"]),
            (self.mass, self.rows, 0.0),
        ):
            with _unrolled(count) as i:
                T.buffer_store(cells, s.constant(value), [i])
        self._bring("q", self.q, t.queries, t.width, t.pitch, self.batch, self.first, s.queries)
        last = T.bind(tirx.min(self.first + i64(t.queries), k.dim(s.queries)) - i64(1))
        start, stop = s.key_range(self.first, last)
        count = T.bind(tirx.floordiv(tirx.max(stop - start, i64(0)) + i64(t.keys - 1), i64(t.keys)))
        with k.loop(count) as number:
            self._tile(k.intern(T.bind(start + number * i64(t.keys))))
        self._finish()

    def _bring(
        self, name: str, base: int, rows: int, width: int, pitch: int, batch: Index, first: Expr,
        end: Dim,
    ) -> None:  # fmt: skip
        """Rows of an operand into shared memory; zeros beyond the last."""
        k = self.k
        with k.loop(-(-rows * width // THREADS)) as turn:
            item = T.bind(turn * i64(THREADS) + self.thread)
            row, column = tirx.floordiv(item, i64(width)), tirx.floormod(item, i64(width))
            place = T.bind(i64(base) + row * i64(pitch) + column)
            at, column = k.intern(T.bind(first + row)), k.intern(T.bind(column))
            inside = tirx.LT(at, k.dim(end))
            if rows * width % THREADS:
                inside = tirx.And(tirx.LT(item, i64(rows * width)), inside)
            with T.If(inside):
                with T.Then(), k.scope():
                    element = self.s.element(name, (*batch, at, column))
                    T.buffer_store(self.memory, element, [place])
                with T.Else():
                    T.buffer_store(self.memory, self.s.constant(0.0), [place])

    def _tile(self, first: Expr) -> None:
        """One tile of keys."""
        s, t, shared = self.s, self.t, self.s.shared(self.batch)
        self._bring("k", self.kk, t.keys, t.width, t.pitch, shared, first, s.keys)
        self._bring("v", self.v, t.keys, t.columns, t.columns, shared, first, s.keys)
        barrier()
        self._multiply_keys()
        for i in range(self.rows):
            for j in range(self.own):
                self._mask(i, j, first)
        for i in range(self.rows):
            self._weigh(i, first)
        barrier()
        self._multiply_values()
        barrier()

    def _row(self, i: int) -> Expr:
        return self.y + i64(DOWN * i)

    def _key(self, j: int) -> Expr:
        return self.x + i64(ACROSS * j)

    def _multiply_keys(self) -> None:
        """The scores of this thread's rows and keys."""
        t = self.t
        with _unrolled(self.rows * self.own) as i:
            T.buffer_store(self.score, self.s.constant(0.0), [i])
        a, b = local(self.rows * _VECTOR, "float32"), local(self.own * _VECTOR, "float32")
        with self.k.loop(t.width // _VECTOR) as d:
            for into, count, base, line in (
                (a, self.rows, self.q, self._row),
                (b, self.own, self.kk, self._key),
            ):
                for i in range(count):
                    place = i64(base) + line(i) * i64(t.pitch) + d * i64(_VECTOR)
                    target = [_vector(i64(i * _VECTOR))]
                    T.buffer_store(into, self.memory[_vector(place)], target)
            with _unrolled(self.rows) as i, _unrolled(self.own) as j, _unrolled(_VECTOR) as e:
                at = i * i64(self.own) + j
                product_ = a[i * i64(_VECTOR) + e] * b[j * i64(_VECTOR) + e]
                T.buffer_store(self.score, self.score[at] + product_, [at])

    def _mask(self, i: int, j: int, first: Expr) -> None:
        """A score from its product: scaled, with its bias; -inf for keys that are not seen."""
        k, s, at = self.k, self.s, i64(i * self.own + j)
        query = k.intern(T.bind(self.first + self._row(i)))
        key = k.intern(T.bind(first + self._key(j)))
        start, stop = s.key_range(query, query)
        seen = tirx.And(tirx.LT(query, k.dim(s.queries)), tirx.LT(key, stop))
        seen = tirx.And(seen, tirx.GE(key, start))
        with T.If(seen):
            with T.Then(), k.scope():
                T.buffer_store(
                    self.score, s.score(self.batch, query, key, T.bind(self.score[at])), [at]
                )
            with T.Else():
                T.buffer_store(self.score, s.constant(float("-inf")), [at])

    def _weigh(self, i: int, first: Expr) -> None:
        """A row's scores become weights, in shared memory; what was summed up is scaled."""
        k, s, t = self.k, self.s, self.t
        highest = T.bind(self.top[i64(i)])
        for j in range(self.own):
            highest = T.bind(tirx.max(highest, self.score[i64(i * self.own + j)]))
        for distance in (1, 2, 4):
            highest = T.bind(tirx.max(highest, shuffled(highest, distance)))
        shrink = self._exp(self.top[i64(i)] - highest)
        T.buffer_store(self.top, highest, [i64(i)])
        T.buffer_store(self.mass, self.mass[i64(i)] * shrink, [i64(i)])
        with _unrolled(self.groups * _VECTOR) as c:
            at = i64(i * self.groups * _VECTOR) + c
            T.buffer_store(self.sums, self.sums[at] * shrink, [at])
        for j in range(self.own):
            weight = self._exp(self.score[i64(i * self.own + j)] - highest)
            T.buffer_store(self.mass, self.mass[i64(i)] + weight, [i64(i)])
            place = i64(self.p) + self._row(i) * i64(t.weights_pitch) + self._key(j)
            if not s.attrs.factor:
                T.buffer_store(self.memory, weight, [place])
                continue
            query = k.intern(T.bind(self.first + self._row(i)))
            key = k.intern(T.bind(first + self._key(j)))
            inside = tirx.And(tirx.LT(query, k.dim(s.queries)), tirx.LT(key, k.dim(s.keys)))
            T.buffer_store(self.memory, s.constant(0.0), [place])
            with T.If(inside), T.Then(), k.scope():
                scaled = s.times_factor(weight, self.batch, query, key)
                T.buffer_store(self.memory, scaled, [place])

    def _exp(self, x: Expr) -> Expr:
        return T.bind(self.k.unary("exp", T.bind(x), "f32"))

    def _multiply_values(self) -> None:
        """Adds the tile's weighed values to this thread's part of its rows."""
        t = self.t
        a, b = local(self.rows * _VECTOR, "float32"), local(_VECTOR, "float32")
        with self.k.loop(t.keys // _VECTOR) as block:
            for i in range(self.rows):
                place = i64(self.p) + self._row(i) * i64(t.weights_pitch) + block * i64(_VECTOR)
                T.buffer_store(a, self.memory[_vector(place)], [_vector(i64(i * _VECTOR))])
            for e in range(_VECTOR):
                for group in range(self.groups):
                    row = block * i64(_VECTOR) + i64(e)
                    column = self.x * i64(_VECTOR) + i64(group * ACROSS * _VECTOR)
                    place = i64(self.v) + row * i64(t.columns) + column
                    T.buffer_store(b, self.memory[_vector(place)], [_vector(i64(0))])
                    with _unrolled(self.rows) as i, _unrolled(_VECTOR) as c:
                        at = i * i64(self.groups * _VECTOR) + i64(group * _VECTOR) + c
                        added = a[i * i64(_VECTOR) + i64(e)] * b[c]
                        T.buffer_store(self.sums, self.sums[at] + added, [at])

    def _finish(self) -> None:
        k, s = self.k, self.s
        for i in range(self.rows):
            mass = T.bind(self.mass[i64(i)])
            for distance in (1, 2, 4):
                mass = T.bind(mass + shuffled(mass, distance))
            some = tirx.NE(mass, s.constant(0.0))
            safe = k.bind(k.select(some, mass, s.constant(1.0)))
            query = k.intern(T.bind(self.first + self._row(i)))
            with T.If(tirx.LT(query, k.dim(s.queries))), T.Then(), k.scope():
                self._store(i, query, some, safe)

    def _store(self, i: int, query: Expr, some: Expr, safe: Expr) -> None:
        k, s, groups = self.k, self.s, self.groups
        result, logarithms = s.eqn.outputs[:2]
        with _unrolled(groups) as group, _unrolled(_VECTOR) as c:
            column = (group * i64(ACROSS) + self.x) * i64(_VECTOR) + c
            total = self.sums[i64(i * groups * _VECTOR) + group * i64(_VECTOR) + c]
            index = (*self.batch, query, k.intern(T.bind(column)))
            self.task.store(result, index, tirx.div(total, safe))
        with T.If(tirx.EQ(self.x, i64(0))), T.Then(), k.scope():
            logarithm = k.bind(self.top[i64(i)] + k.unary("log", safe, s.dtype))
            value = k.select(some, logarithm, s.constant(0.0))
            self.task.store(logarithms, (*self.batch, query), value)
