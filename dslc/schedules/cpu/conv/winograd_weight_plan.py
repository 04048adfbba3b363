"""Whether, and in which order, the gradient of 3x3 weights is made by Winograd's algorithm.

Input: a convolution's sizes and the machine. Output: a `WinogradWeightPlan`, in which blocks of
tiles, of sums and of values are chosen by the bytes that they move through the caches. Non-goals:
what is computed (`winograd_weight.py`).
"""

from __future__ import annotations

from dataclasses import replace

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.conv2d_weight import channels_of_run
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    Machine,
    Size,
    ceil_div,
    choose_tasks,
    panel_width,
)

PIXELS = 4  # of dy along each axis of a tile
SEEN = 6  # of x
POINTS = SEEN * SEEN
LEAST_BLOCK = 24  # tiles: a shorter reduction would mostly load and save sums
WHOLE_BYTES = 12 << 20  # most of all tiles' values that may wait in the last-level cache


@dataclass(frozen=True, slots=True)
class WinogradWeightPlan:
    """How the gradient is run: tiles in blocks of `block`, which are shared out to the tasks; or
    `whole`: all tiles are one block, and the tasks share out its transforms and products. With a
    `chunk`, what is shared out are runs of channels by panels, whose weights are done before the
    next: those of so many runs by one panel after the other."""

    shape: ConvShape
    dtype: str
    vectors: int
    lanes: int
    rows: int
    block: Size
    whole: bool
    tasks: int
    chunk: int = 0

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
    def run_blocks(self) -> int:
        """Vectors of input channels whose weights are handed over together."""
        return -(-channels_of_run(self.shape.channels, 9) // self.lanes)

    @property
    def runs(self) -> int:
        return -(-self.channel_blocks // self.run_blocks)

    @property
    def sums_of_run(self) -> int:
        """Elements: [channel][point][width]."""
        return self.run_blocks * self.lanes * POINTS * self.width

    @property
    def sums(self) -> int:
        """Elements of a task's sums: [panel][channel][point][width], of a run if `chunk`."""
        if self.chunk:
            return self.sums_of_run
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
    def values(self) -> Size:
        """Elements of V and Y."""
        return (self.seen + self.gradients) * POINTS

    @property
    def task_elements(self) -> Size:
        """Scratch elements of one task: sums, V, Y."""
        return self.sums + self.values

    @property
    def scratch_bytes(self) -> Size:
        """Bytes of scratch. With a `chunk`, V and Y are followed by all tasks' sums."""
        if self.chunk:
            return (self.values + self.sums * self.tasks) * ITEMSIZE[self.dtype]
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
        fits = tiles * tile_bytes <= max(WHOLE_BYTES, sums // 2)  # else sums are far, too
        moved = (blocks + tasks - 1) * sums
        whole = blocks == 1 or (fits and moved > 2 * tiles * tile_bytes + sums)
        blocks = 1 if whole else -(-blocks // tasks) * tasks
        block = max(1, -(-tiles // blocks))
    plan = WinogradWeightPlan(
        shape, dtype, vectors, lanes, min(8, max(4, lanes // 2)), block, whole, tasks
    )
    return replace(plan, chunk=_choose_chunk(plan, machine)) if whole else plan


def _choose_chunk(plan: WinogradWeightPlan, machine: Machine) -> int:
    """How many runs' V the L2 cache holds beside a panel's Y and sums; 0, if to read Y once for
    each chunk is more than to write and read all sums, or there are too few runs for the tasks."""
    point = POINTS * ITEMSIZE[plan.dtype]
    per_run = point * plan.block * plan.run_blocks * plan.lanes
    per_panel = point * plan.block * plan.width + plan.sums_of_run * ITEMSIZE[plan.dtype]
    chunk = min(plan.runs, (machine.l2_bytes * 3 // 4 - per_panel) // per_run)
    if chunk < 1 or (plan.tasks > 1 and plan.runs * plan.panels < 4 * plan.tasks):
        return 0
    chunks = -(-plan.runs // chunk)
    again = (chunks - 1) * plan.gradients * point
    sums = 2 * plan.sums * ITEMSIZE[plan.dtype]
    return -(-plan.runs // chunks) if again < sums and sums > machine.l2_bytes else 0
