"""What the lowering and the CUDA templates agree on: a product of two sides.

    out[batch, row, column] = sum over steps of left(batch, row, step) * right(batch, column, step)

A matrix product is one, and so is a convolution: its rows are pixels of the result, its steps
positions of the kernel and channels; nothing is copied to make it one. A side says where an element
lies in two halves, one computed once for a line (a row of the left side, a column of the right
one), the other once for a step.

Sizes may be Python ints or int64 TIR expressions; any may be 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass

Expr = Any  # a TIR expression
Size = Any  # a Python int, or an int64 TIR expression
Half = tuple[Expr, ...]  # what is known of an element's place from its line, or from its step

ITEMSIZE = {"float32": 4, "float64": 8, "float16": 2, "uint16": 2}
HALVES = ("float16", "uint16")


def summed(dtype: str) -> str:
    """What products of a dtype are summed up in."""
    return dtype if dtype == "float64" else "float32"


@dataclass(frozen=True, slots=True)
class Side:
    """Elements of a flat buffer by line and step.

    From a multiple of `width` on, so many neighbours `along` lines (or steps) lie side by side, at
    a multiple of `width`, and are all inside or all outside. `inside` is None where every element
    of a line and a step that there are is stored; others count as 0.
    """

    buffer: Any  # of halves their bits, uint16
    dtype: str  # bf16 is uint16
    lines: Size
    along: Literal["line", "step"]
    width: int
    line: Callable[[Expr, Expr], Half]  # (batch, line)
    step: Callable[[Expr], Half]
    offset: Callable[[Half, Half], Expr]
    inside: Callable[[Half, Half], Expr] | None = None


@dataclass(frozen=True, slots=True)
class Product:
    """`steps` of two sides, summed up in `splits` parts by different blocks; `finish` is given the
    part, the batch, row and column, and the sum."""

    left: Side
    right: Side
    batch: Size
    steps: Size
    finish: Callable[[Expr, Expr, Expr, Expr, Expr], None]
    splits: int = 1
    index: str = "int64"  # int32 where every size is a number and every place fits


def number(value: int, like: Expr) -> Expr:
    """A constant of the type of another index."""
    return tirx.IntImm(str(like.ty.dtype), value)


def add(x: Size, y: Size) -> Size:
    if isinstance(x, int):
        x, y = y, x
    if isinstance(x, int):
        return x + y
    if isinstance(y, int):
        return x if y == 0 else x + number(y, x)
    return x + y


def times(x: Size, y: Size) -> Size:
    if isinstance(x, int):
        x, y = y, x
    if isinstance(x, int):
        return x * y
    if isinstance(y, int):
        return (x if y else 0) if y in (0, 1) else x * number(y, x)
    return x * y


def divide(x: Size, y: Size) -> tuple[Size, Size]:
    """Quotient and remainder of numbers that are not negative, bound where they are expressions."""
    if isinstance(y, int) and y == 1:
        return x, 0
    if isinstance(x, int):
        if isinstance(y, int):
            return divmod(x, y)
        x = number(x, y)
    divisor = number(y, x) if isinstance(y, int) else y
    whole = T.bind(tirx.truncdiv(x, divisor))
    return whole, T.bind(x - whole * divisor)


def ceil_divide(x: Size, y: int) -> Size:
    if isinstance(x, int):
        return -(-x // y)
    return tirx.truncdiv(x + number(y - 1, x), number(y, x))


def below(x: Size, y: Size) -> Expr:
    """Whether `x < y`."""
    if isinstance(x, int):
        x = tirx.IntImm("int32", x) if isinstance(y, int) else number(x, y)
    return tirx.LT(x, number(y, x) if isinstance(y, int) else y)


def at_least(x: Size, y: int) -> Expr:
    """Whether `x >= y`."""
    return tirx.IntImm("bool", x >= y) if isinstance(x, int) else tirx.GE(x, number(y, x))


def named(x: Size) -> Size:
    """`x` as a variable."""
    return x if isinstance(x, int | tirx.Var) else T.bind(x)


def all_of(conditions: list[Expr]) -> Expr | None:
    """Their conjunction; None when there are none."""
    total: Expr = None
    for condition in conditions:
        total = condition if total is None else tirx.And(total, condition)
    return total


def divides(y: int, x: Size) -> bool:
    """Whether `x` is known to be a multiple of `y`."""
    return isinstance(x, int) and x % y == 0
