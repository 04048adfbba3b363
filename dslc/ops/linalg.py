"""Matrix products.

`matmul[transpose_a, transpose_b](a, b)`: operands of equal rank >= 2 and equal batch dims;
(..., M, K) times (..., K, N), each side possibly stored transposed. Products of f16 and bf16 are
summed in f32. The `@` of the language (1-d operands, broadcast batch dims) is built over it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import sym
from dslc.ir.op import Attrs, Expr, Index, Kernels, Op, Operand, Reader, Sample, TypeRuleError
from dslc.ir.types import DType, TensorType

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class MatmulAttrs(Attrs):
    transpose_a: bool = False
    transpose_b: bool = False


def accumulator(dtype: DType) -> DType:
    """What sums of products of `dtype` are kept in."""
    return "f32" if dtype in ("f16", "bf16") else dtype


def _matmul_type(attrs: MatmulAttrs, a: TensorType, b: TensorType) -> TensorType:
    if a.dtype != b.dtype:
        raise TypeRuleError(
            f"cannot multiply matrices {a} and {b}",
            notes=[f"the dtypes differ ({a.dtype} and {b.dtype})"],
            help=f"cast one side: cast[{a.dtype}](...)",
            inputs=(0, 1),
            code="E0204",
        )
    if a.dtype == "bool":
        raise TypeRuleError(f"cannot multiply matrices of bool: {a} and {b}", code="E0204")
    if a.rank < 2 or a.rank != b.rank:
        raise TypeRuleError(
            f"cannot multiply matrices {a} and {b}",
            notes=["both sides need two dims or more, and equally many"],
            inputs=(0, 1),
            code="E0205",
        )
    m, inner_a = (a.dims[-1], a.dims[-2]) if attrs.transpose_a else (a.dims[-2], a.dims[-1])
    inner_b, n = (b.dims[-1], b.dims[-2]) if attrs.transpose_b else (b.dims[-2], b.dims[-1])
    if inner_a != inner_b:
        raise TypeRuleError(
            f"cannot multiply matrices {a} and {b}",
            notes=[f"the inner dims differ ({inner_a} and {inner_b})"],
            inputs=(0, 1),
        )
    if a.dims[:-2] != b.dims[:-2]:
        raise TypeRuleError(
            f"cannot multiply matrices {a} and {b}", notes=["the batch dims differ"], inputs=(0, 1)
        )
    return TensorType(a.dtype, (*a.dims[:-2], m, n))


def _matmul_reference(attrs: MatmulAttrs, a: Any, b: Any) -> Any:
    x = np.swapaxes(a, -1, -2) if attrs.transpose_a else a
    y = np.swapaxes(b, -1, -2) if attrs.transpose_b else b
    if a.dtype.itemsize == 2 and a.dtype.kind not in "iu":  # f16, bf16
        return (x.astype(np.float32) @ y.astype(np.float32)).astype(a.dtype)
    return x @ y


def _matmul_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (g,) = cotangents
    attrs = cast(MatmulAttrs, eqn.attrs)
    if g is None:
        return None, None
    x, y = eqn.inputs
    ta, tb = attrs.transpose_a, attrs.transpose_b
    # d(x) = g y^T for plain operands; a transposed operand gets the transpose of that.
    dx = (
        matmul(b, y, g, transpose_a=tb, transpose_b=True)
        if ta
        else matmul(b, g, y, transpose_b=not tb)
    )
    dy = (
        matmul(b, g, x, transpose_a=True, transpose_b=ta)
        if tb
        else matmul(b, x, g, transpose_a=not ta)
    )
    return dx, dy


def _matmul_compute(
    k: Kernels, attrs: MatmulAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    a, b = operands
    dtype, wide = a.type.dtype, accumulator(a.type.dtype)
    inner = a.type.dims[-2] if attrs.transpose_a else a.type.dims[-1]

    def read(index: Index) -> Expr:
        *batch, m, n = index

        def product(r: Index) -> Expr:
            x = a((*batch, r[0], m) if attrs.transpose_a else (*batch, m, r[0]))
            y = b((*batch, n, r[0]) if attrs.transpose_b else (*batch, r[0], n))
            return k.binary("mul", k.cast(x, dtype, wide), k.cast(y, dtype, wide), wide)

        return k.cast(k.reduce("sum", (inner,), product, wide), wide, dtype)

    return read


def _f32(*dims: Any) -> TensorType:
    return TensorType("f32", dims)


matmul = Op(
    "matmul",
    attrs=MatmulAttrs,
    type_rule=_matmul_type,
    reference=_matmul_reference,
    gradient=_matmul_gradient,
    compute=_matmul_compute,
    samples=(
        Sample((_f32(3, 5), _f32(5, 4)), MatmulAttrs()),
        Sample((_f32(5, 3), _f32(5, 4)), MatmulAttrs(transpose_a=True)),
        Sample((_f32(3, 5), _f32(4, 5)), MatmulAttrs(transpose_b=True)),
        Sample((_f32(5, 3), _f32(4, 5)), MatmulAttrs(True, True)),
        Sample((_f32(2, 3, 7), _f32(2, 7, 1)), MatmulAttrs()),
        Sample((_f32(1, 33), _f32(33, 17)), MatmulAttrs(), rtol=1e-5, why="sums of 33 products"),
        Sample((_f32(3, 0), _f32(0, 2)), MatmulAttrs()),
        Sample((_f32(sym("N"), 5), _f32(5, 4)), MatmulAttrs()),
        Sample((_f32(2, 3, sym("N")), _f32(2, 4, sym("N"))), MatmulAttrs(transpose_b=True)),
        Sample((TensorType("i64", (2, 3)), TensorType("i64", (3, 2))), MatmulAttrs()),
        Sample(
            (TensorType("f16", (3, 8)), TensorType("f16", (8, 2))),
            MatmulAttrs(),
            rtol=2e-3,
            why="f16 has 11 bits",
        ),
    ),
)


OPS: tuple[Op, ...] = (matmul,)
