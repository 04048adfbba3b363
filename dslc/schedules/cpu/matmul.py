"""Matrix multiplication, batched: the sum over k of a[.., i, k] * b[.., k, j].

Two ways to fill the registers:
- *rows*: lanes run along N, elements of `a` are broadcast. `b` is read in place when it is
  contiguous along N, from panels packed beforehand (`Panels`), or from a panel packed into scratch
  by the kernel itself. Any strides are right.
- *dots*: lanes run along K, for `a` and `b` both contiguous along K (dense layers with weights as
  stored, [N, K]) and long: nothing is packed, sums over lanes come last.

`plan_matmul` chooses by shape; `emit_matmul` emits. M may be a TIR expression at full speed, K, N
and batch extents at some cost.

Of pairs of bf16 (`dots.py`) K and the operands count in pairs.

Non-goals: blocking of K (measured: no gain up to K = 50,000), integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tvm.tirx.script import builder as T

from dslc.schedules.cpu import dot_tile
from dslc.schedules.cpu.contract import (
    ITEMSIZE,
    Epilogue,
    Expr,
    Index,
    Machine,
    Operand,
    Panels,
    Size,
    address,
    ceil_div,
    choose_tasks,
    edge_vector,
    i64,
    is_int,
    larger,
    loop,
    product,
    require,
    run_tasks,
    share,
    smaller,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.pack import pack_panel
from dslc.schedules.cpu.register_tile import (
    Registers,
    Tile,
    allocate,
    clear,
    finish,
    reduce_segment,
)
from dslc.schedules.cpu.split import Group, split

FEW = 8  # rows up to which packing b would take longer than the product
WIDE = 2048  # columns from which packed-on-the-fly panels are four vectors wide


@dataclass(frozen=True, slots=True)
class MatmulPlan:
    """How a matmul is run. `source`: where column vectors come from, "panels" (packed
    beforehand), "place" (b itself) or "pack" (scratch); "dots" is the other kind of tile.
    `split`: what the tasks share out: "batch", "rows" or "columns"."""

    m: Size
    n: Size
    k: Size
    batch: tuple[Size, ...]
    dtype: str
    source: str
    rows: int
    vectors: int
    lanes: int
    split: str
    tasks: int
    rows_outside: bool

    @property
    def work(self) -> Size:
        """Multiply-adds."""
        return product([*self.batch, self.m, self.n, self.k])

    @property
    def width(self) -> int:
        """Columns of a tile."""
        return self.vectors * (1 if self.source == "dots" else self.lanes)

    def scratch_bytes(self, k: Size) -> Size:
        """Bytes of scratch, given K (in whatever form the caller counts sizes)."""
        if self.source != "pack":
            return 0
        return k * (self.width * ITEMSIZE[self.dtype] * self.tasks)


def plan_matmul(
    a: Operand, b: Operand | Panels, m: Size, n: Size, k: Size, machine: Machine,
    batch: Sequence[Size] = (), most: int | None = None,
) -> MatmulPlan:  # fmt: skip
    """The plan for a [batch.., M, K] and b [batch.., K, N]; strides are all that is looked at.
    `most`: what M never exceeds, where that is known."""
    require(a.dtype == b.dtype and a.dtype in ITEMSIZE, f"matmul of {a.dtype} and {b.dtype}")
    lanes = machine.lanes(a.dtype)
    most = m if isinstance(m, int) else most
    few = most is not None and most <= FEW
    source = _source(a, b, few, n, k, lanes)
    rows, vectors = _tile_shape(source, b, m, n, k, machine, a.dtype)
    if few and most is not None and not isinstance(m, int):
        rows, vectors = _few_rows(rows, vectors, most, source, n, machine.registers, lanes)
    tasks = choose_tasks(machine, product([*batch, m, n, k]))
    tile_columns = vectors * (1 if source == "dots" else lanes)
    b_bytes = product([n, k]) if source == "panels" or source == "place" else None
    return MatmulPlan(
        m, n, k, tuple(batch), a.dtype, source, rows, vectors, lanes,
        split=_split_axis(m, n, batch, rows, tile_columns, tasks),
        tasks=tasks,
        rows_outside=isinstance(b_bytes, int)
        and b_bytes * ITEMSIZE[a.dtype] <= machine.l2_bytes // 2,
    )  # fmt: skip


def _source(a: Operand, b: Operand | Panels, few: bool, n: Size, k: Size, lanes: int) -> str:
    if isinstance(b, Panels):
        return "panels"
    along_n, along_k = is_int(b.strides[-1], 1), is_int(b.strides[-2], 1)
    if along_n and (few or is_int(n, 1)):
        return "place"
    long = isinstance(k, int) and k >= (8 if few else 32) * lanes
    if along_k and is_int(a.strides[-1], 1) and long:
        return "dots"
    return "pack"


def _tile_shape(
    source: str, b: Operand | Panels, m: Size, n: Size, k: Size, machine: Machine, dtype: str
) -> tuple[int, int]:
    """Rows and vectors of the tile: as many accumulators as registers allow."""
    lanes = machine.lanes(dtype)
    wide = machine.registers == 32
    if source == "dots":
        rows, vectors = (6, 4) if wide else (3, 4)
        if isinstance(m, int) and m < 4:
            rows, vectors = m, (8 if wide else 4)
        return max(1, rows), min(vectors, n) if isinstance(n, int) and n else vectors
    if isinstance(b, Panels):
        vectors = b.width // lanes
    elif isinstance(n, int) and n <= lanes:
        vectors = 1
    elif source == "place" and isinstance(m, int) and m <= 2 and wide:
        vectors = min(8, ceil_div(n, lanes)) if isinstance(n, int) else 8
    elif source == "pack" and wide and isinstance(n, int) and n >= WIDE:
        vectors = 4  # longer runs of rows that lie far apart: fewer pages are touched at a time
    else:
        vectors = 2
    rows = (14 if vectors == 1 else 24 // vectors) if wide else (8 if vectors == 1 else 6)
    if isinstance(k, int) and k and k * ITEMSIZE[dtype] % 4096 == 0 and wide:
        rows = min(rows, 8)  # rows a multiple of 4 KiB apart fall into one set of the L1 cache
    return rows, vectors


def _few_rows(
    rows: int, vectors: int, most: int, source: str, n: Size, registers: int, lanes: int
) -> tuple[int, int]:
    """The tile of an unknown, small number of rows: no higher than they can be, and the wider."""
    if source != "place" or (isinstance(n, int) and n < 2 * lanes):
        return min(rows, max(1, most)), vectors
    rows = min(most, 4) or 1
    return rows, min(8, (24 if registers == 32 else 12) // rows)


def _split_axis(
    m: Size, n: Size, batch: Sequence[Size], rows: int, columns: int, tasks: int
) -> str:
    """The axis whose tiles the tasks share out: the first that has enough of them."""
    if batch and (not isinstance(total := product(batch), int) or total >= tasks):
        return "batch"
    row_tiles, column_tiles = div_up(m, rows), div_up(n, columns)
    if row_tiles is None:
        return "rows"
    if column_tiles is None:
        return "columns"
    return "rows" if row_tiles >= 2 * tasks or row_tiles >= column_tiles else "columns"


def div_up(size: Size, by: int) -> int | None:
    """Tiles in `size`; None when it is not known."""
    return -(-size // by) if isinstance(size, int) else None


def emit_matmul(
    plan: MatmulPlan,
    a: Operand,
    b: Operand | Panels,
    epilogue: Epilogue,
    scratch: Operand | None = None,
) -> None:
    """Emits the kernel's body. The epilogue's index is (batch.., i, j).

    `scratch` (rank 1) holds `plan.scratch_bytes` bytes; its stride is 1.
    """
    groups = split(plan.m, plan.rows)
    panels = ceil_div(plan.n, plan.width)
    tiles = [Tile(g.height, plan.vectors, plan.lanes, plan.dtype) for g in groups]
    if not tiles:
        return

    def body(task: Expr, tasks: int) -> None:
        shares = {axis: tasks if plan.split == axis else 1 for axis in ("batch", "rows", "columns")}
        registers = dot_tile.allocate(tiles) if plan.source == "dots" else allocate(tiles)
        run = _Run(plan, a, b, epilogue, scratch, task, tasks, registers)
        start, stop = share(product(plan.batch), task, shares["batch"])
        with loop(start, stop) as flat:
            where = unflatten(flat, plan.batch)
            ranges = _group_ranges(groups, task, shares["rows"])
            columns = share(panels, task, shares["columns"])
            (_rows_outside if plan.rows_outside else _columns_outside)(run, where, ranges, columns)

    run_tasks(plan.tasks, plan.work, body)


@dataclass(frozen=True, slots=True)
class _Run:
    plan: MatmulPlan
    a: Operand
    b: Operand | Panels
    epilogue: Epilogue
    scratch: Operand | None
    task: Expr
    tasks: int
    registers: Registers

    @property
    def scratch_base(self) -> Size:
        """Where this task's part of the scratch starts."""
        if self.scratch is None:
            return 0
        part = self.plan.k * self.plan.width
        return address(self.scratch.offset, (self.task if self.tasks > 1 else 0, part))


_Range = tuple[Group, Size, Size]  # tiles [start, stop) of a group


def _group_ranges(groups: list[Group], task: Expr, tasks: int) -> list[_Range]:
    """The task's tiles of each group: its balanced share of all tiles."""
    if tasks == 1:
        return [(g, 0, g.count) for g in groups]
    total: Size = 0
    for group in groups:
        total = total + group.count
    start, stop = share(total, task, tasks)
    ranges, before = [], 0
    for group in groups:
        low = larger(0, smaller(start - before, group.count))
        high = larger(0, smaller(stop - before, group.count))
        ranges.append((group, T.bind(i64(low)), T.bind(i64(high))))
        before = before + group.count
    return ranges


def _rows_outside(
    run: _Run, where: Index, ranges: list[_Range], columns: tuple[Size, Size]
) -> None:
    for group, start, stop in ranges:
        with loop(start, stop) as t, loop(*columns) as panel:
            _tile(run, where, t * group.height + group.start, group.height, panel)


def _columns_outside(
    run: _Run, where: Index, ranges: list[_Range], columns: tuple[Size, Size]
) -> None:
    plan = run.plan
    with loop(*columns) as panel:
        if plan.source == "pack":
            require(run.scratch is not None, "a matmul that packs needs scratch")
            _pack(run, where, panel)
        for group, start, stop in ranges:
            with loop(start, stop) as t:
                _tile(run, where, t * group.height + group.start, group.height, panel)


def _pack(run: _Run, where: Index, panel: Expr) -> None:
    """Columns of panel `panel` of b to this task's scratch, [K][width], zeros beyond N."""
    plan, b, scratch = run.plan, run.b, run.scratch
    if not isinstance(b, Operand) or scratch is None:
        return
    source = Operand(b.buffer, b.dtype, b.strides[-2:], b.at(*where, i64(0), panel * plan.width))
    pack_panel(
        source, Operand(scratch.buffer, plan.dtype, (plan.width, 1), T.bind(i64(run.scratch_base))),
        plan.k, _columns_of(plan, panel), plan.width, plan.lanes,
    )  # fmt: skip


def _columns_of(plan: MatmulPlan, panel: Expr) -> Size:
    """Columns of a panel that exist."""
    if isinstance(plan.n, int) and plan.n % plan.width == 0:
        return plan.width
    if isinstance(plan.n, int) and plan.n < plan.width:
        return plan.n
    return T.bind(i64(smaller(plan.n - panel * plan.width, plan.width)))


def _tile(run: _Run, where: Index, row: Expr, height: int, panel: Expr) -> None:
    """One tile: rows [row, row + height), columns of `panel`."""
    plan, a = run.plan, run.a
    tile = Tile(height, plan.vectors, plan.lanes, plan.dtype)
    row, first = T.bind(i64(row)), T.bind(i64(panel * plan.width))
    base = T.bind(a.at(*where, row, i64(0)))
    columns = _columns_of(plan, panel)
    if plan.source == "dots" and isinstance(run.b, Operand):
        dot_tile.emit(
            tile, run.registers, plan.k, columns,
            Operand(a.buffer, a.dtype, a.strides[-2:], base),
            Operand(run.b.buffer, a.dtype, run.b.strides[-2:], run.b.at(*where, i64(0), first)),
        )  # fmt: skip
        dot_tile.finish(tile, run.registers, columns,
                        lambda i, j: (*where, row + i, first + j), run.epilogue)  # fmt: skip
        return
    clear(tile, run.registers)
    reduce_segment(
        tile, run.registers, plan.k,
        lambda i, k: a.buffer[address(base, (i64(i), a.strides[-2]), (k, a.strides[-1]))],
        _column_reader(run, where, panel, columns),
    )  # fmt: skip
    finish(tile, run.registers, columns,
           lambda i, j: (*where, row + i, first + j), run.epilogue)  # fmt: skip


def _column_reader(
    run: _Run, where: Index, panel: Expr, columns: Size
) -> Callable[[int, Expr], Expr]:
    """Reader of vector j of row k of the panel."""
    plan, b, lanes = run.plan, run.b, run.plan.lanes
    if isinstance(b, Panels):
        start = T.bind(address(
            b.offset, *zip(where, b.strides), (panel, plan.k * plan.width)
        ))  # fmt: skip
        return lambda j, k: vector_at(b.buffer, start + k * plan.width + j * lanes, lanes)
    if plan.source == "pack" and run.scratch is not None:
        buffer, start = run.scratch.buffer, T.bind(i64(run.scratch_base))
        return lambda j, k: vector_at(buffer, start + k * plan.width + j * lanes, lanes)
    start = T.bind(b.at(*where, i64(0), panel * plan.width))
    return lambda j, k: _edge_load(b, start, j, k, columns, plan)


def _edge_load(b: Operand, start: Expr, j: int, k: Expr, columns: Size, plan: MatmulPlan) -> Expr:
    """Vector j of row k of b in place; lanes beyond the last column are not read."""
    at = address(start, (k, b.strides[-2]), (i64(j * plan.lanes), b.strides[-1]))
    return edge_vector(b.buffer, b.dtype, at, plan.lanes, j, columns, plan.width)
