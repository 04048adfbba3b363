"""Strassen's way to multiply, for 1x1 convolutions and for products by weights: for the CPU; made
by the lowering alone.

A product of two 2x2 matrices of blocks needs seven products of blocks, not eight (Strassen 1969,
Gaussian Elimination is not Optimal): each is of a sum of the left's quarters (`LEFT`) and one of
the right's (`RIGHT`); `RESULT` tells what sums of them are the quarters of the result. The rows of
the left's quarters are every other pixel, their columns halves of the channels; those of the right
are two panels of output channels. The sums of weights are made beforehand,

    [pairs of panels, 7, C / 2, width].

Images are NHWC, pixels are numbered over all of them; one without a second is paired with itself.
Rows of a plain product are what pixels of one image are.
`docs/design/0034` has the bounds of its error.

Non-goals: when it pays (`lowering/rewrites/strassen.py`), how it runs
(`schedules/cpu/matmul/strassen.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.dims import Dim, sym
from dslc.ir.op import (
    Attrs,
    Expr,
    Index,
    Kernels,
    NoAttrs,
    NoFacet,
    Op,
    Operand,
    Reader,
    Sample,
    TypeRuleError,
)
from dslc.ir.types import TensorType

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

Signs = tuple[tuple[int, ...], ...]

# For each product the signs of the quarters (1,1), (1,2), (2,1), (2,2) of its sides; for each
# quarter of the result, those of the products.
LEFT: Signs = (
    (1, 0, 0, 1), (0, 0, 1, 1), (1, 0, 0, 0), (0, 0, 0, 1), (1, 1, 0, 0), (-1, 0, 1, 0),
    (0, 1, 0, -1),
)  # fmt: skip
RIGHT: Signs = (
    (1, 0, 0, 1), (1, 0, 0, 0), (0, 1, 0, -1), (-1, 0, 1, 0), (0, 0, 0, 1), (1, 1, 0, 0),
    (0, 0, 1, 1),
)  # fmt: skip
RESULT: Signs = (
    (1, 0, 0, 1, -1, 0, 1), (0, 0, 1, 0, 1, 0, 0), (0, 1, 0, 1, 0, 0, 0), (1, -1, 1, 0, 0, 1, 0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class StrassenAttrs(Attrs):
    """Of the 1x1 convolution."""

    stride: tuple[int, int] = (1, 1)


def _type(attrs: StrassenAttrs, x: TensorType, w: TensorType) -> TensorType:
    if (x.rank, w.rank) != (4, 4) or {x.dtype, w.dtype} != {"f32"}:
        raise TypeRuleError(f"cannot convolve {x} with sums of weights {w}")
    n, height, width, channels = x.dims
    panels, products, depth, columns = w.dims
    if products != len(LEFT) or channels != 2 * depth:
        raise TypeRuleError(f"sums of weights {w} don't fit {x}")
    down, across = attrs.stride
    return x.with_dims(
        (n, (height - 1) // down + 1, (width - 1) // across + 1, 2 * panels * columns)
    )


def _reference(attrs: StrassenAttrs, x: Any, w: Any) -> Any:
    panels, _, depth, width = w.shape
    seen = x[:, :: attrs.stride[0], :: attrs.stride[1]]
    rows = seen.reshape(-1, 2 * depth)
    rows = np.concatenate([rows, rows[len(rows) // 2 * 2 :]])  # the last one may be a pair's both
    pairs = rows.reshape(-1, 4, depth)
    result = np.zeros((4, len(pairs), panels, width), x.dtype)
    for f, left in enumerate(LEFT):
        made = np.einsum("rqk,q,pkw->rpw", pairs, np.array(left, x.dtype), w[:, f])
        for quarter, signs in enumerate(RESULT):
            result[quarter] += signs[f] * made
    whole = result.reshape(2, 2, -1, panels, width).transpose(2, 0, 3, 1, 4)
    flat = whole.reshape(-1, 2 * panels * width)[: seen.shape[0] * seen.shape[1] * seen.shape[2]]
    return flat.reshape(*seen.shape[:3], 2 * panels * width)


def _compute(
    k: Kernels, attrs: StrassenAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    """All seven products of each element; its template has a better way."""
    x, w = operands
    n, height, across, _ = outputs[0].dims

    def calculated(name: str, a: Expr, b: Dim) -> Expr:
        return k.binary(name, a, k.dim(b), "index")

    def pixel(flat: Expr, channel: Expr) -> Expr:
        """A channel of the pixel of a number."""
        image = calculated("floordiv", flat, height * across)
        rest = calculated("mod", flat, height * across)
        row = calculated("mul", calculated("floordiv", rest, across), attrs.stride[0])
        column = calculated("mul", calculated("mod", rest, across), attrs.stride[1])
        return x((image, row, column, channel))

    def read(index: Index) -> Expr:
        image, row, column, o = index
        flat = k.binary("add", calculated("mul", image, height), row, "index")
        flat = k.binary("add", calculated("mul", flat, across), column, "index")
        return _element(k, pixel, n * height * across, w, flat, o)

    return read


def _element(
    k: Kernels, pixel: Callable[[Expr, Expr], Expr], rows: Dim, w: Operand, flat: Expr, o: Expr
) -> Expr:
    """Output channel `o` of the pixel of number `flat`, of `rows` pixels."""
    _, _, depth, width = w.type.dims
    dtype = w.type.dtype

    def calculated(name: str, a: Expr, b: Dim) -> Expr:
        return k.binary(name, a, k.dim(b), "index")

    odd = calculated("mod", flat, 2)
    first = k.binary("sub", flat, odd, "index")
    next_ = calculated("add", first, 1)
    second = k.select(k.compare("lt", next_, k.dim(rows), "index"), next_, first)
    within = calculated("mod", o, 2 * width)
    below = k.compare("eq", odd, k.dim(1), "index")
    right = k.compare("ge", within, k.dim(width), "index")
    panel, lane = calculated("floordiv", o, 2 * width), calculated("mod", within, width)

    def sign(f: int) -> Expr:
        a, b, c, d = (k.const(signs[f], dtype) for signs in RESULT)
        return k.select(below, k.select(right, d, c), k.select(right, b, a))

    def product(r: Index) -> Expr:
        behind = calculated("add", r[0], depth)
        quarters = [pixel(at, c) for at in (first, second) for c in (r[0], behind)]
        total = k.const(0, dtype)
        for f, left in enumerate(LEFT):
            seen = k.const(0, dtype)
            for factor, quarter in zip(left, quarters):
                if factor:
                    name = "add" if factor > 0 else "sub"
                    seen = k.binary(name, seen, quarter, dtype)
            made = k.binary("mul", seen, w((panel, k.dim(f), r[0], lane)), dtype)
            total = k.binary("add", total, k.binary("mul", sign(f), made, dtype), dtype)
        return total

    return k.reduce("sum", (depth,), product, dtype)


def _sample(image: tuple[Any, ...], panels: int, width: int, *stride: int) -> Sample:
    weight = TensorType("f32", (panels, len(LEFT), image[3] // 2, width))
    attrs = StrassenAttrs((stride[0], stride[1])) if stride else StrassenAttrs()
    return Sample((TensorType("f32", image), weight), attrs, rtol=2e-4, why="differences of sums")


conv2d_strassen = Op(
    "conv2d_strassen",
    attrs=StrassenAttrs,
    type_rule=_type,
    reference=_reference,
    gradient=NoFacet("the lowering makes it, after gradients are taken"),
    compute=_compute,
    samples=(
        _sample((1, 2, 3, 4), 1, 2),
        _sample((2, 3, 2, 32), 1, 16, 2, 1),
        _sample((sym("N"), 3, 1, 16), 2, 8),
        _sample((0, 2, 3, 32), 1, 16),
    ),
)

# --- products -------------------------------------------------------------------------------------


def _matmul_type(attrs: NoAttrs, a: TensorType, w: TensorType) -> TensorType:
    if (a.rank, w.rank) != (2, 4):
        raise TypeRuleError(f"cannot multiply {a} by sums of weights {w}")
    *_, rows, columns = _type(StrassenAttrs(), a.with_dims((1, 1, *a.dims)), w).dims
    return a.with_dims((rows, columns))


def _matmul_reference(attrs: NoAttrs, a: Any, w: Any) -> Any:
    return _reference(StrassenAttrs(), a[None, None], w)[0, 0]


def _matmul_compute(
    k: Kernels, attrs: NoAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    a, w = operands

    def read(index: Index) -> Expr:
        return _element(k, lambda row, c: a((row, c)), outputs[0].dims[0], w, *index)

    return read


def _matmul_sample(rows: Dim, inner: int, panels: int, width: int) -> Sample:
    weight = TensorType("f32", (panels, len(LEFT), inner // 2, width))
    return Sample((TensorType("f32", (rows, inner)), weight), rtol=2e-4, why="differences of sums")


matmul_strassen = Op(
    "matmul_strassen",
    attrs=NoAttrs,
    type_rule=_matmul_type,
    reference=_matmul_reference,
    gradient=NoFacet("the lowering makes it, after gradients are taken"),
    compute=_matmul_compute,
    samples=(
        _matmul_sample(5, 4, 1, 2),
        _matmul_sample(sym("N"), 32, 2, 16),
        _matmul_sample(0, 32, 1, 16),
    ),
)

OPS: tuple[Op, ...] = (conv2d_strassen, matmul_strassen)
