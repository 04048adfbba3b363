"""Matrix products of bf16 by pairs, as the CPU's dot-product instructions take them; made by the
lowering alone.

Two neighbours along the summed axis lie side by side, in a last axis of 2:

    a [.., M, K / 2, 2]  or, transposed,  [.., K / 2, M, 2]
    b [.., K / 2, N, 2]  or, transposed,  [.., N, K / 2, 2]

so a matrix that is contiguous along K is in this form already, under other dims. Products and sums
are f32, and so is the result.

Non-goals: putting matrices into this form (ordinary equations do it, see
`lowering/rewrites/halves.py`), gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._lazy import lazy
from dslc.ir.dims import Dim, sym
from dslc.ir.op import (
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
from dslc.ir.types import TensorType
from dslc.ops.linalg import MatmulAttrs

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


def is_paired(type: TensorType) -> bool:
    """Whether the last axis holds pairs of bf16."""
    return type.dtype == "bf16" and type.rank > 2 and type.dims[-1] == 2


def _split(type: TensorType, inner_last: bool) -> tuple[tuple[Dim, ...], Dim, Dim]:
    """Batch dims, the outer dim and the pairs along the summed one."""
    *batch, first, second, _ = type.dims
    outer, inner = (first, second) if inner_last else (second, first)
    return tuple(batch), outer, inner


def _type(attrs: MatmulAttrs, a: TensorType, b: TensorType) -> TensorType:
    if not is_paired(a) or not is_paired(b) or a.rank != b.rank:
        raise TypeRuleError(f"cannot multiply {a} and {b} by pairs of bf16")
    batch, m, inner = _split(a, not attrs.transpose_a)
    other, n, inner_b = _split(b, attrs.transpose_b)
    if batch != other or inner != inner_b:
        raise TypeRuleError(f"{a} and {b} don't fit")
    return TensorType("f32", (*batch, m, n))


def unpaired(x: Any) -> Any:
    """[.., K / 2, X, 2] as f32 [.., K, X]."""
    moved = np.swapaxes(np.asarray(x, np.float32), -1, -2)
    *outer, half, two, width = moved.shape
    return moved.reshape(*outer, half * two, width)


def flat(x: Any) -> Any:
    """[.., X, K / 2, 2] as f32 [.., X, K]."""
    return np.asarray(x, np.float32).reshape(*x.shape[:-2], x.shape[-2] * 2)


def _reference(attrs: MatmulAttrs, a: Any, b: Any) -> Any:
    left = np.swapaxes(unpaired(a), -1, -2) if attrs.transpose_a else flat(a)
    right = np.swapaxes(flat(b), -1, -2) if attrs.transpose_b else unpaired(b)
    return left @ right


def _compute(
    k: Kernels, attrs: MatmulAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    a, b = operands
    inner = a.type.dims[-3 if attrs.transpose_a else -2]

    def read(index: Index) -> Expr:
        *batch, m, n = index

        def product(r: Index) -> Expr:
            pair, side = r
            x = a((*batch, pair, m, side) if attrs.transpose_a else (*batch, m, pair, side))
            y = b((*batch, n, pair, side) if attrs.transpose_b else (*batch, pair, n, side))
            return k.binary("mul", k.cast(x, "bf16", "f32"), k.cast(y, "bf16", "f32"), "f32")

        return k.reduce("sum", (inner, 2), product, "f32")

    return read


def _sample(a: tuple[Dim, ...], b: tuple[Dim, ...], *transposed: bool) -> Sample:
    return Sample(
        (TensorType("bf16", (*a, 2)), TensorType("bf16", (*b, 2))),
        MatmulAttrs(*transposed),
        rtol=1e-5,
        why="sums of up to 40 products, in another order",
    )


matmul_pairs = Op(
    "matmul_pairs",
    attrs=MatmulAttrs,
    type_rule=_type,
    reference=_reference,
    gradient=NoFacet("the lowering makes it, after gradients are taken"),
    compute=cast(Any, _compute),
    samples=(
        _sample((3, 5), (5, 4)),
        _sample((5, 3), (5, 4), True, False),
        _sample((3, 20), (17, 20), False, True),
        _sample((2, 5, 3), (2, 4, 5), True, True),
        _sample((sym("N"), 5), (5, 4)),
        _sample((2, 3, sym("N")), (2, sym("N"), 1)),
        _sample((3, 0), (0, 2)),
    ),
)

OPS: tuple[Op, ...] = (matmul_pairs,)
