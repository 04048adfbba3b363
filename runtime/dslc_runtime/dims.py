"""Sizes that are known at each call: an expression over dim variables becomes a number or text.

Input: `int`, a variable's name, or `(operator, operand, ...)` nested; in JSON the tuple is a list,
so `2 * N + 1` is `["+", ["*", 2, "N"], 1]`. Output: its value under given variables, its text, its
variables. Everything is walked by hand: an artifact's text is never evaluated as code.
Non-goals: simplifying or solving; the compiler has done that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Union

# A recursive type; the string keeps it valid at run time.
DimExpr = Union[int, str, "tuple[str | DimExpr, ...]"]

MAX_DEPTH = 64
MAX_DIM = 2**62

_OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}
_BINARY = ("//", "%")


class DimError(ValueError):
    """An expression that means nothing; the text says why."""


def from_json(data: object, depth: int = 0) -> DimExpr:
    """Reads and checks the JSON form. DimError when it is not one."""
    if isinstance(data, int) and not isinstance(data, bool) and abs(data) < MAX_DIM:
        return data
    if isinstance(data, str) and data.isidentifier():
        return data
    if not isinstance(data, list) or len(data) < 3 or depth > MAX_DEPTH:
        raise DimError(f"{str(data)[:40]!r} is not a size")
    operator = data[0]
    if operator not in _OPERATORS or (operator in _BINARY and len(data) != 3):
        raise DimError(f"{str(operator)[:40]!r} is not an operator on sizes")
    return (operator, *(from_json(operand, depth + 1) for operand in data[1:]))


def to_json(expr: DimExpr) -> object:
    """What `from_json` reads."""
    if isinstance(expr, tuple):
        return [expr[0], *(to_json(operand) for operand in expr[1:])]
    return expr


def evaluate(expr: DimExpr, values: Mapping[str, int]) -> int:
    """The expression's value. DimError for a variable without a value or a division by zero."""
    match expr:
        case int():
            return expr
        case str():
            if expr not in values:
                raise DimError(f"the dim {expr} has no value")
            return values[expr]
        case _:
            operands = [evaluate(operand, values) for operand in expr[1:]]
            try:
                return reduce(_OPERATORS[str(expr[0])], operands)
            except ZeroDivisionError:
                raise DimError(f"{text(expr)} divides by zero") from None


def variables(expr: DimExpr) -> frozenset[str]:
    """Names of the variables in the expression."""
    match expr:
        case int():
            return frozenset()
        case str():
            return frozenset((expr,))
        case _:
            return frozenset().union(*(variables(operand) for operand in expr[1:]))


def text(expr: DimExpr, outer: str = "") -> str:
    """As it would stand in a `.dl` file: `2 * N + 1`."""
    if not isinstance(expr, tuple):
        return str(expr)
    operator = str(expr[0])
    if operator in ("min", "max"):
        return f"{operator}({', '.join(text(operand) for operand in expr[1:])})"
    if operator == "+":
        body = _sum(expr[1:])
    elif operator == "*" and expr[1] == -1:
        body = f"-{_product(expr[2:])}"
    else:
        body = f" {operator} ".join(text(operand, operator) for operand in expr[1:])
    return body if outer in ("", "+") else f"({body})"


def _sum(terms: Sequence[DimExpr]) -> str:
    """What is subtracted stands behind what is not: `20 - T`."""
    signed = [_signed(term) for term in terms]
    if signed[0][0] == "-":
        signed = sorted(signed, key=lambda term: term[0] == "-")
    (first, body), *others = signed
    return ("-" if first == "-" else "") + body + "".join(f" {s} {b}" for s, b in others)


def _signed(term: DimExpr) -> tuple[str, str]:
    """A term's sign and its text without it."""
    if isinstance(term, int):
        return ("-" if term < 0 else "+"), str(abs(term))
    if isinstance(term, tuple) and term[0] == "*" and isinstance(term[1], int) and term[1] < 0:
        return "-", _product((-term[1], *term[2:]) if term[1] != -1 else term[2:])
    return "+", text(term, "+")


def _product(factors: Sequence[DimExpr]) -> str:
    return " * ".join(text(factor, "*") for factor in factors)
