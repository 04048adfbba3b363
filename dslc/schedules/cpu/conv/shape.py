"""Shapes of 2-d convolutions, shared by the forward and the gradient templates.

Sizes may be Python ints, dims or TIR expressions (a plan is made once with dims, for its scratch,
and once with expressions, for its code); channels, kernel, stride, padding are ints.
"""

from __future__ import annotations

from math import prod
from typing import Any

from dslc._frozen import dataclass

Size = Any  # as in `tiles/contract.py`: the choice of a layout asks for shapes, too, and has no TVM
Pair = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ConvShape:
    """A convolution of x [batch, height, width, channels] to [batch, out.., out_channels].

    `padding` is ((top, bottom), (left, right)) and may be negative (cropping); bottom and right
    need not be known. `dilation` spreads the kernel, `input_dilation` the input, with zeros
    between (for gradients of strides).
    """

    batch: Size
    height: Size
    width: Size
    channels: int
    out_channels: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[tuple[int, Size], tuple[int, Size]] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    groups: int = 1
    input_dilation: Pair = (1, 1)

    @property
    def padded(self) -> tuple[Size, Size]:
        """Height and width of the input, dilated and padded."""
        (top, bottom), (left, right) = self.padding
        down, across = self.input_dilation
        height = self.height if down == 1 else (self.height - 1) * down + 1
        width = self.width if across == 1 else (self.width - 1) * across + 1
        return height + (top + bottom), width + (left + right)

    @property
    def extent(self) -> Pair:
        """Height and width of the dilated kernel."""
        (kh, kw), (dh, dw) = self.kernel, self.dilation
        return (kh - 1) * dh + 1, (kw - 1) * dw + 1

    @property
    def out(self) -> tuple[Size, Size]:
        """Height and width of the output."""
        (height, width), (kh, kw), (sh, sw) = self.padded, self.extent, self.stride
        return _steps(height - kh, sh), _steps(width - kw, sw)

    @property
    def plane(self) -> tuple[int, int]:
        """The same, of an image whose height and width are known."""
        height, width = self.out
        return int(height), int(width)

    @property
    def group_channels(self) -> int:
        return self.channels // self.groups

    @property
    def group_out_channels(self) -> int:
        return self.out_channels // self.groups

    @property
    def is_padded(self) -> bool:
        """Whether the input can't be read in place."""
        sides = (*self.padding[0], *self.padding[1])
        return not all(
            isinstance(side, int) and side == 0 for side in sides
        ) or self.input_dilation != (1, 1)

    @property
    def is_product(self) -> bool:
        """Whether it is a product of all pixels, one behind the other, by weights."""
        plain = (self.kernel, self.stride, self.groups) == ((1, 1), (1, 1), 1)
        return plain and not self.is_padded

    @property
    def rows_seen(self) -> float:
        """The part of the kernel's rows, of all rows of results, that see pixels, not padding; 1 if
        the height isn't known."""
        rows, (kh, _), top = self.out[0], self.kernel, self.padding[0][0]
        if not isinstance(rows, int) or rows == 0 or self.input_dilation != (1, 1):
            return 1.0
        places = (
            row * self.stride[0] + y * self.dilation[0] - top
            for row in range(rows)
            for y in range(kh)
        )
        found = sum(1 for place in places if 0 <= place < self.height)
        return found / (rows * kh)

    @property
    def work(self) -> Size:
        """Multiply-adds."""
        return prod([self.batch, *self.out, *self.kernel, self.group_channels, self.out_channels])


def _steps(room: Size, stride: int) -> Size:
    """Positions of a window with `room` to move."""
    if isinstance(room, int):
        return max(0, room // stride + 1)
    return room + 1 if stride == 1 else room // stride + 1


def backward_input_shape(shape: ConvShape) -> ConvShape:
    """The convolution that maps the output's gradient to the input's.

    Its weights are those of `shape` with kernel positions reversed and, in each group, in- and
    output channels swapped.
    """
    (kh, kw), (sh, sw) = shape.extent, shape.stride
    (top, bottom), (left, right) = shape.padding
    oh, ow = shape.out
    # The rows that strides did not reach at the far end get a gradient of zero.
    below = kh - 1 - bottom if sh == 1 else shape.height - ((oh - 1) * sh + 1) + top
    beyond = kw - 1 - right if sw == 1 else shape.width - ((ow - 1) * sw + 1) + left
    padding = ((kh - 1 - top, below), (kw - 1 - left, beyond))
    return ConvShape(
        shape.batch, oh, ow, shape.out_channels, shape.channels, shape.kernel, (1, 1),
        padding, shape.dilation, shape.groups, shape.stride,
    )  # fmt: skip
