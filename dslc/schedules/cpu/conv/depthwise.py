"""Depthwise convolutions over NHWC images: forwards (and to the input), and to the weights.

Every channel has a kernel of its own, so lanes run along channels and nothing is broadcast. The
forward tile is pixels of one output row x one vector of channels; the weights' tile is positions of
the kernel, as many as registers hold, x one vector of channels, reduced over the pixels of a strip.
Channels are padded to whole vectors when a strip is copied; in place those are read that exist.

Non-goals: several output channels per input channel (`conv2d.py` with groups does those).
"""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ops import packed
from dslc.schedules.cpu.conv.clipped import Clipped, add_clipped, tiles_of_row
from dslc.schedules.cpu.conv.conv2d_weight import add_sums, clear_sums
from dslc.schedules.cpu.conv.image import Strips, View, copy_strip, plan_strips, view_in_place
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    Epilogue,
    Expr,
    Machine,
    Operand,
    Panels,
    Size,
    address,
    choose_tasks,
    each_item,
    edge_vector,
    i64,
    loop,
    require,
    run_tasks,
    share,
    smaller,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.register_tile import (
    Registers,
    Tile,
    allocate,
    clear,
    copy_out,
    finish,
    load,
    multiply_add_lanes,
    save,
)
from dslc.schedules.cpu.tiles.split import split

BESIDE_SUMS = 4  # registers that the weights' tile leaves for what is multiplied


@dataclass(frozen=True, slots=True)
class DepthwisePlan:
    """How a depthwise convolution or its weights' gradient is run, in blocks of `lanes` channels;
    forwards in tiles of up to `pixels` pixels, to the weights of up to `pixels` of their positions.
    Items (image, strip) are shared out to tasks."""

    shape: ConvShape
    dtype: str
    lanes: int
    pixels: int
    strips: Strips
    tasks: int
    sums: int  # scratch elements of a task's sums (weights only)

    @property
    def width(self) -> int:
        """Channels of a panel of weights."""
        return self.lanes

    @property
    def blocks(self) -> int:
        """Blocks of channels."""
        return -(-self.shape.channels // self.lanes)

    @property
    def clips(self) -> bool:
        """Whether the image is read where it lies, and the kernel ends where the image does."""
        shape = self.shape
        known = all(isinstance(n, int) for n in (shape.width, *shape.padding[1], shape.out[1]))
        return not self.sums and known and shape.input_dilation == (1, 1)

    @property
    def copies(self) -> bool:
        """Whether strips are copied to scratch."""
        return self.shape.is_padded and not self.clips

    @property
    def task_elements(self) -> Size:
        """Scratch elements of one task: sums, then its strip."""
        return self.sums + (self.strips.elements if self.copies else 0)

    @property
    def scratch_bytes(self) -> Size:
        """Bytes of scratch."""
        return self.task_elements * (ITEMSIZE[self.dtype] * self.tasks)

    def channels(self, block: Expr) -> Size:
        """Channels of a block that exist."""
        if self.shape.channels % self.lanes == 0:
            return self.lanes
        return T.bind(i64(smaller(self.shape.channels - block * self.lanes, self.lanes)))


def is_depthwise(shape: ConvShape) -> bool:
    """Whether these templates run convolutions of `shape`."""
    per_group = shape.channels // shape.groups
    return packed.is_depthwise(shape.out_channels, per_group, shape.kernel, shape.groups)


def plan_depthwise(shape: ConvShape, dtype: str, machine: Machine) -> DepthwisePlan:
    """The plan forwards; weights are `Panels` of the machine's lanes."""
    return _plan(shape, dtype, machine, 14 if machine.registers == 32 else 8, sums=0)


def plan_depthwise_backward_weight(shape: ConvShape, dtype: str, machine: Machine) -> DepthwisePlan:
    """The plan of the weights' gradient."""
    lanes = machine.lanes(dtype)
    kh, kw = shape.kernel
    sums = -(-shape.channels // lanes) * lanes * kh * kw
    return _plan(shape, dtype, machine, machine.registers - BESIDE_SUMS, sums)


def _plan(shape: ConvShape, dtype: str, machine: Machine, pixels: int, sums: int) -> DepthwisePlan:
    require(dtype in ITEMSIZE and is_depthwise(shape), f"depthwise convolution of {dtype}: {shape}")
    lanes = machine.lanes(dtype)
    tasks = choose_tasks(machine, shape.work)
    pixel = -(-shape.channels // lanes) * lanes
    strips = plan_strips(shape, machine, dtype, tasks, pixel, shape.channels)
    return DepthwisePlan(shape, dtype, lanes, pixels, strips, tasks, sums)


def _view(
    plan: DepthwisePlan, x: Operand, scratch: Operand | None, task: Size, image: Expr, strip: Expr
) -> View:
    if not plan.copies:
        return view_in_place(plan.strips, x, image, strip)
    if scratch is None:
        raise InternalError("a padded convolution needs scratch")
    base = T.bind(address(scratch.offset, (task, plan.task_elements)) + plan.sums)
    return copy_strip(plan.strips, x, scratch, base, image, strip)


def emit_depthwise(
    plan: DepthwisePlan, x: Operand, weights: Panels, epilogue: Epilogue,
    scratch: Operand | None = None,
) -> None:  # fmt: skip
    """Emits the kernel's body; x is [batch, height, width, channels]. The epilogue's index is
    (image, row, column, channel)."""
    shape, strips = plan.shape, plan.strips
    require(weights.width == plan.lanes, "weights are packed for another tile")
    groups = tiles_of_row(shape, plan.pixels) if plan.clips else split(shape.out[1], plan.pixels)
    tiles = [Tile(g.height, 1, plan.lanes, plan.dtype) for g in groups]
    if not tiles:
        return

    def body(task: Expr, tasks: int) -> None:
        registers = allocate(tiles)
        with each_item(task, tasks, shape.batch * strips.count, shape.work) as item:
            image, strip = unflatten(item, (shape.batch, strips.count))
            view = None if plan.clips else _view(
                plan, x, scratch, task if tasks > 1 else 0, image, strip
            )  # fmt: skip
            rows = strips.output_rows(strip)
            with loop(0, plan.blocks) as block:
                lanes = _Lanes(plan, block, plan.channels(block))
                clipped = Clipped(shape, plan.lanes, x, weights, block, lanes.exist)
                with loop(0, rows) as row:
                    for tile, group in zip(tiles, groups):
                        with loop(0, group.count) as t:
                            column = T.bind(i64(t * group.height + group.start))
                            clear(tile, registers)
                            if view is None:
                                place = image, T.bind(strip * strips.rows + row), column
                                add_clipped(clipped, tile, registers, place, group)
                            else:
                                origin = view.at(row * shape.stride[0], column * shape.stride[1],
                                                 block * plan.lanes)  # fmt: skip
                                _reduce(lanes, tile, registers, view, weights, T.bind(origin))
                            _finish(lanes, tile, registers, epilogue, image, strip, row, column)

    run_tasks(plan.tasks, shape.work, body)


@dataclass(frozen=True, slots=True)
class _Lanes:
    """A block of channels, of which so many exist."""

    plan: DepthwisePlan
    block: Expr
    exist: Size

    def of(self, buffer: Any, at: Expr) -> Expr:
        """The image's, of the pixel whose first one lies at `at`."""
        plan = self.plan
        exist = plan.lanes if plan.copies else self.exist
        return edge_vector(buffer, plan.dtype, at, plan.lanes, 0, exist, plan.lanes)


def _finish(
    channels: _Lanes, tile: Tile, registers: Registers, epilogue: Epilogue,
    image: Expr, strip: Expr, row: Expr, column: Expr,
) -> None:  # fmt: skip
    plan = channels.plan
    out_row, first = T.bind(strip * plan.strips.rows + row), T.bind(channels.block * plan.lanes)
    if plan.shape.channels % plan.lanes:
        finish(tile, registers, channels.exist,
               lambda i, j: (image, out_row, column + i, first + j), epilogue)  # fmt: skip
        return
    copy_out(tile, registers)
    # Written out, so that results stay in registers: there are few products for each.
    for i in range(tile.rows):
        with loop(0, plan.lanes) as j:
            value = registers.results[i64(i * plan.lanes) + j]
            epilogue((image, out_row, column + i, first + j), value)


def _reduce(
    channels: _Lanes, tile: Tile, registers: Registers, view: View, weights: Panels, origin: Expr
) -> None:
    plan, block = channels.plan, channels.block
    (kh, kw), (dh, dw) = plan.shape.kernel, plan.shape.dilation
    across, lanes = plan.shape.stride[1], plan.lanes
    with loop(0, kh) as y, loop(0, kw) as z:
        base = T.bind(address(origin, (y * dh, view.row_stride), (z * dw, view.pixel)))
        at = address(weights.offset, ((block * kh + y) * kw + z, lanes))
        weight = T.bind(vector_at(weights.buffer, at, lanes))
        multiply_add_lanes(
            tile, registers,
            lambda i: channels.of(view.buffer, address(base, (i * across, view.pixel))),
            lambda _: weight,
        )  # fmt: skip


def emit_depthwise_backward_weight(
    plan: DepthwisePlan, x: Operand, dy: Operand, epilogue: Epilogue, scratch: Operand
) -> None:
    """Emits the kernel's body; dy is [batch, out.., channels]. The epilogue's index is (channel,
    0, kh, kw). `scratch` (rank 1) holds `plan.scratch_bytes` bytes."""
    shape, strips = plan.shape, plan.strips
    kh, kw = shape.kernel
    tiles = [
        (group.start + t * group.height, Tile(group.height, 1, plan.lanes, plan.dtype))
        for group in split(kh * kw, plan.pixels)
        for t in range(group.count)
    ]

    def body(task: Expr, tasks: int) -> None:
        part = plan.task_elements
        sums = clear_sums(scratch, task, tasks, plan.tasks, plan.sums, part)
        registers = allocate([tile for _, tile in tiles])
        start, stop = share(shape.batch * strips.count, task, tasks)
        with loop(start, stop) as item:
            image, strip = unflatten(item, (shape.batch, strips.count))
            view = _view(plan, x, scratch, task if tasks > 1 else 0, image, strip)
            _add_strip(_Strip(plan, view, dy, scratch, sums, registers, image, strip), tiles)

    run_tasks(plan.tasks, shape.work, body)
    _add_up(plan, epilogue, scratch)


@dataclass(frozen=True, slots=True)
class _Strip:
    plan: DepthwisePlan
    view: View
    dy: Operand
    scratch: Operand
    sums: Expr
    registers: Registers
    image: Expr
    strip: Expr


def _add_strip(run: _Strip, tiles: list[tuple[int, Tile]]) -> None:
    """Adds a strip's products to the task's sums; a tile stands beside its first position."""
    plan, view, dy = run.plan, run.view, run.dy
    strips, (sh, sw), (kh, kw) = plan.strips, plan.shape.stride, plan.shape.kernel
    with loop(0, plan.blocks) as block:
        channel, exist = T.bind(block * plan.lanes), plan.channels(block)
        channels = _Lanes(plan, block, exist)
        first = T.bind(dy.at(run.image, run.strip * strips.rows, i64(0), channel))
        for start, tile in tiles:
            at = T.bind(run.sums + (block * (kh * kw) + start) * plan.lanes)
            load(tile, run.registers, run.scratch.buffer, at, plan.lanes)
            rows = strips.output_rows(run.strip)
            with loop(0, rows) as row, loop(0, plan.shape.out[1]) as column:
                origin = T.bind(view.at(row * sh, column * sw, channel))
                place = address(first, (row, dy.strides[1]), (column, dy.strides[2]))
                of_dy = edge_vector(dy.buffer, plan.dtype, place, plan.lanes, 0, exist, plan.lanes)
                _multiply(channels, tile, start, run.registers, view, origin, T.bind(of_dy))
            save(tile, run.registers, run.scratch.buffer, at, plan.lanes)


def _multiply(
    channels: _Lanes, tile: Tile, start: int, registers: Registers, view: View, origin: Expr,
    gradient: Expr,
) -> None:  # fmt: skip
    shape = channels.plan.shape
    (_, kw), (dh, dw) = shape.kernel, shape.dilation

    def input_at(i: int) -> Expr:
        y, z = divmod(start + i, kw)
        return channels.of(view.buffer, address(origin, (y * dh, view.row_stride),
                                                (z * dw, view.pixel)))  # fmt: skip

    multiply_add_lanes(tile, registers, input_at, lambda _: gradient)


def _add_up(plan: DepthwisePlan, epilogue: Epilogue, scratch: Operand) -> None:
    """Hands every weight, the tasks' sums added up in order, to the epilogue."""
    kh, kw = plan.shape.kernel
    with loop(0, plan.blocks) as block, loop(0, kh) as y, loop(0, kw) as z:
        row = T.bind(i64(scratch.offset) + ((block * kh + y) * kw + z) * plan.lanes)
        first = T.bind(block * plan.lanes)
        with loop(0, plan.channels(block)) as j:
            total = add_sums(scratch, row + j, plan.tasks, plan.task_elements)
            epilogue((first + j, i64(0), y, z), total)
