"""Functions of one element at a time, as ONNX: arithmetic, comparisons, logic, casts, constants.

Input: a `Case` whose inputs need not have all of their dims: what they broadcast to has them. So
the equations `broadcast` of the IR leave no trace where only such functions read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

from dslc.ir.dims import Dim
from dslc.ir.types import DType, TensorType, is_float
from dslc.onnx.writing.graph import Case, Held
from dslc.ops.constants import CastAttrs, ConstantAttrs, DimAttrs

Rule = Callable[[Case], "Held | tuple[Held, ...]"]
Emit = Callable[..., str]

# What runtimes compute in where they lack a dtype; both give the same bits, rounded or wrapped
# once, as the reference meanings do.
_WIDER: dict[DType, DType] = {"bf16": "f32", "i16": "i32", "i8": "i32", "u8": "i32"}


def computed(rule: Rule) -> Rule:
    """The rule over inputs that are cast to a dtype which ONNX Runtime computes in, and back."""

    def widened(case: Case) -> tuple[Held, ...]:
        narrow = [t.dtype for t in (*case.types, *case.results) if t.dtype in _WIDER]
        if not narrow:
            return all_of(rule(case))
        graph = case.graph
        made = rule(
            Case(
                graph,
                case.eqn,
                tuple(graph.cast(h, _WIDER.get(h.type.dtype, h.type.dtype)) for h in case.inputs),
                tuple(t.with_dtype(_WIDER.get(t.dtype, t.dtype)) for t in case.types),
                tuple(t.with_dtype(_WIDER.get(t.dtype, t.dtype)) for t in case.results),
            )
        )
        pairs = zip(all_of(made), case.results)
        return tuple(graph.cast(held, type.dtype) for held, type in pairs)

    return widened


def all_of(made: Held | tuple[Held, ...]) -> tuple[Held, ...]:
    """What a rule made, as a tuple."""
    return (made,) if isinstance(made, Held) else made


def broadcast_dims(shapes: Sequence[tuple[Dim, ...]]) -> tuple[Dim, ...]:
    """What shapes broadcast to that broadcast to one shape."""
    rank = max(map(len, shapes), default=0)
    padded = [(1,) * (rank - len(dims)) + dims for dims in shapes]
    return tuple(next((d for d in column if d != 1), 1) for column in zip(*padded))


def elementwise(emit: Emit) -> Rule:
    """The rule of a function of elements: `emit(case, *names)` gives the result's name."""

    def rule(case: Case) -> Held:
        dims = broadcast_dims([held.type.dims for held in case.inputs])
        name = emit(case, *(held.name for held in case.inputs))
        return Held(name, TensorType(case.results[0].dtype, dims))

    return rule


def function(op_type: str) -> Rule:
    """The rule of what is one operator in ONNX."""
    return computed(elementwise(lambda case, *names: case.node(op_type, *names)))


# --- arithmetic -----------------------------------------------------------------------------------


def _floordiv(case: Case, x: str, y: str) -> str:
    if is_float(case.types[0].dtype):
        return _float_quotient(case, x, y)
    safe = _safe(case, y)
    whole = case.node("Sub", x, case.node("Mod", x, safe))  # Div rounds towards 0
    quotient = case.node("Div", whole, safe)
    if safe == y:
        return quotient
    minus = case.node("Equal", y, case.scalar(-1))
    quotient = case.node("Where", minus, case.node("Neg", x), quotient)
    none = case.node("Equal", y, case.scalar(0))
    return case.node("Where", none, case.scalar(0), quotient)


def _mod(case: Case, x: str, y: str) -> str:
    if is_float(case.types[0].dtype):
        remainder, opposite = _float_remainder(case, x, y)
        return case.node("Where", opposite, case.node("Add", remainder, y), remainder)
    return case.node("Mod", x, _safe(case, y))  # x % 1 is 0, as wanted for 0 and -1


def _float_remainder(case: Case, x: str, y: str) -> tuple[str, str]:
    """The remainder of C, which has the sign of x, and whether the divisor has the other one."""
    remainder = case.node("Mod", x, y, fmod=1)
    zero = case.scalar(0.0)
    below = case.node("And", case.node("Less", remainder, zero), case.node("Greater", y, zero))
    above = case.node("And", case.node("Greater", remainder, zero), case.node("Less", y, zero))
    return remainder, case.node("Or", below, above)


def _float_quotient(case: Case, x: str, y: str) -> str:
    remainder, opposite = _float_remainder(case, x, y)
    quotient = case.node("Div", case.node("Sub", x, remainder), y)
    lower = case.node("Sub", quotient, case.scalar(1.0))
    whole = case.node("Round", case.node("Where", opposite, lower, quotient))
    by_zero = case.node("Equal", y, case.scalar(0.0))
    return case.node("Where", by_zero, case.node("Div", x, y), whole)


def _safe(case: Case, y: str) -> str:
    """The divisor, but 1 where a machine's division would trap."""
    if case.inputs[1].constant not in (None, 0, -1):
        return y
    minus = case.node("Equal", y, case.scalar(-1))
    trap = case.node("Or", minus, case.node("Equal", y, case.scalar(0)))
    return case.node("Where", trap, case.scalar(1), y)


def _log1p(case: Case, x: str) -> str:
    """log(1 + x), precise where x is small: log(u) x / (u - 1) with u = 1 + x as it is rounded
    (Kahan)."""
    one = case.scalar(1)
    u = case.node("Add", x, one)
    log = case.node("Log", u)
    part = case.node("Mul", log, case.node("Div", x, case.node("Sub", u, one)))
    small = case.node("Where", case.node("Equal", u, one), x, part)
    return case.node("Where", case.node("Equal", u, x), log, small)  # infinity, too


def _expm1(case: Case, x: str) -> str:
    """exp(x) - 1, precise where x is small: tanh(x / 2) (exp(x) + 1)."""
    half = case.node("Tanh", case.node("Mul", x, case.scalar(0.5)))
    return case.node("Mul", half, case.node("Add", case.node("Exp", x), case.scalar(1)))


def _log2(case: Case, x: str) -> str:
    """The natural logarithm over that of 2; where it comes near a whole number whose power of 2 is
    x, that number."""
    near = case.node("Div", case.node("Log", x), case.scalar(math.log(2)))
    whole = case.node("Round", near)
    exact = case.node("Equal", case.node("Pow", case.scalar(2), whole), x)
    return case.node("Where", exact, whole, near)


# --- constants and casts --------------------------------------------------------------------------


def _constant(case: Case) -> Held:
    attrs = cast(ConstantAttrs, case.eqn.attrs)
    return case.graph.constant(attrs.value, attrs.type.dtype)


def _dim_value(case: Case) -> Held:
    dim = cast(DimAttrs, case.eqn.attrs).dim
    return Held(case.graph.size_scalar(dim), TensorType("i64"))


def _cast(case: Case) -> Held:
    return case.graph.cast(case.inputs[0], cast(CastAttrs, case.eqn.attrs).dtype)


def _same(case: Case) -> Held:
    return case.inputs[0]


def _relabel(case: Case) -> Held:
    """The same tensor under other names of its dims."""
    (held,), dims = case.inputs, case.results[0].dims
    old = case.types[0].dims[len(dims) - len(held.type.dims) :]
    new = dims[len(dims) - len(held.type.dims) :]
    kept = tuple(d if d == 1 and o != 1 else n for d, o, n in zip(held.type.dims, old, new))
    return Held(held.name, held.type.with_dims(kept), held.constant)


def _select(case: Case) -> Held | tuple[Held, ...]:
    """ONNX Runtime has no Where of truth values: there it is logic."""
    return (_chosen if case.types[1].dtype == "bool" else function("Where"))(case)


def _chosen_truth(case: Case, condition: str, x: str, y: str) -> str:
    other = case.node("And", case.node("Not", condition), y)
    return case.node("Or", case.node("And", condition, x), other)


_chosen = elementwise(_chosen_truth)


def _ne(case: Case, x: str, y: str) -> str:
    return case.node("Not", case.node("Equal", x, y))


RULES: dict[str, Rule] = {
    "constant": _constant,
    "dim_value": _dim_value,
    "cast": _cast,
    "relabel": _relabel,
    "stop_gradient": _same,
    "eq": function("Equal"),
    "ne": computed(elementwise(_ne)),
    "lt": function("Less"),
    "le": function("LessOrEqual"),
    "gt": function("Greater"),
    "ge": function("GreaterOrEqual"),
    "and": function("And"),
    "or": function("Or"),
    "xor": function("Xor"),
    "not": function("Not"),
    "select": _select,
    "add": function("Add"),
    "sub": function("Sub"),
    "mul": function("Mul"),
    "div": function("Div"),
    "floordiv": computed(elementwise(_floordiv)),
    "mod": computed(elementwise(_mod)),
    "pow": function("Pow"),
    "maximum": function("Max"),
    "minimum": function("Min"),
    "neg": function("Neg"),
    "abs": function("Abs"),
    "sign": function("Sign"),
    "relu": function("Relu"),
    "floor": function("Floor"),
    "ceil": function("Ceil"),
    "round": function("Round"),
    "exp": function("Exp"),
    "log": function("Log"),
    "log1p": computed(elementwise(_log1p)),
    "expm1": computed(elementwise(_expm1)),
    "exp2": computed(elementwise(lambda c, x: c.node("Pow", c.scalar(2), x))),
    "log2": computed(elementwise(_log2)),
    "sqrt": function("Sqrt"),
    "rsqrt": computed(elementwise(lambda c, x: c.node("Reciprocal", c.node("Sqrt", x)))),
    "sin": function("Sin"),
    "cos": function("Cos"),
    "tanh": function("Tanh"),
    "asin": function("Asin"),
    "acos": function("Acos"),
    "atan": function("Atan"),
    "sinh": function("Sinh"),
    "cosh": function("Cosh"),
    "asinh": function("Asinh"),
    "acosh": function("Acosh"),
    "atanh": function("Atanh"),
    "erf": function("Erf"),
    "sigmoid": function("Sigmoid"),
}
