"""The gradient of attention: cotangents of queries, keys and values.

Turns q, k, v, the cotangent g of the result, each row's logarithm of its sum of exponentials
(`lse`) and its product of result and cotangent (`delta`) into five register-tiled products over
blocks of queries x blocks of keys, for each block of keys all queries that see it:

    p = exp(q k^T scale - lse)      dv += p^T g        dk += ds^T q
    ds = p (g v^T - delta) scale                       dq += ds k

The weights p are made again from the scores, so that memory is linear in queries and keys. Each
task has as many heads of keys for itself as the others, with all the queries that share them. Of
each head that is left it has some blocks of keys, whose dk and dv it sums up; what the tasks found
of dq is added up when all of them are done.

Reference: Dao, "FlashAttention-2", 2023. Non-goals: float64, gradients of what is added to scores.
"""

from __future__ import annotations

from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.attention.backward_blocks import (
    Backward,
    emit_heads,
    keep,
    times_kept,
    weigh,
)
from dslc.schedules.cpu.attention.blocks import (
    BESIDE,
    DTYPE,
    PANEL,
    Block,
    Work,
    copy_rows,
    f32,
    hide,
    multiply,
    pack_rows,
    pieces,
    replace_scores,
    rows_from,
)
from dslc.schedules.cpu.attention.shape import (
    Areas,
    AttentionShape,
    Modify,
    balanced,
    between,
    columns_tile,
    round_up,
)
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Index,
    Machine,
    Operand,
    Size,
    ceil_div,
    choose_tasks,
    i64,
    loop,
)
from dslc.schedules.cpu.tiles.register_tile import Registers, Tile, allocate

ROWS = 96  # queries of a block: whole tiles of every height
KEYS = 96


@dataclass(frozen=True, slots=True)
class BackwardPlan:
    """How the gradient is run. `rows` queries and `keys` keys are a block; `score` is the tile of
    scores and of g v^T, `deep` that of rows as long as keys, `wide` as long as values.
    `together`: tasks may share a head."""

    shape: AttentionShape
    rows: int
    keys: int
    score: Tile
    deep: Tile
    wide: Tile
    tasks: int
    together: bool

    @property
    def stride(self) -> int:
        """From row to row of a block."""
        return self.keys + BESIDE

    @property
    def depth(self) -> Size:
        """Elements of a row of queries or keys, whole tiles."""
        return round_up(self.shape.depth, self.deep.columns)

    @property
    def width(self) -> Size:
        return round_up(self.shape.width, self.wide.columns)

    @property
    def areas(self) -> Areas:
        shape, depth, width = self.shape, self.depth, self.width
        rows = self.rows + max(self.score.rows, self.deep.rows)
        keys = self.keys + self.deep.rows + self.wide.rows
        return Areas.of(
            [
                ("keys^T", self.keys * shape.depth), ("values^T", self.keys * shape.width),
                ("keys", self.keys * depth),
                ("queries", rows * depth), ("cotangents", rows * width),
                ("weights", rows * self.stride), ("moved", rows * self.stride),
                ("kept", rows * self.stride),
                ("dk", keys * depth), ("dv", keys * width),
                ("dq", shape.group * self.dq_rows * depth),
            ]
        )  # fmt: skip

    @property
    def dq_rows(self) -> Size:
        """Rows of sums for a head of queries: a block may reach beyond the last query."""
        return self.shape.queries + 2 * ROWS

    @property
    def scratch_bytes(self) -> Size:
        return self.areas.size * (4 * self.tasks)


def plan_backward(shape: AttentionShape, machine: Machine) -> BackwardPlan:
    """The plan for the gradient in float32."""
    lanes, many = machine.lanes(DTYPE), machine.registers == 32
    height, rows = 12 if many else 6, ROWS
    if isinstance(shape.queries, int) and shape.queries <= ROWS:
        height = balanced(shape.queries, height)
        rows = max(1, -(-shape.queries // height)) * height
    width = PANEL * lanes
    keys = KEYS
    if isinstance(shape.keys, int) and shape.keys:
        keys = -(-balanced(shape.keys, KEYS) // width) * width
    most = 4 if many else 2
    # Of keys there may be fewer, and they are the rows of two of the three products.
    deep, wide = (columns_tile(size, lanes, most, keys) for size in (shape.depth, shape.width))
    tasks, score = choose_tasks(machine, shape.work * 2), Tile(height, PANEL, lanes, DTYPE)
    return BackwardPlan(shape, rows, keys, score, deep, wide, tasks, not machine.repeated)


def emit_backward(
    plan: BackwardPlan,
    q: Operand,
    k: Operand,
    v: Operand,
    g: Operand,
    lse: Operand,
    delta: Operand,
    results: tuple[Epilogue, Epilogue, Epilogue],
    scratch: Operand,
    modify: Modify | None = None,
    drop: Modify | None = None,
    moved: Modify | None = None,
) -> None:
    """Emits the kernel's body. Strides of q and g are those of (batch.., head, member, i, d), of k
    and v of (batch.., head, j, d), of lse and delta of (batch.., head, member, i).

    `results` store dq, dk and dv, at indices like those. `modify` gives a score, from the
    product of query and key, `drop` multiplies a weight, or its cotangent, and `moved` gives what
    takes the place of a score's cotangent.
    """

    def run_of(task: Expr, tasks: int) -> _Run:
        registers = allocate([plan.score, plan.deep, plan.wide])
        work = Work.of_task(scratch, plan.areas, task, tasks)
        return _Run(q, k, v, g, lse, delta, results, work, modify, drop, moved, plan, registers)

    emit_heads(plan, scratch, run_of, _keys)


@dataclass(frozen=True, slots=True)
class _Run(Backward):
    plan: BackwardPlan
    registers: Registers


def _keys(run: _Run, where: Index, key: Expr, size: Size) -> None:
    """Keys [key, key + size) of a head."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    width, lanes = plan.score.columns, plan.score.lanes
    keys, values = rows_from(run.k, *where, key), rows_from(run.v, *where, key)
    pack_rows(work, "keys^T", keys, size, shape.depth, width, lanes)
    pack_rows(work, "values^T", values, size, shape.width, width, lanes)
    copy_rows(work, "keys", keys, size, size, shape.depth, plan.depth, lanes)
    for name, stride in (("dk", plan.depth), ("dv", plan.width)):
        with loop(0, i64(plan.keys + plan.deep.rows + plan.wide.rows) * i64(stride)) as at:
            work.put(name, at, f32(0.0))
    first, stop = shape.first_query(key), shape.stop_query(key + (size - 1))
    if not isinstance(first, int):
        first = T.bind(first)
    with loop(0, shape.group) as member:
        pieces(first, stop, plan.rows,
               lambda start, count: _block(run, Block(shape, (*where, member), start, count, key,
                                                      size, "weights", plan.stride)))  # fmt: skip
    with loop(0, size) as j:
        with loop(0, shape.depth) as d:
            run.results[1]((*where, key + j, d), work.get("dk", j * plan.depth + d))
        with loop(0, shape.width) as e:
            run.results[2]((*where, key + j, e), work.get("dv", j * plan.width + e))


def _block(run: _Run, block: Block) -> None:
    """A block of queries against a block of keys."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    for name, source, width, padded in (
        ("queries", run.q, shape.depth, plan.depth),
        ("cotangents", run.g, shape.width, plan.width),
    ):
        rows = rows_from(source, *block.where, block.start)
        copy_rows(work, name, rows, block.count, plan.rows, width, padded, plan.score.lanes)
    _scores(run, block, ("queries", plan.depth), ("keys^T", shape.depth), "weights")
    _scores(run, block, ("cotangents", plan.width), ("values^T", shape.width), "moved")
    if run.modify is not None:
        replace_scores(work, block, run.modify)
    hide(work, block, block.count, plan.score.columns)
    if run.drop is not None:
        keep(work, block, run.drop)
    vectors = ceil_div(block.size, plan.score.columns) * PANEL
    with loop(0, block.count) as row:
        weigh(run, block, row, vectors, plan.score.lanes)
    _clear_rest(run, block)
    if run.moved is not None:
        replace_scores(work, block.named("moved"), run.moved)
    _add_queries(run, block)
    if run.drop is not None:
        times_kept(work, block)
    _add_keys(run, block, plan.wide, "weights", ("cotangents", plan.width), "dv")
    _add_keys(run, block, plan.deep, "moved", ("queries", plan.depth), "dk")


def _scores(
    run: _Run, block: Block, left: tuple[str, Size], right: tuple[str, Size], to: str
) -> None:
    """Rows of one area times panels of another, over whole panels, where a query sees a key."""
    plan, tile, work, shape = run.plan, run.plan.score, run.work, run.plan.shape
    (name, stride), (panels, depth) = left, right
    with loop(0, ceil_div(block.count, tile.rows)) as t:
        row = T.bind(t * tile.rows)
        query = block.start + row
        low = between(shape.first(query) - block.key, block.size)
        high = between(shape.stop(query + (tile.rows - 1)) - block.key, block.size)
        low = 0 if shape.high is None else T.bind(low // i64(tile.columns))
        high = block.size if shape.low is None else T.bind(high)
        with loop(low, ceil_div(high, tile.columns)) as panel:
            multiply(
                work, run.registers, tile, depth,
                (work.at(name, row * stride), stride, 1),
                (work.at(panels, panel * (tile.columns * i64(depth))), tile.columns),
                (work.at(to, row * plan.stride + panel * tile.columns), plan.stride), True,
            )  # fmt: skip


def _clear_rest(run: _Run, block: Block) -> None:
    """Zeros in the rows behind the last query that a tile of the sums for queries takes in."""
    plan = run.plan
    with loop(block.count, round_up(block.count, plan.deep.rows)) as row, \
         loop(0, block.size) as j:  # fmt: skip
        run.work.put("moved", row * plan.stride + j, f32(0.0))


def _add_keys(
    run: _Run, block: Block, tile: Tile, name: str, right: tuple[str, Size], to: str
) -> None:
    """Columns of a block times rows of `right`, on to `to`: a sum over queries for each key."""
    plan, work, shape = run.plan, run.work, run.plan.shape
    source, stride = right
    with loop(0, ceil_div(stride, tile.columns)) as panel, \
         loop(0, ceil_div(block.size, tile.rows)) as t:  # fmt: skip
        key, column = T.bind(t * tile.rows), T.bind(panel * tile.columns)
        first: Size = 0
        if shape.low is not None:
            query = shape.first_query(block.key + key) - block.start
            first = T.bind(between(query, block.count))
        multiply(
            work, run.registers, tile, block.count - first,
            (work.at(name, key + first * plan.stride), 1, plan.stride),
            (work.at(source, first * i64(stride) + column), stride),
            (work.at(to, key * stride + column), stride), False,
        )  # fmt: skip


def _add_queries(run: _Run, block: Block) -> None:
    """Cotangents of scores times keys, on to the sums of their queries."""
    plan, work, shape, tile = run.plan, run.work, run.plan.shape, run.plan.deep
    sums = T.bind(i64(block.where[-1] * i64(plan.dq_rows) + block.start))
    with loop(0, ceil_div(plan.depth, tile.columns)) as panel, \
         loop(0, ceil_div(block.count, tile.rows)) as t:  # fmt: skip
        row, column = T.bind(t * tile.rows), T.bind(panel * tile.columns)
        stop = block.size
        if shape.low is not None:
            key = shape.stop(block.start + row + (tile.rows - 1)) - block.key
            stop = T.bind(between(key, block.size))
        multiply(
            work, run.registers, tile, stop,
            (work.at("moved", row * plan.stride), plan.stride, 1),
            (work.at("keys", column), plan.depth),
            (work.at("dq", (sums + row) * plan.depth + column), plan.depth), False,
        )  # fmt: skip
