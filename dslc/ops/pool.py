"""2-d max and average pooling and their adjoints.

Layouts as in `conv.py`. Padding counts as minus infinity for max and, for average, as zeros that
are counted (`count_include_pad`) or not: PyTorch's meaning. A window's maximum is its first in
row-major order, a NaN wins; its cotangent goes to that element alone. The adjoints are written in
pull form (each input element asks the windows that cover it), so no two threads write one place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from dslc._lazy import lazy
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import (
    NoFacet,
    Op,
    Sample,
    TypeRuleError,
)
from dslc.ir.types import TensorType, is_float
from dslc.ops.pool_kernels import average_gradient_compute, max_gradient_compute, pool_compute
from dslc.ops.windows import (
    AveragePoolAttrs,
    AveragePoolGradientAttrs,
    Layout,
    PoolAttrs,
    every,
    from_nchw,
    image_dims,
    image_type,
    pool_size,
    to_nchw,
)

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


def _pool_type(attrs: PoolAttrs, x: TensorType) -> TensorType:
    if x.rank != 4:
        raise TypeRuleError(
            f"cannot pool {x}", notes=[f"four dims are needed, not {x.rank}"], code="E0205"
        )
    if not is_float(x.dtype):
        raise TypeRuleError(f"cannot pool {x}: pooling takes floats", code="E0204")
    if min(attrs.kernel) < 1 or min(attrs.stride) < 1 or min(attrs.padding) < 0:
        raise TypeRuleError(
            f"kernel {attrs.kernel} and stride {attrs.stride} must be at least 1, "
            f"padding {attrs.padding} at least 0",
            code="E0207",
        )
    if any(pad * 2 > attrs.kernel[i // 2] for i, pad in enumerate(attrs.padding)):
        raise TypeRuleError(
            f"padding {attrs.padding} is more than half of the kernel {attrs.kernel}",
            notes=["a window could lie outside of the image"],
            code="E0207",
        )
    n, c, h, w = image_dims(x, attrs.layout)
    oh, ow = pool_size(attrs, h, w)
    if any(isinstance(size, int) and size < 1 for size in (oh, ow)):
        raise TypeRuleError(
            f"cannot pool {x}",
            notes=[f"a window of {attrs.kernel[0]}x{attrs.kernel[1]} doesn't fit into {h}x{w}"],
            inputs=(0,),
        )
    return image_type(x, attrs.layout, n, c, oh, ow)


def _max_gradient_type(attrs: PoolAttrs, x: TensorType, y: TensorType, g: TensorType) -> TensorType:
    expected = _pool_type(attrs, x)
    if y != expected or g != expected:
        raise TypeRuleError(f"max pooling of {x} gives {expected}, not {y} and {g}")
    return x


def _average_gradient_type(attrs: AveragePoolGradientAttrs, g: TensorType) -> TensorType:
    n, c, _, _ = image_dims(g, attrs.layout)
    x = image_type(g, attrs.layout, n, c, *attrs.size)
    if _pool_type(attrs, x) != g:
        raise TypeRuleError(f"average pooling of {x} gives {_pool_type(attrs, x)}, not {g}")
    return x


# --- reference ---------------------------------------------------------------------------------


def _windows(attrs: PoolAttrs, x: Any, fill: float) -> Any:
    """(N, C, OH, OW, KH * KW): what each window of an NCHW image sees."""
    top, bottom, left, right = attrs.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    oh, ow = (cast(int, size) for size in pool_size(attrs, *x.shape[2:]))
    taps = [
        padded[:, :, every(attrs.stride[0], i, oh), every(attrs.stride[1], j, ow)]
        for i in range(attrs.kernel[0])
        for j in range(attrs.kernel[1])
    ]
    return np.stack(taps, axis=-1)


def _max_reference(attrs: PoolAttrs, x: Any) -> Any:
    return from_nchw(attrs, _windows(attrs, to_nchw(attrs, x), -np.inf).max(axis=-1))


def _spread(attrs: PoolAttrs, parts: Any, size: tuple[int, int]) -> Any:
    """Adds (N, C, OH, OW, KH * KW) back to where each window element came from."""
    n, c, oh, ow, _ = parts.shape
    top, bottom, left, right = attrs.padding
    out = np.zeros((n, c, size[0] + top + bottom, size[1] + left + right), parts.dtype)
    sh, sw = attrs.stride
    for tap in range(parts.shape[-1]):
        i, j = divmod(tap, attrs.kernel[1])
        view = out[:, :, every(sh, i, oh), every(sw, j, ow)]
        view += parts[..., tap]
    return out[:, :, top : top + size[0], left : left + size[1]]


def _max_gradient_reference(attrs: PoolAttrs, x: Any, y: Any, g: Any) -> Any:
    image = to_nchw(attrs, x)
    chosen = _windows(attrs, image, -np.inf).argmax(axis=-1)
    taps = np.arange(attrs.kernel[0] * attrs.kernel[1])
    cotangent = to_nchw(attrs, g).astype(np.float32) if g.dtype.itemsize == 2 else to_nchw(attrs, g)
    parts = np.where(chosen[..., None] == taps, cotangent[..., None], cotangent.dtype.type(0))
    return from_nchw(attrs, _spread(attrs, parts, image.shape[2:])).astype(x.dtype)


def _counts(attrs: AveragePoolAttrs, size: tuple[int, int]) -> Any:
    """How many elements each window averages: (OH, OW)."""
    ones = np.ones((1, 1, *size))
    fill = 1.0 if attrs.count_include_pad else 0.0
    return _windows(attrs, ones, fill).sum(axis=-1)[0, 0]


def _average_reference(attrs: AveragePoolAttrs, x: Any) -> Any:
    image = to_nchw(attrs, x)
    wide = image.astype(np.float32) if x.dtype.itemsize == 2 else image
    total = _windows(attrs, wide, 0).sum(axis=-1)
    mean = total / _counts(attrs, image.shape[2:]).astype(total.dtype)
    return from_nchw(attrs, mean).astype(x.dtype)


def _average_gradient_reference(attrs: AveragePoolGradientAttrs, g: Any) -> Any:
    cotangent = to_nchw(attrs, g)
    wide = cotangent.astype(np.float32) if g.dtype.itemsize == 2 else cotangent
    size = (cast(int, attrs.size[0]), cast(int, attrs.size[1]))
    each = wide / _counts(attrs, size).astype(wide.dtype)
    parts = np.repeat(each[..., None], attrs.kernel[0] * attrs.kernel[1], axis=-1)
    return from_nchw(attrs, _spread(attrs, parts, size)).astype(g.dtype)


# --- gradients ---------------------------------------------------------------------------------


def _max_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (g,), (x,), (y,) = cotangents, eqn.inputs, eqn.outputs
    if g is None:
        return (None,)
    return (b.emit(max_pool2d_gradient, (x, y, g), eqn.attrs)[0],)


def _average_attrs(attrs: AveragePoolAttrs) -> dict[str, Any]:
    return {
        "kernel": attrs.kernel,
        "stride": attrs.stride,
        "padding": attrs.padding,
        "layout": attrs.layout,
        "count_include_pad": attrs.count_include_pad,
    }


def _average_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (g,), (x,) = cotangents, eqn.inputs
    attrs = cast(AveragePoolAttrs, eqn.attrs)
    if g is None:
        return (None,)
    size = image_dims(x.type, attrs.layout)[2:]
    return (avg_pool2d_gradient(b, g, size=size, **_average_attrs(attrs)),)


def _average_gradient_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (d,) = cotangents
    attrs = cast(AveragePoolGradientAttrs, eqn.attrs)
    return (None if d is None else avg_pool2d(b, d, **_average_attrs(attrs)),)


# --- samples -----------------------------------------------------------------------------------

_CASES: tuple[tuple[tuple[Dim, Dim, Dim, Dim], dict[str, Any]], ...] = (
    ((2, 3, 4, 6), {"kernel": (2, 2), "stride": (2, 2)}),
    ((1, 2, 7, 5), {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)}),
    ((1, 3, 5, 6), {"kernel": (3, 2), "stride": (1, 1), "padding": (0, 1, 1, 0)}),
    ((2, 1, 5, 5), {"kernel": (2, 2), "stride": (3, 3)}),
    ((0, 2, 4, 4), {"kernel": (2, 2), "stride": (2, 2)}),
    ((sym("N"), 2, 5, sym("N") + 3), {"kernel": (2, 2), "stride": (2, 1)}),
)


def _image(dims: tuple[Dim, Dim, Dim, Dim], layout: Layout) -> TensorType:
    n, c, h, w = dims
    return TensorType("f32", (n, c, h, w) if layout == "NCHW" else (n, h, w, c))


_LAYOUTS: tuple[Layout, ...] = ("NCHW", "NHWC")


def _max_samples() -> tuple[Sample, ...]:
    return tuple(
        Sample((_image(dims, layout),), PoolAttrs(layout=layout, **extra))
        for layout in _LAYOUTS
        for dims, extra in _CASES
    )


def _max_gradient_samples() -> tuple[Sample, ...]:
    out = []
    for sample in _max_samples():
        (x,) = sample.inputs
        y = _pool_type(cast(PoolAttrs, sample.attrs), x)
        out.append(Sample((x, y, y), sample.attrs))
    return tuple(out)


def _average_samples() -> tuple[Sample, ...]:
    return tuple(
        Sample(
            (_image(dims, layout),),
            AveragePoolAttrs(layout=layout, count_include_pad=include, **extra),
        )
        for layout in _LAYOUTS
        for include in (True, False)
        for dims, extra in _CASES
    )


def _average_gradient_samples() -> tuple[Sample, ...]:
    out = []
    for sample in _average_samples():
        attrs = cast(AveragePoolAttrs, sample.attrs)
        (x,) = sample.inputs
        size = image_dims(x, attrs.layout)[2:]
        gradient = AveragePoolGradientAttrs(**_average_attrs(attrs), size=size)
        out.append(Sample((_pool_type(attrs, x),), gradient))
    return tuple(out)


max_pool2d = Op(
    "max_pool2d",
    attrs=PoolAttrs,
    type_rule=_pool_type,
    reference=_max_reference,
    gradient=_max_gradient,
    compute=pool_compute("max", float("-inf")),
    samples=_max_samples(),
)

max_pool2d_gradient = Op(
    "max_pool2d_gradient",
    attrs=PoolAttrs,
    type_rule=_max_gradient_type,
    reference=_max_gradient_reference,
    gradient=NoFacet("second derivatives through max pooling are not offered"),
    compute=max_gradient_compute,
    samples=_max_gradient_samples(),
)

avg_pool2d = Op(
    "avg_pool2d",
    attrs=AveragePoolAttrs,
    type_rule=_pool_type,
    reference=_average_reference,
    gradient=_average_gradient,
    compute=pool_compute("sum", 0.0),
    samples=_average_samples(),
)

avg_pool2d_gradient = Op(
    "avg_pool2d_gradient",
    attrs=AveragePoolGradientAttrs,
    type_rule=_average_gradient_type,
    reference=_average_gradient_reference,
    gradient=_average_gradient_gradient,
    compute=average_gradient_compute,
    samples=_average_gradient_samples(),
)

OPS: tuple[Op, ...] = (max_pool2d, max_pool2d_gradient, avg_pool2d, avg_pool2d_gradient)
