"""Decides equations and inequalities between dims, or says that it can't.

Input: bounds of dim variables and facts (what `assert` says). Output: True or False when it holds
or fails for all sizes that fit them, else None. Sound: what is answered is so; incomplete: None
may be answered for anything.

Method: facts first replace variables (`facts.py`). Then every product of atoms is a variable of a
linear system; atoms bring what defines them (`q = n // d` gives `d*q <= n <= d*q + d - 1`, a
minimum is at most each of its arguments and is one of them). `e >= 0` holds if the system with
`e <= -1` has no solution (`linear.py`). Non-goals: normal forms (`dims.py`), solving.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from math import gcd

from dslc._frozen import dataclass
from dslc.ir.dims import (
    Atom,
    Dim,
    Poly,
    Remainder,
    Sym,
    floordiv,
    map_atoms,
    of_atom,
)
from dslc.ir.facts import Bounds, Fact, Known, Relation, learn
from dslc.ir.linear import Effort
from dslc.ir.system import Sizes, System, product_of

__all__ = ["Bounds", "Fact", "Prover", "Relation"]

# Rows of linear systems that one question may cost.
_MOST_WORK = 2500


@dataclass(frozen=True, slots=True)
class Prover:
    """Bounds of variables (0 and up where none are given) and facts."""

    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    facts: tuple[Fact, ...] = ()

    def assume(self, *facts: Fact) -> Prover:
        """This prover with more facts."""
        return Prover(self.bounds, (*self.facts, *facts))

    def bound(self, name: str, low: int, high: int | None) -> Prover:
        """This prover with the bounds of a variable, both included."""
        return Prover({**self.bounds, name: (low, high)}, self.facts)

    def positive(self, names: Iterable[str]) -> Prover:
        """This prover where these variables are at least 1."""
        bounds = dict(self.bounds)
        for name in names:
            low, high = bounds.get(name, (0, None))
            bounds[name] = (max(low, 1), high)
        return Prover(bounds, self.facts)

    def compare(self, left: Dim, op: Relation, right: Dim) -> bool | None:
        """Whether `left op right` holds for all sizes, fails for all, or neither is known."""
        match op:
            case "==":
                return self.equal(left, right)
            case "!=":
                return _negated(self.equal(left, right))
            case "<=":
                return self._at_least(right - left, 0)
            case "<":
                return self._at_least(right - left, 1)
            case ">=":
                return self._at_least(left - right, 0)
            case ">":
                return self._at_least(left - right, 1)

    def equal(self, left: Dim, right: Dim) -> bool | None:
        """Whether both are the same number."""
        difference = left - right
        if isinstance(difference, int):
            return difference == 0
        try:
            return _Question(learn(self.bounds, self.facts)).is_zero(difference)
        except ZeroDivisionError:
            return None

    def _at_least(self, dim: Dim, low: int) -> bool | None:
        if isinstance(dim, int):
            return dim >= low
        try:
            return _Question(learn(self.bounds, self.facts)).is_positive(dim - low)
        except ZeroDivisionError:
            return None


def _negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


class _Question:
    """Answers about one dim by what is known."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.sizes = Sizes(known.bounds)
        self.effort = Effort(_MOST_WORK)
        self.facts = [
            Fact(self.sizes.simpler(f.left), f.op, self.sizes.simpler(f.right)) for f in known.facts
        ]
        self.rules = [rule for fact in self.facts for rule in _rules(fact)]

    def is_zero(self, dim: Dim) -> bool | None:
        """Whether `dim == 0`."""
        dim = self._rewritten(dim)
        if isinstance(dim, int):
            return dim == 0
        common, constant = 0, 0
        for monomial, coefficient in dim.terms:
            if monomial:
                common = gcd(common, coefficient)
            else:
                constant = coefficient
        if constant % common:
            return False
        below, above = self._positive(dim), self._positive(-dim)
        if below is True and above is True:
            return True
        return False if below is False or above is False else None

    def is_positive(self, dim: Dim) -> bool | None:
        """Whether `dim >= 0`."""
        return self._positive(self._rewritten(dim))

    def _positive(self, dim: Dim) -> bool | None:
        if isinstance(dim, int):
            return dim >= 0
        if self._impossible(-dim - 1):
            return True
        return False if self._impossible(dim) else None

    def _rewritten(self, dim: Dim) -> Dim:
        """`dim` with the values of variables and the equal facts put in."""
        dim = self.sizes.simpler(self.known.put_in(dim))
        for atom, value in self.rules:
            dim = _replace(dim, atom, value)
        return dim

    def _impossible(self, dim: Dim) -> bool:
        """Whether `dim >= 0` has no solution."""
        system = System(self.sizes, self.effort)
        system.require(dim)
        for fact in self.facts:
            system.require_fact(fact)
        return system.has_no_solution()


def _rules(fact: Fact) -> Iterator[tuple[Atom, Dim]]:
    """Atoms and what they equal by an equation."""
    if fact.op != "==":
        return
    difference = fact.left - fact.right
    if isinstance(difference, int):
        return
    equations = [difference]
    for monomial, coefficient in difference.terms:
        if len(monomial) == 1 and abs(coefficient) == 1 and isinstance(monomial[0], Remainder):
            num, den = monomial[0].num, monomial[0].den
            rest = product_of(monomial) - coefficient * difference
            whole = num - den * floordiv(num, den) - rest
            equations += [whole] if isinstance(whole, Poly) else []
    for equation in equations:
        rule = _solved(equation)
        if rule is not None:
            yield rule


def _solved(equation: Poly) -> tuple[Atom, Dim] | None:
    """A variable (or else another atom) that stands alone in `equation == 0`, and its value."""
    alone = [(m[0], c) for m, c in equation.terms if len(m) == 1 and abs(c) == 1]
    for atom, coefficient in sorted(alone, key=lambda item: not isinstance(item[0], Sym)):
        rest = equation - coefficient * of_atom(atom)
        value = rest * -coefficient
        if all(atom not in m for m, _ in (value.terms if isinstance(value, Poly) else ())):
            return atom, value
    return None


def _replace(dim: Dim, atom: Atom, value: Dim) -> Dim:
    """`dim` with `value` for each factor `atom`; what stands inside of other atoms stays."""
    return map_atoms(dim, lambda factor: value if factor == atom else of_atom(factor))
