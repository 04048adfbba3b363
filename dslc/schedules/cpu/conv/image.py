"""The input of a convolution as its tiles read it: strips of rows, padded.

An image with padding is copied strip by strip into scratch, where borders are zeros and no tile
needs to look for them; the strip then lies in the L2 cache for all the tiles that read it. Without
padding the image is read where it is.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    Expr,
    Machine,
    Operand,
    Size,
    address,
    ceil_div,
    div,
    i64,
    is_int,
    larger,
    loop,
    rem,
    require,
    smaller,
)
from dslc.schedules.cpu.tiles.dots import zero

UNKNOWN_STRIP = 4  # rows of a strip when the image's size is not known


@dataclass(frozen=True, slots=True)
class Strips:
    """Output rows in strips of `rows`; `pixel` elements from one padded input pixel to the next."""

    shape: ConvShape
    rows: Size
    pixel: int

    @property
    def count(self) -> Size:
        """Strips of an image."""
        return ceil_div(self.shape.out[0], self.rows) if isinstance(self.rows, int) else 1

    @property
    def input_rows(self) -> Size:
        """Padded input rows that a strip reads."""
        return (self.rows - 1) * self.shape.stride[0] + self.shape.extent[0]

    @property
    def elements(self) -> Size:
        """Scratch elements of one strip."""
        return self.input_rows * (self.shape.padded[1] * self.pixel)

    def output_rows(self, strip: Expr) -> Size:
        """Output rows of strip number `strip`."""
        height = self.shape.out[0]
        if isinstance(height, int) and height % self.rows == 0:
            return self.rows
        return T.bind(i64(smaller(height - strip * self.rows, self.rows)))


def seen_rows(shape: ConvShape, row: Expr, rows: int) -> tuple[Size, Size]:
    """From which row of the kernel on, up to which, some of `rows` output rows from `row` on see
    pixels: of an image that is not high, many would see nothing but padding."""
    (kh, _), step, apart = shape.kernel, shape.stride[0], shape.dilation[0]
    (top, bottom), _ = shape.padding
    padded = not (is_int(top, 0) and is_int(bottom, 0))
    if kh == 1 or not padded or shape.input_dilation[0] > 1:
        return 0, kh
    last = row + (rows - 1)
    start = div(larger(0, top + (apart - 1) - last * step), apart)
    stop = div(larger(0, shape.height + (top + apart - 1) - row * step), apart)
    start = T.bind(i64(smaller(start, kh)))
    return start, T.bind(i64(larger(start, smaller(stop, kh))))


def plan_strips(
    shape: ConvShape, machine: Machine, dtype: str, tasks: int, pixel: int, beside: int = 0
) -> Strips:
    """As many rows as half of the L2 cache holds, and strips for all tasks, about as many rows for
    each: of seven strips one of two tasks would do four.

    `beside`: channels of what else is read for every output pixel.
    """
    (height, out_width), width = shape.out, shape.padded[1]
    if not all(isinstance(size, int) for size in (height, out_width, width)):
        return Strips(shape, UNKNOWN_STRIP, pixel)
    row_bytes = (width * pixel * shape.stride[0] + out_width * beside) * ITEMSIZE[dtype]
    count = max(1, -(-height * row_bytes // (machine.l2_bytes // 2)))
    # A batch that is known only at each call may be one image.
    batch = shape.batch if isinstance(shape.batch, int) and shape.batch else 1
    count = max(count, -(-tasks // batch))
    choices = (Strips(shape, max(1, -(-height // n)), pixel) for n in range(count, count + tasks))
    return min(choices, key=lambda s: ceil_div(batch * s.count, tasks) * s.input_rows)


@dataclass(frozen=True, slots=True)
class View:
    """Element (row, column, channel) of a padded strip lies at base + row * row_stride + ..."""

    buffer: Any
    base: Expr
    row_stride: Size
    pixel: Size

    def at(self, row: Size, column: Size, channel: Size) -> Expr:
        terms = ((row, self.row_stride), (column, self.pixel), (channel, 1))
        return address(self.base, *terms)


def view_in_place(strips: Strips, x: Operand, image: Expr, strip: Expr) -> View:
    """The strip where it lies in x (no padding)."""
    first = strip * (strips.rows * strips.shape.stride[0])
    zero = i64(0)
    return View(x.buffer, T.bind(x.at(image, first, zero, zero)), x.strides[1], x.strides[2])


def copy_strip(
    strips: Strips, x: Operand, scratch: Operand, start: Expr, image: Expr, strip: Expr
) -> View:
    """Emits the copy of a strip to scratch[start..] and gives its view.

    Of every padded row: zeros, the image's pixels, zeros. `strips.pixel` may exceed the channels;
    what lies between is zero.
    """
    shape = strips.shape
    require(is_int(x.strides[3], 1), "a convolution's input must be contiguous along channels")
    row_stride = shape.padded[1] * strips.pixel
    view = View(scratch.buffer, start, row_stride, strips.pixel)
    rows = (strips.output_rows(strip) - 1) * shape.stride[0] + shape.extent[0]
    first = T.bind(i64(strip * (strips.rows * shape.stride[0]) - shape.padding[0][0]))
    down = shape.input_dilation[0]
    with loop(0, rows) as row:
        source = T.bind(first + row)
        inside = tirx.And(source >= i64(0), source < i64((shape.height - 1) * down + 1))
        if down > 1:
            inside = tirx.And(inside, tirx.EQ(rem(source, down), i64(0)))
        target = T.bind(view.at(row, 0, 0))
        with T.If(inside):
            with T.Then():
                _copy_row(strips, x, scratch, target, image, div(source, down))
            with T.Else():
                _fill_zero(scratch, target, row_stride)
    return view


def _fill_zero(scratch: Operand, start: Expr, count: Size) -> None:
    with loop(0, count) as i:
        T.buffer_store(scratch.buffer, zero(scratch.dtype), [start + i])


def _copy_row(
    strips: Strips, x: Operand, scratch: Operand, target: Expr, image: Expr, source: Expr
) -> None:
    shape = strips.shape
    left, right = shape.padding[1]
    across = shape.input_dilation[1]
    width, channels, pixel = shape.padded[1], shape.channels, strips.pixel
    if across > 1 or pixel != channels:
        _fill_zero(scratch, target, width * pixel)
        skipped = ceil_div(max(0, -left), across)
        stop = smaller(shape.width, div(width - left - 1, across) + 1)
        with loop(skipped, larger(skipped, stop)) as w, loop(0, channels) as c:
            at = address(target, (w * across + left, pixel), (c, 1))
            T.buffer_store(scratch.buffer, x.load(image, source, w, c), [at])
        return
    before, after = max(0, left), larger(0, right)
    inside = width - before - after
    _fill_zero(scratch, target, before * pixel)
    start = T.bind(x.at(image, source, i64(max(0, -left)), i64(0)))
    _copy_pixels(x, scratch, start, T.bind(target + before * pixel), inside, channels)
    _fill_zero(scratch, T.bind(target + (before + inside) * pixel), after * pixel)


def _copy_pixels(
    x: Operand, scratch: Operand, source: Expr, target: Expr, count: Size, channels: int
) -> None:
    """`count` pixels, one after the other in scratch."""
    if is_int(x.strides[2], channels):
        with loop(0, count * channels) as i:
            T.buffer_store(scratch.buffer, x.buffer[source + i], [target + i])
        return
    with loop(0, count) as w, loop(0, channels) as c:
        at = address(source, (w, x.strides[2]), (c, 1))
        T.buffer_store(scratch.buffer, x.buffer[at], [address(target, (w, channels), (c, 1))])
