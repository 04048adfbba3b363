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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from math import gcd

from dslc._frozen import dataclass
from dslc.ir.dims import (
    Atom,
    Dim,
    Extremum,
    Monomial,
    Poly,
    Quotient,
    Remainder,
    Sym,
    floordiv,
    maximum,
    minimum,
    mod,
)
from dslc.ir.facts import Bounds, Fact, Known, Relation, learn
from dslc.ir.linear import Effort, Row, contradictory, row

__all__ = ["Bounds", "Fact", "Prover", "Relation"]

# Rows of linear systems that one question may cost, and monomials that it may be about.
_MOST_WORK = 2500
_MOST_MONOMIALS = 60


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
        self.sizes = _Sizes(known.bounds)
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
        system = _System(self.sizes, self.effort)
        system.require(dim)
        for fact in self.facts:
            system.require_fact(fact)
        return system.has_no_solution()


class _Sizes:
    """Lower and upper bounds of dims, from bounds of variables alone: cheap."""

    def __init__(self, bounds: Mapping[str, Bounds]) -> None:
        self.bounds = bounds

    def is_positive(self, dim: Dim) -> bool:
        """Whether `dim >= 1`."""
        low = self.least(dim)
        return low is not None and low >= 1

    def least(self, dim: Dim) -> int | None:
        """A lower bound, at least 0, of a dim; None if it may be negative."""
        if isinstance(dim, int):
            return dim if dim >= 0 else None
        low = 0
        for monomial, coefficient in dim.terms:
            part = self._least_product(monomial)
            if part is None or (coefficient < 0 and monomial):
                return None
            low += coefficient * part
        return low if low >= 0 else None

    def _least_product(self, monomial: Monomial) -> int | None:
        total = 1
        for atom in monomial:
            low = self.least_of(atom)
            if low is None:
                return None
            total *= low
        return total

    def least_of(self, atom: Atom) -> int | None:
        """A lower bound, at least 0, of an atom; None if it may be negative."""
        match atom:
            case Sym(name):
                low = self.bounds.get(name, (0, None))[0]
                return low if low >= 0 else None
            case Quotient(num, den):
                low_num = self.least(num) if self.is_positive(den) else None
                if low_num is None:
                    return None
                return low_num // den if isinstance(den, int) else 0
            case Remainder(_, den):
                return 0 if self.is_positive(den) else None
            case Extremum(kind, args):
                lows = [self.least(arg) for arg in args]
                known = [low for low in lows if low is not None]
                if kind == "max":
                    return max(known, default=None)
                return min(known) if len(known) == len(args) else None

    def most_of(self, atom: Atom) -> int | None:
        """An upper bound of an atom, where one is easily seen."""
        match atom:
            case Sym(name):
                return self.bounds.get(name, (0, None))[1]
            case Remainder(_, int(den)):
                return den - 1
        return None

    def simpler(self, dim: Dim) -> Dim:
        """`dim` with `n // a // b` as `n // (a * b)` where `b` is positive (of one term each: sums
        would multiply out)."""
        if isinstance(dim, int):
            return dim
        total: Dim = 0
        for monomial, coefficient in dim.terms:
            term: Dim = coefficient
            for atom in monomial:
                term = term * self._simpler_atom(atom)
            total = total + term
        return total

    def _simpler_atom(self, atom: Atom) -> Dim:
        match atom:
            case Quotient(num, den):
                num, den = self.simpler(num), self.simpler(den)
                if not isinstance(den, Poly) or len(den.terms) > 1 or not self.is_positive(den):
                    return floordiv(num, den)
                for m, c in num.terms if isinstance(num, Poly) else ():
                    inner = m[0] if len(m) == 1 and c == 1 else None
                    if isinstance(inner, Quotient) and _is_term(inner.den):
                        whole = inner.num + (num - _monomial(m)) * inner.den
                        return floordiv(whole, inner.den * den)
                return floordiv(num, den)
            case Remainder(num, den):
                return mod(self.simpler(num), self.simpler(den))
            case Extremum(kind, args):
                values = [self.simpler(arg) for arg in args]
                return minimum(*values) if kind == "min" else maximum(*values)
        return _monomial((atom,))


def _is_term(dim: Dim) -> bool:
    return isinstance(dim, int) or len(dim.terms) == 1


def _monomial(monomial: Monomial) -> Dim:
    return Poly(((monomial, 1),)) if monomial else 1


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
            rest = _monomial(monomial) - coefficient * difference
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
        rest = equation - coefficient * _monomial((atom,))
        value = rest * -coefficient
        if all(atom not in m for m, _ in (value.terms if isinstance(value, Poly) else ())):
            return atom, value
    return None


def _replace(dim: Dim, atom: Atom, value: Dim) -> Dim:
    """`dim` with `value` for each factor `atom`; what stands inside of other atoms stays."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for factor in monomial:
            term = term * (value if factor == atom else _monomial((factor,)))
        total = total + term
    return total


class _System:
    """Rows that are 0 or at least 0, and alternatives of which one must hold."""

    def __init__(self, sizes: _Sizes, effort: Effort) -> None:
        self.sizes = sizes
        self.effort = effort
        self.zero: list[Row] = []
        self.least: list[Row] = []
        self.cases: list[list[tuple[list[Row], list[Row]]]] = []
        self.variables: dict[Monomial, int] = {}
        self.defined: set[Monomial] = set()
        self.atoms: set[Atom] = set()

    def require(self, dim: Dim) -> None:
        """Add `dim >= 0` and what defines its atoms."""
        self.least.append(self._row(dim))
        self._define(dim)

    def require_equal(self, dim: Dim) -> None:
        self.zero.append(self._row(dim))
        self._define(dim)

    def require_fact(self, fact: Fact) -> None:
        difference = fact.left - fact.right
        match fact.op:
            case "==":
                self.require_equal(difference)
            case "<=":
                self.require(-difference)
            case "<":
                self.require(-difference - 1)
            case ">=":
                self.require(difference)
            case ">":
                self.require(difference - 1)
            case "!=":
                more, less = self._row(difference - 1), self._row(-difference - 1)
                self.cases.append([([], [more]), ([], [less])])
                self._define(difference)

    def _row(self, dim: Dim) -> Row:
        if isinstance(dim, int):
            return Row((), dim)
        variables = self.variables
        terms = {variables.setdefault(m, len(variables)): c for m, c in dim.terms if m}
        return row(terms, next((c for m, c in dim.terms if not m), 0))

    def _define(self, dim: Dim) -> None:
        for monomial, _ in dim.terms if isinstance(dim, Poly) else ():
            if monomial and monomial not in self.defined and len(self.defined) < _MOST_MONOMIALS:
                self.defined.add(monomial)
                for atom in monomial:
                    if atom not in self.atoms:
                        self.atoms.add(atom)
                        self._define_atom(atom)
                if len(monomial) > 1:
                    self._bound_product(monomial)

    def _bound_product(self, monomial: Monomial) -> None:
        """`a * rest` is from `least(a) * rest` to `most(a) * rest`, if no factor is negative."""
        lows = [self.sizes.least_of(atom) for atom in monomial]
        if any(low is None for low in lows):
            return
        whole = _monomial(monomial)
        self.require(whole)
        for index, low in enumerate(lows):
            high = self.sizes.most_of(monomial[index])
            rest = _monomial(monomial[:index] + monomial[index + 1 :])
            if low:
                self.require(whole - low * rest)
            if high is not None:
                self.require(high * rest - whole)

    def _define_atom(self, atom: Atom) -> None:
        match atom:
            case Sym(name):
                low, high = self.sizes.bounds.get(name, (0, None))
                self.require(_monomial((atom,)) - low)
                if high is not None:
                    self.require(high - _monomial((atom,)))
            case Quotient(num, den) | Remainder(num, den):
                self._define_division(num, den)
            case Extremum(kind, args):
                self._define_extremum(kind, atom, args)

    def _define_division(self, num: Dim, den: Dim) -> None:
        if not self.sizes.is_positive(den):
            return
        rest = mod(num, den)
        self.require_equal(num - den * floordiv(num, den) - rest)
        self.require(rest)
        self.require(den - 1 - rest)

    def _define_extremum(self, kind: str, atom: Extremum, args: Sequence[Dim]) -> None:
        value = _monomial((atom,))
        sign = 1 if kind == "max" else -1
        for arg in args:
            self.require(sign * (value - arg))
        self.cases.append([([self._row(value - arg)], []) for arg in args])

    def has_no_solution(self) -> bool:
        """Whether there is none, in each of the cases. False when that is too much work."""
        return self._fails(self.zero, self.least, 0)

    def _fails(self, zero: list[Row], least: list[Row], position: int) -> bool:
        if contradictory(zero, least, self.effort):
            return True
        if position == len(self.cases) or self.effort.left <= 0:
            return False
        return all(
            self._fails([*zero, *equal], [*least, *more], position + 1)
            for equal, more in self.cases[position]
        )
