"""Systems of linear inequalities over integers: whether one has no solution.

Input: rows, each `sum of coefficient * variable + constant`, that are 0, or 0 and more. Output:
True when no integers fit; False when some may. Equations are solved for a variable with the
coefficient 1, the rest is Fourier-Motzkin elimination, where every row is divided by what its
coefficients have in common and rounded (integers!). The work is counted, and what takes too much is
given up. Non-goals: what the variables stand for (`prove.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import gcd
from typing import NamedTuple

_MOST_ROWS = 150


class Row(NamedTuple):
    """`sum of coefficient * variable + constant`; variables ascend, no coefficient is 0."""

    terms: tuple[tuple[int, int], ...]
    constant: int


class Effort:
    """Rows that may still be made."""

    def __init__(self, most: int) -> None:
        self.left = most

    def spend(self, rows: int) -> bool:
        """Whether there is enough for so many rows."""
        self.left -= rows
        return self.left >= 0


def row(terms: Mapping[int, int], constant: int) -> Row:
    """The row of some coefficients."""
    return Row(tuple(sorted((v, c) for v, c in terms.items() if c)), constant)


def contradictory(zero: Iterable[Row], least: Iterable[Row], effort: Effort) -> bool:
    """Whether no integers make every row of `zero` 0 and every one of `least` 0 or more."""
    equations, live = list(zero), list(least)
    while equations:
        equation = equations.pop()
        common = gcd(*(c for _, c in equation.terms))
        if common == 0:
            if equation.constant:
                return True
            continue
        if equation.constant % common:
            return True
        equation = _scaled(equation, common)
        unit = next((v for v, c in reversed(equation.terms) if abs(c) == 1), None)
        if unit is None:
            live += [equation, _combined(equation, -1, equation, 0)]
            continue
        if not effort.spend(len(live) + len(equations)):
            return False
        equations = [_without(r, unit, equation) for r in equations]
        live = [_without(r, unit, equation) for r in live]
    return _eliminated(live, effort)


def _scaled(r: Row, common: int) -> Row:
    if common == 1:
        return r
    return Row(tuple((v, c // common) for v, c in r.terms), r.constant // common)


def _combined(a: Row, times_a: int, b: Row, times_b: int) -> Row:
    """`times_a * a + times_b * b`."""
    total = {v: c * times_a for v, c in a.terms}
    for v, c in b.terms:
        total[v] = total.get(v, 0) + c * times_b
    return row(total, a.constant * times_a + b.constant * times_b)


def _without(r: Row, variable: int, equation: Row) -> Row:
    """`r` with the variable's value by an equation in which its coefficient is 1 or -1."""
    coefficient = next((c for v, c in r.terms if v == variable), 0)
    if not coefficient:
        return r
    sign = next(c for v, c in equation.terms if v == variable)
    return _combined(r, 1, equation, -coefficient * sign)


def _eliminated(rows: Iterable[Row], effort: Effort) -> bool:
    """Fourier-Motzkin: whether no integers make every row 0 or more."""
    live: dict[tuple[tuple[int, int], ...], int] = {}
    for r in rows:
        if not _keep(live, r):
            return True
    while live and len(live) <= _MOST_ROWS:
        variable, made = _cheapest(live)
        if not effort.spend(made):
            return False
        above = [Row(*r) for r in live.items() if _coefficient(r[0], variable) > 0]
        below = [Row(*r) for r in live.items() if _coefficient(r[0], variable) < 0]
        for r in (*above, *below):
            del live[r.terms]
        for low in above:
            for high in below:
                a, b = _coefficient(low.terms, variable), -_coefficient(high.terms, variable)
                if not _keep(live, _combined(low, b, high, a)):
                    return True
    return False


def _keep(live: dict[tuple[tuple[int, int], ...], int], r: Row) -> bool:
    """Adds `r >= 0`, the strictest for its coefficients; False if no integers make it so."""
    if not r.terms:
        return r.constant >= 0
    # Integers: rounding the constant down loses no solution.
    terms, constant = _scaled(r, gcd(*(c for _, c in r.terms)))
    known = live.get(terms)
    if known is None or constant < known:
        live[terms] = constant
        opposite = live.get(tuple((v, -c) for v, c in terms))
        return opposite is None or constant + opposite >= 0
    return True


def _coefficient(terms: tuple[tuple[int, int], ...], variable: int) -> int:
    for v, c in terms:
        if v == variable:
            return c
    return 0


def _cheapest(live: Iterable[tuple[tuple[int, int], ...]]) -> tuple[int, int]:
    """The variable whose elimination leaves the fewest rows, and how many rows that makes."""
    above: dict[int, int] = {}
    below: dict[int, int] = {}
    for terms in live:
        for variable, coefficient in terms:
            side = above if coefficient > 0 else below
            side[variable] = side.get(variable, 0) + 1

    def growth(variable: int) -> tuple[int, int]:
        up, down = above.get(variable, 0), below.get(variable, 0)
        return up * down - up - down, variable

    found = min(above.keys() | below.keys(), key=growth)
    return found, above.get(found, 0) * below.get(found, 0)
