"""The gradient of attention of bf16 by registers that hold matrices (`tiles/matrix_tile.py`).

Turns what `backward.py` says into its five products, over blocks of queries x blocks of keys. What
a block is, and what its scores become, is as there, in float32. Sums for keys and values stand
[element][key] until all queries have been added: so weights and cotangents of scores are right
sides as they lie, pairs of queries, whose left side are queries and cotangents turned, which are
packed once for a head.

Weights and cotangents are rounded where they are: of two rows of scores the upper one takes the
pairs of both's weights, the lower one those of their cotangents, and a row of cotangents its pairs
of keys, a left side for what flows to queries.

Queries count in whole registers of rows: those behind the last one have no weights.
"""

from __future__ import annotations

from dataclasses import replace

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
    Block,
    Work,
    f32,
    hide,
    pieces,
    replace_scores,
    rows_from,
)
from dslc.schedules.cpu.attention.matrix_rows import (
    copy_pairs,
    pack_joined,
    pack_joined_turned,
    pack_turned,
)
from dslc.schedules.cpu.attention.shape import (
    Areas,
    AttentionShape,
    Modify,
    balanced,
    between,
    round_up,
)
from dslc.schedules.cpu.tiles import matrix_tile
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Index,
    Machine,
    Operand,
    Size,
    ceil_div,
    choose_tasks,
    div,
    i64,
    loop,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.tiles.matrix_tile import FASTER, LANES, PAIR, ROWS, STEP, MatrixTile, Side
from dslc.schedules.cpu.tiles.pack import transpose

BLOCK = 128  # queries or keys
TILE = MatrixTile(2, 2)
HEIGHTS = (LANES, LANES)


@dataclass(frozen=True, slots=True)
class BackwardMatricesPlan:
    """How the gradient is run. `rows` queries and `keys` keys are a block. `together`: tasks may
    share a head."""

    shape: AttentionShape
    rows: int
    keys: int
    tasks: int
    together: bool

    @property
    def stride(self) -> int:
        """From row to row of a block."""
        return self.keys + BESIDE

    @property
    def depth(self) -> Size:
        """Elements of a row of queries or keys, whole tiles."""
        return round_up(self.shape.depth, ROWS)

    @property
    def width(self) -> Size:
        return round_up(self.shape.width, ROWS)

    @property
    def dq_rows(self) -> Size:
        """Rows that a head of queries has, whole tiles."""
        return round_up(self.shape.queries, ROWS)

    @property
    def areas(self) -> Areas:
        depth, width, block = self.depth, self.width, self.rows * self.stride
        queries = self.shape.group * self.dq_rows
        return Areas.of(
            [
                ("queries", queries * (depth // PAIR)), ("queries^T", queries * (depth // PAIR)),
                ("cotangents", queries * (width // PAIR)),
                ("cotangents^T", queries * (width // PAIR)),
                ("keys^T", self.keys * (depth // PAIR)), ("keys", self.keys * (depth // PAIR)),
                ("values^T", self.keys * (width // PAIR)),
                ("weights", block), ("moved", block), ("kept", block),
                ("dk", depth * self.stride), ("dv", width * self.stride),
                ("turned", self.keys * (depth + width)),
                ("dq", queries * depth),
            ]
        )  # fmt: skip

    @property
    def scratch_bytes(self) -> Size:
        return self.areas.size * (4 * self.tasks)


def plan_backward_matrices(shape: AttentionShape, machine: Machine) -> BackwardMatricesPlan:
    """The plan for the gradient of bf16."""
    rows, keys = (round_up(balanced(size, BLOCK), ROWS) for size in (shape.queries, shape.keys))
    work = shape.work * 2
    tasks = choose_tasks(machine, work // FASTER if isinstance(work, int) else work)
    return BackwardMatricesPlan(shape, rows, keys, tasks, not machine.repeated)


def emit_backward_matrices(
    plan: BackwardMatricesPlan,
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
    """Emits the kernel's body; of arguments like those of `emit_backward`, but that q, k, v and g
    hold bf16 (as `HALF`), and are contiguous along their last."""

    def run_of(task: Expr, tasks: int) -> _Run:
        work = Work.of_task(scratch, plan.areas, task, tasks)
        return _Run(q, k, v, g, lse, delta, results, work, modify, drop, moved, plan)

    emit_heads(plan, scratch, run_of, _keys, _head, lambda run: matrix_tile.release())


@dataclass(frozen=True, slots=True)
class _Run(Backward):
    plan: BackwardMatricesPlan

    @property
    def rows(self) -> tuple[tuple[str, Operand, Size, Size], ...]:
        """What queries have rows of: the area, where from, elements, and as many of whole tiles."""
        plan = self.plan
        return (
            ("queries", self.q, plan.shape.depth, plan.depth),
            ("cotangents", self.g, plan.shape.width, plan.width),
        )


def _head(run: _Run, where: Index) -> None:
    """Packs what queries of a head have."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    matrix_tile.configure(HEIGHTS)
    with loop(0, shape.group) as member:
        for name, source, columns, whole in run.rows:
            rows = rows_from(source, *where, member, i64(0))
            behind = T.bind(member * (i64(plan.dq_rows) * div(whole, PAIR)))
            given = rows, shape.queries, plan.dq_rows, columns, behind
            copy_pairs(work, name, *given)
            pack_joined_turned(work, f"{name}^T", *given)


def _keys(run: _Run, where: Index, key: Expr, size: Size) -> None:
    """Keys [key, key + size) of a head."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    keys, values = rows_from(run.k, *where, key), rows_from(run.v, *where, key)
    pack_turned(work, "keys^T", keys, size, shape.depth, ROWS)
    pack_turned(work, "values^T", values, size, shape.width, ROWS)
    pack_joined(work, "keys", keys, size, plan.keys, shape.depth, ROWS)
    for name, rows in (("dk", plan.depth), ("dv", plan.width)):
        with loop(0, rows * i64(plan.stride)) as at:
            work.put(name, at, f32(0.0))
    first, stop = shape.first_query(key), shape.stop_query(key + (size - 1))
    if not isinstance(first, int):
        first = T.bind(i64(div(first, ROWS) * ROWS))
    with loop(0, shape.group) as member:
        pieces(first, stop, plan.rows,
               lambda start, count: _block(run, Block(shape, (*where, member), start, count, key,
                                                      size, "weights", plan.stride)))  # fmt: skip
    _store(run, "dk", plan.depth, where, key, size)
    _store(run, "dv", plan.width, where, key, size)


def _store(run: _Run, name: str, across: Size, where: Index, key: Expr, size: Size) -> None:
    """Hands over the sums of keys, which are turned for that."""
    plan, work = run.plan, run.work
    with loop(0, ceil_div(size, LANES)) as i, loop(0, div(across, LANES)) as j:
        source = T.bind(work.at(name, j * LANES * plan.stride + i * LANES))
        target = T.bind(work.at("turned", i * LANES * i64(across) + j * LANES))
        lines = [vector_at(work.memory, source + n * plan.stride, LANES) for n in range(LANES)]
        for n, line in enumerate(transpose([T.bind(line) for line in lines])):
            store_vector(work.memory, line, target + n * i64(across), LANES)
    columns = plan.shape.depth if name == "dk" else plan.shape.width
    result = run.results[1 if name == "dk" else 2]
    with loop(0, size) as j, loop(0, columns) as d:
        result((*where, key + j, d), work.get("turned", j * i64(across) + d))


def _block(run: _Run, block: Block) -> None:
    """A block of queries against a block of keys."""
    plan, work = run.plan, run.work
    rows = round_up(block.count, ROWS)
    whole = replace(block, count=rows if isinstance(rows, int) else T.bind(rows))
    _scores(run, whole, "queries", plan.depth, "keys^T", "weights")
    _scores(run, whole, "cotangents", plan.width, "values^T", "moved")
    if run.modify is not None:
        replace_scores(work, block, run.modify)
    hide(work, block, block.count, ROWS)
    if run.drop is not None:
        keep(work, block, run.drop)
    vectors = ceil_div(block.size, ROWS) * (ROWS // LANES)
    with loop(0, block.count) as row:
        weigh(run, block, row, vectors, LANES)
    with loop(block.count, whole.count) as row, loop(0, vectors * LANES) as j:
        work.put("weights", row * plan.stride + j, f32(0.0))
        work.put("moved", row * plan.stride + j, f32(0.0))
    if run.moved is not None:
        replace_scores(work, block.named("moved"), run.moved)
    if run.drop is not None:
        times_kept(work, block)
    _round(run, whole)
    _add_queries(run, whole)
    _add_keys(run, whole, "cotangents^T", plan.width, 0, "dv")
    _add_keys(run, whole, "queries^T", plan.depth, 1, "dk")


def _scores(run: _Run, block: Block, name: str, across: Size, panels: str, to: str) -> None:
    """What queries have times panels, over whole panels, where a query sees a key."""
    plan, work, shape, memory = run.plan, run.work, run.plan.shape, run.work.memory
    apart = i64(div(across, PAIR))
    first = T.bind(work.at(name, _row_of(run, block) * apart))
    with loop(0, div(block.count, ROWS)) as t:
        row = T.bind(t * ROWS)
        query = block.start + row
        low = between(shape.first(query) - block.key, block.size)
        high = between(shape.stop(query + (ROWS - 1)) - block.key, block.size)
        low = 0 if shape.high is None else T.bind(div(low, ROWS))
        high = block.size if shape.low is None else T.bind(high)
        top = T.bind(first + row * apart)
        left = Side(memory, lambda i, k: top + i * LANES * apart + k, apart)
        with loop(low, ceil_div(high, ROWS)) as panel:
            start = T.bind(work.at(panels, panel * (ROWS * apart)))
            right = Side(memory, lambda j, k: start + k * ROWS + j * LANES, ROWS)
            matrix_tile.clear(TILE)
            matrix_tile.multiply(TILE, div(div(across, PAIR), LANES), left, right)
            at = T.bind(work.at(to, row * plan.stride + panel * ROWS))
            matrix_tile.save(TILE, HEIGHTS, memory, at, plan.stride)


def _row_of(run: _Run, block: Block) -> Expr:
    """The number of a block's first row among those of all members."""
    return i64(block.where[-1] * i64(run.plan.dq_rows) + block.start)


def _round(run: _Run, block: Block) -> None:
    """Weights and cotangents as pairs."""
    work, memory, stride = run.work, run.work.memory, block.stride
    with loop(0, div(block.count, PAIR)) as pair:
        weights, moved = (
            T.bind(work.at(name, pair * (PAIR * stride))) for name in ("weights", "moved")
        )
        with loop(0, ceil_div(block.size, STEP)) as step:
            at = step * STEP

            def read(start: Expr) -> list[list[Expr]]:
                """Two vectors of each of two rows."""
                return [
                    [
                        T.bind(vector_at(memory, start + row * stride + at + n * LANES, LANES))
                        for n in range(PAIR)
                    ]
                    for row in range(PAIR)
                ]

            for row, (above, below) in enumerate((read(weights), read(moved))):
                for n in range(PAIR):
                    both = matrix_tile.rounded_columns(above[n], below[n])
                    store_vector(memory, both, weights + row * stride + at + n * LANES, LANES)
                if row:
                    for n, line in enumerate((above, below)):
                        pairs = matrix_tile.rounded_pairs(*line)
                        store_vector(memory, pairs, moved + n * stride + step * LANES, LANES)


def _add_queries(run: _Run, block: Block) -> None:
    """Cotangents of scores times keys, on to the sums of their queries."""
    plan, work, shape, memory = run.plan, run.work, run.plan.shape, run.work.memory
    sums, stride = T.bind(_row_of(run, block)), plan.stride
    with loop(0, div(block.count, ROWS)) as t:
        row = T.bind(t * ROWS)
        stop = block.size
        if shape.low is not None:
            key = shape.stop(block.start + row + (ROWS - 1)) - block.key
            stop = T.bind(between(key, block.size))
        top = T.bind(work.at("moved", row * stride))
        left = Side(memory, lambda i, k: top + i * LANES * stride + k, stride)
        with loop(0, div(plan.depth, ROWS)) as panel:
            start = T.bind(work.at("keys", panel * (plan.keys // PAIR * ROWS)))
            right = Side(memory, lambda j, k: start + k * ROWS + j * LANES, ROWS)
            at = work.at("dq", (sums + row) * i64(plan.depth) + panel * ROWS)
            _add(run, left, right, ceil_div(stop, STEP), at, plan.depth)


def _add_keys(run: _Run, block: Block, name: str, across: Size, lower: int, to: str) -> None:
    """Turned rows of queries times weights (or, from the `lower` rows of pairs, cotangents), on to
    the sums of their keys."""
    plan, work, shape, memory = run.plan, run.work, run.plan.shape, run.work.memory
    apart, stride = i64(across), plan.stride
    first = T.bind(work.at(name, _row_of(run, block) * div(apart, PAIR)))
    with loop(0, ceil_div(block.size, ROWS)) as panel:
        skipped: Expr = i64(0)  # pairs of queries that see none of the keys
        if shape.low is not None:
            query = shape.first_query(block.key + panel * ROWS) - block.start
            skipped = T.bind(div(between(query, block.count), STEP) * LANES)
        start = T.bind(
            work.at("weights", lower * stride + panel * ROWS + skipped * (PAIR * stride))
        )
        right = Side(memory, lambda j, k: start + k * (PAIR * stride) + j * LANES, PAIR * stride)
        steps = div(div(block.count, PAIR) - skipped, LANES)
        with loop(0, div(across, ROWS)) as t:
            top = T.bind(first + skipped * apart + t * (ROWS * LANES))
            left = Side(memory, lambda i, k: top + i * (LANES * LANES) + k * apart, LANES)
            at = work.at(to, t * (ROWS * stride) + panel * ROWS)
            _add(run, left, right, steps, at, stride)


def _add(run: _Run, left: Side, right: Side, steps: Size, at: Expr, stride: Size) -> None:
    """Adds a tile of a product to what there is."""
    memory, target = run.work.memory, T.bind(at)
    matrix_tile.load(TILE, HEIGHTS, memory, target, stride)
    matrix_tile.multiply(TILE, steps, left, right)
    matrix_tile.save(TILE, HEIGHTS, memory, target, stride)
