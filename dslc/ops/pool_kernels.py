"""The compute facets of pooling and its adjoints.

The adjoints are in pull form: an element asks the windows that may cover it, at most
ceil(kernel / stride) per axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

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
    AveragePoolAttrs,
    AveragePoolGradientAttrs,
    PoolAttrs,
    image_dims,
    image_index,
    split_index,
)


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


def pool_compute(kind: str, fill: float) -> Any:
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


def max_gradient_compute(
    k: Kernels, attrs: PoolAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    x, y, g = operands
    dtype, wide = x.type.dtype, accumulator(x.type.dtype)
    counts = image_dims(g.type, attrs.layout)[2:]

    def wins(element: Expr, largest: Expr) -> Expr:
        """Whether the element is its window's maximum. When that is NaN, NaNs are."""
        equal = k.compare("eq", element, largest, wide)
        return k.binary("or", equal, k.unary("isnan", element, wide), "bool")

    def is_first(own: Expr, at: Index, window: tuple[Expr, Expr], tap: tuple[Expr, Expr]) -> Expr:
        """Whether the element wins its window, and no earlier one does."""
        n, c, _, _ = at
        top, _, left, _ = attrs.padding
        largest = k.cast(y(image_index(attrs.layout, n, c, *window)), dtype, wide)
        position = k.binary("add", _times(k, tap[0], attrs.kernel[1]), tap[1], "index")
        first = wins(own, largest)
        for i in range(attrs.kernel[0]):
            for j in range(attrs.kernel[1]):

                def beaten(i: int = i, j: int = j) -> Expr:
                    h = _plus(k, _times(k, window[0], attrs.stride[0]), i - top)
                    w = _plus(k, _times(k, window[1], attrs.stride[1]), j - left)
                    other = _pixel(k, attrs, x, (n, c, h, w), float("-inf"), wide)
                    return wins(other, largest)

                earlier = k.compare("lt", k.dim(i * attrs.kernel[1] + j), position, "index")
                lost = k.binary("and", earlier, beaten(), "bool")
                first = k.binary("and", first, k.unary("not", lost, "bool"), "bool")
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


def average_gradient_compute(
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
