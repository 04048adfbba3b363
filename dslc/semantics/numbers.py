"""Arithmetic on what is known at compile time: numbers, dims with variables, bools, texts.

Input: operands as values. Output: the result, or None where an operator is not for such operands;
`Mistake` for division by zero and the like. Comparisons of dims ask the prover and may stay open.
Non-goals: tensors (`operators.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dslc.ir.dims import Poly, floordiv, maximum, minimum, mod, product
from dslc.semantics import errors
from dslc.semantics.context import Context, Mistake
from dslc.semantics.values import UNKNOWN, Static, Thing, TupleOf, Unknown, is_number
from dslc.source import Span
from dslc.syntax import ast

_MOST_DIGITS = 4000
_LONGEST_TUPLE = 64

FUNCTIONS = frozenset(
    [
        "sqrt",
        "min",
        "max",
        "ceil",
        "floor",
        "round",
        "abs",
        "log",
        "log2",
        "exp",
        "len",
        "prod",
        "sum",
        "pair",
        "triple",
        "repeat",
        "range",
    ]
)


_FLOAT_RESULTS = frozenset(["sqrt", "log", "log2", "exp"])


def binary(op: ast.BinaryOp, left: Static, right: Static, span: Span) -> Static | None:
    """`left op right`; None when dims with variables don't allow it."""
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return UNKNOWN
    if isinstance(left, str) or isinstance(right, str):
        if op == "+" and isinstance(left, str) and isinstance(right, str):
            return left + right
        return None
    try:
        return _arithmetic(op, left, right)
    except ZeroDivisionError:
        raise Mistake(errors.bad_arithmetic(f"{left} {op} 0: a division by zero", span)) from None
    except OverflowError:
        message = f"{left} {op} {right} is too large a number"
        raise Mistake(errors.bad_arithmetic(message, span)) from None


def _arithmetic(op: str, left: float | Poly, right: float | Poly) -> Static | None:
    if isinstance(left, Poly) or isinstance(right, Poly):
        if isinstance(left, float) or isinstance(right, float):
            return None
        return _dims(op, left, right)
    match op:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "/":
            return left / right
        case "//":
            return left // right
        case "%":
            return left % right
        case "**":
            return _power(left, right)
    return None


def _dims(op: str, left: int | Poly, right: int | Poly) -> Static | None:
    match op:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case "//":
            return floordiv(left, right)
        case "%":
            return mod(left, right)
        case "**" if isinstance(right, int) and 0 <= right <= 8:
            return product([left] * right)
    return None


def _power(left: float, right: float) -> int | float:
    if isinstance(left, int) and isinstance(right, int) and right >= 0:
        if left.bit_length() * right > _MOST_DIGITS:
            raise OverflowError
        return int(left**right)
    value = left**right
    if isinstance(value, complex):
        raise OverflowError
    return float(value)


def compare(ctx: Context, op: ast.CompareOp, left: Static, right: Static) -> bool | None:
    """`left op right`, or None when it can't be decided (an open dim, an unknown number)."""
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return None
    if isinstance(left, Poly) or isinstance(right, Poly):
        if isinstance(left, int | Poly) and isinstance(right, int | Poly):
            return ctx.prover.compare(left, op, right)
        return None
    if op in ("==", "!="):
        same = left == right and isinstance(left, str) == isinstance(right, str)
        return same if op == "==" else not same
    if isinstance(left, str) or isinstance(right, str):
        return None
    match op:
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
    return left >= right


def negate(value: Static) -> Static | None:
    """`-value`."""
    if isinstance(value, str | bool):
        return None
    return value if isinstance(value, Unknown) else -value


def apply(ctx: Context, name: str, args: Sequence[Thing], span: Span) -> Thing | None:
    """A function of `FUNCTIONS` on compile-time numbers; None when it is not for such arguments."""
    values: list[Thing] = []
    for arg in args:
        several = isinstance(arg, TupleOf) and name in ("min", "max", "prod", "sum")
        values += arg.elements if several and isinstance(arg, TupleOf) else [arg]
    if name == "len" and len(args) == 1 and isinstance(args[0], TupleOf):
        return len(args[0].elements)
    if name in ("pair", "triple") and len(args) == 1:
        return _several(args[0], 2 if name == "pair" else 3)
    if name in ("repeat", "range"):
        return _sequence(name, args, span)
    if any(isinstance(v, Unknown) for v in values):
        return UNKNOWN
    dims = [v for v in values if isinstance(v, int | Poly) and not isinstance(v, bool)]
    if len(dims) == len(values) and (dims or name in ("prod", "sum")):
        exact = _of_dims(name, dims)
        if exact is not None:
            return exact
        any_open = ctx.choices is not None and any(isinstance(dim, Poly) for dim in dims)
        if any_open and name in _FLOAT_RESULTS:
            return UNKNOWN  # a layer checked on its own: a number when it is used
    numbers = [v for v in values if isinstance(v, int | float)]
    if len(numbers) != len(values) or not numbers:
        return None
    try:
        return _of_numbers(name, numbers)
    except (ValueError, OverflowError):
        shown = ", ".join(map(str, numbers))
        raise Mistake(errors.bad_arithmetic(f"{name}({shown}) is no number", span)) from None


def _several(value: Thing, count: int) -> Thing | None:
    """`(value, value)` for a number; a tuple of `count` as it is."""
    if is_number(value):
        return TupleOf((value,) * count)
    return value if isinstance(value, TupleOf) and len(value.elements) == count else None


def _sequence(name: str, args: Sequence[Thing], span: Span) -> Thing | None:
    """`repeat(value, count)` and `range(start, stop)` as tuples."""
    ints = [a for a in args if isinstance(a, int) and not isinstance(a, bool)]
    if len(ints) != 2 or len(args) != 2:
        return None
    a, b = ints
    count = b if name == "repeat" else b - a
    if count > _LONGEST_TUPLE:
        told = f"{name}({a}, {b}) has {count} elements, and a tuple {_LONGEST_TUPLE} at most"
        raise Mistake(errors.bad_arithmetic(told, span))
    return TupleOf((a,) * b if name == "repeat" else tuple(range(a, b)))


def _of_dims(name: str, dims: Sequence[int | Poly]) -> int | Poly | None:
    match name:
        case "min":
            return minimum(*dims)
        case "max":
            return maximum(*dims)
        case "prod":
            return product(dims)
        case "sum":
            total: int | Poly = 0
            for dim in dims:
                total = total + dim
            return total
        case "floor" | "ceil" | "round" if len(dims) == 1:
            return dims[0]
    return None


def _of_numbers(name: str, values: Sequence[int | float]) -> int | float | None:
    if name in ("min", "max"):
        return min(values) if name == "min" else max(values)
    if name in ("prod", "sum"):
        return math.prod(values) if name == "prod" else sum(values)
    if len(values) != 1:
        return None
    x = values[0]
    match name:
        case "sqrt":
            return math.sqrt(x)
        case "log":
            return math.log(x)
        case "log2":
            return math.log2(x)
        case "exp":
            return math.exp(x)
        case "abs":
            return abs(x)
        case "ceil":
            return math.ceil(x)
        case "floor":
            return math.floor(x)
        case "round":
            return round(x)
    return None
