"""The order of elements along an axis: `argsort`, which `sort` and `top_k` are made of.

`argsort[axis, count, descending](x)` gives the positions of the `count` elements that come first.
The order is total, so that results never depend on a machine: equals stay in the order they have in
x, -0 equals 0, and NaN is greater than every number (NumPy's and PyTorch's choice: it is last in
ascending and first in descending order). The values are read at these positions (`reads.py`), so
that the cotangent of each goes back to the element it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.core import Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import Attrs, Expr, Index, Kernels, Op, Operand, Ranking, Sample
from dslc.ir.types import TensorType, is_float
from dslc.ops.errors import bad_static, check_axis, wrong_dtype
from dslc.ops.pointwise import INTEGER_RESULT, NUMBERS, is_narrow, tensor
from dslc.ops.reads import read

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class ArgsortAttrs(Attrs):
    """`count` is at most the size of the dim `axis`."""

    axis: int
    count: Dim
    descending: bool = False


def _argsort_type(attrs: ArgsortAttrs, x: TensorType) -> TensorType:
    if x.dtype not in NUMBERS:
        raise wrong_dtype("order", (x,), "numbers")
    check_axis("order", x, attrs.axis)
    size, count = x.dims[attrs.axis], attrs.count
    if isinstance(size, int) and isinstance(count, int) and not 0 <= count <= size:
        raise bad_static(
            f"cannot take the first {count} elements of {x} along axis {attrs.axis}",
            notes=[f"that dim is {size}"],
        )
    dims = tuple(count if axis == attrs.axis else dim for axis, dim in enumerate(x.dims))
    return TensorType("i64", dims)


def _argsort_reference(attrs: ArgsortAttrs, x: Any) -> Any:
    wide = x.astype(np.float32) if is_narrow(x.dtype) else x
    axis, size = attrs.axis, x.shape[attrs.axis]
    if attrs.descending:
        # Backwards both ways: equals are in their order again.
        order = size - 1 - np.flip(np.argsort(np.flip(wide, axis), axis, kind="stable"), axis)
    else:
        order = np.argsort(wide, axis, kind="stable")
    return np.take(order, np.arange(cast(int, attrs.count)), axis).astype(np.int64)


def _argsort_compute(
    k: Kernels, attrs: ArgsortAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Ranking:
    (x,) = operands
    dtype, axis = x.type.dtype, attrs.axis

    def less(a: Expr, b: Expr) -> Expr:
        below = k.compare("lt", a, b, dtype)
        if not is_float(dtype):
            return below
        number = k.unary("not", k.unary("isnan", a, dtype), "bool")
        last = k.binary("and", number, k.unary("isnan", b, dtype), "bool")
        return k.binary("or", below, last, "bool")

    def before(i: Index, j: Index) -> Expr:
        a, b = x(i), x(j)
        first, second = (less(b, a), less(a, b)) if attrs.descending else (less(a, b), less(b, a))
        earlier = k.compare("lt", i[axis], j[axis], "index")
        equal = k.unary("not", second, "bool")
        return k.binary("or", first, k.binary("and", equal, earlier, "bool"), "bool")

    return Ranking(axis, x.type.dims[axis], before)


_N = sym("N")

argsort: Op = Op(
    "argsort",
    attrs=ArgsortAttrs,
    type_rule=_argsort_type,
    reference=_argsort_reference,
    gradient=INTEGER_RESULT,
    compute=_argsort_compute,
    samples=(
        Sample((tensor("f32", 3, 7),), ArgsortAttrs(1, 7)),
        Sample((tensor("f32", 9, 2),), ArgsortAttrs(0, 4, True)),
        Sample((tensor("i64", 2, 9),), ArgsortAttrs(1, 9), int_high=2),
        Sample((tensor("i32", 11),), ArgsortAttrs(0, 5, True), int_high=3),
        Sample((tensor("u8", 5, 2, 2),), ArgsortAttrs(0, 5), int_high=3),
        Sample((tensor("f64", _N, 3),), ArgsortAttrs(0, _N)),
        Sample((tensor("f32", _N, 6),), ArgsortAttrs(1, 3, True)),
        Sample((tensor("f16", 2, 9),), ArgsortAttrs(1, 9)),
        Sample((tensor("bf16", 2, 9),), ArgsortAttrs(1, 9, True)),
        Sample((tensor("f32", 1, 1),), ArgsortAttrs(1, 1)),
        Sample((tensor("f32", 4, 0),), ArgsortAttrs(1, 0)),
        Sample((tensor("f32", 4, 3),), ArgsortAttrs(1, 0)),
    ),
)


def values_at(b: Builder, x: Value, order: Value, axis: int) -> Value:
    """The elements of x at the positions along `axis` that `argsort` gave."""
    rank = x.type.rank
    steps = tuple(tuple(int(a == j and a != axis) for j in range(rank)) for a in range(rank))
    offsets = (0,) * rank
    attrs = {"dims": order.type.dims, "offsets": offsets, "steps": steps, "indexed": (axis,)}
    return cast(Value, read(b, x, order, **attrs))


OPS: tuple[Op, ...] = (argsort,)
