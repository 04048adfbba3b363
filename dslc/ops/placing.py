"""`put` and `narrow`, each other's adjoints: a run of elements along an axis, at a place that is
known only at run time.

`put[axis](x, values, at)` is x with `values` from position `at` of the axis on;
`narrow[axis, length](x, at)` is what stands there. `at` is one integer, or one for each index into
the dims before the axis (or the first of them). What would lie outside of x is not put, and is read
as 0: no program writes or reads outside of a tensor. Along the other axes `values` may have fewer
elements than x: it starts at the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import (
    Attrs,
    Expr,
    Index,
    Kernels,
    Op,
    Operand,
    Reader,
    Sample,
    TypeRuleError,
)
from dslc.ir.types import TensorType, is_float, is_integer
from dslc.ops.constants import fill
from dslc.ops.errors import check_axis, dim_notes, is_negative
from dslc.ops.pointwise import Cotangents, tensor
from dslc.ops.slicing import slice_

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class PutAttrs(Attrs):
    axis: int = 0


@dataclass(frozen=True, slots=True)
class NarrowAttrs(Attrs):
    axis: int = 0
    length: Dim = 1


def _check_places(what: str, at: TensorType, place: int, rows: TensorType, axis: int) -> None:
    """That `at`, input number `place`, has positions along `axis` for rows of `rows`."""
    if not is_integer(at.dtype):
        raise TypeRuleError(
            f"cannot {what} at {at}",
            notes=[f"a position is an integer, not {at.dtype}"],
            help="cast[i64](...)",
            inputs=(place,),
            code="E0204",
        )
    if at.rank > axis or at.dims != rows.dims[: at.rank]:
        before = ", ".join(map(str, rows.dims[:axis]))
        several = f", or one for each index into [{before}] or its first dims" if axis else ""
        raise TypeRuleError(
            f"cannot {what} at {at} along axis {axis}",
            notes=[f"one position is needed{several}"],
            inputs=(place,),
        )


def _put_type(attrs: PutAttrs, x: TensorType, values: TensorType, at: TensorType) -> TensorType:
    what = f"put {values} into {x}"
    check_axis(f"put {values} into", x, attrs.axis)
    if x.dtype != values.dtype:
        raise TypeRuleError(
            f"cannot {what}",
            notes=[f"the dtypes differ ({x.dtype} and {values.dtype})"],
            help=f"cast what is put: cast[{x.dtype}](...)",
            inputs=(0, 1),
            code="E0204",
        )
    if x.rank != values.rank:
        raise TypeRuleError(f"cannot {what}", notes=dim_notes(x, values), inputs=(0, 1))
    for axis, (size, count) in enumerate(zip(x.dims, values.dims)):
        if is_negative(size - count):
            notes = [f"dim {axis} is too long: {count}, where there is room for {size}"]
            raise TypeRuleError(f"cannot {what}", notes=notes, inputs=(0, 1))
    _check_places(what, at, 2, values, attrs.axis)
    return x


def _narrow_type(attrs: NarrowAttrs, x: TensorType, at: TensorType) -> TensorType:
    check_axis("narrow", x, attrs.axis)
    _check_places(f"narrow {x}", at, 1, x, attrs.axis)
    if is_negative(x.dims[attrs.axis] - attrs.length) or is_negative(attrs.length):
        raise TypeRuleError(
            f"cannot narrow axis {attrs.axis} of {x} to {attrs.length}",
            notes=[f"that dim is {x.dims[attrs.axis]}"],
            inputs=(0,),
        )
    return x.with_dims((*x.dims[: attrs.axis], attrs.length, *x.dims[attrs.axis + 1 :]))


# --- references -------------------------------------------------------------------------------


def _run(at: int, count: int, size: int, axis: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Where the run lies in the whole, and which of its elements do, along `axis` of each."""
    low, high = min(max(at, 0), size), min(max(at + count, 0), size)
    rest = (slice(None),) * axis
    return (*rest, slice(low, high)), (*rest, slice(low - at, high - at))


def _put_reference(attrs: PutAttrs, x: Any, values: Any, at: Any) -> Any:
    out = x.copy()
    corner = tuple(slice(size) for size in values.shape[: attrs.axis])
    corner += (slice(None), *(slice(size) for size in values.shape[attrs.axis + 1 :]))
    target = out[corner]
    count, size = values.shape[attrs.axis], x.shape[attrs.axis]
    for row in np.ndindex(at.shape):
        whole, part = _run(int(at[row]), count, size, attrs.axis - at.ndim)
        target[row][whole] = values[row][part]
    return out


def _narrow_reference(attrs: NarrowAttrs, x: Any, at: Any) -> Any:
    shape = list(x.shape)
    shape[attrs.axis] = cast(int, attrs.length)
    out = np.zeros(shape, x.dtype)
    for row in np.ndindex(at.shape):
        whole, part = _run(
            int(at[row]), shape[attrs.axis], x.shape[attrs.axis], attrs.axis - at.ndim
        )
        out[row][part] = x[row][whole]
    return out


# --- gradients --------------------------------------------------------------------------------


def _put_gradient(b: Builder, eqn: Eqn, cotangents: Cotangents) -> Cotangents:
    (g,), (x, values, at) = cotangents, eqn.inputs
    if g is None or not is_float(x.type.dtype):
        return None, None, None
    axis = cast(PutAttrs, eqn.attrs).axis
    kept: Value = put(b, g, fill(b, 0.0, values.type), at, axis=axis)
    dims = values.type.dims
    stops = tuple(d if i == axis else size for i, (d, size) in enumerate(zip(x.type.dims, dims)))
    if stops != x.type.dims:
        g = slice_(b, g, starts=(0,) * len(stops), stops=stops, steps=(1,) * len(stops))
    return kept, narrow(b, g, at, axis=axis, length=dims[axis]), None


def _narrow_gradient(b: Builder, eqn: Eqn, cotangents: Cotangents) -> Cotangents:
    (g,), (x, at) = cotangents, eqn.inputs
    if g is None or not is_float(x.type.dtype):
        return None, None
    axis = cast(NarrowAttrs, eqn.attrs).axis
    return put(b, fill(b, 0.0, x.type), g, at, axis=axis), None


# --- computes ---------------------------------------------------------------------------------


def start_of(k: Kernels, at: Expr, count: Dim, size: Dim) -> Expr:
    """A position as an index: one that is far outside comes nearer, so that sums don't overflow."""
    low = k.binary("sub", k.dim(0), k.dim(count), "index")
    return k.binary("min", k.binary("max", k.index(at), low, "index"), k.dim(size), "index")


def within(k: Kernels, i: Expr, size: Dim) -> Expr:
    """Whether an index is inside of `[0, size)`."""
    low = k.compare("ge", i, k.dim(0), "index")
    return k.binary("and", low, k.compare("lt", i, k.dim(size), "index"), "bool")


def _put_compute(
    k: Kernels, attrs: PutAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    x, values, at = operands
    axis, sizes = attrs.axis, values.type.dims

    def read(index: Index) -> Expr:
        def row() -> Expr:
            start = start_of(k, at(index[: at.type.rank]), sizes[axis], x.type.dims[axis])
            place = k.binary("sub", index[axis], start, "index")
            source = (*index[:axis], place, *index[axis + 1 :])
            return k.guarded(within(k, place, sizes[axis]), lambda: values(source), x(index))

        beside = [
            k.compare("lt", i, k.dim(count), "index")
            for n, (i, count, size) in enumerate(zip(index, sizes, x.type.dims))
            if n != axis and count != size
        ]
        if not beside:
            return row()
        met = beside[0]
        for condition in beside[1:]:
            met = k.binary("and", met, condition, "bool")
        return k.guarded(met, row, x(index))

    return read


def _narrow_compute(
    k: Kernels, attrs: NarrowAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    x, at = operands
    axis, size = attrs.axis, x.type.dims[attrs.axis]

    def read(index: Index) -> Expr:
        start = start_of(k, at(index[: at.type.rank]), attrs.length, size)
        place = k.binary("add", index[axis], start, "index")
        source = (*index[:axis], place, *index[axis + 1 :])
        return k.guarded(within(k, place, size), lambda: x(source), k.const(0, x.type.dtype))

    return read


# --- records ----------------------------------------------------------------------------------

_N = sym("N")

put = Op(
    "put",
    attrs=PutAttrs,
    type_rule=_put_type,
    reference=_put_reference,
    gradient=_put_gradient,
    compute=_put_compute,
    samples=(
        Sample((tensor("f32", 9, 3), tensor("f32", 4, 3), tensor("i64")), PutAttrs(0)),
        Sample((tensor("f32", 2, 7, 3), tensor("f32", 2, 2, 3), tensor("i32", 2)), PutAttrs(1)),
        Sample((tensor("f32", 3, 4, 7), tensor("f32", 2, 3, 5), tensor("i64", 2)), PutAttrs(2)),
        Sample((tensor("f64", 4, 8), tensor("f64", _N, 3), tensor("i64", _N)), PutAttrs(1)),
        Sample((tensor("i64", _N, 3), tensor("i64", _N, 3), tensor("u8")), PutAttrs(0)),
        Sample((tensor("bool", 6), tensor("bool", 0), tensor("i64")), PutAttrs(0)),
    ),
)

narrow = Op(
    "narrow",
    attrs=NarrowAttrs,
    type_rule=_narrow_type,
    reference=_narrow_reference,
    gradient=_narrow_gradient,
    compute=_narrow_compute,
    samples=(
        Sample((tensor("f32", 9, 3), tensor("i64")), NarrowAttrs(0, 4)),
        Sample((tensor("f32", 2, 7, 3), tensor("i32", 2)), NarrowAttrs(1, 5)),
        Sample((tensor("f64", 2, 3, 7), tensor("i64", 2, 3)), NarrowAttrs(2, 7)),
        Sample((tensor("f32", _N, 3), tensor("i64")), NarrowAttrs(0, _N)),
        Sample((tensor("bool", 6), tensor("u8")), NarrowAttrs(0, 2)),
    ),
)

OPS: tuple[Op, ...] = (put, narrow)
