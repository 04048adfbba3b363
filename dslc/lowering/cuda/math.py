"""Transcendentals on the GPU: CUDA's own functions, in f32 and f64.

Input: a verb's name, its arguments, TIR's dtype. Output: a TIR expression. CUDA documents at most
2 ulp for these in f32 (4 for erf and pow; fast math is off). Non-goals: the CPU's polynomials
(`schedules/cpu/tiles/vmath.py`).
"""

from __future__ import annotations

from tvm import tirx

from dslc.diagnostics import InternalError
from dslc.ir.op import Expr

_INTRINSIC = {
    "exp": tirx.exp,
    "log": tirx.log,
    "log1p": tirx.log1p,
    "rsqrt": tirx.rsqrt,
    "sin": tirx.sin,
    "cos": tirx.cos,
    "tanh": tirx.tanh,
    "erf": tirx.erf,
}
# Functions that TIR has no (fitting) name for; in f32 their names end in f.
_BY_NAME = frozenset(
    [
        *("expm1", "exp2", "log2", "pow", "fmod", "asin", "acos", "atan"),
        *("sinh", "cosh", "asinh", "acosh", "atanh"),
    ]
)


def cuda_math(name: str, arguments: tuple[Expr, ...], dtype: str) -> Expr:
    """The Kernels' `unary` and `binary` verbs that need more than arithmetic."""
    if name in _INTRINSIC:
        return _INTRINSIC[name](*arguments)
    if name == "sigmoid":
        one = tirx.const(1.0, dtype)
        return tirx.div(one, one + tirx.exp(tirx.const(0.0, dtype) - arguments[0]))
    if name in _BY_NAME:
        suffix = "f" if dtype == "float32" else ""
        return tirx.call_pure_extern(dtype, name + suffix, *arguments)
    if name in ("maximum", "minimum"):  # fmaxf and fminf would drop a NaN
        x, y = arguments
        worse = tirx.LT(x, y) if name == "maximum" else tirx.GT(x, y)
        return tirx.Select(tirx.Or(worse, tirx.isnan(y)), y, x)
    raise InternalError(f"no CUDA function for {name!r}")
