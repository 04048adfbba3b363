"""Arithmetic and functions of one number, element by element over equal-shaped inputs.

Meanings are NumPy's, with these choices: integers wrap around; an integer divided by zero gives 0
(quotient and remainder), so that nothing traps; `round` rounds halves to even; maximum and minimum
propagate NaN and share the cotangent evenly between equals, while relu's gradient at 0 is 0:
PyTorch's choices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.op import (
    Attrs,
    Expr,
    Kernels,
    Op,
    Operand,
    Reader,
    Sample,
)
from dslc.ir.types import FLOATS, DType, TensorType, is_float
from dslc.ops.pointwise import (
    NUMBERS,
    Cotangents,
    binary,
    float_samples,
    integer_samples,
    repeated,
    tensor,
    unary,
)

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")

from dslc.ops.constants import fill
from dslc.ops.logic import eq, gt, lt, select

# --- arithmetic -------------------------------------------------------------------------------

_PAIRS = (*repeated(float_samples(), 2), *repeated(integer_samples("i64", "i32", "u8"), 2))
_FLOAT_PAIRS = repeated(float_samples(), 2)
_DIVISORS = repeated(float_samples(low=0.3, high=3.0), 2)
_INTEGER_DIVISORS = repeated(integer_samples("i64", "i32", "i8"), 2)

add = binary("add", lambda x, y: x + y, lambda b, eqn, g: (g, g), verb="add", samples=_PAIRS)
sub = binary(
    "sub", lambda x, y: x - y, lambda b, eqn, g: (g, neg(b, g)), verb="subtract", samples=_PAIRS
)


def _mul_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    x, y = eqn.inputs
    return mul(b, g, y), mul(b, g, x)


def _div_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    (_, y), (quotient,) = eqn.inputs, eqn.outputs
    dx = div(b, g, y)
    return dx, neg(b, mul(b, dx, quotient))


mul = binary("mul", lambda x, y: x * y, _mul_gradient, verb="multiply", samples=_PAIRS)
div = binary(
    "div",
    lambda x, y: x / y,
    _div_gradient,
    verb="divide",
    dtypes=FLOATS,
    samples=_DIVISORS,
)


def _whole_quotient(x: Any, y: Any) -> Any:
    if x.dtype.kind == "f":
        return np.floor_divide(x, y)
    return np.where(y == 0, x.dtype.type(0), np.floor_divide(x, y))


def _remainder(x: Any, y: Any) -> Any:
    if x.dtype.kind == "f":
        return np.remainder(x, y)
    return np.where(y == 0, x.dtype.type(0), np.remainder(x, y))


def _safe_divisor(k: Kernels, y: Expr, dtype: DType) -> tuple[Expr, Expr, Expr]:
    """`y`, but 1 where the machine's division would trap (0, and -1 under the least integer);
    and whether it was 0 or -1."""
    zero = k.compare("eq", y, k.const(0, dtype), dtype)
    if dtype == "u8":
        return k.select(zero, k.const(1, dtype), y), zero, k.const(False, "bool")
    minus = k.compare("eq", y, k.const(-1, dtype), dtype)
    trap = k.binary("or", zero, minus, "bool")
    return k.select(trap, k.const(1, dtype), y), zero, minus


def _floordiv_scalar(k: Kernels, x: Expr, y: Expr, dtype: DType) -> Expr:
    if is_float(dtype):
        return k.binary("floordiv", x, y, dtype)
    safe, zero, minus = _safe_divisor(k, y, dtype)
    quotient = k.binary("floordiv", x, safe, dtype)
    negated = k.binary("sub", k.const(0, dtype), x, dtype)
    return k.select(zero, k.const(0, dtype), k.select(minus, negated, quotient))


def _mod_scalar(k: Kernels, x: Expr, y: Expr, dtype: DType) -> Expr:
    if is_float(dtype):
        return k.binary("mod", x, y, dtype)
    safe, _, _ = _safe_divisor(k, y, dtype)  # x % 1 is 0, as wanted for 0 and -1
    return k.binary("mod", x, safe, dtype)


def _mod_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    x, y = eqn.inputs
    return g, neg(b, mul(b, g, floordiv(b, x, y)))


# Divisors and dividends that don't meet: floor jumps where x / y is whole.
_QUOTIENTS = tuple(
    Sample((tensor(dtype, 3, 5),) * 2, low=0.3, high=0.9, away=0.05)
    for dtype in cast("tuple[DType, ...]", ("f32", "f64"))
)
floordiv = binary(
    "floordiv",
    _whole_quotient,
    lambda b, eqn, g: (None, None),
    verb="divide",
    samples=(*_QUOTIENTS, *_INTEGER_DIVISORS),
    scalar=_floordiv_scalar,
)
mod = binary(
    "mod",
    _remainder,
    _mod_gradient,
    verb="take the remainder of",
    samples=(*_QUOTIENTS, *_INTEGER_DIVISORS),
    scalar=_mod_scalar,
)


def _pow_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    """d/dx = y x^(y-1), 0 where y is 0; d/dy = x^y log x, 0 where x is 0 (and y is not negative:
    there it is not a number anyway)."""
    (x, y), (power,) = eqn.inputs, eqn.outputs
    zero = fill(b, 0.0, x.type)
    below = power_op(b, x, sub(b, y, fill(b, 1.0, x.type)))
    dx = select(b, eq(b, y, zero), zero, mul(b, g, mul(b, y, below)))
    dy = select(b, eq(b, x, zero), zero, mul(b, g, mul(b, power, log(b, x))))
    return dx, dy


power_op = binary(
    "pow",
    lambda x, y: np.power(x, y),
    _pow_gradient,
    verb="raise",
    dtypes=FLOATS,
    samples=tuple(
        Sample(
            s.inputs, s.attrs, low=0.3, high=2.5, rtol=max(s.rtol, 1e-5), why=s.why or "exp(log)"
        )
        for s in _FLOAT_PAIRS
    ),
)


def _sharing(better: Any) -> Any:
    """Gradient of maximum and minimum: to the better one, halves to equals."""

    def gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
        x, y = eqn.inputs
        zero, half = fill(b, 0.0, g.type), mul(b, g, fill(b, 0.5, g.type))
        shared = select(b, eq(b, x, y), half, zero)
        return (
            select(b, better()(b, x, y), g, shared),
            select(b, better()(b, y, x), g, shared),
        )

    return gradient


maximum = binary(
    "maximum",
    lambda x, y: np.maximum(x, y),
    _sharing(lambda: gt),
    verb="take the maximum of",
    samples=_PAIRS,
    scalar=lambda k, x, y, dtype: k.binary("max", x, y, dtype),
)
minimum = binary(
    "minimum",
    lambda x, y: np.minimum(x, y),
    _sharing(lambda: lt),
    verb="take the minimum of",
    samples=_PAIRS,
    scalar=lambda k, x, y, dtype: k.binary("min", x, y, dtype),
)


# --- functions of one number ------------------------------------------------------------------

_JUMPS = float_samples(away=0.05)  # their gradient jumps at 0, or they do at integers
_SIGNED = (*_JUMPS, *integer_samples("i64", "i8"))


def _scaled(b: Builder, x: Value, factor: float) -> Value:
    return cast(Value, mul(b, x, fill(b, factor, x.type)))


def _plus(b: Builder, x: Value, term: float) -> Value:
    return cast(Value, add(b, x, fill(b, term, x.type)))


def _one_minus(b: Builder, x: Value) -> Value:
    return cast(Value, sub(b, fill(b, 1.0, x.type), x))


def _relu_gradient(b: Builder, x: Value, y: Value, g: Value) -> Value:
    # By the result, not by x: they have the same sign, and x need not be kept.
    zero = fill(b, 0.0, x.type)
    return cast(Value, select(b, gt(b, y, zero), g, zero))


def _relu_compute(
    k: Kernels, attrs: Attrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    (x,) = operands
    dtype = x.type.dtype
    return lambda index: k.binary("max", x(index), k.const(0, dtype), dtype)


def _erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _erf_gradient(b: Builder, x: Value, y: Value, g: Value) -> Value:
    bell = exp(b, neg(b, mul(b, x, x)))
    return cast(Value, mul(b, g, _scaled(b, bell, 2 / math.sqrt(math.pi))))


def _rsqrt_gradient(b: Builder, x: Value, y: Value, g: Value) -> Value:
    cube = mul(b, mul(b, y, y), y)
    return cast(Value, mul(b, g, _scaled(b, cube, -0.5)))


relu = unary(
    "relu", lambda x: np.maximum(x, x.dtype.type(0)), _relu_gradient,
    dtypes=NUMBERS, samples=_SIGNED, compute=_relu_compute,
)  # fmt: skip
neg: Op = unary(
    "neg", lambda x: -x, lambda b, x, y, g: neg(b, g),
    dtypes=NUMBERS, samples=_SIGNED, verb="negate",
)  # fmt: skip
absolute = unary(
    "abs", lambda x: np.abs(x), lambda b, x, y, g: mul(b, g, sign(b, x)),
    dtypes=NUMBERS, samples=_SIGNED, verb="take the absolute value of",
)  # fmt: skip
sign: Op = unary("sign", lambda x: np.sign(x), None, dtypes=NUMBERS, samples=_SIGNED)
floor = unary("floor", lambda x: np.floor(x), None, samples=_JUMPS, verb="round")
ceil = unary("ceil", lambda x: np.ceil(x), None, samples=_JUMPS, verb="round")
rounded = unary("round", lambda x: np.rint(x), None, samples=float_samples(0.6, 1.4), verb="round")

_POSITIVE = float_samples(low=0.2, high=4.0)
exp = unary("exp", lambda x: np.exp(x), lambda b, x, y, g: mul(b, g, y))
log = unary("log", lambda x: np.log(x), lambda b, x, y, g: div(b, g, x), samples=_POSITIVE)
log1p = unary(
    "log1p", lambda x: np.log1p(x), lambda b, x, y, g: div(b, g, _plus(b, x, 1.0)),
    samples=float_samples(low=-0.8, high=3.0),
)  # fmt: skip
expm1 = unary("expm1", lambda x: np.expm1(x), lambda b, x, y, g: mul(b, g, _plus(b, y, 1.0)))
sqrt = unary(
    "sqrt", lambda x: np.sqrt(x), lambda b, x, y, g: div(b, _scaled(b, g, 0.5), y),
    samples=_POSITIVE, verb="take the square root of",
)  # fmt: skip
rsqrt = unary("rsqrt", lambda x: 1 / np.sqrt(x), _rsqrt_gradient, samples=_POSITIVE)
sin = unary("sin", lambda x: np.sin(x), lambda b, x, y, g: mul(b, g, cos(b, x)))
cos: Op = unary("cos", lambda x: np.cos(x), lambda b, x, y, g: neg(b, mul(b, g, sin(b, x))))
tanh = unary(
    "tanh", lambda x: np.tanh(x), lambda b, x, y, g: mul(b, g, _one_minus(b, mul(b, y, y)))
)
erf = unary("erf", _erf, _erf_gradient)
sigmoid = unary(
    "sigmoid", lambda x: 1 / (1 + np.exp(-x)),
    lambda b, x, y, g: mul(b, g, mul(b, y, _one_minus(b, y))),
)  # fmt: skip

OPS: tuple[Op, ...] = (
    add, sub, mul, div, floordiv, mod, power_op, maximum, minimum,
    neg, absolute, sign, relu, floor, ceil, rounded,
    exp, log, log1p, expm1, sqrt, rsqrt, sin, cos, tanh, erf, sigmoid,
)  # fmt: skip
