"""A question about dims as a linear system: its variables are products of atoms.

Input: dims that are 0 or at least 0, facts, bounds of variables. Output: rows for `linear.py`, with
what defines each atom; whether they have no solution. Non-goals: rewriting by facts (`prove.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
    map_atoms,
    maximum,
    minimum,
    mod,
    of_atom,
)
from dslc.ir.facts import Bounds, Fact
from dslc.ir.linear import Effort, Row, contradictory, row

# Monomials that one question may be about.
_MOST_MONOMIALS = 60


class Sizes:
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
        return map_atoms(dim, self._simpler_atom)

    def _simpler_atom(self, atom: Atom) -> Dim:
        match atom:
            case Quotient(num, den):
                num, den = self.simpler(num), self.simpler(den)
                if not isinstance(den, Poly) or len(den.terms) > 1 or not self.is_positive(den):
                    return floordiv(num, den)
                for m, c in num.terms if isinstance(num, Poly) else ():
                    inner = m[0] if len(m) == 1 and c == 1 else None
                    if isinstance(inner, Quotient) and _is_term(inner.den):
                        whole = inner.num + (num - product_of(m)) * inner.den
                        return floordiv(whole, inner.den * den)
                return floordiv(num, den)
            case Remainder(num, den):
                return mod(self.simpler(num), self.simpler(den))
            case Extremum(kind, args):
                values = [self.simpler(arg) for arg in args]
                return minimum(*values) if kind == "min" else maximum(*values)
        return of_atom(atom)


def _is_term(dim: Dim) -> bool:
    return isinstance(dim, int) or len(dim.terms) == 1


def product_of(monomial: Monomial) -> Dim:
    """The dim that is this product."""
    return Poly(((monomial, 1),)) if monomial else 1


class System:
    """Rows that are 0 or at least 0, and alternatives of which one must hold."""

    def __init__(self, sizes: Sizes, effort: Effort) -> None:
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
        whole = product_of(monomial)
        self.require(whole)
        for index, low in enumerate(lows):
            high = self.sizes.most_of(monomial[index])
            rest = product_of(monomial[:index] + monomial[index + 1 :])
            if low:
                self.require(whole - low * rest)
            if high is not None:
                self.require(high * rest - whole)

    def _define_atom(self, atom: Atom) -> None:
        match atom:
            case Sym(name):
                low, high = self.sizes.bounds.get(name, (0, None))
                self.require(product_of((atom,)) - low)
                if high is not None:
                    self.require(high - product_of((atom,)))
            case Quotient(num, den) | Remainder(num, den):
                self._define_division(num, den)
                least = self.sizes.least_of(atom)
                if least is not None and not isinstance(den, int):
                    self.require(product_of((atom,)) - least)
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
        value = product_of((atom,))
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
