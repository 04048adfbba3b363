"""Reductions but for the sum (`broadcast.py`), positions of extremes, and running sums.

The reduced axes are gone from the result. Over no elements a product is 1, `all` true, `any` false;
a maximum over a dim known to be 0 is an error, over one that turns out 0 at run time the lowest
value. NaN wins a maximum or minimum, equals share its cotangent evenly (PyTorch's `amax`), and
argmax gives the first of equals (NumPy's).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.op import Attrs, Expr, Index, Kernels, Op, Operand, Reader, Sample
from dslc.ir.types import TensorType
from dslc.ops import constants
from dslc.ops.broadcast import (
    REDUCTION_SAMPLES,
    ReduceAttrs,
    check_axes,
    reduce_compute,
    reduce_sum,
    spread,
    whole_index,
)
from dslc.ops.constants import fill
from dslc.ops.elementwise import div, mul, sub
from dslc.ops.errors import bad_static, check_axis, wrong_dtype
from dslc.ops.linalg import accumulator
from dslc.ops.logic import eq, select
from dslc.ops.pointwise import (
    BOOL_RESULT,
    INTEGER_RESULT,
    NUMBERS,
    Cotangents,
    is_narrow,
    quiet,
    tensor,
)
from dslc.ops.slicing import reverse

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class AxisAttrs(Attrs):
    """One axis, counted from 0."""

    axis: int


# --- products, extremes, any and all ----------------------------------------------------------


def _no_empty(verb: str, x: TensorType, axes: Sequence[int]) -> None:
    for axis in axes:
        if x.dims[axis] == 0:
            raise bad_static(f"cannot {verb} {x} along axis {axis}", notes=["that dim is 0"])


def _extreme_type(verb: str) -> Any:
    def rule(attrs: ReduceAttrs, x: TensorType) -> TensorType:
        if x.dtype not in NUMBERS:
            raise wrong_dtype(verb, (x,), "numbers")
        dims = check_axes(verb, attrs, x)
        _no_empty(verb, x, attrs.axes)
        return x.with_dims(dims)

    return rule


def _extreme_reference(name: str) -> Any:
    def reference(attrs: ReduceAttrs, x: Any) -> Any:
        wide = x.astype(np.float32) if is_narrow(x.dtype) else x
        if wide.dtype.kind == "f":
            worst = -np.inf if name == "max" else np.inf
        else:
            limits = np.iinfo(wide.dtype)
            worst = limits.min if name == "max" else limits.max
        reduce = np.max if name == "max" else np.min
        return reduce(wide, axis=attrs.axes, initial=worst).astype(x.dtype)

    return reference


def _extreme_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    (x,), (y,), axes = eqn.inputs, eqn.outputs, cast(ReduceAttrs, eqn.attrs).axes
    zero, one = fill(b, 0.0, x.type), fill(b, 1.0, x.type)
    chosen = eq(b, x, spread(b, y, x, axes))
    count = reduce_sum(b, select(b, chosen, one, zero), axes=axes)
    return (select(b, chosen, spread(b, div(b, g, count), x, axes), zero),)


def _extreme(name: str, verb: str) -> Op:
    return Op(
        f"reduce_{name}",
        attrs=ReduceAttrs,
        type_rule=_extreme_type(verb),
        reference=_extreme_reference(name),
        gradient=quiet(_extreme_gradient),
        compute=reduce_compute(name),
        samples=REDUCTION_SAMPLES,
    )


reduce_max = _extreme("max", "take the maximum of")
reduce_min = _extreme("min", "take the minimum of")


def _prod_type(attrs: ReduceAttrs, x: TensorType) -> TensorType:
    if x.dtype not in NUMBERS:
        raise wrong_dtype("multiply", (x,), "numbers")
    return x.with_dims(check_axes("multiply", attrs, x))


def _prod_reference(attrs: ReduceAttrs, x: Any) -> Any:
    wide = x.astype(np.float32) if is_narrow(x.dtype) else x
    return wide.prod(axis=attrs.axes, dtype=wide.dtype).astype(x.dtype)


def _prod_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    """The product of the others: that of the non-zero ones over x, or 0 where another is 0."""
    (x,), axes = eqn.inputs, cast(ReduceAttrs, eqn.attrs).axes
    zero, one = fill(b, 0.0, x.type), fill(b, 1.0, x.type)
    is_zero = eq(b, x, zero)
    safe = select(b, is_zero, one, x)
    zeros = select(b, is_zero, one, zero)
    others = sub(b, spread(b, reduce_sum(b, zeros, axes=axes), x, axes), zeros)
    product = spread(b, mul(b, reduce_prod(b, safe, axes=axes), g), x, axes)
    return (select(b, eq(b, others, zero), div(b, product, safe), zero),)


_PROD_SAMPLES = tuple(
    replace(s, low=0.5, high=1.5, rtol=max(s.rtol, 1e-5), why=s.why or "products in another order")
    for s in REDUCTION_SAMPLES
)
reduce_prod: Op = Op(
    "reduce_prod",
    attrs=ReduceAttrs,
    type_rule=_prod_type,
    reference=_prod_reference,
    gradient=quiet(_prod_gradient),
    compute=reduce_compute("prod", wide=True),
    samples=(*_PROD_SAMPLES, Sample((tensor("f32", 3, 0),), ReduceAttrs((1,)))),
)


def _quantifier(name: str, function: Callable[..., Any]) -> Op:
    def rule(attrs: ReduceAttrs, x: TensorType) -> TensorType:
        if x.dtype != "bool":
            raise wrong_dtype(f"ask whether {name} hold of", (x,), "bool")
        return x.with_dims(check_axes(f"take {name} of", attrs, x))

    return Op(
        f"reduce_{name}",
        attrs=ReduceAttrs,
        type_rule=rule,
        reference=lambda attrs, x: function(x, axis=attrs.axes),
        gradient=BOOL_RESULT,
        compute=reduce_compute(name),
        samples=(
            Sample((tensor("bool", 3, 5),), ReduceAttrs((1,))),
            Sample((tensor("bool", 3, 2),), ReduceAttrs((0, 1))),
            Sample((tensor("bool", 2, 0),), ReduceAttrs((1,))),
        ),
    )


reduce_any = _quantifier("any", lambda x, axis: np.any(x, axis=axis))
reduce_all = _quantifier("all", lambda x, axis: np.all(x, axis=axis))


# --- positions --------------------------------------------------------------------------------


def _position(name: str, function: Callable[..., Any]) -> Op:
    verb = f"take the {name} of"

    def rule(attrs: AxisAttrs, x: TensorType) -> TensorType:
        if x.dtype not in NUMBERS:
            raise wrong_dtype(verb, (x,), "numbers")
        check_axis(verb, x, attrs.axis)
        _no_empty(verb, x, (attrs.axis,))
        kept = tuple(d for i, d in enumerate(x.dims) if i != attrs.axis)
        return TensorType("i64", kept)

    def reference(attrs: AxisAttrs, x: Any) -> Any:
        if x.shape[attrs.axis] == 0:
            shape = [d for i, d in enumerate(x.shape) if i != attrs.axis]
            return np.zeros(shape, np.int64)
        wide = x.astype(np.float32) if is_narrow(x.dtype) else x
        return np.asarray(function(wide, axis=attrs.axis), np.int64)

    def compute(
        k: Kernels, attrs: AxisAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
    ) -> Reader:
        (x,) = operands

        def read(index: Index) -> Expr:
            def element(r: Index) -> Expr:
                return x(whole_index(index, r, (attrs.axis,)))

            dims = (x.type.dims[attrs.axis],)
            return k.from_index(k.reduce(name, dims, element, x.type.dtype), "i64")

        return read

    return Op(
        name,
        attrs=AxisAttrs,
        type_rule=rule,
        reference=reference,
        gradient=INTEGER_RESULT,
        compute=compute,
        samples=tuple(
            Sample(s.inputs, AxisAttrs(cast(ReduceAttrs, s.attrs).axes[0]), int_high=3)
            for s in REDUCTION_SAMPLES
            if len(cast(ReduceAttrs, s.attrs).axes) == 1
        ),
    )


argmax = _position("argmax", lambda x, axis: np.argmax(x, axis=axis))
argmin = _position("argmin", lambda x, axis: np.argmin(x, axis=axis))


# --- running sums -----------------------------------------------------------------------------


def _cumsum_type(attrs: AxisAttrs, x: TensorType) -> TensorType:
    if x.dtype not in NUMBERS:
        raise wrong_dtype("sum", (x,), "numbers")
    check_axis("sum", x, attrs.axis)
    return x


def _cumsum_reference(attrs: AxisAttrs, x: Any) -> Any:
    wide = x.astype(np.float32) if is_narrow(x.dtype) else x
    return np.cumsum(wide, axis=attrs.axis, dtype=wide.dtype).astype(x.dtype)


def _cumsum_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    axis = cast(AxisAttrs, eqn.attrs).axis
    return (reverse(b, cumsum(b, reverse(b, g, axis), axis=axis), axis),)


def _cumsum_compute(
    k: Kernels, attrs: AxisAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    (x,) = operands
    axis, dtype, wide = attrs.axis, x.type.dtype, accumulator(x.type.dtype)

    def read(index: Index) -> Expr:
        def element(r: Index) -> Expr:
            value = k.cast(x((*index[:axis], r[0], *index[axis + 1 :])), dtype, wide)
            return k.select(k.compare("le", r[0], index[axis], "index"), value, k.const(0, wide))

        return k.cast(k.reduce("sum", (x.type.dims[axis],), element, wide), wide, dtype)

    return read


cumsum: Op = Op(
    "cumsum",
    attrs=AxisAttrs,
    type_rule=_cumsum_type,
    reference=_cumsum_reference,
    gradient=quiet(_cumsum_gradient),
    compute=_cumsum_compute,
    samples=tuple(
        replace(s, attrs=AxisAttrs(cast(ReduceAttrs, s.attrs).axes[0]), rtol=max(s.rtol, 1e-5))
        for s in REDUCTION_SAMPLES
        if len(cast(ReduceAttrs, s.attrs).axes) == 1
    ),
)


def element_count(b: Builder, x: Value, axes: Sequence[int], like: TensorType) -> Value:
    """How many elements are reduced along `axes`, as a scalar of `like`'s dtype."""
    count = x.type.with_dims(tuple(x.type.dims[axis] for axis in axes)).size
    scalar = TensorType(like.dtype)
    if isinstance(count, int):
        return fill(b, float(count), scalar)
    value = constants.dim_value(b, dim=count)
    return cast(Value, constants.cast(b, value, dtype=like.dtype))


OPS: tuple[Op, ...] = (
    reduce_max,
    reduce_min,
    reduce_prod,
    reduce_any,
    reduce_all,
    argmax,
    argmin,
    cumsum,
)
