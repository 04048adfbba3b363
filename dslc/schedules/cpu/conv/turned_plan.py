"""The strips in which a depthwise convolution of NCHW images turns them.

Input: a `ConvShape` of known height and width, and vector registers. Output: a `TurnedPlan`, what
it takes in cycles. Non-goals: TVM, for the choice of a layout asks for costs
(`lowering/rewrites/planes.py`); code (`turned.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.plane_tile import BYTES, takes_planes
from dslc.schedules.cpu.conv.shape import ConvShape, Size

TURNED, GIVEN = 1.0, 3.5  # cycles of a vector that is turned, beside the rounds; of one of results
SUM, ROW = 1.1, 8.0  # of a multiply-add, a load; to begin a row of results
ITEM = 150.0  # to begin a strip
STRIP_BYTES = 256 << 10  # of a strip's pixels, turned: a quarter of the L2 cache


@dataclass(frozen=True, slots=True)
class TurnedPlan:
    """Blocks of up to `lanes` channels; of their planes, strips of `strip` output rows are turned,
    and tiles are up to `tile` results of a row.
    Items (block, image, strip) are shared out to the tasks. `flat`: results are handed on by their
    place in a plane."""

    shape: ConvShape
    dtype: str
    lanes: int
    strip: int
    tile: int
    flat: bool
    tasks: int

    @property
    def strips(self) -> int:
        """Of a plane."""
        return -(-self.shape.plane[0] // self.strip)

    @property
    def taps(self) -> int:
        return self.shape.kernel[0] * self.shape.kernel[1]

    @property
    def input_pixels(self) -> int:
        """That a strip reads, at most."""
        shape = self.shape
        rows = (self.strip - 1) * shape.stride[0] + shape.extent[0]
        return cast(int, min(rows, shape.height) * shape.width)

    @property
    def pixels(self) -> int:
        """Of a strip of results, at most."""
        return self.strip * self.shape.plane[1]

    def whole(self, pixels: int) -> int:
        """Pixels in whole vectors."""
        return -(-pixels // self.lanes) * self.lanes

    @property
    def parts(self) -> tuple[int, int, int, int]:
        """Where in a task's scratch elements are: weights, the strip, its results, and those as
        planes again."""
        sizes = [self.whole(n) * self.lanes for n in (self.taps, self.input_pixels, self.pixels)]
        return 0, sizes[0], sizes[0] + sizes[1], sum(sizes)

    @property
    def task_elements(self) -> int:
        return self.parts[-1] + self.whole(self.pixels) * self.lanes

    @property
    def scratch_bytes(self) -> int:
        return self.task_elements * BYTES[self.dtype] * self.tasks


def takes_turned(shape: ConvShape, dtype: str) -> bool:
    """Whether this template runs such a convolution."""
    deep = shape.channels == shape.out_channels == shape.groups > 1
    return deep and takes_planes(shape, dtype)


def choose_strips(
    shape: ConvShape, dtype: str, lanes: int, registers: int, flat: bool,
    most: int = STRIP_BYTES, least: int = 1,
) -> TurnedPlan:  # fmt: skip
    """The plan for one task: strips whose pixels are `most` bytes or less, and of a plane at least
    so many."""
    height = shape.plane[0]
    tile = 14 if registers == 32 else 8
    row = shape.stride[0] * shape.width * lanes * BYTES[dtype]
    count = min(height, max(least, -(-height // max(1, most // row))))
    return TurnedPlan(shape, dtype, lanes, -(-height // count), tile, flat, 1)


def work(plan: TurnedPlan) -> Size:
    """What it takes as multiply-adds would, of any batch: there are fewer than moves."""
    one = replace(plan, shape=replace(plan.shape, batch=1))
    return plan.shape.batch * int(cycles(one) * plan.lanes)


def cycles(plan: TurnedPlan) -> float:
    """For the whole convolution; a batch that isn't known counts as one image."""
    shape, lanes = plan.shape, plan.lanes
    batch = shape.batch if isinstance(shape.batch, int) else 1
    blocks = -(-shape.channels // lanes)
    rounds = lanes.bit_length() - 1
    turned = plan.whole(plan.input_pixels) * (rounds + TURNED)
    given = plan.whole(plan.pixels) * (rounds + GIVEN)
    rows, columns = (_products(shape, axis) for axis in (0, 1))
    loads = shape.width + shape.kernel[1] * -(-plan.shape.plane[1] // plan.tile)
    sums = rows * max(columns, loads) * SUM + plan.shape.plane[0] * ROW
    weights = plan.whole(plan.taps) * (rounds + TURNED)
    image = plan.strips * (turned + given + ITEM) + sums
    return cast(float, blocks * (weights + batch * image))


def _products(shape: ConvShape, axis: int) -> int:
    """Results along an axis, each times the positions of the kernel where it sees no padding."""
    step, apart, before = shape.stride[axis], shape.dilation[axis], shape.padding[axis][0]
    size = (shape.height, shape.width)[axis]
    return sum(
        0 <= i * step + k * apart - before < size
        for i in range(shape.plane[axis]) for k in range(shape.kernel[axis])
    )  # fmt: skip
