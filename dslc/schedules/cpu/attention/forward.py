"""Attention: for each query the mean of the values, weighted by softmax of its scores.

Turns q, k, v into register-tiled products over blocks of queries x blocks of keys: the scores of a
block are a tile product with keys packed into panels, their exponentials the rows of another one
with the values. A row keeps its maximum and its sum from block to block (online softmax), so that
memory is linear in the number of keys. Keys that are one block need none of that: their results
leave the registers as they are to be. Blocks of keys that no query of a block sees are left out; in
the others, what a query doesn't see is -inf.

Each task has as many heads for itself as the others; of those that are left, it has every n-th
block of queries.

The scores are powers of two: queries are multiplied by log2(e) as they are copied.

Where scores are nothing but products of known sizes, `lanes.py` is faster.

References: Milakov, Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
"FlashAttention", 2022. Non-goals: float64, few queries (`decode.py`), gradients
(`backward.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.attention.blocks import (
    BESIDE,
    DTYPE,
    MINUS_INFINITY,
    PANEL,
    Block,
    Forward,
    Work,
    clipped,
    copy_rows,
    f32,
    finite,
    for_heads,
    hide,
    multiply,
    pack_rows,
    part,
    pieces,
    replace_scores,
    rescale,
    row_factor,
    row_logarithm,
    row_maximum,
    row_powers,
    rows_from,
    store_row,
)
from dslc.schedules.cpu.attention.shape import (
    Areas,
    AttentionShape,
    Modify,
    balanced,
    columns_tile,
    round_up,
    steps,
)
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
    is_zero,
    larger,
    loop,
    product,
    run_tasks,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.register_tile import (
    Tile,
    allocate,
    clear,
    copy_out,
    load,
    reduce_segment,
    save,
)
from dslc.schedules.cpu.tiles.vector import LOG2E

KEYS = 512  # of a block: their scores and values stay in the caches while queries pass
ROWS = 24  # queries of a block, or about so many: their scores stay in the nearest cache
READING = 0.25  # steps in the time of a vector of keys or values that a block reads
GUESS = 64  # what an unknown size counts as


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How attention is run. `rows` queries and `keys` keys are a block; `score` and `out` are the
    tiles of the two products. `whole`: a block has all keys; `packed`: values are copied to lie
    side by side, as keys are."""

    shape: AttentionShape
    rows: int
    keys: int
    score: Tile
    out: Tile
    tasks: int
    whole: bool
    packed: bool

    @property
    def padded_rows(self) -> int:
        """Rows of the scores: whole tiles of both products."""
        score, out = self.score.rows, self.out.rows
        return max(-(-self.rows // score) * score, -(-self.rows // out) * out)

    @property
    def score_stride(self) -> int:
        return self.keys + BESIDE

    @property
    def out_stride(self) -> Size:
        return round_up(self.shape.width, self.out.columns)

    @property
    def query_stride(self) -> Size:
        depth = self.shape.depth
        return round_up(depth, self.score.lanes) if isinstance(depth, int) else depth

    @property
    def areas(self) -> Areas:
        shape, rows = self.shape, self.padded_rows
        panels = round_up(shape.keys, self.score.columns)
        return Areas.of(
            [
                ("keys", panels * shape.depth), ("queries", rows * self.query_stride),
                ("values", shape.keys * self.out_stride if self.packed else 0),
                ("scores", rows * self.score_stride),
                ("out", 0 if self.whole else rows * self.out_stride),
                *((name, rows) for name in ("maximum", "sum", "before", "part", "scale")),
            ]
        )  # fmt: skip

    @property
    def scratch_bytes(self) -> Size:
        return self.areas.size * (4 * self.tasks)


def plan_attention(
    shape: AttentionShape, machine: Machine, values_apart: bool = False
) -> AttentionPlan:
    """The plan for attention in float32. `values_apart`: rows of values don't lie side by side."""
    rows = _rows_of(shape, machine)
    score, out = attention_tiles(shape, rows, machine)
    keys = _keys_of(shape, score.columns)
    whole = isinstance(shape.keys, int) and shape.keys <= keys
    ragged = not isinstance(shape.width, int) or shape.width % out.columns != 0
    packed = values_apart or ragged
    tasks = choose_tasks(machine, shape.work)
    return AttentionPlan(shape, rows, keys, score, out, tasks, whole, packed)


def _rows_of(shape: AttentionShape, machine: Machine) -> int:
    """Queries of a block: those whose tiles have the fewest steps in all."""
    queries = shape.queries
    if not isinstance(queries, int) or queries == 0:
        return ROWS
    keys, depth, width = (
        size if isinstance(size, int) and size else GUESS
        for size in (shape.keys, shape.depth, shape.width)
    )

    def cost(rows: int) -> float:
        score, out = attention_tiles(shape, rows, machine)
        whole, rest = divmod(queries, rows)
        total = sum(
            whole * steps(tile, rows, columns) * length + steps(tile, rest, columns) * length
            for tile, columns, length in ((score, keys, depth), (out, width, keys))
        )
        read = keys * (depth + width) / score.lanes
        return total + (whole + bool(rest)) * read * READING

    fewest, most = (min(queries, rows) for rows in (ROWS // 2, ROWS * 3 // 2))
    return min(range(fewest, most + 1), key=lambda rows: (cost(rows), abs(rows - ROWS)))


def attention_tiles(shape: AttentionShape, rows: int, machine: Machine) -> tuple[Tile, Tile]:
    """Of the scores and of the result, for blocks of so many rows."""
    lanes, most = machine.lanes(DTYPE), 4 if machine.registers == 32 else 2
    score = Tile(balanced(rows, 3 * most), PANEL, lanes, DTYPE)
    if isinstance(shape.keys, int) and 0 < shape.keys <= KEYS:
        score = columns_tile(shape.keys, lanes, most, rows)
    return score, columns_tile(shape.width, lanes, most, rows)


def _keys_of(shape: AttentionShape, width: int) -> int:
    if not isinstance(shape.keys, int) or shape.keys == 0:
        return KEYS
    return -(-balanced(shape.keys, KEYS) // width) * width


def emit_attention(
    plan: AttentionPlan,
    q: Operand,
    k: Operand,
    v: Operand,
    out: Operand,
    scratch: Operand,
    modify: Modify | None = None,
    drop: Modify | None = None,
    row_done: Callable[[Index, Expr], None] | None = None,
) -> None:
    """Emits the kernel's body. Strides of q are those of (batch.., head, member, i, d), of k and v
    of (batch.., head, j, d), of the result `out` of (batch.., head, member, i, e); v and out are
    contiguous along their last.

    `modify` gives a score, from the product of query and key, `drop` what takes a weight's place
    (after the sum of the weights is taken).
    `row_done` gets the logarithm of the sum of exponentials at (batch.., head, member, i), 0 where
    no key is seen.
    """
    shape = plan.shape
    if is_zero(shape.queries) or is_zero(shape.width):
        return

    def body(task: Expr, tasks: int) -> None:
        registers = allocate([plan.score, plan.out])
        work = Work.of_task(scratch, plan.areas, task, tasks)
        run = _Run(q, v, out, work, registers, modify, drop, row_done, plan)
        heads = (*shape.batch, shape.heads)
        for_heads(product(heads), task, tasks, lambda head, first, step: _head(
            run, k, unflatten(head, heads), first, step))  # fmt: skip

    run_tasks(plan.tasks, shape.work, body)


@dataclass(frozen=True, slots=True)
class _Run(Forward):
    plan: AttentionPlan


def _head(run: _Run, k: Operand, where: Index, first: Size, step: Size) -> None:
    """Every `step`-th block of queries of a head of keys, from block `first` on."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    keys, width = rows_from(k, *where, i64(0)), plan.score.columns
    pack_rows(work, "keys", keys, shape.keys, shape.depth, width, plan.score.lanes)
    if plan.packed:
        values = rows_from(run.v, *where, i64(0))
        copy_rows(
            work, "values", values, shape.keys, shape.keys, shape.width, plan.out_stride,
            plan.out.lanes,
        )  # fmt: skip
    turns = div(ceil_div(shape.queries, plan.rows) - first + (step - 1), step)
    with loop(0, shape.group) as member, loop(0, turns) as turn:
        _queries(run, (*where, member), T.bind(i64((turn * step + first) * plan.rows)))


def _queries(run: _Run, where: Index, start: Expr) -> None:
    """Queries [start, start + rows) of head `where`, against all keys that they see."""
    plan, shape = run.plan, run.plan.shape
    count = part(shape.queries, start, plan.rows)
    low, high = 0, shape.keys
    if shape.limited:
        width, first = plan.score.columns, shape.first(start)
        low = 0 if is_zero(first) else T.bind(first // i64(width) * width)
        high = T.bind(i64(shape.stop(start + (count - 1))))

    def block(key: Expr, size: Size) -> Block:
        return Block(shape, where, start, count, key, size, "scores", plan.score_stride)

    _scale_queries(run, where, start, count)
    if plan.whole:
        size = larger(high - low, 0)
        _all_keys(run, block(i64(low), size if isinstance(size, int) else T.bind(size)))
        return
    _begin(run)
    pieces(low, high, plan.keys, lambda key, size: _keys(run, block(key, size)))
    _end(run, where, start, count)


def _scale_queries(run: _Run, where: Index, start: Expr, count: Size) -> None:
    """Queries times scale to memory, zeros behind the last."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    factor = f32(shape.scale * LOG2E if run.modify is None else 1.0)
    queries, stride = rows_from(run.q, *where, start), plan.query_stride
    copy_rows(work, "queries", queries, count, count, shape.depth, stride, plan.score.lanes, factor)
    with loop(count, plan.padded_rows) as r, loop(0, stride) as d:
        work.put("queries", r * stride + d, f32(0.0))


def _all_keys(run: _Run, block: Block) -> None:
    """A block of queries against all the keys that they see."""
    plan, work = run.plan, run.work
    _scores(run, block)
    with loop(0, block.count) as row:
        scores, panels = _row_of_scores(plan, work, row, block.size)
        sizes = plan.score.lanes, plan.score.vectors
        greatest = T.bind(row_maximum(work, scores, panels, *sizes))
        less = finite(greatest)
        total = T.bind(row_powers(work, scores, panels, sizes[0], less, sizes[1]))
        work.put("maximum", row, greatest)
        work.put("sum", row, total)
        work.put("scale", row, row_factor(total))
    if run.row_done is not None:
        with loop(0, block.count) as row:
            logarithm = row_logarithm(work.get("maximum", row), work.get("sum", row))
            run.row_done((*block.where, block.start + row), logarithm)
    if run.drop is not None:
        replace_scores(work, block, run.drop)
    tile, registers = plan.out, run.registers

    def begin(row: Expr, column: Expr) -> None:
        clear(tile, registers)

    def end(row: Expr, column: Expr) -> None:
        copy_out(tile, registers)
        columns = part(plan.shape.width, column, tile.columns)
        rows = larger(clipped(block.count - row, tile.rows), 0)
        with loop(0, rows) as i:
            at = T.bind(run.out.at(*block.where, block.start + row + i, column))
            factor = T.bind(tirx.Broadcast(work.get("scale", row + i), tile.lanes))
            start = T.bind(i * tile.columns)
            store_row(run.out, at, columns, tile, lambda n: vector_at(
                registers.results, start + n * tile.lanes, tile.lanes) * factor)  # fmt: skip

    _times_values(run, block, begin, end)


# --- one block of keys after the other ------------------------------------------------------------


def _begin(run: _Run) -> None:
    """Sums of nothing."""
    plan, work = run.plan, run.work
    with loop(0, plan.padded_rows * i64(plan.out_stride)) as at:
        work.put("out", at, f32(0.0))
    with loop(0, plan.padded_rows) as r:
        work.put("maximum", r, f32(MINUS_INFINITY))
        work.put("sum", r, f32(0.0))


def _keys(run: _Run, block: Block) -> None:
    """A block of queries against a block of keys."""
    plan, work = run.plan, run.work
    _scores(run, block)
    with loop(0, block.count) as row:
        _exponentials(run, row, block.size)
    rescale(work, block.count)
    if run.drop is not None:
        replace_scores(work, block, run.drop)
    tile, registers = plan.out, run.registers

    def at(row: Expr, column: Expr) -> Expr:
        return T.bind(work.at("out", row * plan.out_stride + column))

    def begin(row: Expr, column: Expr) -> None:
        load(tile, registers, work.memory, at(row, column), plan.out_stride,
             lambda i: work.get("scale", row + i))  # fmt: skip

    def end(row: Expr, column: Expr) -> None:
        save(tile, registers, work.memory, at(row, column), plan.out_stride)

    _times_values(run, block, begin, end)


def _scores(run: _Run, block: Block) -> None:
    """Queries times keys, over whole panels; -inf where a query sees no key."""
    plan, tile, work = run.plan, run.plan.score, run.work
    depth, width = plan.shape.depth, tile.columns
    tiles = ceil_div(block.count, tile.rows)
    with loop(0, ceil_div(block.size, width)) as panel, loop(0, tiles) as t:
        row = T.bind(t * tile.rows)
        multiply(
            work, run.registers, tile, depth,
            (work.at("queries", row * plan.query_stride), plan.query_stride, 1),
            (work.at("keys", (block.key + panel * width) * depth), width),
            (work.at("scores", row * block.stride + panel * width), block.stride), True,
        )  # fmt: skip
    if run.modify is not None:
        replace_scores(work, block, run.modify, LOG2E)
    hide(work, block, block.count, width)


def _row_of_scores(plan: AttentionPlan, work: Work, row: Expr, size: Size) -> tuple[Expr, Size]:
    """Where a row starts, and its panels."""
    return work.at("scores", row * plan.score_stride), ceil_div(size, plan.score.columns)


def _exponentials(run: _Run, row: Expr, size: Size) -> None:
    """A row of scores as powers of two, less its maximum so far, and their sum."""
    plan, work, lanes, vectors = run.plan, run.work, run.plan.score.lanes, run.plan.score.vectors
    scores, panels = _row_of_scores(plan, work, row, size)
    before = T.bind(work.get("maximum", row))
    greatest = T.bind(tirx.max(before, row_maximum(work, scores, panels, lanes, vectors)))
    work.put("before", row, before)
    work.put("maximum", row, greatest)
    total = row_powers(work, scores, panels, lanes, finite(greatest), vectors)
    work.put("part", row, total)


def _times_values(
    run: _Run, block: Block, begin: Callable[[Expr, Expr], None], end: Callable[[Expr, Expr], None]
) -> None:
    """Weights times values, tile by tile: `begin(row, column)`, the sum over keys, `end`."""
    plan, v, tile, work = run.plan, run.v, run.plan.out, run.work
    lanes, width = tile.lanes, plan.shape.width
    with loop(0, ceil_div(width, tile.columns)) as panel:
        column = T.bind(panel * tile.columns)
        if plan.packed:
            values = Operand(work.memory, DTYPE, (plan.out_stride, 1), work.at("values"))
            columns: Size = tile.columns
        else:
            values = rows_from(v, *block.where[:-1], i64(0))
            columns = part(width, column, tile.columns)
        first = T.bind(values.at(block.key, column))
        with loop(0, ceil_div(block.count, tile.rows)) as t:
            row = T.bind(t * tile.rows)
            weights = T.bind(work.at("scores", row * block.stride))
            begin(row, column)
            reduce_segment(
                tile, run.registers, block.size,
                lambda i, j: work.memory[weights + i64(i) * block.stride + j],
                lambda n, j: edge_vector(
                    values.buffer, DTYPE, first + j * i64(values.strides[0]) + n * lanes, lanes, n,
                    columns, tile.columns,
                ),
            )  # fmt: skip
            end(row, column)


def _end(run: _Run, where: Index, start: Expr, count: Size) -> None:
    """Hands the rows over."""
    plan, work = run.plan, run.work
    with loop(0, count) as row:
        total = T.bind(work.get("sum", row))
        if run.row_done is not None:
            run.row_done((*where, start + row), row_logarithm(work.get("maximum", row), total))
        tile, width = plan.out, plan.shape.width
        factor = T.bind(tirx.Broadcast(row_factor(total), tile.lanes))
        with loop(0, ceil_div(width, tile.columns)) as panel:
            column = T.bind(panel * tile.columns)
            sums = T.bind(work.at("out", row * plan.out_stride + column))
            at = T.bind(run.out.at(*where, start + row, column))
            store_row(run.out, at, part(width, column, tile.columns), tile, lambda n: vector_at(
                work.memory, sums + n * tile.lanes, tile.lanes) * factor)  # fmt: skip
