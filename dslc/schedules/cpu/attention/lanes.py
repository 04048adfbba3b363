"""Attention with a query in each lane: no sum or maximum runs across a vector.

Turns q, k, v into register-tiled products over blocks of queries x blocks of keys. The queries of a
block are turned once, so that elements of as many queries lie side by side as some vectors have
lanes. Keys are then the rows of the tile that makes scores [key][query], and elements of values
the rows of the one that makes results [element][query], which are turned back at the end. Keys and
values are read where they lie, one number at a time for all queries of the tile, so they may be of
any size without a lane left idle, and need no packing. Each query keeps its maximum and its sum
from block to block (online softmax). Blocks of keys that no query of a block sees are left out, and
keys are hidden only in tiles that some query doesn't see wholly.

Tasks share out heads and blocks of queries as in `forward.py`, which has what this has not:
biases, masks and dropout (they lie key by key in memory) and sizes that are not known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.attention.blocks import (
    DTYPE,
    MINUS_INFINITY,
    Work,
    copy_rows,
    for_heads,
    part,
    pieces,
    row_logarithm,
    rows_from,
)
from dslc.schedules.cpu.attention.lanes_plan import LanesPlan
from dslc.schedules.cpu.attention.shape import between
from dslc.schedules.cpu.tiles.contract import (
    Expr,
    Index,
    Operand,
    Size,
    ceil_div,
    div,
    i64,
    is_int,
    is_zero,
    larger,
    local,
    loop,
    masked_vector,
    prefetch,
    product,
    run_tasks,
    smaller,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.pack import transpose
from dslc.schedules.cpu.tiles.register_tile import (
    Registers,
    RowReader,
    Tile,
    allocate,
    clear,
    reduce_segment,
    save,
)
from dslc.schedules.cpu.tiles.vector import LOG2E, constant, exp2_below

LINE = 16  # elements of a line of a cache
WIDE = 16  # lanes of vectors that are masked at no cost


def emit_lanes(
    plan: LanesPlan,
    q: Operand,
    k: Operand,
    v: Operand,
    out: Operand,
    scratch: Operand,
    row_done: Callable[[Index, Expr], None] | None = None,
) -> None:
    """Emits the kernel's body; of arguments like those of `emit_attention`, q too contiguous along
    its last."""
    shape = plan.shape
    if is_zero(shape.queries):
        return

    def body(task: Expr, tasks: int) -> None:
        registers = allocate([plan.score, *(tile for tile, *_ in plan.outs)])
        work = Work.of_task(scratch, plan.areas, task, tasks)
        run = _Run(q, k, v, out, work, registers, row_done, plan)
        heads = (*shape.batch, shape.heads)
        for_heads(product(heads), task, tasks, lambda head, first, step: _head(
            run, unflatten(head, heads), first, step))  # fmt: skip

    run_tasks(plan.tasks, shape.work, body)


@dataclass(frozen=True, slots=True)
class _Run:
    q: Operand
    k: Operand
    v: Operand
    out: Operand
    work: Work
    registers: Registers
    row_done: Callable[[Index, Expr], None] | None
    plan: LanesPlan

    def get(self, name: str, number: Size, offset: Size = 0) -> Expr:
        """Vector `number` of an area, from `offset` on."""
        lanes = self.plan.score.lanes
        return vector_at(self.work.memory, self.work.at(name, offset + number * lanes), lanes)

    def put(self, name: str, number: Size, value: Expr, offset: Size = 0) -> None:
        lanes = self.plan.score.lanes
        store_vector(self.work.memory, value, self.work.at(name, offset + number * lanes), lanes)


@dataclass(frozen=True, slots=True)
class _Block:
    """Queries [start, start + count) of head `where` (batch.., head, member), and the matrices of
    its keys and values."""

    where: Index
    start: Expr
    count: Size
    keys: Operand
    values: Operand


def _head(run: _Run, where: Index, first: Size, step: Size) -> None:
    """Every `step`-th block of queries of a head of keys, from block `first` on."""
    plan, shape, work = run.plan, run.plan.shape, run.work
    keys, values = (rows_from(source, *where, i64(0)) for source in (run.k, run.v))
    if plan.copied:
        lanes = plan.score.lanes
        copy_rows(work, "keys", keys, shape.keys, shape.keys, shape.depth, shape.depth, lanes)
        copy_rows(work, "values", values, shape.keys, shape.keys, shape.width, shape.width, lanes)
        keys = Operand(work.memory, DTYPE, (shape.depth, 1), work.at("keys"))
        values = Operand(work.memory, DTYPE, (shape.width, 1), work.at("values"))
    turns = div(ceil_div(shape.queries, plan.queries) - first + (step - 1), step)
    with loop(0, shape.group) as member, loop(0, turns) as turn:
        start = T.bind(i64((turn * step + first) * plan.queries))
        count = part(shape.queries, start, plan.queries)
        _queries(run, _Block((*where, member), start, count, keys, values))


def _queries(run: _Run, block: _Block) -> None:
    """A block of queries against all keys that they see."""
    plan, shape = run.plan, run.plan.shape
    low, high = 0, shape.keys
    if shape.limited:
        first = shape.first(block.start)
        low = 0 if is_zero(first) else T.bind(i64(first))
        high = T.bind(i64(shape.stop(block.start + (block.count - 1))))
    _turn_queries(run, block)
    _ahead(run, block)
    _begin(run)

    def keys(key: Expr, size: Size) -> None:
        _scores(run, block, key, size)
        _powers(run, size)
        _times_values(run, block, key, size)

    pieces(low, high, plan.keys, keys)
    _end(run, block)


def _turn_queries(run: _Run, block: _Block) -> None:
    """Queries times scale as [depth][query], zeros behind the last."""
    plan, shape, q = run.plan, run.plan.shape, run.q
    lanes, queries = plan.score.lanes, plan.queries
    factor = constant(shape.scale * LOG2E, lanes)

    def square(column: Expr, columns: int) -> None:
        with loop(0, plan.score.vectors) as number:
            rows = []
            for i in range(lanes):
                row = T.bind(number * lanes + i)
                at = q.at(*block.where, block.start + row, column)
                rows.append(T.bind(_edge(q, at, lanes, row, block.count, columns, queries)))
            for i, turned in enumerate(transpose(rows)[:columns]):
                run.put("queries", number, turned * factor, (column + i) * queries)

    _squares(shape.depth, lanes, square)


def _ahead(run: _Run, block: _Block) -> None:
    """Asks for the queries of the next block, and for the rows that this one's results go to: no
    row is long enough for the processor to see where it goes on."""
    queries = run.plan.queries
    last = larger(run.plan.shape.queries - 1, 0)
    for source, size, first, write in (
        (run.q, run.plan.shape.depth, queries, False), (run.out, run.plan.shape.width, 0, True)
    ):  # fmt: skip
        with loop(0, queries) as row:
            there = smaller(block.start + (row + first), last)
            start = T.bind(source.at(*block.where, there, i64(0)))
            with loop(0, -(-size // LINE) + 1) as line:
                prefetch(source.buffer[start + smaller(line * LINE, size - 1)], 2, write)


def _squares(size: int, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """`body(start, columns)` for pieces of as many columns as there are lanes, and what is left."""
    with loop(0, size // lanes) as piece:
        body(T.bind(piece * lanes), lanes)
    if size % lanes:
        body(i64(size // lanes * lanes), size % lanes)


def _edge(
    source: Operand, at: Expr, lanes: int, row: Expr, rows: Size, columns: int, most: int
) -> Expr:
    """The first `columns` elements at `at`; zeros, if `row` is none of `rows` (of `most`)."""
    if columns == lanes and is_int(rows, most):
        return vector_at(source.buffer, at, lanes)
    return masked_vector(source.buffer, DTYPE, at, lanes, _mask(lanes, row, rows, columns))


def _mask(lanes: int, row: Expr, rows: Size, columns: int) -> Expr:
    """Which elements of a row there are."""
    there = tirx.Select(row < i64(rows), tirx.const(columns, "int32"), tirx.const(0, "int32"))
    return tirx.Ramp(tirx.const(0, "int32"), 1, lanes) < tirx.Broadcast(T.bind(there), lanes)


def _begin(run: _Run) -> None:
    """Sums of nothing."""
    plan, lanes = run.plan, run.plan.score.lanes
    with loop(0, plan.score.vectors) as number:
        run.put("maximum", number, constant(MINUS_INFINITY, lanes))
        run.put("sum", number, constant(0.0, lanes))
    if plan.shape.limited or not plan.whole:
        with loop(0, plan.shape.width * plan.score.vectors) as number:
            run.put("out", number, constant(0.0, lanes))


# --- a block of keys ------------------------------------------------------------------------------


def _scores(run: _Run, block: _Block, key: Expr, size: Size) -> None:
    """Keys times queries as [key][query], -inf where a query doesn't see a key; and maxima."""
    plan, work, tile, queries = run.plan, run.work, run.plan.score, run.plan.queries
    depth, lanes = plan.shape.depth, tile.lanes
    with loop(0, tile.vectors) as number:
        run.put("before", number, run.get("maximum", number))
    with loop(0, ceil_div(size, tile.rows)) as t:
        # The last tile of all keys begins where it ends with them.
        row = T.bind(smaller(key + t * tile.rows, plan.shape.keys - tile.rows))
        target = T.bind(work.at("scores", (row - key + tile.rows) * queries))
        clear(tile, run.registers)
        rows = _from(block.keys, row, i64(0))
        _multiply(run, tile, depth, lambda i, d: rows.load(i64(i), d), work.at("queries"))
        save(tile, run.registers, work.memory, target, queries)
        _hide(run, block, row, target)
        for j in range(tile.vectors):
            most = run.get("maximum", j)
            for i in range(tile.rows):
                at = target + (i * queries + j * lanes)
                most = T.bind(tirx.max(most, vector_at(work.memory, at, lanes)))
            run.put("maximum", j, most)


def _hide(run: _Run, block: _Block, row: Expr, target: Expr) -> None:
    """-inf for those of a tile's keys, from `row` on, that a query doesn't see."""
    shape, tile, memory = run.plan.shape, run.plan.score, run.work.memory
    if not shape.limited:
        return
    last, behind = block.start + (block.count - 1), row + tile.rows
    lanes = tile.lanes
    hidden = tirx.any(behind > i64(shape.stop(block.start)), row < i64(shape.first(last)))
    with T.If(hidden), T.Then(), loop(0, tile.rows) as i, loop(0, tile.vectors) as j:
        # Lane n stands `back + n` behind the key.
        back = T.bind(i64(shape.past + block.start + j * lanes - (row + i)))
        low = 0 if shape.low is None else between(i64(shape.low) - back, lanes)
        stop = lanes if shape.high is None else between(shape.high - back + 1, lanes)
        first, behind_ = (
            tirx.Broadcast(T.bind(tirx.Cast("int32", i64(bound))), lanes) for bound in (low, stop)
        )
        lane = tirx.Ramp(tirx.const(0, "int32"), 1, lanes)
        seen = tirx.all(lane >= first, lane < behind_)
        at = T.bind(target + (i * tile.columns + j * lanes))
        value = vector_at(memory, at, lanes)
        store_vector(memory, tirx.Select(seen, value, constant(MINUS_INFINITY, lanes)), at, lanes)


def _powers(run: _Run, size: Size) -> None:
    """Scores become powers of two, less the maximum so far; and sums."""
    plan, work, lanes = run.plan, run.work, run.plan.score.lanes
    vectors, queries = plan.score.vectors, plan.queries
    sums, less = local(queries, DTYPE), []
    parts = [i64(j * lanes) for j in range(vectors)]
    for j in range(vectors):
        most = T.bind(run.get("maximum", j))
        none = most < constant(-3e38, lanes)
        less.append(T.bind(tirx.Select(none, constant(0.0, lanes), most)))
        scale = T.bind(exp2_below(T.bind(run.get("before", j) - less[j]), lanes))
        run.put("scale", j, scale)
        store_vector(sums, run.get("sum", j) * scale, parts[j], lanes)
    first = T.bind(work.at("scores", plan.score.rows * queries))
    with loop(0, size) as key:
        for j in range(vectors):
            at = T.bind(first + (key * queries + j * lanes))
            value = T.bind(exp2_below(T.bind(vector_at(work.memory, at, lanes) - less[j]), lanes))
            store_vector(work.memory, value, at, lanes)
            store_vector(
                sums, vector_at(sums, i64(j * lanes), lanes) + value, i64(j * lanes), lanes
            )
    for j in range(vectors):
        run.put("sum", j, vector_at(sums, parts[j], lanes))


def _times_values(run: _Run, block: _Block, key: Expr, size: Size) -> None:
    """Values times powers, as [element][query], added to what there is, scaled."""
    plan = run.plan
    for tile, first, count in plan.outs:
        with loop(0, count) as t:
            _sums_of_values(run, block, tile, key, size, T.bind(first + t * tile.rows))


def _sums_of_values(
    run: _Run, block: _Block, tile: Tile, key: Expr, size: Size, element: Expr
) -> None:
    """The same, of a tile's elements from `element` on."""
    plan, work, registers, queries = run.plan, run.work, run.registers, run.plan.queries
    target = T.bind(work.at("out", element * queries))
    if plan.whole:
        clear(tile, registers)
    else:
        _load_scaled(run, tile, target)
    values = _from(block.values, key, element)
    first = work.at("scores", plan.score.rows * queries)
    _multiply(run, tile, size, lambda i, n: values.load(n, i64(i)), first)
    save(tile, registers, work.memory, target, queries)


def _from(matrix: Operand, row: Expr, column: Expr) -> Operand:
    """The matrix from an element on."""
    return replace(matrix, offset=T.bind(matrix.at(row, column)))


def _multiply(run: _Run, tile: Tile, length: Size, left: RowReader, right: Expr) -> None:
    """Adds to the accumulators `length` steps of numbers times vectors of queries, from `right`
    on."""
    memory, queries, lanes, start = run.work.memory, tile.columns, tile.lanes, T.bind(right)
    reduce_segment(
        tile, run.registers, length, left,
        lambda j, n: vector_at(memory, start + n * queries + j * lanes, lanes),
    )  # fmt: skip


def _load_scaled(run: _Run, tile: Tile, target: Expr) -> None:
    """Sums from memory to the accumulators, times each query's factor."""
    lanes, accumulators = tile.lanes, run.registers.accumulators
    clear(tile, run.registers)
    for j in range(tile.vectors):
        scale = T.bind(run.get("scale", j))
        for i in range(tile.rows):
            value = vector_at(run.work.memory, target + (i * tile.columns + j * lanes), lanes)
            store_vector(accumulators, value * scale, tile.offset(i, j), lanes)


def _end(run: _Run, block: _Block) -> None:
    """Hands the results over: turned back, and divided by the sums."""
    plan, shape, out = run.plan, run.plan.shape, run.out
    lanes, queries = plan.score.lanes, plan.queries
    one, zero = constant(1.0, lanes), constant(0.0, lanes)
    if run.row_done is not None:
        with loop(0, block.count) as row:
            logarithm = row_logarithm(run.work.get("maximum", row), run.work.get("sum", row))
            run.row_done((*block.where, block.start + row), logarithm)
    with loop(0, plan.score.vectors) as number:
        total = T.bind(run.get("sum", number))
        run.put("scale", number, tirx.Select(tirx.EQ(total, zero), zero, tirx.div(one, total)))

    def square(element: Expr, elements: int, count: Size) -> None:
        with loop(0, plan.score.vectors) as number:
            factor = T.bind(run.get("scale", number))
            columns = [
                T.bind(run.get("out", number, (element + i) * queries) * factor)
                for i in range(elements)
            ]
            columns += [zero] * (lanes - elements)
            for i, turned in enumerate(transpose(columns)):
                row = T.bind(number * lanes + i)
                at = T.bind(out.at(*block.where, block.start + row, element))
                if elements == lanes and is_int(count, queries):
                    store_vector(out.buffer, turned, at, lanes)
                    continue
                mask, place = _mask(lanes, row, count, elements), tirx.Ramp(at, i64(1), lanes)
                T.evaluate(tirx.op.masked_store(out.buffer, turned, place, mask))

    def rows(count: Size) -> None:
        _squares(shape.width, lanes, lambda element, elements: square(element, elements, count))

    if lanes == WIDE or isinstance(block.count, int):
        rows(block.count)
        return
    # A masked store of a narrow vector takes as long as tens of others: for the last block alone.
    with T.If(block.count == i64(queries)):
        with T.Then():
            rows(queries)
        with T.Else():
            rows(block.count)
