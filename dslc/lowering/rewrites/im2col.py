"""Turns convolutions of few pixels by large weights into products of rows (im2col).

    conv2d_packed(x, w), KH x KW   becomes   conv2d_packed(rows(x), w as 1 x 1)

A row holds the KH * KW * C elements that one pixel of the result is made of. A convolution reads
all weights anew for each row of its tiles; a product takes them some steps of K at a time, which
stay in the nearest cache for all pixels. The copy costs KH * KW * C elements for each pixel beside
as many products with each output channel.

Input: a convolution's image, its packed weights and attributes. Output: those of the product.
Non-goals: which tiles run it (`schedules/cpu/matmul`).
"""

from __future__ import annotations

from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.lowering.rewrites.rates import Rates
from dslc.ops.packed import PackedConvAttrs, out_size
from dslc.ops.shape import concat, reshape
from dslc.ops.slicing import pad, slice_

FAR = 2 << 20  # bytes of weights that no L2 cache holds beside the image
COLUMNS = 64  # output channels from which the copy takes little beside the product

Ints = tuple[int, ...]


def is_product_of_rows(x: Value, w: Value, attrs: PackedConvAttrs, rates: Rates) -> bool:
    """Whether the convolution of a known x is quicker as one; w is OIHW. Of a padding that crops
    nothing is copied."""
    n, height, width, _ = x.type.dims
    _, _, *kernel = w.type.dims
    plain = attrs.groups == 1 and attrs.spread == (1, 1) and kernel != [1, 1]
    known = all(isinstance(d, int) for d in (n, height, width, *attrs.padding))
    if x.type.dtype != "f32" or not plain or not known or min(cast(Ints, attrs.padding)) < 0:
        return False
    down, across = _out_size(x, w, attrs)
    size = 4 * cast(int, w.type.size)
    few = 0 < cast(int, n) * down * across <= rates.rows
    return few and size > FAR and attrs.channels >= COLUMNS


def _out_size(x: Value, w: Value, attrs: PackedConvAttrs) -> tuple[int, int]:
    """Pixels of the result, down and across."""
    _, *size, _ = x.type.dims
    kernel = cast(Ints, w.type.dims[2:])
    down, across = (out_size(attrs, axis, size[axis], kernel[axis]) for axis in (0, 1))
    return cast(int, down), cast(int, across)


def rows(b: Builder, x: Value, w: Value, attrs: PackedConvAttrs) -> Value:
    """The image of rows: [N, out height, out width, KH * KW * C]."""
    n, _, _, channels = cast(Ints, x.type.dims)
    top, bottom, left, right = cast(Ints, attrs.padding)
    kh, kw = cast(Ints, w.type.dims[2:])
    (sh, sw), (dh, dw) = attrs.stride, attrs.dilation
    down, across = _out_size(x, w, attrs)
    padded = pad(b, x, low=(0, top, left, 0), high=(0, bottom, right, 0))
    pieces = [
        slice_(
            b, padded, starts=(0, y * dh, z * dw, 0),
            stops=(n, y * dh + (down - 1) * sh + 1, z * dw + (across - 1) * sw + 1, channels),
            steps=(1, sh, sw, 1),
        )
        for y in range(kh)
        for z in range(kw)
    ]  # fmt: skip
    return cast(Value, concat(b, *pieces, axis=3))


def panels_of_rows(b: Builder, packed: Value) -> Value:
    """The panels of a KH x KW kernel as those of a product."""
    panels, kh, kw, channels, width = cast(Ints, packed.type.dims)
    return cast(Value, reshape(b, packed, dims=(panels, 1, 1, kh * kw * channels, width)))
