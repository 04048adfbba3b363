"""Attention of few queries, as when one token after the other is generated.

Turns q, k, v into one pass over the keys and one over the values, which is all that counts: keys
are read where they lie, as many at a time as a vector has lanes, each times all the queries that
share them, and the values are the columns of one register tile. The scores of a head's queries are
kept in working memory: as many as there are keys.

Non-goals: float64, many queries (`attention.py`), sharing one head's work among tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.attention_blocks import (
    BESIDE,
    DTYPE,
    PANEL,
    Block,
    Forward,
    Work,
    f32,
    finite,
    hide,
    part,
    replace,
    row_factor,
    row_logarithm,
    row_maximum,
    row_powers,
    store_row,
)
from dslc.schedules.cpu.attention_shape import (
    Areas,
    AttentionShape,
    Modify,
    columns_tile,
    round_up,
)
from dslc.schedules.cpu.contract import (
    Expr,
    Index,
    Machine,
    Operand,
    Size,
    ceil_div,
    choose_tasks,
    div,
    edge_vector,
    i64,
    loop,
    product,
    run_tasks,
    share,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.register_tile import (
    Tile,
    allocate,
    clear,
    reduce_segment,
    save,
)
from dslc.schedules.cpu.vector import LOG2E, lane_sum, lane_sums

FEW = 8  # queries of a head of keys
DEEPEST = 256  # elements of a key: its vectors are written out


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """How attention of few queries is run: `rows` queries read one head's keys, `out` is the tile
    of weights times values."""

    shape: AttentionShape
    queries: int
    group: int
    depth: int
    out: Tile
    lanes: int
    tasks: int

    @property
    def rows(self) -> int:
        return self.queries * self.group

    @property
    def stride(self) -> Size:
        """From row to row of the scores."""
        return round_up(self.shape.keys, PANEL * self.lanes) + BESIDE

    @property
    def query_stride(self) -> int:
        return -(-self.depth // self.lanes) * self.lanes

    @property
    def areas(self) -> Areas:
        rows = self.rows + self.out.rows
        return Areas.of(
            [
                ("queries", self.rows * self.query_stride), ("scores", rows * self.stride),
                ("out", rows * self.out.columns), ("factor", self.rows),
            ]
        )  # fmt: skip

    @property
    def scratch_bytes(self) -> Size:
        return self.areas.size * (4 * self.tasks)


def plan_decode(shape: AttentionShape, machine: Machine) -> DecodePlan | None:
    """The plan for attention in float32, if it has few queries."""
    queries, group, depth = shape.queries, shape.group, shape.depth
    known = isinstance(queries, int) and isinstance(group, int) and isinstance(depth, int)
    if not known or not 0 < queries * group <= FEW or not 0 < depth <= DEEPEST:
        return None
    lanes = machine.lanes(DTYPE)
    most = 4 if machine.registers == 32 else 2
    out = columns_tile(shape.width, lanes, most, queries * group)
    tasks = choose_tasks(machine, shape.work)
    return DecodePlan(shape, queries, group, depth, out, lanes, tasks)


def emit_decode(
    plan: DecodePlan,
    q: Operand,
    k: Operand,
    v: Operand,
    out: Operand,
    scratch: Operand,
    modify: Modify | None = None,
    drop: Modify | None = None,
    row_done: Callable[[Index, Expr], None] | None = None,
) -> None:
    """Emits the kernel's body; of arguments like those of `emit_attention`, k too contiguous along
    its last."""
    shape = plan.shape

    def body(task: Expr, tasks: int) -> None:
        registers = allocate([plan.out])
        work = Work.of_task(scratch, plan.areas, task, tasks)
        run = _Run(q, v, out, work, registers, modify, drop, row_done, k, plan)
        heads = (*shape.batch, shape.heads)
        start, stop = share(product(heads), task, tasks)
        with loop(start, stop) as unit:
            _head(run, unflatten(unit, heads))

    run_tasks(plan.tasks, shape.work, body)


@dataclass(frozen=True, slots=True)
class _Run(Forward):
    k: Operand
    plan: DecodePlan


def _head(run: _Run, where: Index) -> None:
    """One head of keys and values, with all its queries."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    first, last = shape.first(i64(0)), shape.stop(i64(plan.queries - 1))
    first = first if isinstance(first, int) else T.bind(first)
    size = last - first if isinstance(last, int) and isinstance(first, int) else None
    if size is None:
        size = T.bind(tirx.max(last - first, i64(0)))
    width = PANEL * plan.lanes
    _scores(run, where, first, size)
    with loop(0, plan.group) as member:
        # Its rows of scores as a block, whose area begins with them.
        rows = Work(
            work.memory, work.areas, T.bind(work.base + member * plan.queries * plan.stride)
        )
        block = Block(
            shape, (*where, member), i64(0), plan.queries, i64(first), size, "scores", plan.stride
        )
        if run.modify is not None:
            replace(rows, block, run.modify, LOG2E)
        hide(rows, block, plan.queries, width)
        with loop(0, plan.queries) as i:
            scores = rows.at("scores", i * plan.stride)
            greatest = T.bind(row_maximum(rows, scores, ceil_div(size, width), plan.lanes))
            total = T.bind(
                row_powers(rows, scores, ceil_div(size, width), plan.lanes, finite(greatest))
            )
            if run.row_done is not None:
                run.row_done((*where, member, i), row_logarithm(greatest, total))
            work.put("factor", member * plan.queries + i, row_factor(total))
        if run.drop is not None:
            replace(rows, block, run.drop)
    _values(run, where, first, size)


def _scores(run: _Run, where: Index, first: Size, size: Size) -> None:
    """Each query times each key."""
    plan, k, work, lanes = run.plan, run.k, run.work, run.plan.lanes
    scale = f32(plan.shape.scale * LOG2E if run.modify is None else 1.0)
    with loop(0, plan.group) as member, loop(0, plan.queries) as i:
        row = member * plan.queries + i
        source = run.q.at(*where, member, i, i64(0))
        query = Operand(run.q.buffer, run.q.dtype, (0, run.q.strides[-1]), T.bind(source))
        for n in range(plan.query_stride // lanes):
            vector = edge_vector(
                query.buffer, DTYPE, query.at(i64(0), i64(n * lanes)), lanes, n, plan.depth,
                plan.query_stride,
            )  # fmt: skip
            at = work.at("queries", row * plan.query_stride + n * lanes)
            store_vector(work.memory, vector * tirx.Broadcast(scale, lanes), at, lanes)
    keys = T.bind(k.at(*where, i64(first), i64(0)))
    whole = div(size, lanes)

    def dot(row: Expr, key: Expr) -> Expr:
        """The products of a query and a key, lane by lane."""
        at, query = T.bind(keys + key * i64(k.strides[-2])), T.bind(row * plan.query_stride)
        total: Expr = None
        for vector in range(plan.query_stride // lanes):
            left = vector_at(work.memory, work.at("queries", query + vector * lanes), lanes)
            right = edge_vector(k.buffer, k.dtype, at + vector * lanes, lanes, vector, plan.depth,
                                plan.query_stride)  # fmt: skip
            total = left * right if total is None else T.bind(total + left * right)
        return T.bind(total)

    with loop(0, whole) as block, loop(0, plan.rows) as row:
        sums = lane_sums([dot(row, block * lanes + i) for i in range(lanes)], lanes)
        at = work.at("scores", row * plan.stride + block * lanes)
        store_vector(work.memory, sums, at, lanes)
    with loop(i64(whole) * lanes, size) as key, loop(0, plan.rows) as row:
        work.put("scores", row * plan.stride + key, lane_sum(dot(row, key), lanes))


def _values(run: _Run, where: Index, first: Size, size: Size) -> None:
    """Weights times values, divided by the weights' sums."""
    plan, v, tile, work, width = run.plan, run.v, run.plan.out, run.work, run.plan.shape.width
    memory, lanes = work.memory, tile.lanes
    with loop(0, ceil_div(width, tile.columns)) as panel:
        column = T.bind(panel * tile.columns)
        values, columns = (
            T.bind(v.at(*where, i64(first), column)),
            part(width, column, tile.columns),
        )
        with loop(0, -(-plan.rows // tile.rows)) as t:
            row = T.bind(t * tile.rows)
            weights = T.bind(work.at("scores", row * plan.stride))
            clear(tile, run.registers)
            reduce_segment(
                tile, run.registers, size,
                lambda i, j: memory[weights + i64(i) * plan.stride + j],
                lambda n, j: edge_vector(
                    v.buffer, v.dtype, values + j * i64(v.strides[-2]) + n * lanes, lanes, n,
                    columns, tile.columns,
                ),
            )  # fmt: skip
            save(tile, run.registers, memory, work.at("out", row * tile.columns), tile.columns)
        with loop(0, plan.group) as member, loop(0, plan.queries) as i:
            row = T.bind(member * plan.queries + i)
            factor = T.bind(tirx.Broadcast(work.get("factor", row), lanes))
            at = T.bind(run.out.at(*where, member, i, column))
            start = T.bind(work.at("out", row * tile.columns))
            store_row(run.out, at, columns, tile, lambda n: vector_at(
                memory, start + n * lanes, lanes) * factor)  # fmt: skip
