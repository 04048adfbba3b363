"""Convolution forwards, and backwards to its input, over NHWC images.

y[n, i, j, o] = epilogue(sum over kh, kw, c of x[n, i s + kh d - p, j s + kw d - p, c] * w[...]):
a register tile of pixels (rows) by output channels (lanes). In NHWC the elements that a kernel row
reads for one pixel, KW * C of them, lie side by side, so a tile is a few reductions of that length,
one per kernel row, and its A rows are constant distances apart. Tiles take pixels of one output
row, or whole rows together where images are narrow. Weights come as `Panels`.

The gradient with respect to the input is the convolution `backward_input_shape` gives, on weights
turned round by the caller. Depthwise convolutions have their own template (`depthwise.py`).

Of pairs of bf16 (`tiles/dots.py`) all that is said of channels is said of pairs of them.

Non-goals: Winograd, packing of weights (ordinary IR ops do that once).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.schedules.cpu.conv.image import (
    Strips,
    View,
    copy_strip,
    plan_strips,
    seen_rows,
    view_in_place,
)
from dslc.schedules.cpu.conv.shape import ConvShape, Pair
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    LINE_BYTES,
    Ahead,
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
    loop,
    prefetch,
    product,
    rem,
    require,
    run_tasks,
    share,
    smaller,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.register_tile import (
    UNROLL,
    Registers,
    Tile,
    allocate,
    clear,
    finish,
    reduce_segment,
)
from dslc.schedules.cpu.tiles.split import split

UNROLLED = 64  # steps of a whole reduction up to which its kernel positions are written out


@dataclass(frozen=True, slots=True)
class Positions:
    """Of a packed `kernel` those positions, along each axis, that a convolution has."""

    kernel: Pair
    taps: tuple[range, range]

    @property
    def whole_rows(self) -> bool:
        """Whether positions of a row lie side by side."""
        return self.taps[1].step == 1 or len(self.taps[1]) == 1

    def at(self, y: Size, z: Size) -> Size:
        """Number of the kernel's position that is the convolution's (y, z)."""
        rows, columns = self.taps
        row, column = y * rows.step + rows.start, z * columns.step + columns.start
        return row * self.kernel[1] + column


def all_positions(kernel: Pair) -> Positions:
    return Positions(kernel, (range(kernel[0]), range(kernel[1])))


@dataclass(frozen=True, slots=True)
class ConvPlan:
    """How a convolution is run. A tile holds `tile_rows` whole output rows, or when that is 0
    up to `pixels` pixels of one row. Items (image, strip) are shared out to the tasks, or panels
    if `by_panels`. `asks`: whether tiles ask for the weights of the next panel. `images` are an
    item together, where strips are whole ones: a panel meets all of them."""

    shape: ConvShape
    dtype: str
    vectors: int
    lanes: int
    pixels: int
    tile_rows: int
    strips: Strips
    tasks: int
    by_panels: bool
    positions: Positions
    panels_inside: bool
    asks: bool = False
    images: int = 1

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        """Panels of one group."""
        return -(-self.shape.group_out_channels // self.width)

    @property
    def pointwise(self) -> bool:
        """Whether tiles lie in memory one behind the other, and a reduction has some steps."""
        return self.shape.is_product and self.shape.channels >= 4 * UNROLL

    @property
    def scratch_bytes(self) -> Size:
        """Bytes of scratch."""
        if not self.shape.is_padded:
            return 0
        return self.strips.elements * (ITEMSIZE[self.dtype] * self.tasks * self.images)


def plan_conv2d(
    shape: ConvShape, dtype: str, width: int, machine: Machine, positions: Positions | None = None
) -> ConvPlan:
    """The plan for weights in panels of `width` (see `panel_width`); of their positions all, or
    those given."""
    require(dtype in ITEMSIZE, f"convolution of {dtype}")
    lanes = machine.lanes(dtype)
    vectors = width // lanes
    many = machine.registers == 32
    pixels = (14 if vectors <= 2 else 7) if many else (6 if vectors > 1 else 12)
    if many and vectors == 2 and _taps(shape) * shape.group_channels <= UNROLLED:
        pixels = 8  # LLVM loads ahead where all is written out, and needs registers for it
    out_width = shape.out[1]
    narrow = isinstance(out_width, int) and 0 < out_width <= pixels // 2
    tasks = choose_tasks(machine, shape.work)
    by_rows = plan_strips(shape, machine, dtype, tasks, shape.channels)
    by_panels = tasks > 1 and _suits_panels(by_rows, -(-shape.group_out_channels // width), tasks)
    return ConvPlan(
        shape, dtype, vectors, lanes, pixels,
        tile_rows=pixels // out_width if narrow else 0,
        strips=plan_strips(shape, machine, dtype, 1, shape.channels) if by_panels else by_rows,
        tasks=tasks,
        by_panels=by_panels,
        positions=positions or all_positions(shape.kernel),
        panels_inside=_panels_inside(shape, dtype, machine),
        asks=machine.matrices and _are_far(shape, dtype, machine),
    )  # fmt: skip


def _suits_panels(strips: Strips, panels: int, tasks: int) -> bool:
    """Whether tasks are more even if each takes panels, with all images: few rows rarely come out
    even. Where images are copied, each task would copy them."""
    shape = strips.shape
    if shape.is_padded or not all(isinstance(n, int) for n in (shape.batch, *shape.out)):
        return False
    most_rows = ceil_div(shape.batch * strips.count, tasks) * strips.rows
    most_panels = ceil_div(shape.groups * panels, tasks)
    rows = shape.batch * shape.out[0]
    return bool(most_panels * rows < most_rows * shape.groups * panels)


def _panels_inside(shape: ConvShape, dtype: str, machine: Machine) -> bool:
    """Whether weights stay in the L2 cache and results don't: then all channels of a pixel are
    written (and what is added to them is read) together, as memory likes it."""
    (kh, kw), size = shape.kernel, ITEMSIZE[dtype]
    weights = kh * kw * shape.group_channels * shape.out_channels * size
    results = product([shape.batch, *shape.out, shape.out_channels * size])
    small = isinstance(results, int) and results <= 2 * machine.l2_bytes
    return weights <= machine.l2_bytes // 4 and not small


def _are_far(shape: ConvShape, dtype: str, machine: Machine) -> bool:
    """Whether weights come from behind the L2 cache, for tiles that are all known."""
    known = all(isinstance(size, int) for size in shape.out)
    bytes_ = _taps(shape) * shape.group_channels * shape.out_channels * ITEMSIZE[dtype]
    return known and bytes_ > machine.near_bytes and not _panels_inside(shape, dtype, machine)


def next_weights(
    plan: ConvPlan, weights: Panels, panel: Expr, pixel: Expr, pixels: int, steps: int
) -> Callable[[Expr], None]:
    """Asks for the weights of the next panel at each of `steps` steps of a tile of so many pixels,
    from number `pixel` of the strip on: all of its tiles do it evenly."""
    size = _taps(plan.shape) * plan.shape.group_channels * plan.width
    line = LINE_BYTES // ITEMSIZE[plan.dtype]
    tiles = max(1, plan.images * plan.strips.rows * plan.shape.out[1] // pixels)
    each = ceil_div(size, tiles * steps * line)
    start = T.bind(
        address(weights.offset, (panel + 1, size)) + div(pixel, pixels) * (steps * each * line)
    )

    def ask(step: Expr) -> None:
        first = T.bind(start + step * (each * line))
        for i in range(each):
            prefetch(weights.buffer[first + i * line], 2)

    return ask


def _taps(shape: ConvShape) -> int:
    return shape.kernel[0] * shape.kernel[1]


def emit_conv2d(
    plan: ConvPlan, x: Operand, weights: Panels, epilogue: Epilogue, scratch: Operand | None = None,
    ahead: Ahead | None = None,
) -> None:  # fmt: skip
    """Emits the kernel's body; x is [batch, height, width, channels]. The epilogue's index is
    (image, row, column, output channel). `scratch` (rank 1) holds `plan.scratch_bytes` bytes.
    `ahead` is called at the beginning of a tile, for each vector of its results."""
    shape = plan.shape
    require(weights.width == plan.width, "weights are packed for another tile")
    tiles = [Tile(t.pixels, plan.vectors, plan.lanes, plan.dtype) for t in _tilings(plan)]
    if not tiles:
        return

    def body(task: Expr, tasks: int) -> None:
        registers = allocate(tiles)
        with each_strip(plan, x, scratch, task, tasks) as (view, image, strip, across):
            _strip(_Strip(plan, view, weights, epilogue, ahead, registers, image, strip, across))

    run_tasks(plan.tasks, shape.work, body)


@contextmanager
def each_strip(
    plan: ConvPlan, x: Operand, scratch: Operand | None, task: Expr, tasks: int
) -> Iterator[tuple[View, Expr, Expr, tuple[Size, Size]]]:
    """A loop over the strips that a task has to do: where one lies, its image, its number, and the
    panels from one to another."""
    shape, strips = plan.shape, plan.strips
    items, panels = shape.batch * strips.count, shape.groups * plan.panels
    units = panels if plan.by_panels else items
    with each_part(task, tasks, units, shape.work) as (part, parts):
        own = share(units, part, parts)
        with loop(*((0, items) if plan.by_panels else own)) as item:
            image, strip = unflatten(item, (shape.batch, strips.count))
            if not shape.is_padded:
                view = view_in_place(strips, x, image, strip)
            elif scratch is None:
                raise InternalError("a padded convolution needs scratch")
            else:
                base = address(scratch.offset, (task if tasks > 1 else 0, strips.elements))
                view = copy_strip(strips, x, scratch, T.bind(base), image, strip)
            yield view, image, strip, own if plan.by_panels else (0, panels)


@dataclass(frozen=True, slots=True)
class _Tiling:
    """A tile of `rows` output rows x `columns` pixels of each."""

    rows: int
    columns: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, slots=True)
class _Strip:
    plan: ConvPlan
    view: View
    weights: Panels
    epilogue: Epilogue
    ahead: Ahead | None
    registers: Registers
    image: Expr
    strip: Expr
    panels: tuple[Size, Size]  # from one to another


def _tilings(plan: ConvPlan) -> list[_Tiling]:
    """All tiles that a strip may be cut into."""
    if plan.tile_rows:
        width = plan.shape.out[1]
        rows = plan.strips.rows if plan.strips.count == 1 else i64(1)
        return [_Tiling(g.height, width) for g in split(rows, plan.tile_rows)]
    return [_Tiling(1, g.height) for g in split(plan.shape.out[1], plan.pixels)]


def _strip(run: _Strip) -> None:
    """All tiles of a strip, panel by panel or all panels of a tile one after the other."""
    if run.plan.panels_inside:
        for tiling, row, column in _tiles(run):
            with loop(*run.panels) as panel:
                _tile(run, panel, tiling, row, column)
        return
    with loop(*run.panels) as panel:
        for tiling, row, column in _tiles(run):
            _tile(run, panel, tiling, row, column)


def _tiles(run: _Strip) -> Iterator[tuple[_Tiling, Expr, Expr]]:
    """The kinds of tiles of a strip, each inside of the loops over them, with its first pixel."""
    plan = run.plan
    rows = plan.strips.output_rows(run.strip)
    if plan.tile_rows:
        tiled = rows if plan.strips.count == 1 else i64(rows)
        for group in split(tiled, plan.tile_rows):
            tiling = _Tiling(group.height, plan.shape.out[1])
            with loop(0, group.count) as t:
                yield tiling, T.bind(t * group.height + group.start), i64(0)
        return
    with loop(0, rows) as row:
        for group in split(plan.shape.out[1], plan.pixels):
            with loop(0, group.count) as t:
                yield _Tiling(1, group.height), row, T.bind(t * group.height + group.start)


def _tile(run: _Strip, panel: Expr, tiling: _Tiling, row: Expr, column: Expr) -> None:
    """One tile: pixels from (row, column) of the strip on, channels of the panel."""
    plan, shape = run.plan, run.plan.shape
    tile = Tile(tiling.pixels, plan.vectors, plan.lanes, plan.dtype)
    row, column = T.bind(row), T.bind(column)
    group, part = div(panel, plan.panels), rem(panel, plan.panels)
    first = T.bind(address(0, (group, shape.group_out_channels), (part, plan.width)))
    out_row = T.bind(run.strip * plan.strips.rows + row)

    def index(i: Expr, j: Expr) -> Index:
        down, across = (0, i) if tiling.rows == 1 else (div(i, tiling.columns),
                                                        rem(i, tiling.columns))  # fmt: skip
        return run.image, out_row + down, column + across, first + j

    beside = None
    if run.ahead is not None and plan.pointwise:
        beside = _asking(run, tiling, index, run.ahead, row, column)
    elif run.ahead is not None:
        with loop(0, tiling.pixels) as i:
            for j in range(plan.vectors):
                run.ahead(index(i, i64(j * plan.lanes)))
    clear(tile, run.registers)
    _reduce(
        run,
        tile,
        panel,
        tiling,
        row,
        column,
        _with_weights(run, panel, tiling, row, column, beside),
    )
    left = shape.group_out_channels - part * plan.width
    columns = (
        plan.width if shape.group_out_channels % plan.width == 0
        else shape.group_out_channels if plan.panels == 1
        else T.bind(i64(smaller(left, plan.width)))
    )  # fmt: skip
    tail = shape.group_out_channels % plan.width
    finish(tile, run.registers, columns, index, run.epilogue, tail)


def _with_weights(
    run: _Strip, panel: Expr, tiling: _Tiling, row: Expr, column: Expr,
    beside: Callable[[Expr], None] | None,
) -> Callable[[Expr], None] | None:  # fmt: skip
    """`beside`, and asking for weights if the plan does."""
    plan, shape = run.plan, run.plan.shape
    steps = _taps(shape) * (shape.group_channels // UNROLL)
    if not plan.asks or steps == 0:
        return beside
    pixel = T.bind(row * shape.out[1] + column)
    ask = next_weights(plan, run.weights, panel, pixel, tiling.pixels, steps)

    def both(step: Expr) -> None:
        ask(step)
        if beside is not None:
            beside(step)

    return both


def _asking(
    run: _Strip, tiling: _Tiling, index: Callable[[Expr, Expr], Index], ahead: Ahead, row: Expr,
    column: Expr,
) -> Callable[[Expr], None]:  # fmt: skip
    """Asks for where the results will lie, and for the pixels of the next tile, a few lines at each
    step of the reduction: all at once they would take as long as memory does."""
    plan, view = run.plan, run.view
    steps = plan.shape.channels // UNROLL
    line = LINE_BYTES // ITEMSIZE[plan.dtype]
    results = tiling.pixels * plan.vectors
    pixels = tiling.pixels * ceil_div(plan.shape.channels, line)
    next_ = T.bind(view.at(row, column, 0) + tiling.pixels * view.pixel)

    def ask(step: Expr) -> None:
        for i in range(ceil_div(results, steps)):
            number = T.bind(smaller(step * ceil_div(results, steps) + i, i64(results - 1)))
            ahead(index(T.bind(div(number, plan.vectors)),
                        T.bind(rem(number, plan.vectors) * plan.lanes)))  # fmt: skip
        each = ceil_div(pixels, steps)
        first = T.bind(next_ + step * (each * line))
        for i in range(each):
            prefetch(view.buffer[first + i * line])

    return ask


def _reduce(
    run: _Strip, tile: Tile, panel: Expr, tiling: _Tiling, row: Expr, column: Expr,
    beside: Callable[[Expr], None] | None = None,
) -> None:  # fmt: skip
    """The reductions over kernel rows, or kernel positions where those don't lie side by side."""
    plan, shape, view = run.plan, run.plan.shape, run.view
    (kh, kw), (sh, sw), (dh, dw) = shape.kernel, shape.stride, shape.dilation
    channels, chosen = shape.group_channels, plan.positions
    side_by_side = shape.groups == 1 and chosen.whole_rows and (
        kw == 1 or (dw == 1 and view.pixel == channels)
    )  # fmt: skip
    positions = 1 if side_by_side else kw
    length = kw * channels if side_by_side else channels
    group = div(panel, plan.panels)
    origin = T.bind(view.at(row * sh, column * sw, group * channels if shape.groups > 1 else 0))
    size = chosen.kernel[0] * chosen.kernel[1] * channels * plan.width
    kernel = T.bind(address(run.weights.offset, (panel, size)))
    pixel = [
        address(0, (y * sh, view.row_stride), (z * sw, view.pixel))
        for y in range(tiling.rows)
        for z in range(tiling.columns)
    ]

    def position(y: Size, z: Size) -> None:
        number = address(0, (y, positions), (z, 1))
        base = T.bind(address(origin, (y * dh, view.row_stride), (z * dw, view.pixel)))
        start = T.bind(kernel + chosen.at(y, z) * (channels * plan.width))
        reduce_segment(
            tile, run.registers, length,
            lambda i, k: view.buffer[base + pixel[i] + k],
            lambda j, k: vector_at(
                run.weights.buffer, start + k * plan.width + j * plan.lanes, plan.lanes
            ),
            None if beside is None else lambda step: beside(number * (length // UNROLL) + step),
        )  # fmt: skip

    if kh * positions * length <= UNROLLED:
        for y in range(kh):
            for z in range(positions):
                position(y, z)
        return
    first = T.bind(run.strip * plan.strips.rows + row)
    start, stop = seen_rows(shape, first, tiling.rows)
    with loop(0, stop - start) as y, loop(0, positions) as z:
        position(T.bind(i64(start + y)), z)
