"""Extrema and products by segments: slices that an index tensor joins, as `scatter_add` adds them.

`scatter_max[axis, size](x, i)` has `size` slices: each is the maximum, element by element, of those
slices of x that the index sends there. Where it sends none there is what a reduction of nothing is:
the lowest value, the highest one (`scatter_min`), 1 (`scatter_prod`). NaN wins an extremum, equals
share its cotangent evenly. Non-goals: sums, the adjoint of `gather` (`index.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import Op, Sample
from dslc.ir.types import TensorType
from dslc.ops.constants import fill
from dslc.ops.elementwise import div, mul, sub
from dslc.ops.index import (
    IndexGradientAttrs,
    gather,
    scatter_add,
    scatter_compute,
    scatter_type,
    valid,
)
from dslc.ops.logic import eq, select
from dslc.ops.pointwise import Cotangents, is_narrow, quiet, tensor

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")


def _start(kind: str, dtype: Any) -> Any:
    """What a reduction of nothing is."""
    if kind == "prod":
        return 1
    if dtype.kind == "f":
        return -np.inf if kind == "max" else np.inf
    limits = np.iinfo(dtype)
    return limits.min if kind == "max" else limits.max


def _reference(kind: str) -> Any:
    def reference(attrs: IndexGradientAttrs, x: Any, i: Any) -> Any:
        size = cast(int, attrs.size)
        join = {"max": np.maximum, "min": np.minimum, "prod": np.multiply}[kind]
        wide = x.astype(np.float32) if is_narrow(x.dtype) else x
        before, after = x.shape[: attrs.axis], x.shape[attrs.axis + i.ndim :]
        # The indexed dims first, as one.
        rows = np.moveaxis(wide.reshape(*before, i.size, *after), attrs.axis, 0)
        out = np.full((size, *before, *after), _start(kind, wide.dtype), wide.dtype)
        if size:
            join.at(out, valid(i, size, attrs.from_end).reshape(-1), rows)
        return np.moveaxis(out, 0, attrs.axis).astype(x.dtype)

    return reference


class _Segments:
    """Sums of x's slices by its segments, and how they come back to each slice."""

    def __init__(self, b: Builder, eqn: Eqn) -> None:
        self.b, (self.x, self.i) = b, eqn.inputs
        self.attrs = cast(IndexGradientAttrs, eqn.attrs)
        self.zero, self.one = fill(b, 0.0, self.x.type), fill(b, 1.0, self.x.type)

    def back(self, y: Value) -> Value:
        attrs = self.attrs
        return cast(Value, gather(self.b, y, self.i, axis=attrs.axis, from_end=attrs.from_end))

    def count(self, which: Value) -> Value:
        """For each slice, how many elements of its segment are so."""
        b, attrs = self.b, self.attrs
        ones = select(b, which, self.one, self.zero)
        return self.back(b.emit(scatter_add, (ones, self.i), attrs)[0])


def _extreme_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    at, (y,) = _Segments(b, eqn), eqn.outputs
    chosen = eq(b, at.x, at.back(y))
    return select(b, chosen, div(b, at.back(g), at.count(chosen)), at.zero), None


def _prod_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    """The product of the others: that of the non-zero ones over x, or 0 where another is 0."""
    at = _Segments(b, eqn)
    is_zero = eq(b, at.x, at.zero)
    safe = select(b, is_zero, at.one, at.x)
    others = sub(b, at.count(is_zero), select(b, is_zero, at.one, at.zero))
    total = b.emit(scatter_prod, (safe, at.i), at.attrs)[0]
    product = at.back(mul(b, total, g))
    return select(b, eq(b, others, at.zero), div(b, product, safe), at.zero), None


def _i64(*dims: Dim) -> TensorType:
    return tensor("i64", *dims)


_N = sym("N")


def _scatter(kind: str, gradient: Any) -> Op:
    # Of a segment without slices an extremum is infinite, which has no differences: one has all.
    one = kind != "prod"
    return Op(
        f"scatter_{kind}",
        attrs=IndexGradientAttrs,
        type_rule=scatter_type,
        reference=_reference(kind),
        gradient=quiet(gradient),
        compute=scatter_compute(kind),
        samples=(
            Sample((tensor("f32", 6, 3), _i64(6)), IndexGradientAttrs(0, 1 if one else 3)),
            Sample((tensor("f64", 2, 2, 3, 3), _i64(2, 3)), IndexGradientAttrs(1, 1 if one else 4)),
            Sample((_i64(_N, 2), _i64(_N)), IndexGradientAttrs(0, _N)),
            Sample((_i64(2, 5), _i64(5)), IndexGradientAttrs(1, 3)),
        ),
    )


scatter_max = _scatter("max", _extreme_gradient)
scatter_min = _scatter("min", _extreme_gradient)
scatter_prod = _scatter("prod", _prod_gradient)

OPS: tuple[Op, ...] = (scatter_max, scatter_min, scatter_prod)
