"""The tiles in which a depthwise convolution reads NCHW images where they lie.

Input: a `ConvShape` of known height and width, vector registers. Output: a `ClippedPlan`, and what
it takes in cycles. Non-goals: TVM, for the choice of a layout asks for costs
(`lowering/planes.py`); code (`clipped_planes.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from dslc.schedules.cpu.conv_shape import ConvShape, Size
from dslc.schedules.cpu.plane_tile import BYTES, WIDE, takes_planes

ROOM, HIGH = 8, 6  # vectors of sums that leave registers for what they are made of; of some rows
IN_FLIGHT = 8  # multiply-adds that hide the latency of one
# In multiply-adds: a vector that is read, it lies across cache lines; one that is taken of others;
# one of results that is handed on, beside a tile and a row of it.
READ, TAKEN = 1.5, 1.5
RESULT, TILE, ROW = 4.0, 4.0, 3.0


@dataclass(frozen=True, slots=True)
class ClippedPlan:
    """Tiles of `rows` x `vectors` results of a plane, strips of `strip` rows: whole tiles. Strips
    of planes are shared out to the tasks."""

    shape: ConvShape
    dtype: str
    lanes: int
    rows: int
    vectors: int
    strip: int
    tasks: int

    @property
    def strips(self) -> int:
        """Of a plane."""
        return -(-self.shape.plane[0] // self.strip)

    @property
    def wide(self) -> int:
        """Vectors of a row of results."""
        return -(-self.shape.plane[1] // self.lanes)

    @property
    def seen_rows(self) -> int:
        """Of the image, from the first that a tile sees to the last."""
        return (self.rows - 1) * self.shape.stride[0] + self.shape.extent[0]

    def users(self, seen: int) -> list[tuple[int, int]]:
        """(row of the tile, row of the kernel) of the results that see that row of the image."""
        (step, _), (apart, _) = self.shape.stride, self.shape.dilation
        return [
            (row, y)
            for row in range(self.rows)
            for y in range(self.shape.kernel[0])
            if row * step + y * apart == seen
        ]

    @property
    def taps(self) -> list[tuple[int, list[int]]]:
        """Positions of a row of the kernel, by the pixel from which on `stride` times as many as
        results are read for them: those of each are that pixel or one of the next."""
        step, apart, left = self.shape.stride[1], self.shape.dilation[1], self.shape.padding[1][0]
        found: list[tuple[int, list[int]]] = []
        for z in range(self.shape.kernel[1]):
            if not found or z * apart - left >= found[-1][0] + step:
                found.append((z * apart - left, []))
            found[-1][1].append(z)
        return found


def takes_clipped(shape: ConvShape, dtype: str, lanes: int) -> bool:
    """Whether this template runs such a convolution. Measured with narrow vectors alone."""
    deep = shape.channels == shape.out_channels == shape.groups
    narrow = lanes * BYTES.get(dtype, WIDE) < WIDE
    return deep and narrow and shape.kernel != (1, 1) and takes_planes(shape, dtype)


def choose_clipped(shape: ConvShape, dtype: str, lanes: int) -> ClippedPlan:
    """The plan for one task, of strips that are whole planes."""
    plans = [
        replace(plan, strip=-(-shape.plane[0] // plan.rows) * plan.rows)
        for plan in _plans(shape, dtype, lanes)
    ]
    return min(plans, key=cycles)


def _plans(shape: ConvShape, dtype: str, lanes: int) -> Iterator[ClippedPlan]:
    wide = -(-shape.plane[1] // lanes)
    for rows in range(1, min(shape.plane[0], HIGH) + 1):
        for most in range(1, (ROOM if rows == 1 else HIGH) // rows + 1):
            vectors = -(-wide // -(-wide // most))
            yield ClippedPlan(shape, dtype, lanes, rows, vectors, rows, 1)


def work(plan: ClippedPlan) -> Size:
    """What it takes as multiply-adds would, of any batch: there are fewer than moves."""
    one = replace(plan, shape=replace(plan.shape, batch=1))
    return plan.shape.batch * int(cycles(one) * plan.lanes)


def cycles(plan: ClippedPlan) -> float:
    """In multiply-adds of vectors, for the whole convolution; a batch that isn't known counts as
    one image."""
    shape, rows = plan.shape, plan.rows
    batch = shape.batch if isinstance(shape.batch, int) else 1
    step, taps = shape.stride[1], shape.kernel[0] * shape.kernel[1]
    seen = sum(1 for line in range(plan.seen_rows) if plan.users(line))
    sums = rows * taps * max(1.0, IN_FLIGHT / (rows * plan.vectors))
    read = seen * len(plan.taps) * step * READ + rows * taps / plan.vectors
    taken = seen * shape.kernel[1] * TAKEN if step > 1 else 0.0
    vector = max(sums + taken, read) + rows * RESULT
    blocks, tiles = -(-shape.plane[0] // rows), -(-plan.wide // plan.vectors)
    tile = TILE + rows * ROW
    return batch * shape.channels * blocks * (plan.wide * vector + tiles * tile)
