"""Convolution of pairs of bf16 by registers that hold matrices (`tiles/matrix_tile.py`).

As `conv2d.py` does it, in NHWC, with a strip of a padded image in scratch: rows of a register are
pixels of an output row, a constant distance apart, and pairs of channels at a kernel's positions
are summed up. Where output rows are narrow, a tile has two of them, one for each register; of the
last one, if there is an odd number, both are the same, and the second is not used.

Tiles of a row are as wide as each other but for a pixel, and the narrow ones come first: their sums
of one more pixel are not used. So the registers are set up once.

Non-goals: depthwise convolutions, images spread by a stride (`spread.py`), products of all pixels
(`matmul/matrices.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.conv2d import ConvPlan, each_strip, next_weights, plan_conv2d
from dslc.schedules.cpu.conv.image import View, seen_rows
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles import matrix_tile
from dslc.schedules.cpu.tiles.contract import (
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
    div,
    i64,
    is_int,
    larger,
    loop,
    rem,
    require,
    run_tasks,
    smaller,
)
from dslc.schedules.cpu.tiles.dots import PAIRS
from dslc.schedules.cpu.tiles.matrix_tile import FASTER, LANES, ROWS, Heights, MatrixTile, Side


def plan_conv2d_matrices(shape: ConvShape, width: int, machine: Machine) -> ConvPlan:
    """The plan for weights in panels of `width` columns; of it, the tile's pixels and rows don't
    count."""
    plan = plan_conv2d(shape, PAIRS, width, machine)
    work = shape.work // FASTER if isinstance(shape.work, int) else shape.work
    return replace(plan, tasks=1) if choose_tasks(machine, work) == 1 else plan


def emit_conv2d_matrices(
    plan: ConvPlan, x: Operand, weights: Panels, epilogue: Epilogue, scratch: Operand | None = None
) -> None:
    """Emits the kernel's body; x is [batch, height, width, channels], in pairs of channels. The
    epilogue's index is (image, row, column, output channel). `scratch` (rank 1) holds
    `plan.scratch_bytes` bytes."""
    shape = plan.shape
    require(weights.width == plan.width, "weights are packed for another tile")
    if 0 in (*shape.out, shape.out_channels, shape.batch):
        return

    def body(task: Expr, tasks: int) -> None:
        row = _row(shape)
        tile = MatrixTile(len(row.heights), plan.width // LANES)
        memory = matrix_tile.allocate(tile)
        matrix_tile.configure(row.heights)
        with each_strip(plan, x, scratch, task, tasks) as (view, image, strip, panels):
            run = _Run(plan, view, weights, epilogue, tile, memory, row, image, strip)
            _strip(run, panels)
        matrix_tile.release()

    run_tasks(plan.tasks, shape.work, body)


@dataclass(frozen=True, slots=True)
class _Row:
    """How an output row is cut: into `tiles` of `width` pixels, `low` of them a pixel narrower, in
    registers of such `heights`; `pairs`: a tile has two rows instead."""

    tiles: Size
    width: Size
    low: Size
    heights: Heights
    pairs: bool


def _row(shape: ConvShape) -> _Row:
    """Of a width that is not known, tiles have a single register of rows."""
    width = shape.out[1]
    if isinstance(width, int):
        if width <= LANES:
            pairs = not is_int(shape.out[0], 1)
            return _Row(1, width, 0, (width,) * (2 if pairs else 1), pairs)
        tiles = ceil_div(width, ROWS)
        each = ceil_div(width, tiles)
        top = ceil_div(each, 2)
        return _Row(tiles, each, tiles * each - width, (top, each - top), False)
    tiles = T.bind(i64(larger(ceil_div(width, LANES), 1)))
    each = T.bind(larger(tirx.truncdiv(width + tiles - 1, tiles), 1))
    return _Row(tiles, each, T.bind(tiles * each - width), (each,), False)


@dataclass(frozen=True, slots=True)
class _Run:
    plan: ConvPlan
    view: View
    weights: Panels
    epilogue: Epilogue
    tile: MatrixTile
    memory: matrix_tile.Memory
    row: _Row
    image: Expr
    strip: Expr


def _strip(run: _Run, panels: tuple[Size, Size]) -> None:
    """All tiles of a strip, panel by panel or all panels of a tile one after the other."""
    if run.plan.panels_inside:
        with _tiles(run) as place, loop(*panels) as panel:
            _tile(run, panel, *place)
        return
    with loop(*panels) as panel, _tiles(run) as place:
        _tile(run, panel, *place)


@contextmanager
def _tiles(run: _Run) -> Iterator[tuple[Expr, Expr, Size]]:
    """A loop over the tiles of a strip: their first pixel's row and column, and how many of a
    tile's rows are used."""
    plan, cut = run.plan, run.row
    rows = plan.strips.output_rows(run.strip)
    if cut.pairs:
        with loop(0, ceil_div(rows, 2)) as pair:
            row = T.bind(pair * 2)
            both = isinstance(rows, int) and rows % 2 == 0
            used = 2 * cut.width if both else T.bind(smaller(rows - row, i64(2)) * cut.width)
            yield row, i64(0), used
        return
    with loop(0, rows) as row, loop(0, cut.tiles) as number:
        column = T.bind(number * cut.width - smaller(number, cut.low))
        narrow = tirx.Select(number < i64(cut.low), i64(1), i64(0))
        yield row, column, cut.width if is_int(cut.low, 0) else T.bind(i64(cut.width) - narrow)


def _tile(run: _Run, panel: Expr, row: Expr, column: Expr, used: Size) -> None:
    """The sums of pixels from (row, column) of the strip on, for the channels of a panel."""
    plan, shape, cut = run.plan, run.plan.shape, run.row
    part = rem(panel, plan.panels)
    first = T.bind(
        address(0, (div(panel, plan.panels), shape.group_out_channels), (part, plan.width))
    )
    out_row = T.bind(run.strip * plan.strips.rows + row)
    matrix_tile.clear(run.tile)
    _reduce(run, panel, row, column)
    tail = shape.group_out_channels % plan.width
    columns: Size = plan.width
    if tail:
        left = shape.group_out_channels - part * plan.width
        columns = tail if plan.panels == 1 else T.bind(i64(smaller(left, plan.width)))

    def index(i: Expr, j: Expr) -> Index:
        if cut.pairs:
            return run.image, out_row + div(i, cut.width), rem(i, cut.width), first + j
        return run.image, out_row, column + i, first + j

    matrix_tile.finish(
        run.tile, run.memory, cut.heights, used, columns, index, run.epilogue
    )  # fmt: skip


def _reduce(run: _Run, panel: Expr, row: Expr, column: Expr) -> None:
    """The sums over kernel rows, or kernel positions where those don't lie side by side."""
    plan, shape, view, cut = run.plan, run.plan.shape, run.view, run.row
    (kh, kw), (sh, sw), (dh, dw) = shape.kernel, shape.stride, shape.dilation
    channels = shape.group_channels
    together = shape.groups == 1 and (kw == 1 or (dw == 1 and view.pixel == channels))
    positions, length = (1, kw * channels) if together else (kw, channels)
    group = div(panel, plan.panels)
    origin = T.bind(view.at(row * sh, column * sw, group * channels if shape.groups > 1 else 0))
    kernel = T.bind(address(run.weights.offset, (panel, kh * kw * channels * plan.width)))
    below: Size = 0  # from the first register's pixels to the second's
    if cut.pairs:
        rows = plan.strips.output_rows(run.strip)
        last = i64(rows - 1)
        below = T.bind((smaller(row + 1, last) - row) * (sh * view.row_stride))
    elif len(cut.heights) > 1:
        below = address(0, (cut.heights[0], sw * view.pixel))
    whole = length // LANES
    ask = None
    if plan.asks and whole:
        pixel = T.bind(row * shape.out[1] + column)
        pixels = (1 + cut.pairs) * cut.width
        ask = next_weights(plan, run.weights, panel, pixel, pixels, kh * positions * whole)
    start, stop = seen_rows(shape, T.bind(run.strip * plan.strips.rows + row), 1 + cut.pairs)
    with loop(0, stop - start) as step, loop(0, positions) as z:
        y = T.bind(i64(start + step))
        base = T.bind(address(origin, (y * dh, view.row_stride), (z * dw, view.pixel)))
        place = T.bind(kernel + (y * kw + z) * (channels * plan.width))
        done = T.bind((y * positions + z) * whole)
        matrix_tile.reduce(
            run.tile, run.memory, length, cut.heights,
            Side(view.buffer, lambda i, k: address(base, (i, below)) + k, sw * view.pixel),
            Side(run.weights.buffer, lambda j, k: place + k * plan.width + j * LANES, plan.width),
            None if ask is None else lambda step: ask(done + step),
        )  # fmt: skip
