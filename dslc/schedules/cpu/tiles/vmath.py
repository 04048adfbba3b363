"""Transcendental functions as scalar TIR without branches, which LLVM turns into vector code.

`math(name, args, dtype)` emits bindings into the TIR builder's current scope and gives the result
as an expression; used in a plain inner loop it vectorises, which a call of the C library does not.
Maximum relative errors in float32 over the whole range (results below 1.2e-38 are rounded to
denormals, so absolutely; those of exp, exp2 and sigmoid below 1.7e-38 may be 0):

    exp 2e-7   sigmoid 3e-7   tanh 3e-7   erf 4e-7   log 2e-7   log1p 3e-7   expm1 3e-7
    rsqrt 2e-7   sin, cos 1e-7 for |x| <= 1e15, NaN beyond
    exp2 2e-7   log2 3e-7   asin, acos 4e-7   atan 2e-7
    sinh 4e-7   cosh 4e-7   asinh 5e-7   acosh 5e-7   atanh 5e-7

`fused_math` is for machines that round a product and a sum once: exp and sigmoid take one operation
less there, and have 4e-7 for large |x|.

Infinities, NaN, signed zeros and overflow behave as in C99. `pow`, `fmod` and everything in float64
call the C library, which programs link as -lm: float64 serves tests of gradients, not speed, and a
branch-free pow with all its special cases sends TVM's simplifier into exponential time.

Sources: Cephes (expm1, log, log2, asin, acos, atan, sinh), minimax by Lawson's iteration (exp), the
rational approximations of tanh and erf as in Eigen, the formula
log1p(x) = log(u) x / (u - 1) of W. Kahan; reductions after Cody and Waite, "Software Manual for
the Elementary Functions", 1980.
Non-goals: 16-bit floats (computed in float32 by the caller), exact rounding.
"""

from __future__ import annotations

import math as constants
from collections.abc import Callable, Sequence
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.schedules.cpu.tiles.contract import Expr

LOG2E = 1.4426950408889634
LN2 = constants.log(2)
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4  # the first has 9 bits: products with n are exact

# e**r on [-ln(2)/2, ln(2)/2]: relative error 1e-7, and exactly 1 at 0.
EXP = (8.290229441366748e-3, 4.189839007626393e-2, 1.6667640063318126e-1, 4.999914614881419e-1,
       9.999997054347922e-1, 1.0)  # fmt: skip
ROUND = 12582912.0  # 1.5 * 2**23: added to a small number it leaves a whole one in the lowest bits
EXPM1 = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
       5.0000001201e-1)  # fmt: skip
LOG = (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
       -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1)  # fmt: skip
TANH = (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
        1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03)  # fmt: skip
TANH_BELOW = (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03,
              4.89352518554385e-03)  # fmt: skip
ERF = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
       -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02)  # fmt: skip
ERF_BELOW = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03,
             -7.37332916720468e-03, -1.42647390514189e-02)  # fmt: skip
# sin(r)/r and cos(r) on [-pi/4, pi/4] in float64, in r*r (Taylor: the next term is below 1e-11).
SIN = tuple((-1) ** k / constants.factorial(2 * k + 1) for k in range(6, -1, -1))
COS = tuple((-1) ** k / constants.factorial(2 * k) for k in range(6, -1, -1))
HALF_PI = (1.5707963267948966, 6.123233995736766e-17)

# On [-0.41, 0.41] (atan), [0, 0.25] (asin, in x*x) and [-1, 1] (sinh, in x*x).
ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
ASIN = (4.2163199048e-2, 2.4181311049e-2, 4.5470025998e-2, 7.4953002686e-2, 1.6666752422e-1)
SINH = (2.03721912945e-4, 8.33028376239e-3, 1.66667160211e-1)

_LIBM = frozenset(
    [
        *("exp", "log", "log1p", "expm1", "exp2", "log2", "sin", "cos", "tanh", "erf"),
        *("asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"),
    ]
)


def math(name: str, args: Sequence[Expr], dtype: str) -> Expr:
    """`name` of `args`, a scalar expression; dtype float32 or float64. Names: those of `_FLOAT`,
    pow fmod maximum minimum; of the last two a NaN wins."""
    if name in ("maximum", "minimum"):
        suffix = "f32" if dtype == "float32" else "f64"
        return tirx.call_llvm_pure_intrin(dtype, f"llvm.{name}.{suffix}", *args)
    if name in ("fmod", "pow"):
        return tirx.call_pure_extern(dtype, f"{name}f" if dtype == "float32" else name, *args)
    if dtype == "float64":
        return _double(name, args)
    if dtype != "float32" or name not in _FLOAT:
        raise InternalError(f"no vector mathematics for {name!r} of {dtype}")
    return _FLOAT[name](*(T.bind(arg) for arg in args))


def fused_math(name: str, args: Sequence[Expr], dtype: str) -> Expr:
    """As `math`, with one fused product and sum where exp takes two."""
    if dtype == "float32" and name in _FUSED:
        return _FUSED[name](*(T.bind(arg) for arg in args))
    return math(name, args, dtype)


def _double(name: str, args: Sequence[Expr]) -> Expr:
    one = tirx.const(1.0, "float64")
    if name in _LIBM:
        return tirx.call_pure_extern("float64", name, *args)
    if name == "rsqrt":
        return tirx.div(one, tirx.sqrt(args[0]))
    if name == "sigmoid":
        return tirx.div(one, one + tirx.call_pure_extern("float64", "exp", -args[0]))
    raise InternalError(f"no mathematics for {name!r} of float64")


def f32(value: float) -> Expr:
    return tirx.const(value, "float32")


def f64(value: float) -> Expr:
    return tirx.const(value, "float64")


def i32(value: int) -> Expr:
    return tirx.const(value, "int32")


def _horner(x: Expr, coefficients: Sequence[float], const: Callable[[float], Expr]) -> Expr:
    """The polynomial with the given coefficients, highest power first."""
    total = const(coefficients[0])
    for coefficient in coefficients[1:]:
        total = T.bind(total * x + const(coefficient))
    return total


def _clamp(x: Expr, low: float, high: float) -> Expr:
    """x within bounds; NaN stays NaN (TVM folds `x != x` to false, so nothing can test for it)."""
    raised = T.bind(tirx.Select(x < f32(low), f32(low), x))
    return T.bind(tirx.Select(raised > f32(high), f32(high), raised))


def _power_of_two(n: Expr) -> Expr:
    """2**n of an int32 in [-126, 127], as float32."""
    return tirx.reinterpret("float32", tirx.shift_left(n + i32(127), i32(23)))


def _reduce_exponent(x: Expr) -> tuple[Expr, Expr]:
    """(n, r) with x = n ln 2 + r, n whole, |r| <= ln(2) / 2."""
    n = T.bind(tirx.nearbyint(x * f32(LOG2E)))
    r = T.bind(x - n * f32(LN2_HIGH))
    return n, T.bind(r - n * f32(LN2_LOW))


def exp(x: Expr, fused: bool = False) -> Expr:
    # 2**n / 2 is made of the bits of n + 126 + ROUND, and the other 2 is in the coefficients: so
    # the greatest exponent is one that there is, and that of 2**-126 / 2 makes 0.
    bounded = _clamp(x, -87.4, 89.0)
    bits = T.bind(tirx.reinterpret("int32", bounded * f32(LOG2E) + f32(ROUND + 126.0)))
    n = T.bind(tirx.reinterpret("float32", bits) - f32(ROUND + 126.0))
    if fused:
        r = T.bind(tirx.call_llvm_pure_intrin("float32", "llvm.fma.f32", -n, f32(LN2), bounded))
    else:
        r = T.bind(T.bind(bounded - n * f32(LN2_HIGH)) - n * f32(LN2_LOW))
    p = _horner(r, [2.0 * c for c in EXP], f32)
    return T.bind(p * tirx.reinterpret("float32", tirx.shift_left(bits, i32(23))))


def expm1(x: Expr) -> Expr:
    n, r = _reduce_exponent(_clamp(x, -20.0, 89.0))
    p = _horner(r, EXPM1, f32)
    e = T.bind(p * (r * r) + r)  # exp(r) - 1
    t = T.bind(_power_of_two(tirx.Cast("int32", n) - i32(1)))  # half of 2**n: 2**128 would overflow
    y = T.bind((t * e + (t - f32(0.5))) * f32(2.0))
    y = T.bind(tirx.Select(tirx.EQ(n, f32(0.0)), e, y))
    tiny = tirx.abs(x) < f32(1e-7)
    return T.bind(tirx.Select(tiny, x, y))


def sigmoid(x: Expr, fused: bool = False) -> Expr:
    return T.bind(tirx.div(f32(1.0), f32(1.0) + exp(T.bind(-x), fused)))


def exp2(x: Expr) -> Expr:
    # As in `exp`.
    bounded = _clamp(x, -126.1, 128.5)
    bits = T.bind(tirx.reinterpret("int32", bounded + f32(ROUND + 126.0)))
    n = T.bind(tirx.reinterpret("float32", bits) - f32(ROUND + 126.0))
    p = _horner(T.bind((bounded - n) * f32(LN2)), [2.0 * c for c in EXP], f32)
    return T.bind(p * tirx.reinterpret("float32", tirx.shift_left(bits, i32(23))))


def log(x: Expr) -> Expr:
    f, e, y, f2 = _log_parts(x)
    y = T.bind(y + e * f32(LN2_LOW))
    y = T.bind(y - f32(0.5) * f2)
    return _log_edges(x, T.bind(f + y + e * f32(LN2_HIGH)))


def log2(x: Expr) -> Expr:
    # Of powers of 2, f is 0 and the exponent the result.
    f, e, y, f2 = _log_parts(x)
    y = T.bind(y - f32(0.5) * f2)
    rest = T.bind(T.bind(y * f32(LOG2E - 1)) + T.bind(f * f32(LOG2E - 1)))
    return _log_edges(x, T.bind(T.bind(T.bind(rest + y) + f) + e))


def _log_parts(x: Expr) -> tuple[Expr, Expr, Expr, Expr]:
    """(f, e, y, f * f) with x = (1 + f) 2**e and log(1 + f) = f - f * f / 2 + y."""
    tiny = x < f32(1.1754944e-38)
    scaled = T.bind(tirx.Select(tiny, x * f32(8388608.0), x))
    bits = T.bind(tirx.reinterpret("int32", scaled))
    # The mantissa in [sqrt(1/2), sqrt(2)): the exponent counts from the bits of sqrt(1/2).
    above = T.bind(bits - i32(0x3F3504F3))
    exponent = T.bind(tirx.shift_right(above, i32(23)))
    mantissa = tirx.reinterpret("float32", bits - tirx.shift_left(exponent, i32(23)))
    f = T.bind(mantissa - f32(1.0))
    e = T.bind(tirx.Cast("float32", exponent) - tirx.Select(tiny, f32(23.0), f32(0.0)))
    f2 = T.bind(f * f)
    return f, e, T.bind(_horner(f, LOG, f32) * (f * f2)), f2


def _log_edges(x: Expr, y: Expr) -> Expr:
    """The logarithm y of x, or what it is of 0, of infinity and of what has none."""
    y = T.bind(tirx.Select(tirx.EQ(x, f32(constants.inf)), x, y))
    y = T.bind(tirx.Select(tirx.EQ(x, f32(0.0)), f32(-constants.inf), y))
    return T.bind(tirx.Select(x >= f32(0.0), y, f32(constants.nan)))


def log1p(x: Expr) -> Expr:
    # The detour keeps TVM from simplifying u - 1 to x, which it is not in floating point.
    bits = T.bind(tirx.reinterpret("int32", x + f32(1.0)))
    u = T.bind(tirx.reinterpret("float32", bits))
    shift = T.bind(u - f32(1.0))
    y = T.bind(log(u) * tirx.div(x, shift))
    same = tirx.Or(tirx.EQ(shift, f32(0.0)), tirx.EQ(x, f32(constants.inf)))
    return T.bind(tirx.Select(same, x, y))


def rsqrt(x: Expr) -> Expr:
    return T.bind(tirx.div(f32(1.0), tirx.sqrt(x)))


def tanh(x: Expr) -> Expr:
    return _odd(_clamp(x, -7.963572, 7.963572), TANH, TANH_BELOW)


def erf(x: Expr) -> Expr:
    return _odd(_clamp(x, -3.9300177, 3.9300177), ERF, ERF_BELOW)


def _odd(x: Expr, above: Sequence[float], below: Sequence[float]) -> Expr:
    """x times a quotient of polynomials in x * x. The bounds of x are among the numbers where this
    is exactly 1, with or without fused multiply-adds; denormals keep their digits.

    The product is bounded too: 1 + it would be one fused multiply-add otherwise, which sees it
    unrounded, and in gelu the difference is multiplied by a large x."""
    square = T.bind(x * x)
    quotient = tirx.div(_horner(square, above, f32), _horner(square, below, f32))
    return _clamp(T.bind(x * T.bind(quotient)), -1.0, 1.0)


def asin(x: Expr) -> Expr:
    y, far = _asin(T.bind(tirx.abs(x)))
    return _with_sign(tirx.Select(far, f32(constants.pi / 2) - f32(2.0) * y, y), x)


def acos(x: Expr) -> Expr:
    """Near 1 and -1 by the angle of what is missing there, which has all its digits."""
    y, far = _asin(T.bind(tirx.abs(x)))
    below = x < f32(0.0)
    beyond = tirx.Select(below, f32(constants.pi) - f32(2.0) * y, f32(2.0) * y)
    near = f32(constants.pi / 2) - tirx.Select(below, -y, y)
    return T.bind(tirx.Select(far, T.bind(beyond), T.bind(near)))


def _asin(a: Expr) -> tuple[Expr, Expr]:
    """The angle whose sine is a in [0, 1/2], or beyond that sqrt((1 - a) / 2); and which it is."""
    far = T.bind(a > f32(0.5))
    z = T.bind(tirx.Select(far, f32(0.5) * (f32(1.0) - a), a * a))
    s = T.bind(tirx.Select(far, tirx.sqrt(z), a))
    return T.bind(T.bind(_horner(z, ASIN, f32) * z) * s + s), far


def atan(x: Expr) -> Expr:
    a = T.bind(tirx.abs(x))
    beyond_eighth, beyond = T.bind(a > f32(0.41421356)), T.bind(a > f32(2.4142136))
    above = tirx.Select(beyond, f32(-1.0), tirx.Select(beyond_eighth, a - f32(1.0), a))
    below = tirx.Select(beyond, a, tirx.Select(beyond_eighth, a + f32(1.0), f32(1.0)))
    t = T.bind(tirx.div(T.bind(above), T.bind(below)))
    start = tirx.Select(beyond_eighth, f32(constants.pi / 4), f32(0.0))
    start = T.bind(tirx.Select(beyond, f32(constants.pi / 2), start))
    z = T.bind(t * t)
    return _with_sign(start + T.bind(T.bind(_horner(z, ATAN, f32) * z) * t + t), x)


def _with_sign(y: Expr, x: Expr) -> Expr:
    """y, which is not negative, with the sign of x; of zeros, too."""
    sign = tirx.bitwise_and(tirx.reinterpret("int32", x), tirx.const(-(2**31), "int32"))
    bits = tirx.reinterpret("int32", T.bind(y))
    return T.bind(tirx.reinterpret("float32", tirx.bitwise_or(bits, sign)))


def _half_exp(a: Expr) -> Expr:
    """exp(a) / 2 for a >= 0, which is finite where exp(a) is not yet."""
    n, r = _reduce_exponent(_clamp(a, 0.0, 89.5))
    p = _horner(r, EXP, f32)
    quarter = T.bind(_power_of_two(tirx.Cast("int32", n) - i32(2)) * p)
    return T.bind(quarter * f32(2.0))


def sinh(x: Expr) -> Expr:
    a = T.bind(tirx.abs(x))
    half = _half_exp(a)
    z = T.bind(a * a)
    near = T.bind(T.bind(_horner(z, SINH, f32) * z) * a + a)
    far = T.bind(half - tirx.div(f32(0.25), half))
    return _with_sign(tirx.Select(a < f32(1.0), near, far), x)


def cosh(x: Expr) -> Expr:
    half = _half_exp(T.bind(tirx.abs(x)))
    return T.bind(half + tirx.div(f32(0.25), half))


HUGE = 1e9  # from here on 1 + x * x is x * x, whose root is x, and x * x may overflow


def asinh(x: Expr) -> Expr:
    a = T.bind(tirx.abs(x))
    a2 = T.bind(a * a)
    moderate = T.bind(a + tirx.div(a2, f32(1.0) + tirx.sqrt(a2 + f32(1.0))))
    return _with_sign(_log1p_or_twice(a, moderate), x)


def acosh(x: Expr) -> Expr:
    t = T.bind(x - f32(1.0))
    moderate = T.bind(t + tirx.sqrt(T.bind(t * t + f32(2.0) * t)))
    y = _log1p_or_twice(x, moderate)
    return T.bind(tirx.Select(x >= f32(1.0), y, f32(constants.nan)))


def _log1p_or_twice(a: Expr, moderate: Expr) -> Expr:
    """log(1 + moderate), or log(2 a) where a is huge."""
    huge = T.bind(a > f32(HUGE))
    y = log1p(T.bind(tirx.Select(huge, a, moderate)))
    return T.bind(y + tirx.Select(huge, f32(LN2), f32(0.0)))


def atanh(x: Expr) -> Expr:
    a = T.bind(tirx.abs(x))
    return _with_sign(f32(0.5) * log1p(T.bind(tirx.div(a + a, f32(1.0) - a))), x)


def _trigonometric(x: Expr, turn: int) -> Expr:
    """sin(x + turn pi / 2), reduced and evaluated in float64."""
    wide = T.bind(tirx.Cast("float64", x))
    bounded = tirx.abs(wide) <= f64(1e15)
    wide = T.bind(tirx.Select(bounded, wide, f64(0.0)))
    n = T.bind(tirx.nearbyint(wide * f64(2 / constants.pi)))
    r = wide
    for part in HALF_PI:
        r = T.bind(tirx.call_llvm_pure_intrin("float64", "llvm.fma.f64", -n, f64(part), r))
    r2 = T.bind(r * r)
    odd_quarter, even_quarter = T.bind(_horner(r2, COS, f64)), T.bind(_horner(r2, SIN, f64) * r)
    quarter = T.bind(tirx.bitwise_and(tirx.Cast("int64", n) + tirx.const(turn, "int64"), _three()))
    odd = tirx.NE(tirx.bitwise_and(quarter, tirx.const(1, "int64")), tirx.const(0, "int64"))
    y = T.bind(tirx.Select(odd, odd_quarter, even_quarter))
    y = T.bind(tirx.Select(quarter > tirx.const(1, "int64"), -y, y))
    return T.bind(tirx.Select(bounded, tirx.Cast("float32", y), f32(constants.nan)))


def _three() -> Expr:
    return tirx.const(3, "int64")


def sin(x: Expr) -> Expr:
    # sin(-0) is -0, and denormals stay themselves.
    return T.bind(tirx.Select(tirx.abs(x) < f32(1e-5), x, _trigonometric(x, 0)))


def cos(x: Expr) -> Expr:
    return _trigonometric(x, 1)


_FLOAT: dict[str, Callable[..., Expr]] = {
    "exp": exp, "expm1": expm1, "sigmoid": sigmoid, "log": log, "log1p": log1p, "rsqrt": rsqrt,
    "tanh": tanh, "erf": erf, "sin": sin, "cos": cos, "exp2": exp2, "log2": log2, "asin": asin,
    "acos": acos, "atan": atan, "sinh": sinh, "cosh": cosh, "asinh": asinh, "acosh": acosh,
    "atanh": atanh,
}  # fmt: skip
_FUSED = {"exp": partial(exp, fused=True), "sigmoid": partial(sigmoid, fused=True)}
