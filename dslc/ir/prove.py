"""Decides equations and inequalities between dims, or says that it can't.

Input: bounds of dim variables and facts (what `assert` says). Output: True or False when it holds
or fails for all sizes that fit them, else None. Sound: what is answered is so; incomplete: None
may be answered for anything.

Method: every product of atoms is a variable of a linear system; atoms bring what defines them
(`q = n // d` gives `d*q <= n <= d*q + d - 1`, a minimum is at most each of its arguments and is one
of them). `e >= 0` holds if the system with `e <= -1` has no solution, which Fourier-Motzkin
elimination with integer tightening shows. Non-goals: normal forms (`dims.py`), solving.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from itertools import product as choices
from math import gcd
from typing import Literal

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
    mod,
)

Relation = Literal["==", "!=", "<", "<=", ">", ">="]
Bounds = tuple[int, "int | None"]

# A system that grows beyond this is given up, and so is one with more cases.
_MOST_CONSTRAINTS = 400
_MOST_CASES = 16


@dataclass(frozen=True, slots=True)
class Fact:
    """`left op right`, taken to hold."""

    left: Dim
    op: Relation
    right: Dim


# `sum of coefficient * monomial + constant >= 0`
@dataclass(frozen=True, slots=True)
class _AtLeastZero:
    coefficients: tuple[tuple[Monomial, int], ...]
    constant: int


def _row(terms: Mapping[Monomial, int], constant: int) -> _AtLeastZero:
    """The constraint over integers, divided by what its coefficients have in common."""
    common = 0
    for coefficient in terms.values():
        common = gcd(common, coefficient)
    if common > 1:
        terms = {m: c // common for m, c in terms.items()}
        constant //= common  # integers: rounding down loses no solution
    return _AtLeastZero(tuple(terms.items()), constant)


def _dim_row(dim: Dim) -> _AtLeastZero:
    """`dim >= 0`."""
    if isinstance(dim, int):
        return _AtLeastZero((), dim)
    terms = {m: c for m, c in dim.terms if m}
    return _row(terms, next((c for m, c in dim.terms if not m), 0))


def _monomial(monomial: Monomial) -> Dim:
    return Poly(((monomial, 1),)) if monomial else 1


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

    def compare(self, left: Dim, op: Relation, right: Dim) -> bool | None:
        """Whether `left op right` holds for all sizes, fails for all, or neither is known."""
        match op:
            case "==":
                return self.equal(left, right)
            case "!=":
                return _negated(self.equal(left, right))
            case "<=":
                return self._at_most(left, right)
            case "<":
                return self._at_most(left + 1, right)
            case ">=":
                return self._at_most(right, left)
            case ">":
                return self._at_most(right + 1, left)

    def equal(self, left: Dim, right: Dim) -> bool | None:
        """Whether both are the same number."""
        difference = self._rewritten(left - right)
        if isinstance(difference, int):
            return difference == 0
        common, constant = 0, 0
        for monomial, coefficient in difference.terms:
            if monomial:
                common = gcd(common, coefficient)
            else:
                constant = coefficient
        if constant % common:
            return False
        below, above = self._positive(difference), self._positive(-difference)
        if below is True and above is True:
            return True
        return False if below is False or above is False else None

    def _at_most(self, left: Dim, right: Dim) -> bool | None:
        return self._positive(right - left)

    def _positive(self, dim: Dim) -> bool | None:
        """Whether `dim >= 0`."""
        dim = self._rewritten(dim)
        if isinstance(dim, int):
            return dim >= 0
        if self._impossible(-dim - 1):
            return True
        return False if self._impossible(dim) else None

    def _rewritten(self, dim: Dim) -> Dim:
        """`dim` with the equal facts put in, products included: `D % 4 == 0` makes `D * N`
        `4 * (D // 4) * N`."""
        rules = [rule for fact in self.facts for rule in _rules(fact)]
        for atom, value in rules:
            dim = _replace(dim, atom, value)
        return dim

    def _impossible(self, dim: Dim) -> bool:
        """Whether `dim >= 0` has no solution."""
        system = _System(self)
        system.require(dim)
        for fact in self.facts:
            system.require_fact(fact)
        return system.has_no_solution()

    def is_positive(self, dim: Dim) -> bool:
        """Whether `dim >= 1` from bounds alone; cheap, so that atoms may ask it."""
        if isinstance(dim, int):
            return dim >= 1
        low = 0
        for monomial, coefficient in dim.terms:
            least = self._least(monomial)
            if coefficient < 0 or least is None:
                return False
            low += coefficient * least
        return low >= 1

    def _least(self, monomial: Monomial) -> int | None:
        """A lower bound, at least 0, of a product of atoms."""
        least = 1
        for atom in monomial:
            low = self.least_of(atom)
            if low is None:
                return None
            least *= low
        return least

    def least_of(self, atom: Atom) -> int | None:
        """A lower bound, at least 0, of an atom; None if it may be negative."""
        match atom:
            case Sym(name):
                low = self.bounds.get(name, (0, None))[0]
                return low if low >= 0 else None
            case Quotient(num, den):
                return 0 if self.is_positive(den) and self._is_natural(num) else None
            case Remainder(_, den):
                return 0 if self.is_positive(den) else None
            case Extremum(kind, args):
                lows = [self._least_dim(arg) for arg in args]
                known = [low for low in lows if low is not None]
                if kind == "max":
                    return max(known, default=None)
                return min(known) if len(known) == len(args) else None

    def _least_dim(self, dim: Dim) -> int | None:
        if isinstance(dim, int):
            return dim if dim >= 0 else None
        low = 0
        for monomial, coefficient in dim.terms:
            least = self._least(monomial)
            if coefficient < 0 or least is None:
                return None
            low += coefficient * least
        return low

    def _is_natural(self, dim: Dim) -> bool:
        return self._least_dim(dim) is not None


def _negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


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
    """Constraints `row >= 0`, and alternatives of which one must hold."""

    def __init__(self, prover: Prover) -> None:
        self.prover = prover
        self.rows: list[_AtLeastZero] = []
        self.cases: list[list[list[_AtLeastZero]]] = []
        self.seen: set[Monomial] = set()
        self.atoms: set[Atom] = set()

    def require(self, dim: Dim) -> None:
        """Add `dim >= 0` and what defines its atoms."""
        self.rows.append(_dim_row(dim))
        self._define(dim)

    def require_equal(self, dim: Dim) -> None:
        self.rows += [_dim_row(dim), _dim_row(-dim)]
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
                self.cases.append([[_dim_row(difference - 1)], [_dim_row(-difference - 1)]])
                self._define(difference)

    def _define(self, dim: Dim) -> None:
        if isinstance(dim, int):
            return
        for monomial, _ in dim.terms:
            self._define_monomial(monomial)

    def _define_monomial(self, monomial: Monomial) -> None:
        if not monomial or monomial in self.seen or len(self.rows) > _MOST_CONSTRAINTS:
            return
        self.seen.add(monomial)
        for atom in monomial:
            if atom not in self.atoms:
                self.atoms.add(atom)
                self._define_atom(atom)
        if len(monomial) > 1:
            self._bound_product(monomial)

    def _bound_product(self, monomial: Monomial) -> None:
        """`a * rest >= least(a) * rest` where all factors are known not to be negative."""
        lows = [self.prover.least_of(atom) for atom in monomial]
        if any(low is None for low in lows):
            return
        whole = _monomial(monomial)
        self.require(whole)
        for index, low in enumerate(lows):
            if low:
                rest = _monomial(monomial[:index] + monomial[index + 1 :])
                self.require(whole - low * rest)

    def _define_atom(self, atom: Atom) -> None:
        match atom:
            case Sym(name):
                low, high = self.prover.bounds.get(name, (0, None))
                self.rows.append(_row({(atom,): 1}, -low))
                if high is not None:
                    self.rows.append(_row({(atom,): -1}, high))
            case Quotient(num, den) | Remainder(num, den):
                self._define_division(num, den)
            case Extremum(kind, args):
                self._define_extremum(kind, atom, args)

    def _define_division(self, num: Dim, den: Dim) -> None:
        if not self.prover.is_positive(den):
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
        self.cases.append([[_dim_row(value - arg), _dim_row(arg - value)] for arg in args])

    def has_no_solution(self) -> bool:
        count = 1
        for case in self.cases:
            count *= len(case)
        if count > _MOST_CASES:
            return _contradictory(self.rows)
        return all(
            _contradictory([*self.rows, *(row for rows in chosen for row in rows)])
            for chosen in choices(*self.cases)
        )


def _contradictory(rows: Iterable[_AtLeastZero]) -> bool:
    """Fourier-Motzkin: whether no integers fit. False when it gets too large."""
    live = set(rows)
    while True:
        if any(not row.coefficients and row.constant < 0 for row in live):
            return True
        live = {row for row in live if row.coefficients}
        if not live or len(live) > _MOST_CONSTRAINTS:
            return False
        live = _eliminate(live, _cheapest(live))


def _cheapest(rows: Iterable[_AtLeastZero]) -> Monomial:
    """The variable whose elimination makes the fewest new rows."""
    ups: dict[Monomial, int] = {}
    downs: dict[Monomial, int] = {}
    for row in rows:
        for monomial, coefficient in row.coefficients:
            side = ups if coefficient > 0 else downs
            side[monomial] = side.get(monomial, 0) + 1

    def cost(monomial: Monomial) -> tuple[int, str]:
        up, down = ups.get(monomial, 0), downs.get(monomial, 0)
        return up * down - up - down, str(monomial)

    return min(ups.keys() | downs.keys(), key=cost)


def _eliminate(rows: Iterable[_AtLeastZero], variable: Monomial) -> set[_AtLeastZero]:
    out: set[_AtLeastZero] = set()
    lower: list[tuple[int, _AtLeastZero]] = []
    upper: list[tuple[int, _AtLeastZero]] = []
    for row in rows:
        coefficient = next((c for m, c in row.coefficients if m == variable), 0)
        if coefficient > 0:
            lower.append((coefficient, row))
        elif coefficient < 0:
            upper.append((-coefficient, row))
        else:
            out.add(row)
    for a, low in lower:
        for b, high in upper:
            total: dict[Monomial, int] = {}
            for factor, row in ((b, low), (a, high)):
                for monomial, c in row.coefficients:
                    total[monomial] = total.get(monomial, 0) + factor * c
            kept = {m: c for m, c in sorted(total.items(), key=_by_name) if c}
            out.add(_row(kept, b * low.constant + a * high.constant))
    return out


def _by_name(item: tuple[Monomial, int]) -> str:
    return "*".join(map(str, item[0]))
