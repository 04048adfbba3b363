"""2-d max and average pooling and their adjoints.

Layouts as in `conv.py`. Padding counts as minus infinity for max and, for average, as zeros that
are counted (`count_include_pad`) or not: PyTorch's meaning. A window's maximum is its first in
row-major order, a NaN wins; its cotangent goes to that element alone. The adjoints are written in
pull form (each input element asks the windows that cover it), so no two threads write one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from dslc._lazy import lazy
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import (
    Attrs,
    Expr,
    Index,
    Kernels,
    NoFacet,
    Op,
    Operand,
    Reader,
    Sample,
    TypeRuleError,
)
from dslc.ir.types import TensorType, is_float
from dslc.ops.conv import Layout, image_dims, image_index, image_type, split_index, window_count
from dslc.ops.linalg import accumulator

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


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


def out_size(attrs: PoolAttrs, h: Dim, w: Dim) -> tuple[Dim, Dim]:
    top, bottom, left, right = attrs.padding
    return (
        window_count(h, attrs.kernel[0], attrs.stride[0], top, bottom, 1),
        window_count(w, attrs.kernel[1], attrs.stride[1], left, right, 1),
    )


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
    oh, ow = out_size(attrs, h, w)
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


def _nchw(attrs: PoolAttrs, x: Any) -> Any:
    return x if attrs.layout == "NCHW" else np.transpose(x, (0, 3, 1, 2))


def _from_nchw(attrs: PoolAttrs, x: Any) -> Any:
    return x if attrs.layout == "NCHW" else np.transpose(x, (0, 2, 3, 1))


def _windows(attrs: PoolAttrs, x: Any, fill: float) -> Any:
    """(N, C, OH, OW, KH * KW): what each window of an NCHW image sees."""
    top, bottom, left, right = attrs.padding
    padded = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    oh, ow = (cast(int, size) for size in out_size(attrs, *x.shape[2:]))
    taps = [
        padded[
            :,
            :,
            i : i + (oh - 1) * attrs.stride[0] + 1 : attrs.stride[0],
            j : j + (ow - 1) * attrs.stride[1] + 1 : attrs.stride[1],
        ]
        for i in range(attrs.kernel[0])
        for j in range(attrs.kernel[1])
    ]
    return np.stack(taps, axis=-1)


def _max_reference(attrs: PoolAttrs, x: Any) -> Any:
    return _from_nchw(attrs, _windows(attrs, _nchw(attrs, x), -np.inf).max(axis=-1))


def _spread(attrs: PoolAttrs, parts: Any, size: tuple[int, int]) -> Any:
    """Adds (N, C, OH, OW, KH * KW) back to where each window element came from."""
    n, c, oh, ow, _ = parts.shape
    top, bottom, left, right = attrs.padding
    out = np.zeros((n, c, size[0] + top + bottom, size[1] + left + right), parts.dtype)
    sh, sw = attrs.stride
    for tap in range(parts.shape[-1]):
        i, j = divmod(tap, attrs.kernel[1])
        view = out[:, :, i : i + (oh - 1) * sh + 1 : sh, j : j + (ow - 1) * sw + 1 : sw]
        view += parts[..., tap]
    return out[:, :, top : top + size[0], left : left + size[1]]


def _max_gradient_reference(attrs: PoolAttrs, x: Any, y: Any, g: Any) -> Any:
    image = _nchw(attrs, x)
    chosen = _windows(attrs, image, -np.inf).argmax(axis=-1)
    taps = np.arange(attrs.kernel[0] * attrs.kernel[1])
    cotangent = _nchw(attrs, g).astype(np.float32) if g.dtype.itemsize == 2 else _nchw(attrs, g)
    parts = np.where(chosen[..., None] == taps, cotangent[..., None], cotangent.dtype.type(0))
    return _from_nchw(attrs, _spread(attrs, parts, image.shape[2:])).astype(x.dtype)


def _counts(attrs: AveragePoolAttrs, size: tuple[int, int]) -> Any:
    """How many elements each window averages: (OH, OW)."""
    ones = np.ones((1, 1, *size))
    fill = 1.0 if attrs.count_include_pad else 0.0
    return _windows(attrs, ones, fill).sum(axis=-1)[0, 0]


def _average_reference(attrs: AveragePoolAttrs, x: Any) -> Any:
    image = _nchw(attrs, x)
    wide = image.astype(np.float32) if x.dtype.itemsize == 2 else image
    total = _windows(attrs, wide, 0).sum(axis=-1)
    mean = total / _counts(attrs, image.shape[2:]).astype(total.dtype)
    return _from_nchw(attrs, mean).astype(x.dtype)


def _average_gradient_reference(attrs: AveragePoolGradientAttrs, g: Any) -> Any:
    cotangent = _nchw(attrs, g)
    wide = cotangent.astype(np.float32) if g.dtype.itemsize == 2 else cotangent
    size = (cast(int, attrs.size[0]), cast(int, attrs.size[1]))
    each = wide / _counts(attrs, size).astype(wide.dtype)
    parts = np.repeat(each[..., None], attrs.kernel[0] * attrs.kernel[1], axis=-1)
    return _from_nchw(attrs, _spread(attrs, parts, size)).astype(g.dtype)


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


# --- compute -----------------------------------------------------------------------------------


def _all(k: Kernels, *conditions: Expr) -> Expr:
    result = conditions[0]
    for condition in conditions[1:]:
        result = k.binary("and", result, condition, "bool")
    return result


def _plus(k: Kernels, x: Expr, offset: int) -> Expr:
    return k.binary("add", x, k.dim(offset), "index") if offset else x


def _times(k: Kernels, x: Expr, factor: int) -> Expr:
    return k.binary("mul", x, k.dim(factor), "index") if factor != 1 else x


def _between(k: Kernels, x: Expr, high: Dim) -> Expr:
    """`0 <= x < high`."""
    low = k.compare("ge", x, k.dim(0), "index")
    return k.binary("and", low, k.compare("lt", x, k.dim(high), "index"), "bool")


def _padded(attrs: PoolAttrs) -> bool:
    return any(attrs.padding)


def _pixel(
    k: Kernels,
    attrs: PoolAttrs,
    x: Operand,
    at: tuple[Expr, Expr, Expr, Expr],
    fill: float,
    wide: str,
) -> Expr:
    """The image element at (n, c, h, w), `fill` in the padding, in the wide dtype."""
    n, c, h, w = at
    dtype = x.type.dtype

    def inside() -> Expr:
        return k.cast(x(image_index(attrs.layout, n, c, h, w)), dtype, wide)  # type: ignore[arg-type]

    if not _padded(attrs):
        return inside()
    _, _, height, width = image_dims(x.type, attrs.layout)
    condition = _all(k, _between(k, h, height), _between(k, w, width))
    return k.guarded(condition, inside, k.const(fill, wide))  # type: ignore[arg-type]


def _pool_compute(kind: str, fill: float) -> Any:
    def compute(
        k: Kernels, attrs: PoolAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
    ) -> Reader:
        (x,) = operands
        dtype, wide = x.type.dtype, accumulator(x.type.dtype)
        top, _, left, _ = attrs.padding

        def read(index: Index) -> Expr:
            n, c, oh, ow = split_index(attrs.layout, index)
            h0 = _plus(k, _times(k, oh, attrs.stride[0]), -top)
            w0 = _plus(k, _times(k, ow, attrs.stride[1]), -left)

            def seen(r: Index) -> Expr:
                h, w = k.binary("add", h0, r[0], "index"), k.binary("add", w0, r[1], "index")
                return _pixel(k, attrs, x, (n, c, h, w), fill, wide)

            value = k.reduce(kind, attrs.kernel, seen, wide)
            if isinstance(attrs, AveragePoolAttrs):
                count = _count(k, attrs, h0, w0, image_dims(x.type, attrs.layout)[2:])
                value = k.binary("div", value, k.from_index(count, wide), wide)
            return k.cast(value, wide, dtype)

        return read

    return compute


def _count(k: Kernels, attrs: AveragePoolAttrs, h0: Expr, w0: Expr, size: tuple[Dim, Dim]) -> Expr:
    """How many elements the window that starts at (h0, w0) averages, as an index expression."""
    if attrs.count_include_pad or not _padded(attrs):
        return k.dim(attrs.kernel[0] * attrs.kernel[1])

    def extent(start: Expr, kernel: int, high: Dim) -> Expr:
        low = k.binary("max", start, k.dim(0), "index")
        end = k.binary("min", _plus(k, start, kernel), k.dim(high), "index")
        return k.binary("sub", end, low, "index")

    rows, columns = (
        extent(h0, attrs.kernel[0], size[0]),
        extent(w0, attrs.kernel[1], size[1]),
    )
    return k.binary("mul", rows, columns, "index")


def _covering(attrs: PoolAttrs, axis: int) -> int:
    """How many windows can cover one element along an axis, at most."""
    return -(-attrs.kernel[axis] // attrs.stride[axis])


def _window_at(
    k: Kernels, attrs: PoolAttrs, axis: int, at: Expr, back: int, count: Dim
) -> tuple[Expr, Expr, Expr]:
    """The window `back` before the last one that starts at or before `at`: its number, the tap
    through which it sees `at`, and whether there is such a window."""
    pad = attrs.padding[2 * axis]
    shifted = _plus(k, at, pad)
    last = k.binary("floordiv", shifted, k.dim(attrs.stride[axis]), "index")
    window = _plus(k, last, -back)
    start = _times(k, window, attrs.stride[axis])
    tap = k.binary("sub", shifted, start, "index")
    seen = k.compare("lt", tap, k.dim(attrs.kernel[axis]), "index")
    return window, tap, k.binary("and", seen, _between(k, window, count), "bool")


def _coverings(
    k: Kernels, attrs: PoolAttrs, h: Expr, w: Expr, counts: tuple[Dim, Dim]
) -> Iterator[tuple[tuple[Expr, Expr], tuple[Expr, Expr], Expr]]:
    """Every window that may cover (h, w): its number, the taps, whether it does."""
    for back_h in range(_covering(attrs, 0)):
        for back_w in range(_covering(attrs, 1)):
            oh, tap_h, real_h = _window_at(k, attrs, 0, h, back_h, counts[0])
            ow, tap_w, real_w = _window_at(k, attrs, 1, w, back_w, counts[1])
            yield (oh, ow), (tap_h, tap_w), k.binary("and", real_h, real_w, "bool")


def _max_gradient_compute(
    k: Kernels, attrs: PoolAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    x, _, g = operands
    dtype, wide = x.type.dtype, accumulator(x.type.dtype)
    counts = image_dims(g.type, attrs.layout)[2:]

    def is_first(own: Expr, at: Index, window: tuple[Expr, Expr], tap: tuple[Expr, Expr]) -> Expr:
        """No element of the window beats this one: earlier ones must be smaller, later ones
        not greater. A NaN beats all but earlier NaNs."""
        n, c, _, _ = at
        top, _, left, _ = attrs.padding
        position = k.binary("add", _times(k, tap[0], attrs.kernel[1]), tap[1], "index")
        own_nan = k.unary("isnan", own, wide)
        first: Expr = None
        for i in range(attrs.kernel[0]):
            for j in range(attrs.kernel[1]):
                h = _plus(k, _times(k, window[0], attrs.stride[0]), i - top)
                w = _plus(k, _times(k, window[1], attrs.stride[1]), j - left)
                other = _pixel(k, attrs, x, (n, c, h, w), float("-inf"), wide)
                other_nan = k.unary("isnan", other, wide)
                earlier = k.compare("lt", k.dim(i * attrs.kernel[1] + j), position, "index")
                greater = k.compare("gt", other, own, wide)
                equal = k.compare("eq", other, own, wide)
                numbers = k.binary("or", greater, k.binary("and", earlier, equal, "bool"), "bool")
                not_nan = k.unary("not", own_nan, "bool")
                beaten = k.binary(
                    "or",
                    k.binary("and", not_nan, k.binary("or", numbers, other_nan, "bool"), "bool"),
                    _all(k, own_nan, other_nan, earlier),
                    "bool",
                )
                fine = k.unary("not", beaten, "bool")
                first = fine if first is None else k.binary("and", first, fine, "bool")
        return first

    def read(index: Index) -> Expr:
        n, c, h, w = split_index(attrs.layout, index)
        own = k.cast(x(index), dtype, wide)
        total = k.const(0, wide)
        for window, tap, real in _coverings(k, attrs, h, w, counts):

            def part(window: tuple[Expr, Expr] = window, tap: tuple[Expr, Expr] = tap) -> Expr:
                first = is_first(own, (n, c, h, w), window, tap)
                at = image_index(attrs.layout, n, c, *window)
                value = k.cast(g(at), dtype, wide)
                return k.select(first, value, k.const(0, wide))

            total = k.binary("add", total, k.guarded(real, part, k.const(0, wide)), wide)
        return k.cast(total, wide, dtype)

    return read


def _average_gradient_compute(
    k: Kernels,
    attrs: AveragePoolGradientAttrs,
    operands: Sequence[Operand],
    outputs: Sequence[TensorType],
) -> Reader:
    (g,) = operands
    dtype, wide = g.type.dtype, accumulator(g.type.dtype)
    counts = image_dims(g.type, attrs.layout)[2:]
    top, _, left, _ = attrs.padding

    def read(index: Index) -> Expr:
        n, c, h, w = split_index(attrs.layout, index)
        total = k.const(0, wide)
        for window, _, real in _coverings(k, attrs, h, w, counts):

            def part(window: tuple[Expr, Expr] = window) -> Expr:
                h0 = _plus(k, _times(k, window[0], attrs.stride[0]), -top)
                w0 = _plus(k, _times(k, window[1], attrs.stride[1]), -left)
                count = k.from_index(_count(k, attrs, h0, w0, attrs.size), wide)
                value = k.cast(g(image_index(attrs.layout, n, c, *window)), dtype, wide)
                return k.binary("div", value, count, wide)

            total = k.binary("add", total, k.guarded(real, part, k.const(0, wide)), wide)
        return k.cast(total, wide, dtype)

    return read


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
    compute=_pool_compute("max", float("-inf")),
    samples=_max_samples(),
)

max_pool2d_gradient = Op(
    "max_pool2d_gradient",
    attrs=PoolAttrs,
    type_rule=_max_gradient_type,
    reference=_max_gradient_reference,
    gradient=NoFacet("second derivatives through max pooling are not offered"),
    compute=_max_gradient_compute,
    samples=_max_gradient_samples(),
)

avg_pool2d = Op(
    "avg_pool2d",
    attrs=AveragePoolAttrs,
    type_rule=_pool_type,
    reference=_average_reference,
    gradient=_average_gradient,
    compute=_pool_compute("sum", 0.0),
    samples=_average_samples(),
)

avg_pool2d_gradient = Op(
    "avg_pool2d_gradient",
    attrs=AveragePoolGradientAttrs,
    type_rule=_average_gradient_type,
    reference=_average_gradient_reference,
    gradient=_average_gradient_gradient,
    compute=_average_gradient_compute,
    samples=_average_gradient_samples(),
)

OPS: tuple[Op, ...] = (max_pool2d, max_pool2d_gradient, avg_pool2d, avg_pool2d_gradient)
