"""Attention: for each query the mean of the values, weighted by softmax of its scores.

Turns q, k, v into register-tiled products over blocks of queries x blocks of keys: the scores of a
block are a tile product with keys packed into panels, their exponentials the rows of another one
with the values. A row keeps its maximum and its sum from block to block (online softmax), so that
memory is linear in the number of keys. Blocks of keys that no query of a block sees are not
computed; in the others, what a query doesn't see is -inf.

The scores are powers of two: queries are multiplied by log2(e) as they are copied.

References: Milakov, Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al.,
"FlashAttention", 2022. Non-goals: float64, few queries (`attention_decode.py`), gradients
(`attention_backward.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu import vmath
from dslc.schedules.cpu.attention_blocks import (
    BESIDE,
    DTYPE,
    MINUS_INFINITY,
    PANEL,
    Block,
    Forward,
    Work,
    f32,
    finite,
    hide,
    multiply,
    pack_rows,
    part,
    pieces,
    replace,
    row_factor,
    row_logarithm,
    row_maximum,
    row_powers,
    rows_from,
)
from dslc.schedules.cpu.attention_shape import (
    Areas,
    AttentionShape,
    Modify,
    balanced,
    columns_tile,
    round_up,
)
from dslc.schedules.cpu.contract import (
    Epilogue,
    Expr,
    Index,
    Machine,
    Operand,
    Size,
    ceil_div,
    choose_tasks,
    edge_vector,
    i64,
    is_zero,
    loop,
    product,
    run_tasks,
    share,
    unflatten,
)
from dslc.schedules.cpu.register_tile import (
    Tile,
    allocate,
    load,
    reduce_segment,
    save,
)
from dslc.schedules.cpu.vector import LN2, LOG2E

KEYS = 256  # of a block: their scores and values stay in the caches while queries pass
TILES = 2  # of scores below each other in a block


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """How attention is run. `rows` queries and `keys` keys are a block; `score` and `out` are the
    tiles of the two products. `split`: what the tasks share out, "heads" or "blocks" of queries."""

    shape: AttentionShape
    rows: int
    keys: int
    score: Tile
    out: Tile
    tasks: int
    split: str

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
    def areas(self) -> Areas:
        shape, rows = self.shape, self.padded_rows
        panels = round_up(shape.keys, self.score.columns)
        return Areas.of(
            [
                ("keys", panels * shape.depth), ("queries", rows * shape.depth),
                ("scores", rows * self.score_stride), ("out", rows * self.out_stride),
                *((name, rows) for name in ("maximum", "sum", "before", "part", "scale")),
            ]
        )  # fmt: skip

    @property
    def scratch_bytes(self) -> Size:
        return self.areas.size * (4 * self.tasks)


def plan_attention(shape: AttentionShape, machine: Machine) -> AttentionPlan:
    """The plan for attention in float32."""
    lanes, wide = machine.lanes(DTYPE), machine.registers == 32
    height = balanced(shape.queries, 12 if wide else 6)
    rows = height * (TILES if wide else 4)
    if isinstance(shape.queries, int):
        rows = height * max(1, min(rows // height, -(-shape.queries // height)))
    score = Tile(height, PANEL, lanes, DTYPE)
    out = columns_tile(shape.width, lanes, 4 if wide else 2, rows)
    tasks = choose_tasks(machine, shape.work)
    units = product([*shape.batch, shape.heads])
    split = "blocks" if isinstance(units, int) and units < tasks else "heads"
    return AttentionPlan(shape, rows, _keys_of(shape, score.columns), score, out, tasks, split)


def _keys_of(shape: AttentionShape, width: int) -> int:
    if not isinstance(shape.keys, int) or shape.keys == 0:
        return KEYS
    return -(-balanced(shape.keys, KEYS) // width) * width


def emit_attention(
    plan: AttentionPlan,
    q: Operand,
    k: Operand,
    v: Operand,
    epilogue: Epilogue,
    scratch: Operand,
    modify: Modify | None = None,
    drop: Modify | None = None,
    row_done: Callable[[Index, Expr], None] | None = None,
) -> None:
    """Emits the kernel's body. Strides of q are those of (batch.., head, member, i, d), of k and v
    of (batch.., head, j, d); v is contiguous along its last.

    `modify` gives a score, from the product of query and key, `drop` what takes a weight's place
    (after the sum of the weights is taken); the epilogue's index is (batch.., head, member, i, e).
    `row_done` gets the logarithm of the sum of exponentials at (batch.., head, member, i), 0 where
    no key is seen.
    """
    shape = plan.shape
    if is_zero(shape.queries) or is_zero(shape.width):
        return

    def body(task: Expr, tasks: int) -> None:
        registers = allocate([plan.score, plan.out])
        work = Work.of_task(scratch, plan.areas, task, tasks)
        run = _Run(q, v, epilogue, work, registers, modify, drop, row_done, plan)
        heads = (*shape.batch, shape.heads)
        start, stop = share(product(heads), task, tasks if plan.split == "heads" else 1)
        stride = tasks if plan.split == "blocks" else 1
        with loop(start, stop) as unit:
            where = unflatten(unit, heads)
            keys, width = rows_from(k, *where, i64(0)), plan.score.columns
            pack_rows(work, "keys", keys, shape.keys, shape.depth, width, plan.score.lanes)
            blocks = ceil_div(shape.queries, plan.rows)
            first = task if stride > 1 else 0
            turns = ceil_div(blocks - first, stride) if stride > 1 else blocks
            with loop(0, shape.group) as member, loop(0, turns) as turn:
                _queries(run, (*where, member), T.bind(i64((turn * stride + first) * plan.rows)))

    run_tasks(plan.tasks, shape.work, body)


@dataclass(frozen=True, slots=True)
class _Run(Forward):
    plan: AttentionPlan


def _queries(run: _Run, where: Index, start: Expr) -> None:
    """Queries [start, start + rows) of head `where`, against all keys that they see."""
    plan, shape = run.plan, run.plan.shape
    count = part(shape.queries, start, plan.rows)
    _begin(run, where, start, count)
    low, high = 0, shape.keys
    if shape.limited:
        width, first = plan.score.columns, shape.first(start)
        low = 0 if is_zero(first) else T.bind(first // i64(width) * width)
        high = T.bind(i64(shape.stop(start + (count - 1))))

    def against(key: Expr, size: Size) -> None:
        block = Block(shape, where, start, count, key, size, "scores", plan.score_stride)
        _keys(run, block)

    pieces(low, high, plan.keys, against)
    _end(run, where, start, count)


def _begin(run: _Run, where: Index, start: Expr, count: Size) -> None:
    """Queries times scale to memory, zeros behind the last; sums of nothing."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    factor = f32(shape.scale * LOG2E if run.modify is None else 1.0)
    with loop(0, count) as r, loop(0, shape.depth) as d:
        work.put("queries", r * shape.depth + d, run.q.load(*where, start + r, d) * factor)
    with loop(count, plan.padded_rows) as r, loop(0, shape.depth) as d:
        work.put("queries", r * shape.depth + d, f32(0.0))
    with loop(0, plan.padded_rows * i64(plan.out_stride)) as at:
        work.put("out", at, f32(0.0))
    with loop(0, plan.padded_rows) as r:
        work.put("maximum", r, f32(MINUS_INFINITY))
        work.put("sum", r, f32(0.0))


def _keys(run: _Run, block: Block) -> None:
    """A block of queries against a block of keys."""
    _scores(run, block)
    if run.modify is not None:
        replace(run.work, block, run.modify, LOG2E)
    hide(run.work, block, run.plan.rows, run.plan.score.columns)
    with loop(0, run.plan.rows) as row:
        _exponentials(run, row, block.size)
    _rescale(run)
    if run.drop is not None:
        replace(run.work, block, run.drop)
    _add_values(run, block)


def _scores(run: _Run, block: Block) -> None:
    """Queries times keys, over whole panels."""
    plan, tile, work = run.plan, run.plan.score, run.work
    depth, width = plan.shape.depth, tile.columns
    with loop(0, ceil_div(block.size, width)) as panel, loop(0, -(-plan.rows // tile.rows)) as t:
        row = T.bind(t * tile.rows)
        multiply(
            work, run.registers, tile, depth, (work.at("queries", row * depth), depth, 1),
            (work.at("keys", (block.key + panel * width) * depth), width),
            (work.at("scores", row * block.stride + panel * width), block.stride), True,
        )  # fmt: skip


def _exponentials(run: _Run, row: Expr, size: Size) -> None:
    """A row of scores as powers of two, less its maximum so far, and their sum."""
    plan, work, lanes = run.plan, run.work, run.plan.score.lanes
    scores, panels = work.at("scores", row * plan.score_stride), ceil_div(size, PANEL * lanes)
    before = T.bind(work.get("maximum", row))
    greatest = T.bind(tirx.max(before, row_maximum(work, scores, panels, lanes)))
    work.put("before", row, before)
    work.put("maximum", row, greatest)
    work.put("part", row, row_powers(work, scores, panels, lanes, finite(greatest)))


def _rescale(run: _Run) -> None:
    """What the sums so far are multiplied by, now that maxima grew."""
    work = run.work
    with loop(0, run.plan.rows) as row:
        less = work.get("before", row) - finite(T.bind(work.get("maximum", row)))
        scale = T.bind(vmath.exp(T.bind(less * f32(LN2))))
        work.put("scale", row, scale)
        work.put("sum", row, work.get("sum", row) * scale + work.get("part", row))


def _add_values(run: _Run, block: Block) -> None:
    """Weights times values, on to what there is."""
    plan, v, tile, work = run.plan, run.v, run.plan.out, run.work
    memory, lanes, width = work.memory, tile.lanes, plan.shape.width
    with loop(0, ceil_div(width, tile.columns)) as panel:
        column = T.bind(panel * tile.columns)
        values = T.bind(v.at(*block.where[:-1], block.key, column))
        columns = part(width, column, tile.columns)
        with loop(0, -(-plan.rows // tile.rows)) as t:
            row = T.bind(t * tile.rows)
            weights = T.bind(work.at("scores", row * block.stride))
            at = T.bind(work.at("out", row * plan.out_stride + column))
            load(tile, run.registers, memory, at, plan.out_stride,
                 lambda i: work.get("scale", row + i))  # fmt: skip
            reduce_segment(
                tile, run.registers, block.size,
                lambda i, j: memory[weights + i64(i) * block.stride + j],
                lambda n, j: edge_vector(
                    v.buffer, v.dtype, values + j * i64(v.strides[-2]) + n * lanes, lanes, n,
                    columns, tile.columns,
                ),
            )  # fmt: skip
            save(tile, run.registers, memory, at, plan.out_stride)


def _end(run: _Run, where: Index, start: Expr, count: Size) -> None:
    """Hands the rows over."""
    plan, work = run.plan, run.work
    with loop(0, count) as row:
        total = T.bind(work.get("sum", row))
        if run.row_done is not None:
            run.row_done((*where, start + row), row_logarithm(work.get("maximum", row), total))
        factor = row_factor(total)
        with loop(0, plan.shape.width) as e:
            value = work.get("out", row * plan.out_stride + e) * factor
            run.epilogue((*where, start + row, e), value)
