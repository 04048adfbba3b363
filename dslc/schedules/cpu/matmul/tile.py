"""One register tile of a matmul, from where its operands lie to its epilogue.

Input: a `Run` (a task's part of a `MatmulPlan`), a row, a `Block` of columns. Output: statements in
the TIR builder's current function: the tile's sums, read from panels, from scratch where they were
packed or turned, or in place, and handed on. Non-goals: the order of tiles, and packing
(`matmul.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.schedules.cpu.matmul.plan import MatmulPlan
from dslc.schedules.cpu.tiles import dot_tile, row_stream
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    LINE_BYTES,
    Epilogue,
    Expr,
    Index,
    Operand,
    Panels,
    Size,
    address,
    ceil_div,
    div,
    edge_vector,
    i64,
    is_int,
    vector_at,
)
from dslc.schedules.cpu.tiles.dots import widened
from dslc.schedules.cpu.tiles.register_tile import (
    ColumnReader,
    Registers,
    Tile,
    add,
    clear,
    copy_out,
    finish,
    finish_parts,
    reduce_segment,
    save,
)


@dataclass(frozen=True, slots=True)
class Run:
    """A task's part of a product: the plan, its sides, and the steps of K that are summed up."""

    plan: MatmulPlan
    a: Operand
    b: Operand | Panels
    epilogue: Epilogue
    scratch: Operand | None
    task: Expr
    tasks: int
    registers: Registers
    turn: Expr | None
    ahead: Callable[[Expr, Expr], None] | None
    steps: Size  # of K
    first: Size = 0  # the step of K that these begin with
    last: bool = True  # steps of K, so that results are handed on
    top: Size = 0  # row of those whose sums lie in scratch

    @property
    def scratch_base(self) -> Size:
        """Where this task's part of the scratch starts."""
        if self.scratch is None:
            return 0
        part = self.plan.part(self.plan.k)
        return address(self.scratch.offset, (self.task if self.tasks > 1 else 0, part))


@dataclass(frozen=True, slots=True)
class Block:
    """Columns [first, first + columns) in `vectors` accumulators; `step`: the accumulators before
    them, `columns` fill them but at the end of N."""

    step: Expr
    first: Expr
    vectors: int
    columns: Size


def emit_tile(
    run: Run, where: Index, row: Expr, height: int, block: Block, side: Size = 0,
    beside: Callable[[Expr], None] | None = None,
) -> None:  # fmt: skip
    """One tile: rows [row, row + height) of the block, packed on that side; `beside` as in
    `reduce_segment`."""
    plan, a, first = run.plan, run.a, block.first
    tile = Tile(height, block.vectors, plan.lanes, plan.dtype)
    base = T.bind(a.at(*where, row, i64(0)))
    if plan.dots:
        dot_tile.emit(
            tile, run.registers, plan.k, block.columns,
            Operand(a.buffer, a.dtype, a.strides[-2:], base), panel_in_place(run, where, block),
            plan.rows * a.strides[-2] if plan.asks_rows else 0,
        )  # fmt: skip
        dot_tile.finish(tile, run.registers, block.columns,
                        lambda i, j: (*where, row + i, first + j), run.epilogue)  # fmt: skip
        return
    if plan.source == "stream" and isinstance(run.b, Operand):
        runs = row_stream.Runs(1, block.columns, 0, 1, block.columns)
        row_stream.emit(
            tile, run.registers, plan.k, runs,
            Operand(a.buffer, a.dtype, a.strides[-2:], base),
            Operand(run.b.buffer, a.dtype, run.b.strides[-2:], run.b.at(*where, i64(0), first)),
        )  # fmt: skip
        row_stream.finish(tile, run.registers, runs,
                          lambda i, _, j: (*where, row + i, first + j), run.epilogue)  # fmt: skip
        return
    if run.ahead is not None:
        step = max(plan.lanes, LINE_BYTES // ITEMSIZE[plan.dtype])
        for i in range(height):
            for columns in range(0, tile.columns // plan.parts, step):
                run.ahead(row + i, div(first, plan.parts) + columns)
    each = block.vectors // plan.passes
    for begin in range(0, block.vectors, each):
        some = Tile(height, each, plan.lanes, plan.dtype)
        clear(some, run.registers)
        reduce_segment(
            some, run.registers, run.steps,
            lambda i, k: a.buffer[address(base, (i64(i), a.strides[-2]), (k, a.strides[-1]))],
            partial(_from, _column_reader(run, where, block, side), begin),
            beside,
        )  # fmt: skip
        if plan.parts > 1:
            copy_out(some, run.registers, block.vectors, begin)
    if plan.parts > 1:
        start = T.bind(div(first, plan.parts))
        width = run.b.width // plan.parts if isinstance(run.b, Panels) else 0
        finish_parts(tile, run.registers, plan.parts, width, plan.kept - start,
                     lambda i, j: (row + i, start + j), run.epilogue)  # fmt: skip
        return
    if plan.depth:
        _sum_up(run, tile, row, block)
        if not run.last:
            return
    finish(tile, run.registers, block.columns,
           lambda i, j: (*where, row + i, first + j), run.epilogue)  # fmt: skip


def _sum_up(run: Run, tile: Tile, row: Expr, block: Block) -> None:
    """Adds what the steps of K before have left in scratch to the tile, and leaves it there if
    steps come behind. Adding comes last: the register tile doesn't wait for what it loads."""
    plan = run.plan
    if run.scratch is None:
        raise InternalError("a matmul that keeps sums needs scratch")
    base = address(run.scratch_base, (1, plan.part(plan.k) - plan.sums))
    above = (block.step, plan.lanes * plan.highest)
    place = T.bind(address(base, above, (row - run.top, tile.columns)))
    if not is_int(run.first, 0):
        with T.If(i64(run.first) > i64(0)), T.Then():
            add(tile, run.registers, run.scratch.buffer, place, tile.columns)
    if not run.last:
        save(tile, run.registers, run.scratch.buffer, place, tile.columns)


def _from(read: ColumnReader, first: int, j: int, k: Expr) -> Expr:
    """Vector j of row k, counted from the tile's vector `first`."""
    return read(first + j, k)


def _column_reader(run: Run, where: Index, block: Block, side: Size) -> ColumnReader:
    """Reader of vector j of row k of the block."""
    plan, b, lanes = run.plan, run.b, run.plan.lanes
    if isinstance(b, Panels):
        each = b.width // lanes
        panel = plan.k * b.width
        start = T.bind(panel_start(run, b, where, block.step))

        def read(j: int, k: Expr) -> Expr:
            piece, number = divmod(j % each, each // b.pieces)
            first = address(start, (j // each, panel), (piece, div(panel, b.pieces)))
            at = first + k * (b.width // b.pieces) + number * lanes
            return widened(vector_at(b.buffer, at, lanes), b.dtype, lanes)

        return read
    if plan.source == "pack":
        packed = packed_panel(run, block, side)
        return lambda j, k: vector_at(packed.buffer, packed.at(k, i64(j * lanes)), lanes)
    start = T.bind(b.at(*where, i64(0), block.first))
    return lambda j, k: _edge_load(b, start, j, k, block, plan)


def panel_start(run: Run, b: Panels, where: Index, step: Expr) -> Expr:
    """Where the panel begins whose first accumulator has that number."""
    number = div(step, b.width // run.plan.lanes)
    return address(b.offset, *zip(where, b.strides), (number, run.plan.k * b.width))


def _edge_load(b: Operand, start: Expr, j: int, k: Expr, block: Block, plan: MatmulPlan) -> Expr:
    """Vector j of row k of b in place; lanes beyond the last column are not read."""
    at = address(start, (k, b.strides[-2]), (i64(j * plan.lanes), b.strides[-1]))
    width = block.vectors * plan.lanes
    return edge_vector(b.buffer, b.dtype, at, plan.lanes, j, block.columns, width)


def panel_in_place(run: Run, where: Index, block: Block) -> Operand:
    """The block's columns of b where they lie, or where they were turned."""
    b = run.b
    if run.plan.source == "turned":
        columns = turned_side(run)
        return replace(columns, offset=T.bind(columns.at(i64(0), block.first)))
    if not isinstance(b, Operand):
        raise InternalError("panels are packed already")
    return Operand(b.buffer, b.dtype, b.strides[-2:], T.bind(b.at(*where, i64(0), block.first)))


def turned_side(run: Run) -> Operand:
    """b [K, N] as it lies after `_turn`."""
    if run.scratch is None:
        raise InternalError("a matmul that packs needs scratch")
    width = ceil_div(run.plan.k, run.plan.lanes) * run.plan.lanes
    return Operand(run.scratch.buffer, run.plan.dtype, (1, width), run.scratch_base)


def packed_panel(run: Run, block: Block, side: Size) -> Operand:
    """Where the block's columns are packed, [K][width]."""
    if run.scratch is None:
        raise InternalError("a matmul that packs needs scratch")
    plan, width = run.plan, block.vectors * run.plan.lanes
    before = (run.first, plan.width * plan.sides) if plan.keeps else (0, 0)
    start = T.bind(address(run.scratch_base, before, (side, run.steps * plan.width)))
    return Operand(run.scratch.buffer, plan.dtype, (width, 1), start)
