"""Where the windows of convolutions and pools lie: attributes, layouts, sizes.

Images are (N, C, H, W) or, with `layout="NHWC"`, (N, H, W, C). The functions here speak of n, c, h
and w in this order, whatever the layout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.dims import Dim
from dslc.ir.op import (
    Attrs,
    Expr,
    Index,
)
from dslc.ir.types import TensorType

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

Layout = Literal["NCHW", "NHWC"]


@dataclass(frozen=True, slots=True)
class ConvAttrs(Attrs):
    """`padding` is (top, bottom, left, right), of zeros; the others are (height, width)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    layout: Layout = "NCHW"


@dataclass(frozen=True, slots=True)
class ConvInputGradientAttrs(ConvAttrs):
    """`size` is the image's (height, width), which stride may not tell from the result's."""

    size: tuple[Dim, Dim] = (0, 0)


@dataclass(frozen=True, slots=True)
class ConvWeightGradientAttrs(ConvAttrs):
    """`kernel` is the weight's (height, width); `wide`: the sums of 16 bits stay in f32."""

    kernel: tuple[int, int] = (1, 1)
    wide: bool = False


@dataclass(frozen=True, slots=True)
class PoolAttrs(Attrs):
    """`kernel` and `stride` are (height, width), `padding` is (top, bottom, left, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    layout: Layout = "NCHW"


@dataclass(frozen=True, slots=True)
class AveragePoolAttrs(PoolAttrs):
    count_include_pad: bool = True


@dataclass(frozen=True, slots=True)
class AveragePoolGradientAttrs(AveragePoolAttrs):
    """`size` is the image's (height, width)."""

    size: tuple[Dim, Dim] = (0, 0)


def image_dims(type: TensorType, layout: Layout) -> tuple[Dim, Dim, Dim, Dim]:
    """(N, C, H, W) of an image tensor."""
    if layout == "NCHW":
        n, c, h, w = type.dims
    else:
        n, h, w, c = type.dims
    return n, c, h, w


def image_type(dtype: TensorType, layout: Layout, n: Dim, c: Dim, h: Dim, w: Dim) -> TensorType:
    return dtype.with_dims((n, c, h, w) if layout == "NCHW" else (n, h, w, c))


def image_index(layout: Layout, n: Expr, c: Expr, h: Expr, w: Expr) -> Index:
    return (n, c, h, w) if layout == "NCHW" else (n, h, w, c)


def split_index(layout: Layout, index: Index) -> Index:
    """(n, c, h, w) of an index into an image tensor."""
    if layout == "NCHW":
        return index
    n, h, w, c = index
    return n, c, h, w


def window_count(size: Dim, kernel: int, stride: int, low: int, high: int, dilation: int) -> Dim:
    """How many windows fit: `(size + padding - extent) // stride + 1`."""
    return (size + (low + high - ((kernel - 1) * dilation + 1))) // stride + 1


def conv_size(attrs: ConvAttrs, h: Dim, w: Dim, kernel: tuple[int, int]) -> tuple[Dim, Dim]:
    top, bottom, left, right = attrs.padding
    return (
        window_count(h, kernel[0], attrs.stride[0], top, bottom, attrs.dilation[0]),
        window_count(w, kernel[1], attrs.stride[1], left, right, attrs.dilation[1]),
    )


def pool_size(attrs: PoolAttrs, h: Dim, w: Dim) -> tuple[Dim, Dim]:
    top, bottom, left, right = attrs.padding
    return (
        window_count(h, attrs.kernel[0], attrs.stride[0], top, bottom, 1),
        window_count(w, attrs.kernel[1], attrs.stride[1], left, right, 1),
    )


def every(step: int, start: int, count: int) -> slice:
    """`count` elements from `start` on, `step` apart; none is no slice that ends below 0."""
    return slice(start, start + max((count - 1) * step + 1, 0), step)


def to_nchw(attrs: ConvAttrs | PoolAttrs, x: Any) -> Any:
    return x if attrs.layout == "NCHW" else np.transpose(x, (0, 3, 1, 2))


def from_nchw(attrs: ConvAttrs | PoolAttrs, x: Any) -> Any:
    return x if attrs.layout == "NCHW" else np.transpose(x, (0, 2, 3, 1))
