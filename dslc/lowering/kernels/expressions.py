"""Scalar TIR expressions that need no kernel around them: comparison of nodes, extrema, indices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import tvm
from tvm import tirx

from dslc.diagnostics import InternalError
from dslc.ir.op import Expr
from dslc.lowering.kernels.sizes import i64


def identity(value: Expr) -> int:
    """What tells expression nodes apart (TVM's own hash does not: -1 and -2 have the same)."""
    return int(value.__chandle__())


# TVM's passes write the value of a variable out wherever it is used, so a chain of variables that
# are each used twice grows exponentially. A variable heavier than this goes through memory (a
# register in the end), where they don't look.
WRITTEN_OUT = 64
ARGUMENT = 4  # the same for the argument of a transcendental function


def weight_of(value: Expr, weights: Mapping[int, int]) -> int:
    """Nodes of an expression with its variables written out; a load counts as one, but for choices
    in its address."""
    match value:
        case tirx.Var():
            return weights.get(identity(value), 1)
        case tvm.ir.Call():
            return 1 + sum(weight_of(argument, weights) for argument in value.args)
        case tirx.Select():
            sides = (value.condition, value.true_value, value.false_value)
            return 1 + sum(weight_of(side, weights) for side in sides)
        case tirx.Cast() | tirx.Not():
            return 1 + weight_of(value.value if isinstance(value, tirx.Cast) else value.a, weights)
        case tirx.expr.BinaryOpExpr() | tirx.expr.CmpExpr() | tirx.And() | tirx.Or():
            return 1 + weight_of(value.a, weights) + weight_of(value.b, weights)
        case tvm.ir.TensorLoad():
            return 1 + sum(_choices(index, weights) for index in value.indices)
        case _:
            return 1


def _choices(address: Expr, weights: Mapping[int, int]) -> int:
    """Nodes of an address that are more than sums and products of what is as simple as a loop's
    index: TVM looks into the sides of a choice again and again."""
    match address:
        case tirx.Var():
            return weights.get(identity(address), 1) - 1
        case tirx.Select():
            return weight_of(address, weights)
        case tirx.expr.BinaryOpExpr():
            return _choices(address.a, weights) + _choices(address.b, weights)
        case _:
            return 0


def constant_of(value: Expr) -> int | None:
    """The value of a constant integer expression."""
    return int(value.value) if isinstance(value, tirx.IntImm) else None


Bounds = tuple[int, int]


def bounds_of(value: Expr, known: Mapping[int, Bounds]) -> Bounds | None:
    """The least and the greatest value of a sum of variables with `known` bounds (by identity)."""
    match value:
        case tirx.IntImm():
            return int(value.value), int(value.value)
        case tirx.Var():
            return known.get(identity(value))
        case tirx.Add() | tirx.Sub():
            left, right = bounds_of(value.a, known), bounds_of(value.b, known)
            if left is None or right is None:
                return None
            if isinstance(value, tirx.Sub):
                return left[0] - right[1], left[1] - right[0]
            return left[0] + right[0], left[1] + right[1]
        case tirx.Mul():
            left, right = bounds_of(value.a, known), bounds_of(value.b, known)
            if left is None or right is None:
                return None
            corners = [a * b for a in left for b in right]
            return min(corners), max(corners)
    return None


Line = tuple[Expr, int, int]  # a variable (None: there is none), its factor, what is added


def line_of(value: Expr, known: Mapping[int, Bounds]) -> Line | None:
    """An expression of at most one of the `known` variables, as factor * variable + constant."""
    match value:
        case tirx.IntImm():
            return None, 0, int(value.value)
        case tirx.Var() if identity(value) in known:
            return value, 1, 0
        case tirx.Add() | tirx.Sub() | tirx.Mul():
            name = {tirx.Add: "add", tirx.Sub: "sub", tirx.Mul: "mul"}[type(value)]
            left, right = line_of(value.a, known), line_of(value.b, known)
            return None if left is None or right is None else joined(name, left, right)
    return None


def joined(name: str, x: Line, y: Line) -> Line | None:
    """The operation `name` on two lines, where its result is a line."""
    (a, p, c), (b, q, d) = x, y
    if name in ("add", "sub"):
        if a is not None and b is not None and not a.same_as(b):
            return None
        sign = 1 if name == "add" else -1
        factor = p + sign * q
        return (a if a is not None else b) if factor else None, factor, c + sign * d
    if name == "mul" and a is None:
        a, p, b, q, c, d = b, q, a, p, d, c
    if b is not None or d <= 0:
        return None
    if name == "mul":
        return a, p * d, c * d
    if p % d == 0 and name in ("floordiv", "mod"):
        return (a, p // d, c // d) if name == "floordiv" else (None, 0, c % d)
    return None


def of_line(line: Line) -> Expr:
    """The expression of a line."""
    variable, factor, constant = line
    if variable is None or factor == 0:
        return i64(constant)
    scaled = variable if factor == 1 else variable * i64(factor)
    return scaled + i64(constant) if constant else scaled


def decided(name: str, x: Bounds, y: Bounds) -> bool | None:
    """Whether `x < y` or `x >= y` holds everywhere or nowhere between bounds."""
    below = True if x[1] < y[0] else False if x[0] >= y[1] else None
    if below is None or name not in ("lt", "ge"):
        return None
    return below if name == "lt" else not below


def box(extents: Sequence[int]) -> Iterator[tuple[int, ...]]:
    if not extents:
        yield ()
        return
    for first in range(extents[0]):
        for rest in box(extents[1:]):
            yield (first, *rest)


def lowest(kind: str, dtype: str) -> Expr:
    if dtype == "bool":
        return tirx.const(kind == "min", "bool")
    if dtype.startswith("float"):
        return tirx.const(float("-inf") if kind == "max" else float("inf"), dtype)
    return tirx.min_value(dtype) if kind == "max" else tirx.max_value(dtype)


def extremum(name: str, x: Expr, y: Expr) -> Expr:
    """min or max of numbers that can be compared; a NaN in `x` alone wins."""
    worse = ordered("lt", x, y) if name == "max" else ordered("gt", x, y)
    return tirx.Select(worse, y, x)


_ORDERED = {"lt": tirx.LT, "le": tirx.LE, "gt": tirx.GT, "ge": tirx.GE}
_TURNED = {"lt": "gt", "le": "ge", "gt": "lt", "ge": "le"}


def ordered(name: str, x: Expr, y: Expr) -> Expr:
    """A comparison, decided where it is of an unsigned number and 0: TVM's analysis fails on it."""
    if str(y.ty.dtype).startswith("uint"):
        for other, turned in ((y, name), (x, _TURNED[name])):
            if constant_of(other) == 0 and turned in ("lt", "ge"):
                return tirx.const(turned == "ge", "bool")
    return _ORDERED[name](x, y)


def unequal(x: Expr, y: Expr, floats: bool) -> Expr:
    """Whether x differs from y. TVM's NE of floats is false for a NaN, which differs from all."""
    return tirx.Not(tirx.EQ(x, y)) if floats else tirx.NE(x, y)


def logic(name: str, x: Expr, y: Expr, dtype: str) -> Expr:
    if dtype == "bool":
        known = constant_of(x)
        if known is not None and name != "xor":
            return y if bool(known) == (name == "and") else x
        if name == "xor":
            return tirx.NE(tirx.Cast("uint8", x), tirx.Cast("uint8", y))
        return tirx.And(x, y) if name == "and" else tirx.Or(x, y)
    operations = {"and": tirx.bitwise_and, "or": tirx.bitwise_or, "xor": tirx.bitwise_xor}
    return operations[name](x, y)


def index_binary(name: str, x: Expr, y: Expr) -> Expr:
    a, b = constant_of(x), constant_of(y)
    match name:
        case "add":
            return y if a == 0 else x if b == 0 else x + y
        case "sub":
            return x if b == 0 else x - y
        case "mul":
            return y if a == 1 else x if b == 1 else x * y
        case "floordiv":
            return x if b == 1 else tirx.floordiv(x, y)
        case "mod":
            return i64(0) if b == 1 else tirx.floormod(x, y)
        case "min":
            return tirx.min(x, y)
        case "max":
            return tirx.max(x, y)
    raise InternalError(f"unknown operation {name!r} on indices")
