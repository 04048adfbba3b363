"""The compute facets of convolution and its adjoints: sums over a window, guarded at the border.

Templates bypass them where they can (`schedules`); this is what any target and dtype falls back to.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.ir.dims import Dim
from dslc.ir.op import (
    Expr,
    Index,
    Kernels,
    Operand,
    Reader,
)
from dslc.ir.types import TensorType
from dslc.ops.linalg import accumulator
from dslc.ops.windows import (
    ConvAttrs,
    ConvInputGradientAttrs,
    ConvWeightGradientAttrs,
    image_dims,
    image_index,
    split_index,
)


def _inside(k: Kernels, h: Expr, w: Expr, size: tuple[Dim, Dim]) -> Expr:
    zero = k.dim(0)
    conditions = [
        k.compare("ge", h, zero, "index"),
        k.compare("lt", h, k.dim(size[0]), "index"),
        k.compare("ge", w, zero, "index"),
        k.compare("lt", w, k.dim(size[1]), "index"),
    ]
    result = conditions[0]
    for condition in conditions[1:]:
        result = k.binary("and", result, condition, "bool")
    return result


def _affine(k: Kernels, x: Expr, scale: int, y: Expr, by: int, offset: int) -> Expr:
    """`x * scale + y * by + offset` over index expressions."""
    a = k.binary("mul", x, k.dim(scale), "index")
    c = k.binary("mul", y, k.dim(by), "index")
    return k.binary("add", k.binary("add", a, c, "index"), k.dim(offset), "index")


def conv2d_compute(
    k: Kernels, attrs: ConvAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    x, w = operands
    dtype, wide = x.type.dtype, accumulator(x.type.dtype)
    _, _, height, width = image_dims(x.type, attrs.layout)
    out, per_group, kh, kw = w.type.dims
    top, _, left, _ = attrs.padding

    def read(index: Index) -> Expr:
        n, o, oh, ow = split_index(attrs.layout, index)
        group = k.binary("floordiv", o, k.dim(out // attrs.groups), "index")
        first = k.binary("mul", group, k.dim(per_group), "index")

        def product(r: Index) -> Expr:
            c, i, j = r
            h = _affine(k, oh, attrs.stride[0], i, attrs.dilation[0], -top)
            v = _affine(k, ow, attrs.stride[1], j, attrs.dilation[1], -left)
            channel = k.binary("add", first, c, "index")

            def pixel() -> Expr:
                at = image_index(attrs.layout, n, channel, h, v)
                return k.cast(x(at), dtype, wide)

            inside = _inside(k, h, v, (height, width))
            value = k.guarded(inside, pixel, k.const(0, wide))
            return k.binary("mul", value, k.cast(w((o, c, i, j)), dtype, wide), wide)

        return k.cast(k.reduce("sum", (per_group, kh, kw), product, wide), wide, dtype)

    return read


def input_gradient_compute(
    k: Kernels,
    attrs: ConvInputGradientAttrs,
    operands: Sequence[Operand],
    outputs: Sequence[TensorType],
) -> Reader:
    g, w = operands
    dtype, wide = g.type.dtype, accumulator(g.type.dtype)
    _, _, out_h, out_w = image_dims(g.type, attrs.layout)
    out, per_group, kh, kw = w.type.dims
    per_out = out // attrs.groups
    top, _, left, _ = attrs.padding

    def source(at: Expr, tap: Expr, axis: int, pad: int) -> tuple[Expr, Expr]:
        """The result position that saw `at` through `tap`, and whether stride met it."""
        shifted = _affine(k, at, 1, tap, -attrs.dilation[axis], pad)
        stride = k.dim(attrs.stride[axis])
        remainder = k.binary("mod", shifted, stride, "index")
        met = k.compare("eq", remainder, k.dim(0), "index")
        return k.binary("floordiv", shifted, stride, "index"), met

    def read(index: Index) -> Expr:
        n, c, h, v = split_index(attrs.layout, index)
        group = k.binary("floordiv", c, k.dim(per_group), "index")
        inner = k.binary("mod", c, k.dim(per_group), "index")
        first = k.binary("mul", group, k.dim(per_out), "index")

        def product(r: Index) -> Expr:
            o, i, j = r
            oh, met_h = source(h, i, 0, top)
            ow, met_w = source(v, j, 1, left)
            channel = k.binary("add", first, o, "index")
            met = k.binary("and", met_h, met_w, "bool")
            inside = k.binary("and", met, _inside(k, oh, ow, (out_h, out_w)), "bool")

            def pixel() -> Expr:
                at = image_index(attrs.layout, n, channel, oh, ow)
                return k.cast(g(at), dtype, wide)

            value = k.guarded(inside, pixel, k.const(0, wide))
            return k.binary("mul", value, k.cast(w((channel, inner, i, j)), dtype, wide), wide)

        return k.cast(k.reduce("sum", (per_out, kh, kw), product, wide), wide, dtype)

    return read


def weight_gradient_compute(
    k: Kernels,
    attrs: ConvWeightGradientAttrs,
    operands: Sequence[Operand],
    outputs: Sequence[TensorType],
) -> Reader:
    x, g = operands
    dtype, wide = x.type.dtype, accumulator(x.type.dtype)
    count, channels, height, width = image_dims(x.type, attrs.layout)
    _, out, out_h, out_w = image_dims(g.type, attrs.layout)
    top, _, left, _ = attrs.padding

    def read(index: Index) -> Expr:
        o, c, i, j = index
        group = k.binary("floordiv", o, k.dim(out // attrs.groups), "index")
        first = k.binary("mul", group, k.dim(channels // attrs.groups), "index")
        channel = k.binary("add", first, c, "index")

        def product(r: Index) -> Expr:
            n, oh, ow = r
            h = _affine(k, oh, attrs.stride[0], i, attrs.dilation[0], -top)
            v = _affine(k, ow, attrs.stride[1], j, attrs.dilation[1], -left)

            def pixel() -> Expr:
                at = image_index(attrs.layout, n, channel, h, v)
                return k.cast(x(at), dtype, wide)

            inside = _inside(k, h, v, (height, width))
            value = k.guarded(inside, pixel, k.const(0, wide))
            seen = g(image_index(attrs.layout, n, o, oh, ow))
            return k.binary("mul", value, k.cast(seen, dtype, wide), wide)

        total = k.reduce("sum", (count, out_h, out_w), product, wide)
        return k.cast(total, wide, outputs[0].dtype)

    return read
