"""Turns convolutions with strides, of few channels, into such without, of more.

Input: an NHWC image, OIHW weights, padding and stride. Output: the same sums of another image and
another kernel, by ordinary equations: pixels whose places leave the same remainder by the stride (a
phase) are channels of their own, so that of a 7x7 kernel with a stride of 2 a 4x4 kernel is left,
of four times as many channels. That is what Winograd's way takes; and channels are hardly vectors
at the beginning of a network.

Non-goals: how it runs (`schedules/cpu/conv/winograd.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import Dim
from dslc.lowering.rewrites.rates import ONE, Rates
from dslc.lowering.rewrites.winograd import Convolution, costs
from dslc.ops.shape import reshape, transpose
from dslc.ops.slicing import pad, slice_axis

FEWEST = 8  # channels of phases: below, products have more to do than to multiply
MOVED = 4  # cycles for an element of the image of phases


@dataclass(frozen=True, slots=True)
class Phases:
    """A convolution of `kernel` x `kernel` with a `stride`, padded by so much above and on the
    left, to `height` x `width` results in whole tiles of `tile` x `tile`; it takes so many
    `cycles`."""

    kernel: int
    stride: int
    before: tuple[int, int]
    size: tuple[int, int]
    tile: int
    cycles: float = 0.0

    @property
    def taps(self) -> int:
        """Of the kernel that is left, along one side."""
        return -(-self.kernel // self.stride)

    def pixels(self, axis: int) -> int:
        """Of a phase, along an axis."""
        return -(-self.size[axis] // self.tile) * self.tile + self.taps - 1

    def spare(self, axis: int) -> int:
        """Results of whole tiles that there are not, negative."""
        return self.size[axis] - (self.pixels(axis) - self.taps + 1)


def choose_phases(
    conv: Convolution, before: tuple[int, int], lanes: int, fixed: bool, rates: Rates = ONE
) -> Phases | None:
    """How the convolution is quicker by phases, if it is; the arguments are those of
    `choose_tile`."""
    apart = replace(
        conv, channels=conv.channels * conv.stride**2, stride=1,
        kernel=-(-conv.kernel // conv.stride),
    )  # fmt: skip
    plain, found = (costs(each, lanes, fixed, rates) for each in (conv, apart))
    found.pop(0, None)
    if not plain or not found or apart.channels < FEWEST:
        return None
    tile = min(found, key=lambda m: found[m])
    size = cast(int, conv.height), cast(int, conv.width)
    made = Phases(conv.kernel, conv.stride, before, size, tile)
    images = conv.batch if isinstance(conv.batch, int) else 1
    moved = MOVED * images * made.pixels(0) * made.pixels(1) * apart.channels
    total = found[tile] + moved
    return replace(made, cycles=total) if total < min(plain.values()) else None


def phased_image(b: Builder, x: Value, p: Phases) -> Value:
    """[batch, height, width, channels by phases]; what tiles see beyond the image is there, and
    0."""
    n, *_, channels = x.type.dims
    step, down, across = p.stride, p.pixels(0), p.pixels(1)
    # A network's image comes as planes: so this is no work, and the rest moves pixels once.
    value = cast(Value, transpose(b, x, perm=(0, 3, 1, 2)))
    for axis in (0, 1):
        value = _fitted(b, value, 2 + axis, p.before[axis], step * p.pixels(axis))
    value = cast(Value, reshape(b, value, dims=(n, channels, down, step, across, step)))
    value = cast(Value, transpose(b, value, perm=(0, 2, 4, 1, 3, 5)))
    return cast(Value, reshape(b, value, dims=(n, down, across, channels * (step * step))))


def _fitted(b: Builder, x: Value, axis: int, before: int, size: int) -> Value:
    """The axis with `before` zeros in front, and cut or filled up to `size`."""
    behind = size - before - cast(int, x.type.dims[axis])
    if behind < 0:
        x = slice_axis(b, x, axis, 0, size - before)
    low, high = [0] * x.type.rank, [0] * x.type.rank
    low[axis], high[axis] = before, max(0, behind)
    return cast(Value, pad(b, x, low=tuple(low), high=tuple(high)))


def phased_weights(b: Builder, w: Value, p: Phases) -> Value:
    """[out channels, channels by phases, taps, taps]."""
    out, channels, *_ = cast(tuple[int, ...], w.type.dims)
    step, missing = p.stride, p.taps * p.stride - p.kernel
    value = pad(b, w, low=(0,) * 4, high=(0, 0, missing, missing)) if missing else w
    value = reshape(b, value, dims=(out, channels, p.taps, step, p.taps, step))
    value = transpose(b, value, perm=(0, 1, 3, 5, 2, 4))
    dims: tuple[Dim, ...] = (out, channels * step * step, p.taps, p.taps)
    return cast(Value, reshape(b, value, dims=dims))
