"""Random expressions over dims, evaluated twice: as dims, and with plain integers."""

from __future__ import annotations

import operator
import random
from collections.abc import Callable, Mapping

from dslc.ir.dims import Dim, floordiv, maximum, minimum, mod, sym
from dslc.ir.prove import Relation

Tree = int | str | tuple[str, "Tree", "Tree"]
NAMES = ("N", "H", "D")
RELATIONS: dict[Relation, Callable[[int, int], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_OPERATIONS = ("+", "-", "*", "//", "%", "min", "max", "+", "-", "*")
_DIVISORS: tuple[Tree, ...] = (1, 2, 3, 4, 5, 8, -2, "N", "H")


def random_tree(draw: random.Random, depth: int) -> Tree:
    if depth == 0 or draw.random() < 0.15:
        return draw.choice(NAMES) if draw.random() < 0.6 else draw.randint(-3, 7)
    op = draw.choice(_OPERATIONS)
    left, right = random_tree(draw, depth - 1), random_tree(draw, depth - 1)
    if op in ("//", "%") and draw.random() < 0.7:
        right = draw.choice(_DIVISORS)
    return op, left, right


def value_of(tree: Tree, env: Mapping[str, int]) -> int:
    """By Python's own arithmetic. ZeroDivisionError."""
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return env[tree]
    op, left, right = tree
    a, b = value_of(left, env), value_of(right, env)
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "//":
            return a // b
        case "%":
            return a % b
    return min(a, b) if op == "min" else max(a, b)


def dim_of(tree: Tree) -> Dim:
    """By the normal form. ZeroDivisionError."""
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return sym(tree)
    op, left, right = tree
    a, b = dim_of(left), dim_of(right)
    match op:
        case "+":
            return a + b
        case "-":
            return a - b
        case "*":
            return a * b
        case "//":
            return floordiv(a, b)
        case "%":
            return mod(a, b)
    return minimum(a, b) if op == "min" else maximum(a, b)
