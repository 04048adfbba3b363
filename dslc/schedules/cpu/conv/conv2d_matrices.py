"""Convolution of pairs of bf16 by registers that hold matrices (`tiles/matrix_tile.py`).

As `conv2d.py` does it, in NHWC, with a strip of a padded image in scratch: rows of a register are
pixels of an output row, a constant distance apart, and pairs of channels at a kernel's positions
are summed up. Where output rows are narrow, a tile has two of them, one for each register, or four
where they are so short that to read weights takes longer than to multiply. Behind the last one of
an image they are the same, and not used.

Weights that lie behind the L2 cache are read once for several images.

Tiles of a row are as wide as each other but for a pixel, and the narrow ones come first: their sums
of one more pixel are not used. So the registers are set up once.

An image spread by a stride (a gradient's) is multiplied with its zeros.

Non-goals: depthwise convolutions, products of all pixels (`matmul/matrices.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.conv2d import ConvPlan, each_strip, next_weights, plan_conv2d
from dslc.schedules.cpu.conv.image import View, copy_strip, seen_rows, view_in_place
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
    each_part,
    i64,
    is_int,
    larger,
    loop,
    rem,
    require,
    run_tasks,
    share,
    smaller,
)
from dslc.schedules.cpu.tiles.dots import PAIRS
from dslc.schedules.cpu.tiles.matrix_tile import (
    BYTES,
    FASTER,
    LANES,
    ROWS,
    Heights,
    MatrixTile,
    Side,
)

SHORT = 8  # pixels of a row of which a tile has `MANY`
MANY = 4


def plan_conv2d_matrices(shape: ConvShape, width: int, machine: Machine) -> ConvPlan:
    """The plan for weights in panels of `width` columns; of it, the tile's pixels and rows don't
    count."""
    plan = plan_conv2d(shape, PAIRS, width, machine)
    work = shape.work // FASTER if isinstance(shape.work, int) else shape.work
    if choose_tasks(machine, work) == 1:
        plan = replace(plan, tasks=1)
    return replace(plan, images=_images(plan, machine))


def _images(plan: ConvPlan, machine: Machine) -> int:
    """Of an item: as many as the L2 cache holds of what is read of them, if weights are far."""
    shape = plan.shape
    if not plan.asks or not is_int(plan.strips.count, 1):
        return 1
    (height, width), (kh, kw) = shape.plane, shape.kernel
    read = min(plan.strips.elements, height * width * kh * kw * shape.channels) * BYTES
    images = max(1, machine.l2_bytes * 3 // 4 // max(1, int(read)))
    if not isinstance(shape.batch, int):
        return images
    batch: int = max(1, shape.batch if plan.by_panels else -(-shape.batch // plan.tasks))
    return -(-batch // -(-batch // images))


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
        down = len(row.heights)
        tile = MatrixTile(down, 1 if down == MANY else plan.width // LANES)
        memory = matrix_tile.allocate(tile)
        matrix_tile.configure(row.heights)
        with _items(plan, x, scratch, task, tasks) as (item, panels):
            _strip(_Run(plan, item.view, weights, epilogue, tile, memory, row, item), panels)
        matrix_tile.release()

    run_tasks(plan.tasks, shape.work, body)


@dataclass(frozen=True, slots=True)
class _Item:
    """Strip number `strip` of `count` images from `first` on: where that of the first lies, and
    how far they are apart."""

    view: View
    first: Expr
    count: Size
    strip: Expr
    apart: Size


@contextmanager
def _items(
    plan: ConvPlan, x: Operand, scratch: Operand | None, task: Expr, tasks: int
) -> Iterator[tuple[_Item, tuple[Size, Size]]]:
    """A loop over the items that a task has to do, and the panels from one to another."""
    shape, strips = plan.shape, plan.strips
    if plan.images == 1:
        with each_strip(plan, x, scratch, task, tasks) as (view, image, strip, panels):
            yield _Item(view, image, 1, strip, 0), panels
        return
    items, across = ceil_div(shape.batch, plan.images), shape.groups * plan.panels
    units = across if plan.by_panels else items
    with each_part(task, tasks, units, shape.work) as (part, parts):
        own = share(units, part, parts)
        with loop(*((0, items) if plan.by_panels else own)) as number:
            first = T.bind(number * plan.images)
            count: Size = plan.images
            if not isinstance(shape.batch, int) or shape.batch % plan.images:
                count = T.bind(smaller(shape.batch - first, i64(plan.images)))
            apart, view = x.strides[0], view_in_place(strips, x, first, i64(0))
            if shape.is_padded:
                apart = strips.elements
                require(scratch is not None, "a padded convolution needs scratch")
                view = _copied(plan, x, cast(Operand, scratch), task, tasks, first, count)
            yield _Item(view, first, count, i64(0), apart), own if plan.by_panels else (0, across)


def _copied(
    plan: ConvPlan, x: Operand, scratch: Operand, task: Expr, tasks: int, first: Expr, count: Size
) -> View:
    """Padded images in scratch, one behind the other."""
    strips = plan.strips
    size = strips.elements * plan.images
    base = T.bind(address(scratch.offset, (task if tasks > 1 else 0, size)))
    with loop(0, count) as n:
        start = T.bind(base + n * strips.elements)
        copy_strip(strips, x, scratch, start, T.bind(first + n), i64(0))
    return View(scratch.buffer, base, plan.shape.padded[1] * strips.pixel, strips.pixel)


@dataclass(frozen=True, slots=True)
class _Row:
    """How output rows are cut: into `tiles` of `width` pixels, `low` of them a pixel narrower, in
    registers of such `heights`; or, with `rows`, so many whole ones are a tile."""

    tiles: Size
    width: Size
    low: Size
    heights: Heights
    rows: int = 0


def _row(shape: ConvShape) -> _Row:
    """Of a width that is not known, tiles have a single register of rows."""
    height, width = shape.out
    if isinstance(width, int):
        if width <= LANES:
            rows = 1 if is_int(height, 1) else 2
            if isinstance(height, int) and height > rows and width <= SHORT:
                rows = MANY
            return _Row(1, width, 0, (width,) * rows, rows)
        tiles = ceil_div(width, ROWS)
        each = ceil_div(width, tiles)
        top = ceil_div(each, 2)
        return _Row(tiles, each, tiles * each - width, (top, each - top))
    tiles = T.bind(i64(larger(ceil_div(width, LANES), 1)))
    each = T.bind(larger(tirx.truncdiv(width + tiles - 1, tiles), 1))
    return _Row(tiles, each, T.bind(tiles * each - width), (each,))


@dataclass(frozen=True, slots=True)
class _Run:
    plan: ConvPlan
    view: View  # of the image
    weights: Panels
    epilogue: Epilogue
    tile: MatrixTile
    memory: matrix_tile.Memory
    row: _Row
    item: _Item
    number: Expr = 0  # of the image in the item

    @property
    def strip(self) -> Expr:
        return self.item.strip

    def of_image(self, number: Expr) -> _Run:
        """The same for another image of the item."""
        if is_int(self.item.count, 1):
            return self
        base = T.bind(self.item.view.base + number * self.item.apart)
        return replace(self, view=replace(self.view, base=base), number=number)


def _strip(run: _Run, panels: tuple[Size, Size]) -> None:
    """All tiles of a strip, panel by panel or all panels of a tile one after the other."""
    if run.plan.panels_inside:
        with _tiles(run) as place, loop(*panels) as panel:
            _tile(run, panel, *place)
        return
    with loop(*panels) as panel, loop(0, run.item.count) as number:
        image = run.of_image(number)
        with _tiles(image) as place:
            _tile(image, panel, *place)


@contextmanager
def _tiles(run: _Run) -> Iterator[tuple[Expr, Expr, Size]]:
    """A loop over the tiles of a strip: their first pixel's row and column, and how many of a
    tile's rows are used."""
    plan, cut = run.plan, run.row
    rows = plan.strips.output_rows(run.strip)
    if cut.rows:
        with loop(0, ceil_div(rows, cut.rows)) as number:
            row = T.bind(number * cut.rows)
            all_ = isinstance(rows, int) and rows % cut.rows == 0
            left = smaller(rows - row, i64(cut.rows)) * cut.width
            yield row, i64(0), cut.rows * cut.width if all_ else T.bind(left)
        return
    with loop(0, rows) as row, loop(0, cut.tiles) as number:
        column = T.bind(number * cut.width - smaller(number, cut.low))
        narrow = tirx.Select(number < i64(cut.low), i64(1), i64(0))
        yield row, column, cut.width if is_int(cut.low, 0) else T.bind(i64(cut.width) - narrow)


def _tile(run: _Run, panel: Expr, row: Expr, column: Expr, used: Size) -> None:
    """The sums of pixels from (row, column) of the strip on, for the channels of a panel."""
    plan, shape, cut = run.plan, run.plan.shape, run.row
    part = rem(panel, plan.panels)
    out_row = T.bind(run.strip * plan.strips.rows + row)
    image = T.bind(run.item.first + run.number)
    across = run.tile.columns
    with loop(0, plan.width // across) as piece:
        place = T.bind(part * plan.width + piece * across)
        first = T.bind(address(place, (div(panel, plan.panels), shape.group_out_channels)))
        columns: Size = across
        if shape.group_out_channels % across:
            left = larger(smaller(shape.group_out_channels - place, i64(across)), 0)
            columns = T.bind(left)
        elif shape.group_out_channels % plan.width and across < plan.width:
            columns = T.bind(
                tirx.Select(place < i64(shape.group_out_channels), i64(across), i64(0))
            )
        matrix_tile.clear(run.tile)
        _reduce(run, panel, row, column, piece)

        def index(i: Expr, j: Expr) -> Index:
            if cut.rows > 1:
                return image, out_row + div(i, cut.width), rem(i, cut.width), first + j
            return image, out_row, column + i, first + j

        matrix_tile.finish(
            run.tile, run.memory, cut.heights, used, columns, index, run.epilogue
        )  # fmt: skip


def _reduce(run: _Run, panel: Expr, row: Expr, column: Expr, piece: Expr) -> None:
    """The sums over kernel rows, or kernel positions where those don't lie side by side; of columns
    of a panel as many as a tile has, the first of them `piece` tiles behind the panel's."""
    plan, shape, view, cut = run.plan, run.plan.shape, run.view, run.row
    (kh, kw), (sh, sw), (dh, dw) = shape.kernel, shape.stride, shape.dilation
    channels = shape.group_channels
    together = shape.groups == 1 and (kw == 1 or (dw == 1 and view.pixel == channels))
    positions, length = (1, kw * channels) if together else (kw, channels)
    group = div(panel, plan.panels)
    origin = T.bind(view.at(row * sh, column * sw, group * channels if shape.groups > 1 else 0))
    kernel = T.bind(
        address(run.weights.offset, (panel, kh * kw * channels * plan.width))
        + piece * run.tile.columns
    )
    whole, seen, pieces = length // LANES, max(1, cut.rows), plan.width // run.tile.columns
    ask = None
    if plan.asks and whole:
        pixel = T.bind((run.number * plan.strips.rows + row) * shape.out[1] + column)
        pixels, steps = seen * cut.width, kh * positions * whole
        ask = next_weights(plan, run.weights, panel, pixel, pixels, steps * pieces)
    below = _below(run, row)
    start, stop = seen_rows(shape, T.bind(run.strip * plan.strips.rows + row), seen)
    with loop(0, stop - start) as step, loop(0, positions) as z:
        y = T.bind(i64(start + step))
        base = T.bind(address(origin, (y * dh, view.row_stride), (z * dw, view.pixel)))
        place = T.bind(kernel + (y * kw + z) * (channels * plan.width))
        done = T.bind(((piece * kh + y) * positions + z) * whole)
        matrix_tile.reduce(
            run.tile, run.memory, length, cut.heights,
            Side(view.buffer, lambda i, k: address(base, (1, below[i])) + k, sw * view.pixel),
            Side(run.weights.buffer, lambda j, k: place + k * plan.width + j * LANES, plan.width),
            None if ask is None else lambda step: ask(done + step),
        )  # fmt: skip


def _below(run: _Run, row: Expr) -> list[Size]:
    """How far each register's pixels lie behind those of the first."""
    shape, view, cut = run.plan.shape, run.view, run.row
    if cut.rows > 1:
        last = i64(run.plan.strips.output_rows(run.strip) - 1)
        apart = shape.stride[0] * view.row_stride
        return [0] + [T.bind((smaller(row + i, last) - row) * apart) for i in range(1, cut.rows)]
    return [0, address(0, (cut.heights[0], shape.stride[1] * view.pixel))]
