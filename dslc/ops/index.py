"""Reading by index tensors, and the adjoints, which add to where was read.

`gather[axis](x, i)` takes whole slices: result dims are x's with dim `axis` replaced by i's dims
(NumPy's `take`). `take_along[axis](x, i)` takes one element for each of i's (NumPy's
`take_along_axis`). `scatter_add[axis, size](g, i)` adds slices of g into `size` slices of zeros:
the adjoint of `gather`, and a sum by segments. A negative index counts from the end, unless
`from_end` is false; one out of range is clamped to the first or last element, so that no program
reads or writes outside of a tensor; of no elements at all, 0 is read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, minimum, sym
from dslc.ir.op import (
    Attrs,
    Expr,
    Index,
    Kernels,
    Op,
    Operand,
    Reader,
    Sample,
    Scatter,
    TypeRuleError,
)
from dslc.ir.types import TensorType, is_float, is_integer
from dslc.ops.linalg import accumulator

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class IndexAttrs(Attrs):
    axis: int = 0
    from_end: bool = True


@dataclass(frozen=True, slots=True)
class IndexGradientAttrs(Attrs):
    """`size` is the length of dim `axis` of what was read."""

    axis: int = 0
    size: Dim = 0
    from_end: bool = True


def _check(what: str, axis: int, x: TensorType, i: TensorType) -> None:
    if not is_integer(i.dtype):
        raise TypeRuleError(
            f"cannot {what} {x} by {i}",
            notes=[f"an index is of integers, not {i.dtype}"],
            inputs=(1,),
            code="E0204",
        )
    if not 0 <= axis < x.rank:
        raise TypeRuleError(
            f"cannot {what} {x} along axis {axis}",
            notes=[f"it has {x.rank} dims"],
            inputs=(0,),
            code="E0206",
        )
    if x.dims[axis] == 0:
        raise TypeRuleError(f"cannot {what} {x}: dim {axis} is empty", inputs=(0,))


def _gather_type(attrs: IndexAttrs, x: TensorType, i: TensorType) -> TensorType:
    _check("index", attrs.axis, x, i)
    return x.with_dims((*x.dims[: attrs.axis], *i.dims, *x.dims[attrs.axis + 1 :]))


def scatter_type(attrs: IndexGradientAttrs, g: TensorType, i: TensorType) -> TensorType:
    axis = attrs.axis
    before, found, after = g.dims[:axis], g.dims[axis : axis + i.rank], g.dims[axis + i.rank :]
    x = g.with_dims((*before, attrs.size, *after))
    _check("add to", axis, x, i)
    if found != i.dims:
        at = f"from dim {axis} on " if axis else ""
        raise TypeRuleError(
            f"cannot add {g} by {i}",
            notes=[f"each slice needs an index: {at}the dims must be those of the indices"],
            inputs=(0, 1),
        )
    if g.dtype == "bool":
        raise TypeRuleError(
            f"cannot add {g}", notes=["truth values have no sum"], inputs=(0,), code="E0204"
        )
    return x


def _along_type(attrs: IndexAttrs, x: TensorType, i: TensorType) -> TensorType:
    _check("index", attrs.axis, x, i)
    if x.rank != i.rank or any(
        a != b for n, (a, b) in enumerate(zip(x.dims, i.dims)) if n != attrs.axis
    ):
        raise TypeRuleError(
            f"cannot take elements of {x} by {i} along axis {attrs.axis}",
            notes=[f"all dims but {attrs.axis} must be equal"],
            inputs=(0, 1),
        )
    return x.with_dims(i.dims)


def _along_gradient_type(attrs: IndexGradientAttrs, g: TensorType, i: TensorType) -> TensorType:
    dims = list(g.dims)
    dims[attrs.axis] = attrs.size
    x = g.with_dims(tuple(dims))
    if not is_float(g.dtype) or _along_type(IndexAttrs(attrs.axis), x, i) != g:
        raise TypeRuleError(f"{g} is not what an index {i} along axis {attrs.axis} gives")
    return x


def valid(i: Any, size: int, from_end: bool = True) -> Any:
    wide = i.astype(np.int64)
    return np.clip(np.where(wide < 0, wide + size, wide) if from_end else wide, 0, size - 1)


def _gather_reference(attrs: IndexAttrs, x: Any, i: Any) -> Any:
    axis = attrs.axis
    if x.shape[axis] == 0:
        return np.zeros((*x.shape[:axis], *i.shape, *x.shape[axis + 1 :]), x.dtype)
    return np.take(x, valid(i, x.shape[axis], attrs.from_end), axis=axis)


def _scatter_reference(attrs: IndexGradientAttrs, g: Any, i: Any) -> Any:
    size = cast(int, attrs.size)
    # Sums of halves are in f32; ml_dtypes' bf16 is no float of NumPy's.
    wide = g.astype(np.float32) if g.dtype.itemsize == 2 and g.dtype.kind not in "iu" else g
    before, after = g.shape[: attrs.axis], g.shape[attrs.axis + i.ndim :]
    # The indexed dims first, as one: then NumPy's unbuffered add does the rest.
    rows = np.moveaxis(wide.reshape(*before, i.size, *after), attrs.axis, 0)
    out = np.zeros((size, *before, *after), wide.dtype)
    if size:
        np.add.at(out, valid(i, size, attrs.from_end).reshape(-1), rows)
    return np.moveaxis(out, 0, attrs.axis).astype(g.dtype)


def _along_reference(attrs: IndexAttrs, x: Any, i: Any) -> Any:
    if x.shape[attrs.axis] == 0:
        return np.zeros(i.shape, x.dtype)
    at = valid(i, x.shape[attrs.axis], attrs.from_end)
    return np.take_along_axis(x, at, axis=attrs.axis)


def _along_gradient_reference(attrs: IndexGradientAttrs, g: Any, i: Any) -> Any:
    size = cast(int, attrs.size)
    wide = g.astype(np.float32) if g.dtype.itemsize == 2 else g
    shape = list(g.shape)
    shape[attrs.axis] = size
    out = np.zeros(shape, wide.dtype)
    at = list(np.indices(i.shape, sparse=True))
    at[attrs.axis] = valid(i, size, attrs.from_end)
    np.add.at(out, tuple(at), wide)
    return out.astype(g.dtype)


def _gather_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (g,), (x, i) = cotangents, eqn.inputs
    attrs = cast(IndexAttrs, eqn.attrs)
    if g is None or not is_float(x.type.dtype):
        return None, None
    size = x.type.dims[attrs.axis]
    return scatter_add(b, g, i, axis=attrs.axis, size=size, from_end=attrs.from_end), None


def _scatter_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (d,), (_, i) = cotangents, eqn.inputs
    if d is None:
        return None, None
    attrs = cast(IndexGradientAttrs, eqn.attrs)
    return gather(b, d, i, axis=attrs.axis, from_end=attrs.from_end), None


def _along_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (g,), (x, i) = cotangents, eqn.inputs
    attrs = cast(IndexAttrs, eqn.attrs)
    if g is None or not is_float(x.type.dtype):
        return None, None
    size = x.type.dims[attrs.axis]
    made = take_along_gradient(b, g, i, axis=attrs.axis, size=size, from_end=attrs.from_end)
    return made, None


def _along_gradient_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (d,), (_, i) = cotangents, eqn.inputs
    if d is None:
        return None, None
    attrs = cast(IndexGradientAttrs, eqn.attrs)
    return take_along(b, d, i, axis=attrs.axis, from_end=attrs.from_end), None


def _position(k: Kernels, i: Expr, size: Dim, from_end: bool) -> Expr:
    """An index element as a position inside of `[0, size)`."""
    at = k.index(i)
    if from_end:
        negative = k.compare("lt", at, k.dim(0), "index")
        at = k.select(negative, k.binary("add", at, k.dim(size), "index"), at)
    last = k.binary("sub", k.dim(size), k.dim(1), "index")
    return k.binary("min", k.binary("max", at, k.dim(0), "index"), last, "index")


def _of_some(k: Kernels, x: Operand, axis: int, element: Callable[[], Expr]) -> Expr:
    """The element, or 0 where a dynamic dim turns out to be 0: then there is none to read."""
    size = x.type.dims[axis]
    if isinstance(size, int):
        return element()
    some = k.compare("gt", k.dim(size), k.dim(0), "index")
    return k.guarded(some, element, k.const(0, x.type.dtype))


def _gather_compute(
    k: Kernels, attrs: IndexAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    x, i = operands
    axis, rank = attrs.axis, i.type.rank

    def read(index: Index) -> Expr:
        def element() -> Expr:
            row = i(index[axis : axis + rank])
            at = _position(k, row, x.type.dims[axis], attrs.from_end)
            return x((*index[:axis], at, *index[axis + rank :]))

        return _of_some(k, x, axis, element)

    return read


def scatter_compute(kind: str) -> Any:
    """Slices joined by `kind`, a kind of reduction."""

    def compute(
        k: Kernels,
        attrs: IndexGradientAttrs,
        operands: Sequence[Operand],
        outputs: Sequence[TensorType],
    ) -> Scatter:
        g, i = operands
        axis, rank = attrs.axis, i.type.rank
        # A tensor that turns out to have no slices has none to add to.
        some = () if isinstance(attrs.size, int) else (minimum(1, attrs.size),)

        def target(index: Index) -> Index:
            index = index[len(some) :]
            at = _position(k, i(index[axis : axis + rank]), attrs.size, attrs.from_end)
            return (*index[:axis], at, *index[axis + rank :])

        domain = (*some, *g.type.dims)
        return Scatter(domain, target, lambda index: g(index[len(some) :]), kind)

    return compute


def _along_compute(
    k: Kernels, attrs: IndexAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    x, i = operands

    def read(index: Index) -> Expr:
        def element() -> Expr:
            at = _position(k, i(index), x.type.dims[attrs.axis], attrs.from_end)
            return x((*index[: attrs.axis], at, *index[attrs.axis + 1 :]))

        return _of_some(k, x, attrs.axis, element)

    return read


def _along_gradient_compute(
    k: Kernels,
    attrs: IndexGradientAttrs,
    operands: Sequence[Operand],
    outputs: Sequence[TensorType],
) -> Reader:
    g, i = operands
    dtype, wide = g.type.dtype, accumulator(g.type.dtype)

    def read(index: Index) -> Expr:
        def part(r: Index) -> Expr:
            at = (*index[: attrs.axis], r[0], *index[attrs.axis + 1 :])
            here = _position(k, i(at), attrs.size, attrs.from_end)
            met = k.compare("eq", here, index[attrs.axis], "index")
            return k.select(met, k.cast(g(at), dtype, wide), k.const(0, wide))

        total = k.reduce("sum", (i.type.dims[attrs.axis],), part, wide)
        return k.cast(total, wide, dtype)

    return read


def _f32(*dims: Dim) -> TensorType:
    return TensorType("f32", dims)


def _i64(*dims: Dim) -> TensorType:
    return TensorType("i64", dims)


gather = Op(
    "gather",
    attrs=IndexAttrs,
    type_rule=_gather_type,
    reference=_gather_reference,
    gradient=_gather_gradient,
    compute=_gather_compute,
    samples=(
        Sample((_f32(7, 3), _i64(4)), IndexAttrs(0)),
        Sample((_f32(2, 6, 3), _i64(2, 3)), IndexAttrs(1)),
        Sample((_f32(5), _i64()), IndexAttrs(0)),
        Sample((_f32(6, 3), _i64(4)), IndexAttrs(0, from_end=False)),
        Sample((_f32(7, 3), TensorType("i32", (0,))), IndexAttrs(0)),
        Sample((_f32(9, 33), _i64(2)), IndexAttrs(0)),
        Sample((_f32(sym("N"), 3), _i64(4)), IndexAttrs(0)),
        Sample((TensorType("i64", (7,)), _i64(sym("N"))), IndexAttrs(0)),
    ),
)

scatter_add = Op(
    "scatter_add",
    attrs=IndexGradientAttrs,
    type_rule=scatter_type,
    reference=_scatter_reference,
    gradient=_scatter_gradient,
    compute=scatter_compute("sum"),
    samples=(
        Sample((_f32(4, 3), _i64(4)), IndexGradientAttrs(0, 7)),
        Sample((_f32(2, 2, 3, 3), _i64(2, 3)), IndexGradientAttrs(1, 6)),
        Sample((_f32(4, 3), _i64(4)), IndexGradientAttrs(0, 3, from_end=False)),
        Sample((_f32(40, 5), _i64(40)), IndexGradientAttrs(0, 5), rtol=1e-5, why="sums of many"),
        Sample((_f32(0, 3), _i64(0)), IndexGradientAttrs(0, 4)),
        Sample((_f32(sym("N"), 3), _i64(sym("N"))), IndexGradientAttrs(0, 4)),
        Sample((_f32(4, 3), _i64(4)), IndexGradientAttrs(0, sym("N"))),
        Sample((_i64(2, 5), _i64(5)), IndexGradientAttrs(1, 3)),
    ),
)

take_along = Op(
    "take_along",
    attrs=IndexAttrs,
    type_rule=_along_type,
    reference=_along_reference,
    gradient=_along_gradient,
    compute=_along_compute,
    samples=(
        Sample((_f32(4, 5), _i64(4, 1)), IndexAttrs(1)),
        Sample((_f32(6, 3), _i64(2, 3)), IndexAttrs(0)),
        Sample((_f32(4, 5), _i64(4, 1)), IndexAttrs(1, from_end=False)),
        Sample((_f32(0, 5), _i64(0, 1)), IndexAttrs(1)),
        Sample((_f32(sym("N"), 5), _i64(sym("N"), 1)), IndexAttrs(1)),
    ),
)

take_along_gradient = Op(
    "take_along_gradient",
    attrs=IndexGradientAttrs,
    type_rule=_along_gradient_type,
    reference=_along_gradient_reference,
    gradient=_along_gradient_gradient,
    compute=_along_gradient_compute,
    samples=(
        Sample((_f32(4, 1), _i64(4, 1)), IndexGradientAttrs(1, 5)),
        Sample((_f32(2, 3), _i64(2, 3)), IndexGradientAttrs(0, 6)),
        Sample((_f32(4, 1), _i64(4, 1)), IndexGradientAttrs(1, 5, from_end=False)),
        Sample((_f32(0, 1), _i64(0, 1)), IndexGradientAttrs(1, 5)),
        Sample((_f32(sym("N"), 1), _i64(sym("N"), 1)), IndexGradientAttrs(1, 5)),
    ),
)

OPS: tuple[Op, ...] = (gather, scatter_add, take_along, take_along_gradient)
