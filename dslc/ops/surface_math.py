"""How element-wise ops and reductions look in `.dl`.

Input: the statics in `[ ]` (negative axes and all) and the arguments as Values. Output: equations.
`OPERATORS` are the signs of the language but for `@`, which takes more than equal shapes: each has
the same kind of record as a built-in function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.op import Op, StaticParam, Surface
from dslc.ir.types import TensorType, is_float
from dslc.ops import broadcast, constants, elementwise, logic, reduce, shape, transcendental
from dslc.ops.broadcast import broadcast_to
from dslc.ops.errors import axis_out_of_range, bad_static, wrong_dtype
from dslc.ops.surface_numbers import everywhere

Statics = Mapping[str, Any]
Args = tuple[Value, ...]


def direct(name: str, op: Op, args: tuple[str, ...] = ("x",), doc: str = "") -> Surface:
    """A function that is one op without statics; of several arguments, they are broadcast."""

    def build(b: Builder, statics: Statics, values: Args) -> Value:
        return cast(Value, op(b, *values))

    return Surface(name, args, build, broadcast=len(args) > 1, doc=doc)


# --- axes -------------------------------------------------------------------------------------

AXIS = StaticParam("axis", "axis")
KEEPDIMS = StaticParam("keepdims", "bool", False)


def normal_axis(verb: str, type: TensorType, axis: int) -> int:
    """`axis` counted from 0; TypeRuleError E0206 when there is no such axis."""
    if not -type.rank <= axis < type.rank:
        raise axis_out_of_range(verb, type, axis)
    return axis % type.rank


def normal_axes(verb: str, type: TensorType, axis: int | Sequence[int] | None) -> tuple[int, ...]:
    """The axes counted from 0, ascending; None means all."""
    if axis is None:
        return tuple(range(type.rank))
    given = (axis,) if isinstance(axis, int) else tuple(axis)
    axes = sorted(normal_axis(verb, type, a) for a in given)
    if len(set(axes)) < len(axes):
        raise bad_static(f"cannot {verb} {type} along {given}: an axis stands there twice")
    return tuple(axes)


def keep(b: Builder, y: Value, like: TensorType, axes: Sequence[int]) -> Value:
    """A reduction's result with the reduced dims back, as 1."""
    dims = tuple(1 if i in axes else d for i, d in enumerate(like.dims))
    return cast(Value, shape.reshape(b, y, dims=dims))


def _reduced(b: Builder, op: Op, x: Value, axes: tuple[int, ...], keepdims: bool) -> Value:
    y = op(b, x, axes=axes) if axes else x
    return keep(b, y, x.type, axes) if keepdims and axes else cast(Value, y)


def _reduction(name: str, op: Op, verb: str, doc: str) -> Surface:
    def build(b: Builder, statics: Statics, args: Args) -> Value:
        (x,) = args
        axes = normal_axes(verb, x.type, statics["axis"])
        if name == "sum" and x.type.dtype == "bool":
            x = constants.cast(b, x, dtype="i64")
        return _reduced(b, op, x, axes, statics["keepdims"])

    return Surface(name, ("x",), build, (AXIS, KEEPDIMS), doc=doc)


# --- means and positions ----------------------------------------------------------------------


def mean(b: Builder, x: Value, axes: tuple[int, ...], keepdims: bool, correction: int = 0) -> Value:
    """The sum over `axes` by the number of elements less `correction`; f16 and bf16 in f32."""
    dtype = x.type.dtype
    wide = constants.cast(b, x, dtype="f32") if dtype in ("f16", "bf16", "bool") else x
    count = reduce.element_count(b, x, axes, wide.type)
    if correction:
        less = constants.fill(b, float(correction), count.type)
        count = elementwise.sub(b, count, less)
    total = _reduced(b, broadcast.reduce_sum, wide, axes, keepdims)
    result = elementwise.div(b, total, broadcast_to(b, count, total.type.dims))
    narrow = dtype in ("f16", "bf16")
    return cast(Value, constants.cast(b, result, dtype=dtype) if narrow else result)


def _mean(b: Builder, statics: Statics, args: Args) -> Value:
    (x,) = args
    if not is_float(x.type.dtype) and x.type.dtype != "bool":
        raise wrong_dtype("take the mean of", (x.type,), "floats")
    axes = normal_axes("take the mean of", x.type, statics["axis"])
    return mean(b, x, axes, statics["keepdims"])


def _var(b: Builder, statics: Statics, args: Args) -> Value:
    (x,) = args
    if not is_float(x.type.dtype):
        raise wrong_dtype("take the variance of", (x.type,), "floats")
    axes = normal_axes("take the variance of", x.type, statics["axis"])
    center = mean(b, x, axes, keepdims=True)
    off = elementwise.sub(b, x, broadcast_to(b, center, x.type.dims))
    return mean(b, elementwise.mul(b, off, off), axes, statics["keepdims"], statics["correction"])


def _position(name: str, op: Op) -> Surface:
    def build(b: Builder, statics: Statics, args: Args) -> Value:
        (x,) = args
        verb, axis = f"take the {name} of", statics["axis"]
        if axis is None:
            flat = shape.reshape(b, x, dims=(x.type.size,))
            y = op(b, flat, axis=0)
            every = range(x.type.rank)
            return keep(b, y, x.type, every) if statics["keepdims"] else cast(Value, y)
        axis = normal_axis(verb, x.type, axis)
        y = op(b, x, axis=axis)
        return keep(b, y, x.type, (axis,)) if statics["keepdims"] else cast(Value, y)

    doc = f"Index (i64) of the first {name[3:]}imum along an axis, or in the flattened tensor."
    return Surface(name, ("x",), build, (AXIS, KEEPDIMS), doc=doc)


def _cumsum(b: Builder, statics: Statics, args: Args) -> Value:
    (x,) = args
    axis = normal_axis("sum", x.type, statics["axis"])
    return cast(Value, reduce.cumsum(b, x, axis=axis))


# --- powers -----------------------------------------------------------------------------------


def constant_value(b: Builder, x: Value) -> float | None:
    """The number that `x` was just filled with, if it was."""
    for eqn in reversed(b.eqns[-8:]):
        if x not in eqn.outputs:
            continue
        if eqn.op is constants.constant:
            return cast(constants.ConstantAttrs, eqn.attrs).value
        if eqn.op in (broadcast.broadcast, constants.cast):
            return constant_value(b, eqn.inputs[0])
    return None


def _pow(b: Builder, statics: Statics, args: Args) -> Value:
    """Whole powers up to 8 are products; powers of a half are roots."""
    x, y = args
    exponent = constant_value(b, y)
    if x.type.dtype == y.type.dtype and exponent is not None:
        if exponent in range(1, 9):
            return _product_power(b, x, int(exponent))
        if is_float(x.type.dtype) and exponent in _ROOTS:
            return cast(Value, _ROOTS[exponent](b, x))
    return cast(Value, elementwise.power_op(b, x, y))


def _product_power(b: Builder, x: Value, exponent: int) -> Value:
    if exponent == 1:
        return x
    half = _product_power(b, x, exponent // 2)
    square = elementwise.mul(b, half, half)
    return cast(Value, elementwise.mul(b, square, x) if exponent % 2 else square)


def _reciprocal(b: Builder, x: Value) -> Value:
    return cast(Value, elementwise.div(b, constants.fill(b, 1.0, x.type), x))


_ROOTS: dict[float, Callable[[Builder, Value], Any]] = {
    0.5: elementwise.sqrt,
    -0.5: elementwise.rsqrt,
    -1.0: _reciprocal,
}


def _clamp(b: Builder, statics: Statics, args: Args) -> Value:
    """By `select`: the bounds have the gradient of what is inside, where `maximum` halves it."""
    (x,) = args
    if x.type.dtype == "bool":
        raise wrong_dtype("clamp", (x.type,), "numbers")
    for bound, outside in ((statics["low"], logic.lt), (statics["high"], logic.gt)):
        if bound is not None:
            edge = everywhere(b, bound, x.type)
            x = cast(Value, logic.select(b, outside(b, x, edge), edge, x))
    return x


# --- the table --------------------------------------------------------------------------------

_FUNCTIONS: tuple[tuple[str, Op, str], ...] = (
    ("abs", elementwise.absolute, "The absolute value."),
    ("sign", elementwise.sign, "-1, 0 or 1."),
    ("exp", elementwise.exp, "e to the power of x."),
    ("expm1", elementwise.expm1, "exp(x) - 1, exact near 0."),
    ("log", elementwise.log, "The natural logarithm."),
    ("exp2", transcendental.exp2, "2 to the power of x, exact for whole numbers."),
    ("log2", transcendental.log2, "The logarithm to base 2, exact for powers of 2."),
    ("log1p", elementwise.log1p, "log(1 + x), exact near 0."),
    ("sqrt", elementwise.sqrt, "The square root."),
    ("rsqrt", elementwise.rsqrt, "1 / sqrt(x)."),
    ("sin", elementwise.sin, "The sine."),
    ("cos", elementwise.cos, "The cosine."),
    ("tanh", elementwise.tanh, "The hyperbolic tangent."),
    ("asin", transcendental.asin, "The angle in [-PI / 2, PI / 2] whose sine is x."),
    ("acos", transcendental.acos, "The angle in [0, PI] whose cosine is x."),
    ("atan", transcendental.atan, "The angle in (-PI / 2, PI / 2) whose tangent is x."),
    ("sinh", transcendental.sinh, "The hyperbolic sine."),
    ("cosh", transcendental.cosh, "The hyperbolic cosine."),
    ("asinh", transcendental.asinh, "The inverse of sinh."),
    ("acosh", transcendental.acosh, "The inverse of cosh, for x >= 1."),
    ("atanh", transcendental.atanh, "The inverse of tanh, for -1 < x < 1."),
    ("erf", elementwise.erf, "The error function."),
    ("sigmoid", elementwise.sigmoid, "1 / (1 + exp(-x))."),
    ("relu", elementwise.relu, "max(x, 0); its gradient at 0 is 0."),
    ("floor", elementwise.floor, "The next whole number below."),
    ("ceil", elementwise.ceil, "The next whole number above."),
    ("round", elementwise.rounded, "The nearest whole number, halves to even."),
    ("stop_gradient", constants.stop_gradient, "x, through which no gradient flows."),
)

_PAIR = ("a", "b")

SURFACES: tuple[Surface, ...] = (
    *(direct(name, op, doc=doc) for name, op, doc in _FUNCTIONS),
    direct("maximum", elementwise.maximum, _PAIR, "The greater one of each two elements."),
    direct("minimum", elementwise.minimum, _PAIR, "The lesser one of each two elements."),
    Surface(
        "clamp",
        ("x",),
        _clamp,
        (StaticParam("low", "bound"), StaticParam("high", "bound")),
        doc="x cut to [low, high]; without one of the two, to that side it is not.",
    ),
    direct("where", logic.select, ("condition", "a", "b"), "a where the condition holds, else b."),
    _reduction("sum", broadcast.reduce_sum, "sum", "The sum along axes (of bools: an i64 count)."),
    _reduction("prod", reduce.reduce_prod, "multiply", "The product along axes."),
    _reduction("max", reduce.reduce_max, "take the maximum of", "The maximum along axes."),
    _reduction("min", reduce.reduce_min, "take the minimum of", "The minimum along axes."),
    _reduction("any", reduce.reduce_any, "take any of", "Whether any element is true."),
    _reduction("all", reduce.reduce_all, "take all of", "Whether all elements are true."),
    Surface("mean", ("x",), _mean, (AXIS, KEEPDIMS), doc="The mean along axes (of bools: f32)."),
    Surface(
        "var",
        ("x",),
        _var,
        (AXIS, KEEPDIMS, StaticParam("correction", "int", 0)),
        doc="The mean squared distance from the mean; correction=1 divides by one less.",
    ),
    _position("argmax", reduce.argmax),
    _position("argmin", reduce.argmin),
    Surface(
        "cumsum",
        ("x",),
        _cumsum,
        (StaticParam("axis", "int", required=True),),
        doc="The running sum along an axis.",
    ),
)


def _operator(sign: str, op: Op) -> Surface:
    return direct(sign, op, _PAIR)


OPERATORS: dict[str, Surface] = {
    surface.name: surface
    for surface in (
        _operator("+", elementwise.add),
        _operator("-", elementwise.sub),
        _operator("*", elementwise.mul),
        _operator("/", elementwise.div),
        _operator("//", elementwise.floordiv),
        _operator("%", elementwise.mod),
        Surface("**", _PAIR, _pow, broadcast=True),
        _operator("==", logic.eq),
        _operator("!=", logic.ne),
        _operator("<", logic.lt),
        _operator("<=", logic.le),
        _operator(">", logic.gt),
        _operator(">=", logic.ge),
        _operator("and", logic.logical_and),
        _operator("or", logic.logical_or),
        direct("not", logic.logical_not),
        direct("neg", elementwise.neg),
    )
}
