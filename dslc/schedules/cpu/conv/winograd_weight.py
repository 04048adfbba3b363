"""The gradient of a 3x3 convolution with respect to its weights, by Winograd's algorithm.

Nine sums of products over 4x4 pixels of dy and the 6x6 of x that they saw cost 144 multiplications;
made of both tiles' values at six points along each axis they cost 36. Three steps:

    V = B x B^T, Y = G dy G^T          for every tile and channel (vectors along channels)
    U[c, o] += sum over tiles of V[c] * Y[o]     36 matrix products (`tiles/register_tile.py`)
    dw = A U A^T                       once, at the end

Tiles are taken in blocks that lie in the L2 cache together with the sums; every task has sums of
its own then. Where the sums are the bigger part (many channels, few pixels), all tiles are one
block, and the tasks share out the products instead. Sums are always added in the same order.

Errors are about four times those of the direct sum (`conv2d_weight.py`), which runs everything
else. Reference: Lavin, Gray, "Fast Algorithms for Convolutional Neural Networks", 2016.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ops import winograd
from dslc.schedules.cpu.conv.conv2d_weight import (
    Run,
    RunMemory,
    add_sums,
    channels_of_run,
    clear_sums,
    hand_over,
)
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    Epilogue,
    Expr,
    Machine,
    Operand,
    Size,
    address,
    ceil_div,
    choose_tasks,
    edge_vector,
    i64,
    local,
    loop,
    panel_width,
    product,
    require,
    run_tasks,
    share,
    smaller,
    store_vector,
    unflatten,
    vector_at,
    zeros,
)
from dslc.schedules.cpu.tiles.register_tile import (
    Registers,
    Tile,
    allocate,
    clear,
    load,
    reduce_segment,
    save,
)
from dslc.schedules.cpu.tiles.split import split
from dslc.schedules.cpu.tiles.transform import Matrix, transform

PIXELS = 4  # of dy along each axis of a tile
SEEN = 6  # of x
POINTS = SEEN * SEEN
LEAST_BLOCK = 24  # tiles: a shorter reduction would mostly load and save sums
WHOLE_BYTES = 12 << 20  # most of all tiles' values that may wait in the last-level cache

# Values at 0, 1, -1, 2, -2 and infinity: of dy, of x, and back to the kernel's three positions.
TO_POINTS: Matrix = (
    (1, 0, 0, 0), (1, 1, 1, 1), (1, -1, 1, -1), (1, 2, 4, 8), (1, -2, 4, -8), (0, 0, 0, 1),
)  # fmt: skip
TO_POINTS_SEEN: Matrix = winograd.WAYS[3, 1, PIXELS].b
FROM_POINTS: Matrix = (
    (1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 0),
    (0, -1 / 6, 1 / 6, 1 / 12, -1 / 12, 0),
    (0, -1 / 6, -1 / 6, 1 / 6, 1 / 6, 1),
)


@dataclass(frozen=True, slots=True)
class WinogradWeightPlan:
    """How the gradient is run: tiles in blocks of `block`, which are shared out to the tasks; or
    `whole`: all tiles are one block, and the tasks share out its transforms and products."""

    shape: ConvShape
    dtype: str
    vectors: int
    lanes: int
    rows: int
    block: Size
    whole: bool
    tasks: int

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        return -(-self.shape.out_channels // self.width)

    @property
    def channel_blocks(self) -> int:
        """Vectors of input channels."""
        return -(-self.shape.channels // self.lanes)

    @property
    def grid(self) -> tuple[Size, Size, Size]:
        """Images, and tiles down and across each."""
        height, width = self.shape.out
        return self.shape.batch, ceil_div(height, PIXELS), ceil_div(width, PIXELS)

    @property
    def sums(self) -> int:
        """Elements of all sums: [panel][channel][point][width]."""
        return self.panels * self.shape.channels * POINTS * self.width

    @property
    def seen(self) -> Size:
        """Elements of V at one point: [channel block][tile][lanes], and a vector that keeps points
        from lying a power of two apart."""
        return self.channel_blocks * self.lanes * self.block + self.lanes

    @property
    def gradients(self) -> Size:
        """Elements of Y at one point: [panel][tile][width]."""
        return self.panels * self.width * self.block + self.lanes

    @property
    def task_elements(self) -> Size:
        """Scratch elements of one task: sums, V, Y."""
        return self.sums + (self.seen + self.gradients) * POINTS

    @property
    def scratch_bytes(self) -> Size:
        """Bytes of scratch."""
        return self.task_elements * (ITEMSIZE[self.dtype] * (1 if self.whole else self.tasks))


def suits_winograd(shape: ConvShape, dtype: str, machine: Machine) -> bool:
    """Whether this template is the faster one for the weights' gradient."""
    plain = (shape.kernel, shape.stride, shape.dilation) == ((3, 3), (1, 1), (1, 1))
    if not plain or shape.groups != 1 or dtype != "float32":
        return False
    lanes = machine.lanes(dtype)
    channels, outputs = shape.channels, shape.out_channels
    if channels < lanes // 2 or outputs < lanes // 2:
        return False
    height, width = shape.out
    if not isinstance(height, int) or not isinstance(width, int):
        return True
    tiles = ceil_div(height, PIXELS) * ceil_div(width, PIXELS)
    # Per tile, in multiply-adds of a vector: products, and transforms at 5 for each value.
    products = POINTS * channels * outputs // lanes
    transforms = POINTS * 5 * (channels + outputs) // lanes
    direct = height * width * 9 * channels * outputs // lanes
    return bool(tiles * (products + transforms) < direct)


def plan_winograd_weight(shape: ConvShape, dtype: str, machine: Machine) -> WinogradWeightPlan:
    """The plan for a convolution that `suits_winograd`."""
    lanes = machine.lanes(dtype)
    vectors = panel_width(shape.out_channels, dtype, machine) // lanes
    tasks = choose_tasks(machine, shape.work)
    sizes = [size for size in (shape.batch, *shape.out) if isinstance(size, int)]
    tile_bytes = POINTS * (shape.channels + shape.out_channels) * ITEMSIZE[dtype]
    block: Size = max(LEAST_BLOCK, machine.l2_bytes * 3 // 8 // tile_bytes)
    whole = False
    if len(sizes) == 3:
        batch, height, width = sizes
        tiles = batch * ceil_div(height, PIXELS) * ceil_div(width, PIXELS)
        # Sums are read and written once for each block, and those of all tasks added up; V and Y of
        # all tiles wait elsewhere.
        sums = 2 * POINTS * shape.channels * shape.out_channels * ITEMSIZE[dtype]
        blocks = max(1, -(-tiles // block))
        fits = tiles * tile_bytes <= WHOLE_BYTES
        moved = (blocks + tasks - 1) * sums
        whole = blocks == 1 or (fits and moved > 2 * tiles * tile_bytes + sums)
        blocks = 1 if whole else -(-blocks // tasks) * tasks
        block = max(1, -(-tiles // blocks))
    return WinogradWeightPlan(
        shape, dtype, vectors, lanes, min(8, max(4, lanes // 2)), block, whole, tasks
    )


def emit_winograd_weight(
    plan: WinogradWeightPlan, x: Operand, dy: Operand, epilogue: Epilogue, scratch: Operand,
    flat: bool = False,
) -> None:  # fmt: skip
    """Emits the kernel's body; x is [batch, height, width, channels], dy [batch, out.., out
    channels]. The epilogue's index is (o, c, kh, kw); for `flat` see `hand_over`.

    `scratch` (rank 1) holds `plan.scratch_bytes` bytes.
    """
    require(dy.strides[3] == 1 and x.strides[3] == 1, "images must be contiguous along channels")
    tiles = product(plan.grid)
    start = i64(scratch.offset)

    def transforms(task: Expr, tasks: int) -> None:
        run = _Run(plan, x, dy, scratch, start, None)
        _transform(run, i64(0), *share(tiles, task, tasks))

    def products(task: Expr, tasks: int) -> None:
        run = _Run(plan, x, dy, scratch, start, allocate(_tiles(plan)))
        _products(run, *share(POINTS * plan.panels, task, tasks), tiles, fresh=True)

    def blocks(task: Expr, tasks: int) -> None:
        part = plan.task_elements
        sums = clear_sums(scratch, task, tasks, plan.tasks, plan.sums, part)
        run = _Run(plan, x, dy, scratch, sums, allocate(_tiles(plan)))
        with loop(*share(ceil_div(tiles, plan.block), task, tasks)) as block:
            first = T.bind(block * plan.block)
            count = T.bind(i64(smaller(tiles - first, plan.block)))
            _transform(run, first, 0, count)
            _products(run, 0, POINTS * plan.panels, count, fresh=False)

    if plan.whole:
        run_tasks(plan.tasks, plan.shape.work, transforms)
        run_tasks(plan.tasks, plan.shape.work, products)
    else:
        run_tasks(plan.tasks, plan.shape.work, blocks)
    _finish(plan, epilogue, scratch, flat)


@dataclass(frozen=True, slots=True)
class _Run:
    """A task at work: its sums start at `sums` in the scratch memory, V and Y lie behind."""

    plan: WinogradWeightPlan
    x: Operand
    dy: Operand
    scratch: Operand
    sums: Expr
    registers: Registers | None

    @property
    def seen(self) -> Expr:
        return self.sums + self.plan.sums

    @property
    def gradients(self) -> Expr:
        return self.seen + self.plan.seen * POINTS


# --- transforms -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Corner:
    """Where a tile of an image of `size` begins; `size` is (height, width) in pixels."""

    image: Expr
    row: Expr
    column: Expr
    size: tuple[Size, Size]

    def inside(self, rows: Size, columns: Size, count: int) -> Expr:
        """Whether `count` pixels from (rows, columns) of the tile on, along both axes, exist."""
        row, column = self.row + rows, self.column + columns
        below = tirx.And(row >= i64(0), row + count <= i64(self.size[0]))
        return tirx.And(below, tirx.And(column >= i64(0), column + count <= i64(self.size[1])))


def _transform(run: _Run, first: Expr, start: Size, stop: Size) -> None:
    """V and Y of tiles [start, stop) of the block that begins with tile `first`."""
    plan, shape = run.plan, run.plan.shape
    cells = local(POINTS * plan.lanes, plan.dtype)
    with loop(start, stop) as t:
        image, down, across = (T.bind(i64(i)) for i in unflatten(first + t, plan.grid))
        row, column = T.bind(down * PIXELS), T.bind(across * PIXELS)
        (top, _), (left, _) = shape.padding
        seen = _Corner(image, T.bind(row - top), T.bind(column - left), (shape.height, shape.width))
        given = _Corner(image, row, column, shape.out)
        with loop(0, plan.channel_blocks) as block:
            target = T.bind(run.seen + (block * plan.block + t) * plan.lanes)
            _tile_at_points(run, cells, run.x, seen, block, shape.channels, plan.lanes,
                            TO_POINTS_SEEN, target, plan.seen)  # fmt: skip
        with loop(0, plan.panels) as panel, loop(0, plan.vectors) as j:
            at = (panel * plan.block + t) * plan.width + j * plan.lanes
            _tile_at_points(run, cells, run.dy, given, panel * plan.vectors + j,
                            shape.out_channels, plan.width, TO_POINTS,
                            T.bind(run.gradients + at), plan.gradients)  # fmt: skip


def _tile_at_points(
    run: _Run, cells: Any, source: Operand, corner: _Corner, block: Expr, channels: int, width: int,
    matrix: Matrix, target: Expr, stride: Size,
) -> None:  # fmt: skip
    """A vector of channels of a tile at all points, to target, target + stride, ...; the last
    panel of `width` channels may lack some, or whole vectors of them."""
    lanes, dtype, count = run.plan.lanes, run.plan.dtype, len(matrix[0])
    exist: Size = lanes
    if channels % width != 0:
        exist = T.bind(i64(smaller(channels - block * lanes, lanes)))
    origin = T.bind(source.at(corner.image, corner.row, corner.column, block * lanes))

    def pixel(i: Size, j: Size) -> Expr:
        at = address(origin, (i, source.strides[1]), (j, source.strides[2]))
        return edge_vector(source.buffer, dtype, at, lanes, 0, exist, lanes)

    def cell(i: Size, j: Size) -> Expr:
        return i64(address(0, (i, count * lanes), (j, lanes)))

    def columns(read: Any) -> None:
        with loop(0, count) as j:
            values = transform(matrix, [read(i, j) for i in range(count)], dtype, lanes)
            for i, value in enumerate(values):
                store_vector(cells, value, cell(i, j), lanes)

    with T.If(corner.inside(0, 0, count)):
        with T.Then():
            columns(pixel)
        with T.Else():
            with loop(0, count) as i, loop(0, count) as j, T.If(corner.inside(i, j, 1)):
                with T.Then():
                    store_vector(cells, pixel(i, j), cell(i, j), lanes)
                with T.Else():
                    store_vector(cells, zeros(dtype, lanes), cell(i, j), lanes)
            columns(lambda i, j: vector_at(cells, cell(i, j), lanes))
    with loop(0, SEEN) as i:
        row = [vector_at(cells, cell(i, j), lanes) for j in range(count)]
        for j, value in enumerate(transform(matrix, row, dtype, lanes)):
            at = address(target, (i * SEEN + j, stride))
            store_vector(run.scratch.buffer, value, at, lanes)


# --- products -------------------------------------------------------------------------------------


def _tiles(plan: WinogradWeightPlan) -> list[Tile]:
    heights = {g.height for _, rows in _row_blocks(plan) for g in split(rows, plan.rows)}
    return [Tile(h, plan.vectors, plan.lanes, plan.dtype) for h in sorted(heights)]


def _row_blocks(plan: WinogradWeightPlan) -> list[tuple[tuple[int, int], int]]:
    """Blocks of channels [start, stop) with so many channels each."""
    whole, rest = divmod(plan.shape.channels, plan.lanes)
    found = [((0, whole), plan.lanes)] if whole else []
    return [*found, ((whole, whole + 1), rest)] if rest else found


def _products(run: _Run, start: Size, stop: Size, count: Size, fresh: bool) -> None:
    """U += V^T Y over `count` tiles, at (point, panel) number `start` up to `stop`; `fresh`: the
    sums are nothing yet."""
    plan = run.plan
    with loop(start, stop) as item:
        point, panel = unflatten(item, (POINTS, plan.panels))
        for (first, last), rows in _row_blocks(plan):
            with loop(first, last) as block:
                for group in split(rows, plan.rows):
                    with loop(0, group.count) as t:
                        row = T.bind(i64(t * group.height + group.start))
                        _product(run, point, panel, block, row, group.height, count, fresh)


def _product(
    run: _Run, point: Expr, panel: Expr, block: Expr, row: Expr, height: int, count: Size,
    fresh: bool,
) -> None:  # fmt: skip
    plan, buffer, lanes, registers = run.plan, run.scratch.buffer, run.plan.lanes, run.registers
    if registers is None:
        raise InternalError("a task without registers multiplies")
    tile = Tile(height, plan.vectors, lanes, plan.dtype)
    channel = block * lanes + row
    at = T.bind(run.sums + ((panel * plan.shape.channels + channel) * POINTS + point) * plan.width)
    seen = T.bind(run.seen + point * plan.seen + block * (plan.block * lanes) + row)
    given = T.bind(run.gradients + point * plan.gradients + panel * (plan.block * plan.width))
    if fresh:
        clear(tile, registers)
    else:
        load(tile, registers, buffer, at, POINTS * plan.width)
    reduce_segment(
        tile, registers, count,
        lambda i, k: buffer[seen + k * lanes + i],
        lambda j, k: vector_at(buffer, given + k * plan.width + j * lanes, lanes),
    )  # fmt: skip
    save(tile, registers, buffer, at, POINTS * plan.width)


# --- the result -----------------------------------------------------------------------------------


def _finish(plan: WinogradWeightPlan, epilogue: Epilogue, scratch: Operand, flat: bool) -> None:
    """Hands every weight, the tasks' sums added up in order, to the epilogue."""
    shape, lanes, width = plan.shape, plan.lanes, plan.width
    parts = 1 if plan.whole else plan.tasks
    most = channels_of_run(shape.channels, 9)
    extents = (plan.panels, -(-shape.channels // most))

    def body(task: Expr, tasks: int) -> None:
        cells = local(3 * SEEN * lanes, plan.dtype)
        memory = RunMemory.of(9 * most, width, lanes, plan.dtype)
        with loop(*share(product(extents), task, tasks)) as item:
            panel, block = unflatten(item, extents)
            channel = T.bind(i64(block * most))
            first = T.bind(panel * width)
            run = Run(
                first, smaller(shape.out_channels - first, width), width,
                channel, T.bind(i64(smaller(shape.channels - channel, most))), (3, 3),
            )  # fmt: skip
            row = T.bind(panel * shape.channels + channel)
            with loop(0, run.count) as c, loop(0, plan.vectors) as j:
                at = T.bind(i64(scratch.offset) + (row + c) * (POINTS * width) + j * lanes)
                target = T.bind(c * (9 * width) + j * lanes)
                _kernel(plan, scratch, at, parts, cells, memory.rows, target)
            hand_over(run, memory, epilogue, flat)

    run_tasks(plan.tasks, shape.work, body)


def _kernel(
    plan: WinogradWeightPlan, scratch: Operand, at: Expr, parts: int, cells: Any, results: Any,
    target: Expr,
) -> None:  # fmt: skip
    """The 3x3 weights of an input channel and a vector of output channels, from their sums."""
    lanes, dtype, width = plan.lanes, plan.dtype, plan.width

    def summed(point: Size) -> Expr:
        return add_sums(
            scratch, address(at, (point, width)), parts, plan.task_elements, lanes
        )  # fmt: skip

    with loop(0, SEEN) as column:
        values = [summed(i * SEEN + column) for i in range(SEEN)]
        for i, value in enumerate(transform(FROM_POINTS, values, dtype, lanes)):
            store_vector(cells, value, (i * SEEN + column) * lanes, lanes)
    with loop(0, 3) as i:
        values = [vector_at(cells, (i * SEEN + c) * lanes, lanes) for c in range(SEEN)]
        for z, value in enumerate(transform(FROM_POINTS, values, dtype, lanes)):
            store_vector(results, value, target + (i * 3 + z) * width, lanes)
