"""The gradient of a 3x3 convolution with respect to its weights, by Winograd's algorithm.

Nine sums of products over 4x4 pixels of dy and the 6x6 of x that they saw cost 144 multiplications;
made of both tiles' values at six points along each axis they cost 36. Three steps:

    V = B x B^T, Y = G dy G^T          for every tile and channel (vectors along channels)
    U[c, o] += sum over tiles of V[c] * Y[o]     36 matrix products (`tiles/register_tile.py`)
    dw = A U A^T                       once, at the end

Tiles are taken in blocks that lie in the L2 cache together with the sums; every task has sums of
its own then. Where the sums are the bigger part (many channels, few pixels), all tiles are one
block, and the tasks share out the products instead; where the sums are more bytes than to read V
and Y several times, those of some weights are made at all points, and dw of them, before the next.
Sums are always added in the same order.

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
from dslc.schedules.cpu.conv.winograd_weight_plan import PIXELS, POINTS, SEEN, WinogradWeightPlan
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Operand,
    Size,
    address,
    ceil_div,
    edge_vector,
    i64,
    larger,
    local,
    loop,
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
        values = start if plan.chunk else T.bind(start + plan.sums)
        run = _Run(plan, x, dy, scratch, start, values, None)
        _transform(run, i64(0), *share(tiles, task, tasks))

    def products(task: Expr, tasks: int) -> None:
        run = _Run(plan, x, dy, scratch, start, T.bind(start + plan.sums), allocate(_tiles(plan)))
        _products(run, *share(POINTS * plan.panels, task, tasks), tiles, fresh=True)

    def runs(task: Expr, tasks: int) -> None:
        sums = T.bind(start + plan.values + (task if tasks > 1 else 0) * plan.sums)
        run = _Run(plan, x, dy, scratch, sums, start, allocate(_tiles(plan)))
        _products_of_runs(run, task, tasks, tiles, epilogue, flat)

    def blocks(task: Expr, tasks: int) -> None:
        part = plan.task_elements
        sums = clear_sums(scratch, task, tasks, plan.tasks, plan.sums, part)
        run = _Run(plan, x, dy, scratch, sums, T.bind(sums + plan.sums), allocate(_tiles(plan)))
        with loop(*share(ceil_div(tiles, plan.block), task, tasks)) as block:
            first = T.bind(block * plan.block)
            count = T.bind(i64(smaller(tiles - first, plan.block)))
            _transform(run, first, 0, count)
            _products(run, 0, POINTS * plan.panels, count, fresh=False)

    if plan.whole:
        run_tasks(plan.tasks, plan.shape.work, transforms)
        run_tasks(plan.tasks, plan.shape.work, runs if plan.chunk else products)
        if plan.chunk:
            return
    else:
        run_tasks(plan.tasks, plan.shape.work, blocks)
    _finish(plan, epilogue, scratch, flat)


@dataclass(frozen=True, slots=True)
class _Run:
    """A task at work: its sums start at `sums` in the scratch memory, V and Y at `values`."""

    plan: WinogradWeightPlan
    x: Operand
    dy: Operand
    scratch: Operand
    sums: Expr
    values: Expr
    registers: Registers | None

    @property
    def seen(self) -> Expr:
        return self.values

    @property
    def gradients(self) -> Expr:
        return self.values + self.plan.seen * POINTS


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
        sums = T.bind(run.sums + panel * (plan.shape.channels * POINTS * plan.width))
        for (first, last), rows in _row_blocks(plan):
            with loop(first, last) as block:
                at = T.bind(sums + block * (plan.lanes * POINTS * plan.width))
                _products_of_block(run, at, point, panel, block, rows, count, fresh)


def _products_of_runs(
    run: _Run, task: Expr, tasks: int, count: Size, epilogue: Epilogue, flat: bool
) -> None:
    """U of a run of channels and a panel at all points, and what it gives, before the next."""
    plan, runs = run.plan, run.plan.runs
    finishing = _Finishing.of(plan, run.scratch)
    extents = (-(-runs // plan.chunk), plan.panels, plan.chunk)

    def done(number: Expr, panel: Expr) -> None:
        first = T.bind(number * plan.run_blocks)
        for (start, stop), rows in _row_blocks(plan):
            stop = T.bind(i64(smaller(first + plan.run_blocks, stop)))
            with loop(0, POINTS) as point, loop(larger(first, start), stop) as block:
                at = T.bind(run.sums + (block - first) * (plan.lanes * POINTS * plan.width))
                _products_of_block(run, at, point, panel, block, rows, count, fresh=True)
        channel = T.bind(first * plan.lanes)
        left = T.bind(i64(smaller(plan.shape.channels - channel, plan.run_blocks * plan.lanes)))
        finishing.run(run.sums, 1, panel, channel, left, epilogue, flat)

    with loop(*share(product(extents), task, tasks)) as item:
        chunk, panel, within = unflatten(item, extents)
        number, panel = T.bind(i64(chunk * plan.chunk + within)), T.bind(i64(panel))
        if runs % plan.chunk == 0:
            done(number, panel)
        else:
            with T.If(number < i64(runs)), T.Then():
                done(number, panel)


def _products_of_block(
    run: _Run, sums: Expr, point: Expr, panel: Expr, block: Expr, rows: int, count: Size,
    fresh: bool,
) -> None:  # fmt: skip
    """Of `rows` channels of a block by a panel, at a point, to where the block's sums are."""
    for group in split(rows, run.plan.rows):
        with loop(0, group.count) as t:
            row = T.bind(i64(t * group.height + group.start))
            _product(run, sums, point, panel, block, row, group.height, count, fresh)


def _product(
    run: _Run, sums: Expr, point: Expr, panel: Expr, block: Expr, row: Expr, height: int,
    count: Size, fresh: bool,
) -> None:  # fmt: skip
    plan, buffer, lanes, registers = run.plan, run.scratch.buffer, run.plan.lanes, run.registers
    if registers is None:
        raise InternalError("a task without registers multiplies")
    tile = Tile(height, plan.vectors, lanes, plan.dtype)
    at = T.bind(sums + (row * POINTS + point) * plan.width)
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
    shape, parts = plan.shape, 1 if plan.whole else plan.tasks
    most = channels_of_run(shape.channels, 9)
    extents = (plan.panels, -(-shape.channels // most))

    def body(task: Expr, tasks: int) -> None:
        finishing = _Finishing.of(plan, scratch)
        with loop(*share(product(extents), task, tasks)) as item:
            panel, block = unflatten(item, extents)
            channel = T.bind(i64(block * most))
            row = T.bind(panel * shape.channels + channel)
            sums = T.bind(i64(scratch.offset) + row * (POINTS * plan.width))
            count = T.bind(i64(smaller(shape.channels - channel, most)))
            finishing.run(sums, parts, panel, channel, count, epilogue, flat)

    run_tasks(plan.tasks, shape.work, body)


@dataclass(frozen=True, slots=True)
class _Finishing:
    """A task that makes weights of sums: what it needs on its stack."""

    plan: WinogradWeightPlan
    scratch: Operand
    cells: Any
    memory: RunMemory

    @staticmethod
    def of(plan: WinogradWeightPlan, scratch: Operand) -> _Finishing:
        most = channels_of_run(plan.shape.channels, 9)
        if plan.chunk:
            most = plan.run_blocks * plan.lanes
        memory = RunMemory.of(9 * most, plan.width, plan.lanes, plan.dtype)
        return _Finishing(plan, scratch, local(3 * SEEN * plan.lanes, plan.dtype), memory)

    def run(
        self, sums: Expr, parts: int, panel: Expr, channel: Expr, count: Expr, epilogue: Epilogue,
        flat: bool,
    ) -> None:  # fmt: skip
        """Hands over the weights of `count` channels from `channel` on, whose sums start there, in
        so many parts, each a task's."""
        plan, lanes, width = self.plan, self.plan.lanes, self.plan.width
        first = T.bind(panel * width)
        exist = smaller(plan.shape.out_channels - first, width)
        with loop(0, count) as c, loop(0, plan.vectors) as j:
            at = T.bind(sums + c * (POINTS * width) + j * lanes)
            target = T.bind(c * (9 * width) + j * lanes)
            _kernel(plan, self.scratch, at, parts, self.cells, self.memory.rows, target)
        hand_over(Run(first, exist, width, channel, count, (3, 3)), self.memory, epilogue, flat)


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
