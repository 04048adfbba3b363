"""A matrix product whose columns are several results, such as the gates of a recurrent cell; made
by the lowering alone.

The right side holds `parts` matrices of `columns` columns each, packed so that the same columns of
all parts lie side by side,

    [ceil(columns / lanes), pieces, K, parts / pieces * lanes],  zeros beyond a part's last column.

What a cell computes of its gates, element by element, can be done where they are summed up.

Non-goals: packing (ordinary equations do it, see `lowering/rewrites/gates.py`), gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dslc._frozen import dataclass
from dslc._lazy import lazy
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
from dslc.ir.types import TensorType

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class PartsAttrs(Attrs):
    """`columns` of each of the `parts`; the panels may hold more."""

    columns: int
    parts: int


def _type(attrs: PartsAttrs, a: TensorType, w: TensorType) -> tuple[TensorType, ...]:
    known = a.dtype == w.dtype and a.dtype in ("f32", "f64")
    if not known or (a.rank, w.rank) != (2, 4) or a.dims[1] != w.dims[2]:
        raise TypeRuleError(f"cannot multiply {a} and packed weights {w}")
    panels, pieces, _, width = w.dims
    whole = isinstance(width, int) and isinstance(pieces, int) and pieces > 0
    lanes = width * pieces // attrs.parts if whole and attrs.parts % pieces == 0 else 0
    if lanes == 0 or width * pieces != lanes * attrs.parts or panels != -(-attrs.columns // lanes):
        raise TypeRuleError(
            f"packed weights {w} do not have {attrs.parts} parts of {attrs.columns} columns"
        )
    return (TensorType(a.dtype, (a.dims[0], attrs.columns)),) * attrs.parts


def _reference(attrs: PartsAttrs, a: Any, w: Any) -> tuple[Any, ...]:
    panels, pieces, inner, width = w.shape
    each = attrs.parts // pieces
    lanes = width // each
    apart = w.reshape(panels, pieces, inner, each, lanes).transpose(1, 3, 2, 0, 4)
    sides = apart.reshape(attrs.parts, inner, panels * lanes)
    return tuple(np.ascontiguousarray((a @ side)[:, : attrs.columns]) for side in sides)


def _compute(
    k: Kernels, attrs: PartsAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> tuple[Reader, ...]:
    a, w = operands
    dtype, (_, pieces, _, width) = a.type.dtype, w.type.dims
    each = attrs.parts // pieces
    lanes = width // each

    def part(number: int) -> Reader:
        def read(index: Index) -> Expr:
            row, column = index
            panel = k.binary("floordiv", column, k.dim(lanes), "index")
            lane = k.binary("mod", column, k.dim(lanes), "index")
            piece, at = k.dim(number // each), k.dim(lanes * (number % each))
            at = k.binary("add", lane, at, "index")

            def product(r: Index) -> Expr:
                return k.binary("mul", a((row, *r)), w((panel, piece, *r, at)), dtype)

            return k.reduce("sum", a.type.dims[1:], product, dtype)

        return read

    return tuple(part(number) for number in range(attrs.parts))


def _sample(
    rows: Dim, inner: int, panels: int, columns: int, parts: int, pieces: int = 1
) -> Sample:
    width = parts // pieces * 16
    return Sample(
        (TensorType("f32", (rows, inner)), TensorType("f32", (panels, pieces, inner, width))),
        PartsAttrs(columns, parts),
        rtol=1e-5,
        why="sums of up to 33 products, in another order",
    )


matmul_parts = Op(
    "matmul_parts",
    attrs=PartsAttrs,
    type_rule=_type,
    reference=_reference,
    gradient=NoFacet("the lowering makes it, after gradients are taken"),
    compute=_compute,
    samples=(
        _sample(3, 5, 1, 16, 4),
        _sample(17, 33, 2, 21, 3),
        _sample(sym("N"), 7, 3, 40, 2),
        _sample(0, 4, 1, 9, 4),
        _sample(7, 9, 2, 30, 4, pieces=2),
    ),
)

OPS: tuple[Op, ...] = (matmul_parts,)
