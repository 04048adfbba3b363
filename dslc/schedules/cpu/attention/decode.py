"""Attention of few queries, as when one token after the other is generated.

Turns q, k, v into one pass over the keys and one over the values, which is all that counts: keys
are read where they lie, as many at a time as a vector has lanes, each times all the queries that
share them, and the values are the columns of one register tile. The scores of a head's queries are
kept in working memory: as many as there are keys.

Each task has as many heads for itself as the others. Of each head that is left it has a part of the
keys, and what the tasks found is added up: sums of values, with the maximum and the sum of weights
that they go with.

Non-goals: float64, many queries (`forward.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.ops.attention_formula import FEW
from dslc.schedules.cpu.attention.blocks import (
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
    replace_scores,
    row_factor,
    row_logarithm,
    row_maximum,
    row_powers,
    run_heads,
    store_row,
)
from dslc.schedules.cpu.attention.shape import (
    Areas,
    AttentionShape,
    Modify,
    columns_tile,
    round_up,
)
from dslc.schedules.cpu.tiles import vmath
from dslc.schedules.cpu.tiles.contract import (
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
    share,
    smaller,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.register_tile import (
    Tile,
    allocate,
    clear,
    reduce_segment,
    save,
)
from dslc.schedules.cpu.tiles.vector import LN2, LOG2E, lane_sum, lane_sums

DEEPEST = 256  # elements of a key: its vectors are written out
READING = 3  # multiply-adds that take as long as an element of a key or a value takes to come


@dataclass(frozen=True, slots=True)
class DecodePlan:
    """How attention of few queries is run: `rows` queries read one head's keys, `out` is the tile
    of weights times values. `together`: tasks may share a head."""

    shape: AttentionShape
    queries: int
    group: int
    depth: int
    out: Tile
    lanes: int
    tasks: int
    together: bool

    @property
    def rows(self) -> int:
        return self.queries * self.group

    @property
    def work(self) -> Size:
        """Multiply-adds that take as long: reading counts for more than a few rows' products."""
        shape = self.shape
        read = product([*shape.batch, shape.heads, shape.keys]) * (shape.depth + shape.width)
        return read * (self.rows + READING)

    @property
    def out_stride(self) -> Size:
        return round_up(self.shape.width, self.out.columns)

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
                ("out", rows * self.out_stride), ("maximum", self.rows), ("sum", self.rows),
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
    out = _value_tile(shape.width, queries * group, lanes, machine)
    together = not machine.repeated
    plan = DecodePlan(shape, queries, group, depth, out, lanes, 1, together)
    return replace(plan, tasks=choose_tasks(machine, plan.work))


def _value_tile(width: Size, rows: int, lanes: int, machine: Machine) -> Tile:
    """The tile of weights times values: all columns side by side, if there are registers for it,
    since then each row of values is read from end to end."""
    vectors = -(-width // lanes) if isinstance(width, int) else 0
    if 0 < rows * vectors <= machine.registers * 3 // 4:
        return Tile(rows, vectors, lanes, DTYPE)
    return columns_tile(width, lanes, 4 if machine.registers == 32 else 2, rows)


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
    shape, areas = plan.shape, plan.areas
    heads = (*shape.batch, shape.heads)

    def run_of(task: Expr, tasks: int) -> _Run:
        work, registers = Work.of_task(scratch, areas, task, tasks), allocate([plan.out])
        return _Run(q, v, out, work, registers, modify, drop, row_done, k, plan)

    def own(task: Expr, tasks: int, start: Size, stop: Size) -> None:
        run = run_of(task, tasks)
        with loop(start, stop) as unit:
            where = unflatten(unit, heads)
            _keys(run, where, *_seen(plan))
            _store(run, where)

    def together(unit: Expr) -> None:
        where = unflatten(unit, heads)
        with T.parallel(i64(0), i64(plan.tasks)) as task:
            first, size = _seen(plan)
            start, stop = share(ceil_div(size, plan.lanes), task, plan.tasks)
            before = T.bind(start * plan.lanes)
            count = T.bind(smaller(size, stop * plan.lanes) - before)
            _keys(run_of(task, plan.tasks), where, T.bind(first + before), count)
        run = run_of(i64(0), plan.tasks)
        with loop(1, plan.tasks) as task:
            _add(run, Work.of_task(scratch, areas, task, plan.tasks))
        _store(run, where)

    run_heads(plan.tasks, plan.work, heads, own, together if plan.together else None)


@dataclass(frozen=True, slots=True)
class _Run(Forward):
    k: Operand
    plan: DecodePlan


def _seen(plan: DecodePlan) -> tuple[Size, Size]:
    """The first key that is seen, and how many from there on."""
    first, last = plan.shape.first(i64(0)), plan.shape.stop(i64(plan.queries - 1))
    if isinstance(first, int) and isinstance(last, int):
        return first, last - first
    first = first if isinstance(first, int) else T.bind(first)
    return first, T.bind(tirx.max(last - first, i64(0)))


def _keys(run: _Run, where: Index, first: Size, size: Size) -> None:
    """The sums over keys [first, first + size) of a head, for all its queries."""
    plan, shape, work = run.plan, run.plan.shape, run.work
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
            replace_scores(rows, block, run.modify, LOG2E)
        hide(rows, block, plan.queries, width)
        with loop(0, plan.queries) as i:
            scores, row = rows.at("scores", i * plan.stride), member * plan.queries + i
            greatest = T.bind(row_maximum(rows, scores, ceil_div(size, width), plan.lanes))
            work.put("maximum", row, greatest)
            total = row_powers(rows, scores, ceil_div(size, width), plan.lanes, finite(greatest))
            work.put("sum", row, total)
        if run.drop is not None:
            replace_scores(rows, block, run.drop)
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
    """Weights times values."""
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
            to = work.at("out", row * plan.out_stride + column)
            save(tile, run.registers, memory, to, plan.out_stride)


def _add(run: _Run, other: Work) -> None:
    """Adds what another task found of a head to what this one did."""
    plan, work = run.plan, run.work
    with loop(0, plan.rows) as row:
        tops = [T.bind(each.get("maximum", row)) for each in (work, other)]
        greatest = T.bind(tirx.max(*tops))
        factors = [T.bind(vmath.exp(T.bind((top - finite(greatest)) * f32(LN2)))) for top in tops]

        def added(name: str, at: Expr) -> None:
            mine, theirs = (each.get(name, at) * f for each, f in zip((work, other), factors))
            work.put(name, at, mine + theirs)

        work.put("maximum", row, greatest)
        added("sum", row)
        with loop(0, plan.out_stride) as column:
            added("out", row * plan.out_stride + column)


def _store(run: _Run, where: Index) -> None:
    """A head's sums, divided by those of its weights."""
    plan, tile, work = run.plan, run.plan.out, run.work
    width, lanes = plan.shape.width, tile.lanes
    with loop(0, plan.group) as member, loop(0, plan.queries) as i:
        row = T.bind(member * plan.queries + i)
        total = T.bind(work.get("sum", row))
        if run.row_done is not None:
            logarithm = row_logarithm(work.get("maximum", row), total)
            run.row_done((*where, member, i), logarithm)
        factor = T.bind(tirx.Broadcast(row_factor(total), lanes))
        with loop(0, ceil_div(width, tile.columns)) as panel:
            column = T.bind(panel * tile.columns)
            at = T.bind(run.out.at(*where, member, i, column))
            start = T.bind(work.at("out", row * plan.out_stride + column))
            store_row(run.out, at, part(width, column, tile.columns), tile, lambda n: vector_at(
                work.memory, start + n * lanes, lanes) * factor)  # fmt: skip
