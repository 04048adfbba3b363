"""The tiles in which a convolution reads NCHW images where they lie.

Input: a `ConvShape` of known height and width, vector registers. Output: a `ClippedPlan`, and what
it takes in cycles. Non-goals: TVM, for the choice of a layout asks for costs
(`lowering/rewrites/planes.py`); code (`clipped_planes.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.plane_tile import BYTES, WIDE, takes_planes
from dslc.schedules.cpu.conv.shape import ConvShape, Size

# Vectors of sums that leave registers for what they are made of: of one row of a channel's results,
# of some, of some channels, whose weights come one by one.
ROOM, HIGH, DEEP = 8, 6, 12
CHANNELS = 6  # of a tile, at most
IN_FLIGHT = 8  # multiply-adds that hide the latency of one
# In multiply-adds: a vector that is read, it lies across cache lines; one that is taken of others;
# one of results that is handed on, beside a tile and a row of it.
READ, TAKEN = 1.5, 1.5
RESULT, TILE, ROW = 4.0, 4.0, 3.0


@dataclass(frozen=True, slots=True)
class ClippedPlan:
    """Tiles of `channels` x `rows` x `vectors` results, strips of `strip` rows: whole tiles. Items
    (image, group, strip) are shared out to the tasks."""

    shape: ConvShape
    dtype: str
    lanes: int
    channels: int
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

    @property
    def sums(self) -> int:
        """Vectors of a tile."""
        return self.channels * self.rows * self.vectors

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
    narrow = lanes * BYTES.get(dtype, WIDE) < WIDE
    strided = shape.stride != (1, 1) and shape.group_channels == 1
    return narrow and (strided or shape.kernel != (1, 1)) and takes_planes(shape, dtype)


def choose_clipped(shape: ConvShape, dtype: str, lanes: int) -> ClippedPlan:
    """The plan for one task, of strips that are whole planes."""
    plans = [
        replace(plan, strip=-(-shape.plane[0] // plan.rows) * plan.rows)
        for plan in _plans(shape, dtype, lanes)
    ]
    return min(plans, key=cycles)


def _plans(shape: ConvShape, dtype: str, lanes: int) -> Iterator[ClippedPlan]:
    wide, outputs = -(-shape.plane[1] // lanes), shape.group_out_channels
    channels = -(-outputs // -(-outputs // CHANNELS))
    for rows in range(1, (min(shape.plane[0], HIGH) if channels == 1 else 1) + 1):
        room = DEEP if channels > 1 else ROOM if rows == 1 else HIGH
        for most in range(1, room // (rows * channels) + 1):
            vectors = -(-wide // -(-wide // most))
            yield ClippedPlan(shape, dtype, lanes, channels, rows, vectors, rows, 1)


def work(plan: ClippedPlan) -> Size:
    """What it takes as multiply-adds would, of any batch: there are fewer than moves."""
    one = replace(plan, shape=replace(plan.shape, batch=1))
    return plan.shape.batch * int(cycles(one) * plan.lanes)


def cycles(plan: ClippedPlan) -> float:
    """In multiply-adds of vectors, for the whole convolution; a batch that isn't known counts as
    one image."""
    shape, rows = plan.shape, plan.rows
    batch = shape.batch if isinstance(shape.batch, int) else 1
    step, users = shape.stride[1], plan.channels * rows * shape.kernel[0] * shape.kernel[1]
    seen = sum(1 for line in range(plan.seen_rows) if plan.users(line))
    sums = users * max(1.0, IN_FLIGHT / plan.sums)
    read = seen * len(plan.taps) * step * READ + users / plan.vectors
    taken = seen * shape.kernel[1] * TAKEN if step > 1 else 0.0
    vector = shape.group_channels * max(sums + taken, read) + plan.channels * rows * RESULT
    blocks, tiles = -(-shape.plane[0] // rows), -(-plan.wide // plan.vectors)
    tile = TILE + plan.channels * rows * ROW
    across = plan.wide * vector + tiles * tile
    return batch * shape.out_channels / plan.channels * blocks * across
