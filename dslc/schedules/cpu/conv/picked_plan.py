"""The tiles in which a strided depthwise convolution of 1x1 kernels picks its pixels.

Input: a `ConvShape` of known height and width, lanes. Output: a `PickedPlan`, and what it takes in
cycles. Non-goals: TVM, for the choice of a layout asks for costs
(`lowering/rewrites/planes.py`); code (`picked.py`).
"""

from __future__ import annotations

from dataclasses import replace

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.plane_tile import takes_planes
from dslc.schedules.cpu.conv.shape import ConvShape, Size

MOST = 4  # vectors of results in a tile
WIDE = 2  # vectors of a row that fills them well enough as it is
STRIP = 1024  # results that are handed on together
READ, RESULT = 1.5, 3.0  # cycles of a vector: read and picked from; handed on
TILE, ROW, PLANE = 2.0, 3.0, 5.0  # to begin a tile; to hand on a row apart; to begin a plane


@dataclass(frozen=True, slots=True)
class PickedPlan:
    """Tiles of `rows` rows of results, strips of `strip` rows: whole tiles. Planes are shared out
    to the tasks. `flat`: results are handed on by their place in a plane."""

    shape: ConvShape
    dtype: str
    lanes: int
    rows: int
    strip: int
    flat: bool
    tasks: int

    @property
    def strips(self) -> int:
        """Of a plane."""
        return -(-self.shape.plane[0] // self.strip)

    @property
    def results(self) -> int:
        """Room for a strip's: whole vectors are stored."""
        return self.strip * self.shape.plane[1] + self.lanes

    def vectors(self, rows: int) -> list[list[int]]:
        """Of a tile of so many rows, each vector's pixels by their distance from the first."""
        (down, across), width = self.shape.stride, self.shape.plane[1]
        places = [
            (i * down * self.shape.width, j * across) for i in range(rows) for j in range(width)
        ]
        pixels = [row + column for row, column in places]
        return [pixels[i : i + self.lanes] for i in range(0, len(pixels), self.lanes)]


def takes_picked(shape: ConvShape, dtype: str, lanes: int) -> bool:
    """Whether this template runs such a convolution."""
    deep = shape.channels == shape.out_channels == shape.groups
    strided = shape.kernel == (1, 1) and shape.stride != (1, 1) and not shape.is_padded
    return deep and strided and takes_planes(shape, dtype) and shape.out[1] < WIDE * lanes


def choose_rows(shape: ConvShape, dtype: str, lanes: int, flat: bool) -> PickedPlan:
    """The plan for one task."""
    height, width = shape.plane
    plans = []
    for rows in range(1, min(height, MOST * lanes // width) + 1):
        together = min(-(-height // rows), max(1, STRIP // (rows * width)))
        plans.append(PickedPlan(shape, dtype, lanes, rows, together * rows, flat, 1))
    return min(plans, key=cycles)


def work(plan: PickedPlan) -> Size:
    """What it takes as multiply-adds would, of any batch: there are fewer than moves."""
    one = replace(plan, shape=replace(plan.shape, batch=1))
    return plan.shape.batch * int(cycles(one) * plan.lanes)


def cycles(plan: PickedPlan) -> float:
    """For the whole convolution; a batch that isn't known counts as one image."""
    (height, width), lanes = plan.shape.plane, plan.lanes
    batch = plan.shape.batch if isinstance(plan.shape.batch, int) else 1

    def tile(rows: int) -> float:
        reads = sum((pixels[-1] - pixels[0]) // lanes + 1 for pixels in plan.vectors(rows))
        return TILE + reads * READ if rows else 0.0

    tiles = height // plan.rows * tile(plan.rows) + tile(height % plan.rows)
    handed = height * width / lanes * RESULT + (0.0 if plan.flat else height * ROW)
    return batch * plan.shape.channels * (tiles + handed + plan.strips * PLANE)
