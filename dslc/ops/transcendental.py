"""Inverse and hyperbolic functions of one number, and powers and logarithms to base 2.

Input and output: as in `elementwise.py`, floats alone. What a formula of these gives as precisely
(tan, atan2, log10, hypot) is in the library, `std/elementary.dl`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

from dslc._lazy import lazy
from dslc.ir.core import Value
from dslc.ir.op import Op
from dslc.ops.constants import fill
from dslc.ops.elementwise import add, div, mul, neg, rsqrt, sub
from dslc.ops.pointwise import float_samples, unary

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")

_INSIDE = float_samples(low=-0.9, high=0.9)
_ABOVE_ONE = float_samples(low=1.2, high=4.0)
_POSITIVE = float_samples(low=0.2, high=4.0)


def _one(b: Builder, x: Value) -> Value:
    return fill(b, 1.0, x.type)


def _beside_one(b: Builder, x: Value) -> Value:
    """1 - x * x, precise also where x is near 1."""
    return cast(Value, mul(b, sub(b, _one(b, x), x), add(b, _one(b, x), x)))


def _scaled(b: Builder, x: Value, factor: float) -> Value:
    return cast(Value, mul(b, x, fill(b, factor, x.type)))


def _asin_gradient(b: Builder, x: Value, y: Value, g: Value) -> Value:
    return cast(Value, mul(b, g, rsqrt(b, _beside_one(b, x))))


def _atan_gradient(b: Builder, x: Value, y: Value, g: Value) -> Value:
    return cast(Value, div(b, g, add(b, mul(b, x, x), _one(b, x))))


def _asinh_gradient(b: Builder, x: Value, y: Value, g: Value) -> Value:
    return cast(Value, mul(b, g, rsqrt(b, add(b, mul(b, x, x), _one(b, x)))))


def _acosh_gradient(b: Builder, x: Value, y: Value, g: Value) -> Value:
    inside = mul(b, sub(b, x, _one(b, x)), add(b, x, _one(b, x)))
    return cast(Value, mul(b, g, rsqrt(b, inside)))


asin = unary("asin", lambda x: np.arcsin(x), _asin_gradient, samples=_INSIDE)
acos = unary(
    "acos", lambda x: np.arccos(x), lambda b, x, y, g: neg(b, _asin_gradient(b, x, y, g)),
    samples=_INSIDE,
)  # fmt: skip
atan = unary("atan", lambda x: np.arctan(x), _atan_gradient)
sinh: Op = unary("sinh", lambda x: np.sinh(x), lambda b, x, y, g: mul(b, g, cosh(b, x)))
cosh: Op = unary("cosh", lambda x: np.cosh(x), lambda b, x, y, g: mul(b, g, sinh(b, x)))
asinh = unary("asinh", lambda x: np.arcsinh(x), _asinh_gradient)
acosh = unary("acosh", lambda x: np.arccosh(x), _acosh_gradient, samples=_ABOVE_ONE)
atanh = unary(
    "atanh", lambda x: np.arctanh(x), lambda b, x, y, g: div(b, g, _beside_one(b, x)),
    samples=_INSIDE,
)  # fmt: skip
exp2 = unary("exp2", lambda x: np.exp2(x), lambda b, x, y, g: mul(b, g, _scaled(b, y, math.log(2))))
log2 = unary(
    "log2", lambda x: np.log2(x), lambda b, x, y, g: div(b, _scaled(b, g, 1 / math.log(2)), x),
    samples=_POSITIVE,
)  # fmt: skip

OPS: tuple[Op, ...] = (asin, acos, atan, sinh, cosh, asinh, acosh, atanh, exp2, log2)
