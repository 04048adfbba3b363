"""Attention of bf16 by registers that hold matrices (`tiles/matrix_tile.py`).

Turns q, k, v into products of registers over blocks of queries x blocks of keys, as `forward.py`
does, with a key in each lane of the scores. Keys are packed once for a head, turned, and values
joined, row by row. Scores are float32; their exponentials are summed up in float32 and rounded to
pairs in place of the scores, a row of which is half as long then, where they are read as rows of a
left side.

A register has rows of all queries of a block, or of half of them: as many in each block. There are
as many in working memory, zeros behind the last query.

Non-goals: few queries, gradients (`backward_matrices.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.attention.blocks import (
    BESIDE,
    DTYPE,
    MINUS_INFINITY,
    Block,
    Work,
    f32,
    finite,
    for_heads,
    hide,
    part,
    pieces,
    replace_scores,
    rescale,
    row_factor,
    row_logarithm,
    row_maximum,
    rows_from,
    store_row,
)
from dslc.schedules.cpu.attention.matrix_rows import (
    copy_pairs,
    pack_joined,
    pack_turned,
    pitch,
)
from dslc.schedules.cpu.attention.shape import Areas, AttentionShape, Modify, balanced, round_up
from dslc.schedules.cpu.tiles import matrix_tile
from dslc.schedules.cpu.tiles.contract import (
    Expr,
    Index,
    Machine,
    Operand,
    Size,
    ceil_div,
    choose_tasks,
    div,
    i64,
    is_zero,
    larger,
    local,
    loop,
    product,
    run_tasks,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.matrix_tile import (
    FASTER,
    FEW,
    LANES,
    PAIR,
    ROWS,
    STEP,
    Heights,
    MatrixTile,
    Side,
)
from dslc.schedules.cpu.tiles.register_tile import Tile
from dslc.schedules.cpu.tiles.vector import LOG2E, constant, exp2_below, lane_sum

KEYS = 512  # of a block


@dataclass(frozen=True, slots=True)
class AttentionMatricesPlan:
    """How attention is run. `rows` queries and `keys` keys are a block; `score` and `out` are the
    tiles of the two products. `whole`: a block has all keys."""

    shape: AttentionShape
    rows: int
    keys: int
    score: MatrixTile
    out: MatrixTile
    tasks: int
    whole: bool

    @property
    def heights(self) -> Heights:
        if self.score.down == 1:
            return (self.rows,)
        return -(-self.rows // 2), self.rows // 2

    @property
    def score_stride(self) -> int:
        return self.keys + BESIDE

    @property
    def out_stride(self) -> Size:
        return round_up(self.shape.width, self.out.columns)

    @property
    def padded_keys(self) -> Size:
        return round_up(self.shape.keys, self.score.columns)

    @property
    def areas(self) -> Areas:
        depth, rows = pitch(self.shape.depth), self.rows
        return Areas.of(
            [
                ("keys", self.padded_keys * depth),
                ("values", self.padded_keys // 2 * self.out_stride),
                ("queries", rows * depth), ("scores", rows * self.score_stride),
                ("out", 0 if self.whole else rows * self.out_stride),
                *((name, rows) for name in ("maximum", "sum", "before", "part", "scale")),
            ]
        )  # fmt: skip

    @property
    def scratch_bytes(self) -> Size:
        return self.areas.size * (4 * self.tasks)


def plan_attention_matrices(shape: AttentionShape, machine: Machine) -> AttentionMatricesPlan:
    """The plan for attention of bf16."""
    rows = balanced(shape.queries, ROWS)
    down = 1 if rows <= LANES else 2
    score = MatrixTile(down, 2 if down == 2 or _at_most(shape.keys, STEP) else FEW)
    across = 2 if down == 2 else FEW
    if isinstance(shape.width, int):
        across = balanced(-(-shape.width // LANES), across)
    keys = KEYS
    if isinstance(shape.keys, int) and shape.keys:
        keys = round_up(balanced(shape.keys, KEYS), score.columns)
    work = shape.work // FASTER if isinstance(shape.work, int) else shape.work
    return AttentionMatricesPlan(
        shape, rows, keys, score, MatrixTile(down, across), choose_tasks(machine, work),
        _at_most(shape.keys, keys),
    )  # fmt: skip


def _at_most(size: Size, most: int) -> bool:
    return isinstance(size, int) and size <= most


def emit_attention_matrices(
    plan: AttentionMatricesPlan,
    q: Operand,
    k: Operand,
    v: Operand,
    out: Operand,
    scratch: Operand,
    modify: Modify | None = None,
    drop: Modify | None = None,
    row_done: Callable[[Index, Expr], None] | None = None,
) -> None:
    """Emits the kernel's body; of arguments like those of `emit_attention`, but that q, k, v and
    `out` hold bf16 (as `HALF`), and all are contiguous along their last."""
    shape = plan.shape
    if is_zero(shape.queries) or is_zero(shape.width):
        return
    if modify is None and shape.scale <= 0:  # the greatest product is not the greatest score
        modify = _scaled(shape.scale)

    def body(task: Expr, tasks: int) -> None:
        work = Work.of_task(scratch, plan.areas, task, tasks)
        results = local(plan.out.down * LANES * plan.out.columns, DTYPE)
        run = _Run(q, k, v, out, work, results, modify, drop, row_done, plan)
        heads = (*shape.batch, shape.heads)
        matrix_tile.configure(plan.heights)
        for_heads(product(heads), task, tasks, lambda head, first, step: _head(
            run, unflatten(head, heads), first, step))  # fmt: skip
        matrix_tile.release()

    run_tasks(plan.tasks, shape.work, body)


def _scaled(scale: float) -> Modify:
    return lambda index, score: score * f32(scale)


@dataclass(frozen=True, slots=True)
class _Run:
    q: Operand
    k: Operand
    v: Operand
    out: Operand
    work: Work
    results: Any  # of a tile, [rows][columns]
    modify: Modify | None
    drop: Modify | None
    row_done: Callable[[Index, Expr], None] | None
    plan: AttentionMatricesPlan

    @property
    def factor(self) -> Expr:
        """Of a score, which is a power of two then."""
        return f32(self.plan.shape.scale * LOG2E if self.modify is None else 1.0)


def _head(run: _Run, where: Index, first: Size, step: Size) -> None:
    """Every `step`-th block of queries of a head of keys, from block `first` on."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    keys, values = (rows_from(source, *where, i64(0)) for source in (run.k, run.v))
    pack_turned(work, "keys", keys, shape.keys, shape.depth, plan.score.columns)
    pack_joined(work, "values", values, shape.keys, plan.padded_keys, shape.width, plan.out.columns)
    turns = div(ceil_div(shape.queries, plan.rows) - first + (step - 1), step)
    with loop(0, shape.group) as member, loop(0, turns) as turn:
        _queries(run, (*where, member), T.bind(i64((turn * step + first) * plan.rows)))


def _queries(run: _Run, where: Index, start: Expr) -> None:
    """Queries [start, start + rows) of head `where`, against all keys that they see."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    count = part(shape.queries, start, plan.rows)
    low, high = 0, shape.keys
    if shape.limited:
        width, first = plan.score.columns, shape.first(start)
        low = 0 if is_zero(first) else T.bind(first // i64(width) * width)
        high = T.bind(i64(shape.stop(start + (count - 1))))

    def block(key: Expr, size: Size) -> Block:
        return Block(shape, where, start, count, key, size, "scores", plan.score_stride)

    copy_pairs(work, "queries", rows_from(run.q, *where, start), count, plan.rows, shape.depth)
    if plan.whole:
        size = larger(high - low, 0)
        _all_keys(run, block(i64(low), size if isinstance(size, int) else T.bind(size)))
        return
    with loop(0, plan.rows * i64(plan.out_stride)) as at:
        work.put("out", at, f32(0.0))
    with loop(0, plan.rows) as row:
        work.put("maximum", row, f32(MINUS_INFINITY))
        work.put("sum", row, f32(0.0))
    pieces(low, high, plan.keys, lambda key, size: _keys(run, block(key, size)))
    _end(run, where, start, count)


def _all_keys(run: _Run, block: Block) -> None:
    """A block of queries against all the keys that they see."""
    work = run.work
    _scores(run, block)
    with loop(0, block.count) as row:
        greatest = _greatest(run, block, row)
        total = _powers(run, block, row, greatest)
        work.put("maximum", row, greatest)
        work.put("sum", row, total)
        work.put("scale", row, row_factor(total))
    if run.row_done is not None:
        with loop(0, block.count) as row:
            logarithm = row_logarithm(work.get("maximum", row), work.get("sum", row))
            run.row_done((*block.where, block.start + row), logarithm)
    _dropped(run, block)

    def done(row: Expr, column: Expr, sums: Callable[[int], Expr]) -> None:
        factor = T.bind(tirx.Broadcast(work.get("scale", row), LANES))
        _store(run, (*block.where, block.start + row), column, lambda n: sums(n) * factor)

    _times_values(run, block, done)


def _keys(run: _Run, block: Block) -> None:
    """A block of queries against a block of keys."""
    plan, work = run.plan, run.work
    _scores(run, block)
    with loop(0, block.count) as row:
        before = T.bind(work.get("maximum", row))
        greatest = T.bind(tirx.max(before, _greatest(run, block, row)))
        work.put("before", row, before)
        work.put("maximum", row, greatest)
        work.put("part", row, _powers(run, block, row, greatest))
    rescale(work, block.count)
    _dropped(run, block)

    def done(row: Expr, column: Expr, sums: Callable[[int], Expr]) -> None:
        factor = T.bind(tirx.Broadcast(work.get("scale", row), LANES))
        start = T.bind(work.at("out", row * plan.out_stride + column))
        for n in range(plan.out.across):
            at = start + n * LANES
            total = vector_at(work.memory, at, LANES) * factor + sums(n)
            store_vector(work.memory, T.bind(total), at, LANES)

    _times_values(run, block, done)


def _end(run: _Run, where: Index, start: Expr, count: Size) -> None:
    """Hands the rows over."""
    plan, work = run.plan, run.work
    with loop(0, count) as row:
        total = T.bind(work.get("sum", row))
        if run.row_done is not None:
            run.row_done((*where, start + row), row_logarithm(work.get("maximum", row), total))
        factor = T.bind(tirx.Broadcast(row_factor(total), LANES))
        with loop(0, ceil_div(plan.shape.width, plan.out.columns)) as panel:
            column = T.bind(panel * plan.out.columns)
            sums = T.bind(work.at("out", row * plan.out_stride + column))
            _store(run, (*where, start + row), column, lambda n: vector_at(
                work.memory, sums + n * LANES, LANES) * factor)  # fmt: skip


def _store(run: _Run, row: Index, column: Expr, value: Callable[[int], Expr]) -> None:
    """A tile's part of a row of the result, rounded."""
    tile, at = run.plan.out, T.bind(run.out.at(*row, column))
    columns = part(run.plan.shape.width, column, tile.columns)
    vectors = Tile(1, tile.across, LANES, DTYPE)
    store_row(run.out, at, columns, vectors, lambda n: matrix_tile.rounded(T.bind(value(n))))


# --- the products, and what is between them -------------------------------------------------------


def _scores(run: _Run, block: Block) -> None:
    """Queries times keys, over whole panels; -inf where a query sees no key."""
    plan, tile, work, memory = run.plan, run.plan.score, run.work, run.work.memory
    depth, width = pitch(plan.shape.depth), tile.columns
    queries, top = T.bind(work.at("queries")), plan.heights[0]
    left = Side(memory, lambda i, k: queries + i * top * i64(depth) + k, depth)
    with loop(0, ceil_div(block.size, width)) as panel:
        keys = T.bind(work.at("keys", (block.key + panel * width) * i64(depth)))
        right = Side(memory, lambda j, k: keys + k * width + j * LANES, width)
        matrix_tile.clear(tile)
        matrix_tile.multiply(tile, div(depth, LANES), left, right)
        at = T.bind(work.at("scores", panel * width))
        matrix_tile.save(tile, plan.heights, memory, at, block.stride)
    if run.modify is not None:
        replace_scores(work, block, run.modify, LOG2E)
    hide(work, block, block.count, width)


def _greatest(run: _Run, block: Block, row: Expr) -> Expr:
    """The greatest of a row of scores."""
    start, tile = run.work.at("scores", row * block.stride), run.plan.score
    panels = ceil_div(block.size, tile.columns)
    return T.bind(row_maximum(run.work, start, panels, LANES, tile.across) * run.factor)


def _powers(run: _Run, block: Block, row: Expr, greatest: Expr) -> Expr:
    """A row of scores as powers of two, less the greatest; rounded to pairs, unless some are to be
    dropped. Their sum."""
    memory, start = run.work.memory, T.bind(run.work.at("scores", row * block.stride))
    factor, less = (
        T.bind(tirx.Broadcast(value, LANES)) for value in (run.factor, finite(greatest))
    )
    sums = local(PAIR * LANES, DTYPE)
    for n in range(PAIR):
        store_vector(sums, constant(0.0, LANES), i64(n * LANES), LANES)
    with loop(0, ceil_div(block.size, STEP)) as step:
        powers, first = [], T.bind(start + step * STEP)
        for n in range(PAIR):
            score = vector_at(memory, first + n * LANES, LANES)
            powers.append(exp2_below(T.bind(score * factor - less), LANES))
            total = vector_at(sums, i64(n * LANES), LANES) + powers[n]
            store_vector(sums, T.bind(total), i64(n * LANES), LANES)
        if run.drop is None:
            pairs = matrix_tile.rounded_pairs(*powers)
            store_vector(memory, pairs, start + step * LANES, LANES)
        else:
            for n in range(PAIR):
                store_vector(memory, powers[n], first + n * LANES, LANES)
    both = T.bind(vector_at(sums, i64(0), LANES) + vector_at(sums, i64(LANES), LANES))
    return T.bind(lane_sum(both, LANES))


def _dropped(run: _Run, block: Block) -> None:
    """Some of the weights put in others' place, and all of them rounded."""
    if run.drop is None:
        return
    work = run.work
    replace_scores(work, block, run.drop)
    with loop(0, block.count) as row:
        start = T.bind(work.at("scores", row * block.stride))
        with loop(0, ceil_div(block.size, STEP)) as step:
            both = [
                T.bind(vector_at(work.memory, start + step * STEP + n * LANES, LANES))
                for n in range(PAIR)
            ]
            pairs = matrix_tile.rounded_pairs(*both)
            store_vector(work.memory, pairs, start + step * LANES, LANES)


def _times_values(
    run: _Run, block: Block, done: Callable[[Expr, Expr, Callable[[int], Expr]], None]
) -> None:
    """Weights times values: `done(row, column, sums)` with the vectors of each row of a tile."""
    plan, tile, work, memory = run.plan, run.plan.out, run.work, run.work.memory
    weights, top, width = T.bind(work.at("scores")), plan.heights[0], tile.columns
    left = Side(memory, lambda i, k: weights + i * top * block.stride + k, block.stride)
    whole = T.bind(i64(plan.padded_keys // 2 * width))  # words of a panel
    with loop(0, ceil_div(plan.shape.width, width)) as panel:
        values = T.bind(work.at("values", panel * whole + div(block.key, 2) * width))
        right = Side(memory, lambda j, k: values + k * width + j * LANES, width)
        matrix_tile.clear(tile)
        matrix_tile.multiply(tile, ceil_div(block.size, STEP), left, right)
        matrix_tile.save(tile, plan.heights, run.results, i64(0), width)
        column = T.bind(panel * width)
        with loop(0, block.count) as row:
            start = T.bind(row * width)
            done(row, column, lambda n: vector_at(run.results, start + n * LANES, LANES))
