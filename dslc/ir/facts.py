"""What facts about dims say of single variables: narrower bounds, and variables to replace.

Input: bounds of variables and facts. Output: a `Known`: values to put in for variables
(`N == 2 * M` gives N, `H % 8 == 0` makes H eight times a new variable), the bounds of those that
are left, and the facts that say more than that. Whatever sizes fit the input fit the output, and
the other way round. Non-goals: deciding anything (`prove.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import gcd
from typing import Literal

from dslc._frozen import dataclass
from dslc.ir.dims import (
    Dim,
    Poly,
    Quotient,
    Remainder,
    Sym,
    floordiv,
    free_symbols,
    substitute,
    sym,
)

Relation = Literal["==", "!=", "<", "<=", ">", ">="]
Bounds = tuple[int, "int | None"]


@dataclass(frozen=True, slots=True)
class Fact:
    """`left op right`, taken to hold."""

    left: Dim
    op: Relation
    right: Dim


@dataclass(frozen=True, slots=True)
class Known:
    """`values`, to be put in one after the other; then `bounds` and `facts` about what is left."""

    values: tuple[tuple[str, Dim], ...]
    bounds: Mapping[str, Bounds]
    facts: tuple[Fact, ...]

    def put_in(self, dim: Dim) -> Dim:
        """`dim` over the variables that are left. ZeroDivisionError when it has no value."""
        for name, value in self.values:
            if isinstance(dim, int):
                return dim
            if name in free_symbols(dim):
                dim = substitute(dim, {name: value})
        return dim


def learn(bounds: Mapping[str, Bounds], facts: Sequence[Fact]) -> Known:
    """What is known by bounds and facts. ZeroDivisionError when a fact has no value."""
    return _Learner(bounds, facts).learn()


def least(dim: Dim, bounds: Mapping[str, Bounds]) -> int | None:
    """A lower bound, at least 0, of a dim; None if it may be negative."""
    if isinstance(dim, int):
        return dim if dim >= 0 else None
    low = 0
    for monomial, coefficient in dim.terms:
        if not monomial:
            low += coefficient
            continue
        part = coefficient
        for atom in monomial:
            bound = bounds.get(atom.name, (0, None))[0] if isinstance(atom, Sym) else -1
            if bound < 0 or part < 0:
                return None
            part *= bound
        low += part
    return low if low >= 0 else None


class _Learner:
    def __init__(self, bounds: Mapping[str, Bounds], facts: Sequence[Fact]) -> None:
        self.bounds = dict(bounds)
        self.facts = list(facts)
        self.values: list[tuple[str, Dim]] = []

    def learn(self) -> Known:
        """Until no fact says more about a single variable."""
        for name, (low, high) in list(self.bounds.items()):
            if low == high:
                self._replace(name, low)
        # Each turn replaces a variable, drops a fact or ends it; the cap is for the unforeseen.
        for _ in range(4 * len(self.facts) + 8):
            if not any(self._use(index) for index in range(len(self.facts))):
                break
        return Known(tuple(self.values), self.bounds, tuple(self.facts))

    def _use(self, index: int) -> bool:
        """Whether the fact told something about a variable."""
        fact = self.facts[index]
        difference = fact.left - fact.right
        if isinstance(difference, int):
            return False
        alone = _one_variable(difference)
        if alone is not None and fact.op != "==":
            return self._narrow(*alone, fact)
        if fact.op != "==":
            return False
        primitive = _primitive(difference)
        for equation in (primitive, primitive * -1):
            if self._divides(equation, fact) or self._solve(equation, fact):
                return True
        return False

    def _narrow(self, name: str, factor: int, constant: int, fact: Fact) -> bool:
        """`factor * name + constant op 0` as bounds."""
        low, high = self.bounds.get(name, (0, None))
        op = fact.op
        if op == "!=":
            if constant % factor:
                self.facts.remove(fact)
                return True
            other = -constant // factor
            if other not in (low, high):
                return False
            low, high = low + (other == low), None if high is None else high - (other == high)
        else:
            at_least = op in (">=", ">")
            constant -= (op == ">") - (op == "<")
            if factor < 0:
                factor, constant, at_least = -factor, -constant, not at_least
            # factor * name >= -constant, or <= -constant
            if at_least:
                low = max(low, -(constant // factor))
            else:
                top = -constant // factor
                high = top if high is None else min(high, top)
        if high is not None and low > high:
            return False  # nothing fits: the prover will find that
        self.bounds[name] = (low, high)
        self.facts.remove(fact)
        if low == high:
            self._replace(name, low)
        return True

    def _divides(self, equation: Dim, fact: Fact) -> bool:
        """`n % d == 0`, or `n == n // d * d`: a variable of `n` becomes a multiple of `d`."""
        for num, den, rest in _divisions(equation):
            low = least(den, self.bounds)
            if low is None or (low == 0 and isinstance(den, int)):
                continue
            for name, sign in _units(num):
                if name in free_symbols(den) or name in free_symbols(num - sign * sym(name)):
                    continue
                times = f"{name}/{den}"
                if least(num, self.bounds) is None or times in self.bounds:
                    continue
                self.bounds[times] = (0, None)
                self.facts.remove(fact)
                if low == 0:  # it divides, so it isn't 0
                    self.facts.append(Fact(den, ">=", 1))
                others = num - sign * sym(name)
                self._replace(name, (den * sym(times) + rest - others) * sign)
                return True
        return False

    def _solve(self, equation: Dim, fact: Fact) -> bool:
        """A variable that stands alone is replaced by the rest."""
        for name, sign in _units(equation):
            value = (sign * sym(name) - equation) * sign
            if name not in free_symbols(value):
                self.facts.remove(fact)
                self._replace(name, value)
                return True
        return False

    def _replace(self, name: str, value: Dim) -> None:
        """Put the value in everywhere, and keep what the bounds said of it."""
        self.values.append((name, value))
        low, high = self.bounds.pop(name, (0, None))
        put = {name: value}
        self.facts = [
            Fact(substitute(f.left, put), f.op, substitute(f.right, put)) for f in self.facts
        ]
        if least(value, self.bounds) is None or (least(value, self.bounds) or 0) < low:
            self.facts.append(Fact(value, ">=", low))
        if high is not None and value != high:
            self.facts.append(Fact(value, "<=", high))


def _one_variable(dim: Poly) -> tuple[str, int, int] | None:
    """`(name, factor, constant)` where the dim is `factor * name + constant`."""
    monomial, factor = dim.terms[0]
    constant = dim.terms[1][1] if len(dim.terms) == 2 and not dim.terms[1][0] else 0
    if len(dim.terms) > (2 if constant else 1) or len(monomial) != 1:
        return None
    atom = monomial[0]
    return (atom.name, factor, constant) if isinstance(atom, Sym) else None


def _units(dim: Dim) -> Iterator[tuple[str, int]]:
    """Variables that are a term of their own with the coefficient 1 or -1."""
    for monomial, coefficient in dim.terms if isinstance(dim, Poly) else ():
        if len(monomial) == 1 and abs(coefficient) == 1 and isinstance(monomial[0], Sym):
            yield monomial[0].name, coefficient


def _divisions(equation: Dim) -> Iterator[tuple[Dim, Dim, int]]:
    """`(n, d, r)` where `equation == 0` says that `n % d == r`."""
    for monomial, coefficient in equation.terms if isinstance(equation, Poly) else ():
        for atom in monomial:
            match atom:
                case Remainder(num, den) if len(monomial) == 1 and coefficient == 1:
                    rest = Poly((((atom,), 1),)) - equation
                case Quotient(num, den):
                    rest = num - den * floordiv(num, den) - equation
                case _:
                    continue
            fits = isinstance(rest, int) and 0 <= rest < (den if isinstance(den, int) else 1)
            if isinstance(rest, int) and fits:
                yield num, den, rest


def _primitive(dim: Poly) -> Poly:
    """The dim divided by what all of its coefficients have in common."""
    common = gcd(*(c for _, c in dim.terms))
    return Poly(tuple((m, c // common) for m, c in dim.terms))
