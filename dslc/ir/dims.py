"""Dims: integer expressions over dim variables, kept in one normal form.

`Dim = int | Poly`. A `Poly` is a sum of integer multiples of products of atoms; an atom is a
variable, a floor quotient, a remainder, a minimum or a maximum. Arithmetic normalises, so equal
normal forms mean equal dims: `(2 * N + 4) // 2 == N + 2`. A Poly never stands for a constant (that
is an `int`). What normal forms can't decide is the prover's (`prove.py`).

Non-goals: assumptions about variables (they are any integers here), solving.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache, reduce
from itertools import pairwise
from math import gcd
from operator import and_
from typing import Union

from dslc._frozen import HashedOnce, dataclass

Dim = Union[int, "Poly"]


@dataclass(frozen=True, slots=True)
class Sym:
    """A dim variable."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Quotient(HashedOnce):
    """`num // den`, rounded towards minus infinity (Python's)."""

    num: Dim
    den: Dim

    def __str__(self) -> str:
        return f"{_factor(self.num)} // {_factor(self.den)}"


@dataclass(frozen=True, slots=True)
class Remainder(HashedOnce):
    """`num % den`, with the sign of `den` (Python's)."""

    num: Dim
    den: Dim

    def __str__(self) -> str:
        return f"{_factor(self.num)} % {_factor(self.den)}"


@dataclass(frozen=True, slots=True)
class Extremum(HashedOnce):
    """`min(args)` or `max(args)`; args are distinct and sorted."""

    kind: str
    args: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.args))})"


Atom = Sym | Quotient | Remainder | Extremum
Monomial = tuple[Atom, ...]  # sorted; the empty one is the constant term


def _factor(dim: Dim) -> str:
    """Text of a dim that stands as an operand of `*`, `//` or `%`."""
    if isinstance(dim, int):
        return str(dim) if dim >= 0 else f"({dim})"
    only = dim.terms[0]
    if len(dim.terms) == 1 and only[1] == 1 and len(only[0]) == 1:
        return _atom(only[0][0])
    return f"({dim})"


def _atom(atom: Atom) -> str:
    return f"({atom})" if isinstance(atom, Quotient | Remainder) else str(atom)


@lru_cache(4096)
def _text(atom: Atom) -> str:
    """What atoms are sorted by; of quotients of quotients it takes long to write."""
    return str(atom)


def _degree(term: tuple[Monomial, int]) -> int:
    return -len(term[0])


def _monomial_key(monomial: Monomial) -> tuple[int, str]:
    return (-len(monomial), "*".join(map(_text, monomial)))


@dataclass(frozen=True, slots=True)
class Poly(HashedOnce):
    """A non-constant dim; `terms` maps sorted monomials to non-zero coefficients."""

    terms: tuple[tuple[Monomial, int], ...]

    def __add__(self, other: Dim) -> Dim:
        return _make([*self.terms, *_terms(other)])

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + other * -1

    def __rsub__(self, other: Dim) -> Dim:
        return self * -1 + other

    def __mul__(self, other: Dim) -> Dim:
        if isinstance(other, int):  # the order of the terms stays
            if other in (0, 1):
                return self if other else 0
            return Poly(tuple((m, c * other) for m, c in self.terms))
        return _make(
            [
                (tuple(sorted((*m, *n), key=_text)), a * b)
                for m, a in self.terms
                for n, b in _terms(other)
            ]
        )

    __rmul__ = __mul__

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __rfloordiv__(self, other: Dim) -> Dim:
        return floordiv(other, self)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)

    def __rmod__(self, other: Dim) -> Dim:
        return mod(other, self)

    def __str__(self) -> str:
        parts: list[str] = []
        terms = self.terms
        if terms[0][1] < 0:  # what is subtracted stands behind what is not: `20 - T`
            terms = tuple(sorted(terms, key=lambda term: term[1] < 0))
        for monomial, coefficient in terms:
            sign = "-" if coefficient < 0 else "+"
            size = abs(coefficient)
            alone = len(terms) == 1 and len(monomial) == 1 and coefficient == 1
            # A dim that is one atom as a whole stands without parentheses.
            factors = [str(a) if alone else _atom(a) for a in monomial]
            body = " * ".join(([str(size)] if size != 1 or not factors else []) + factors)
            parts.append(f" {sign} {body}" if parts else (f"-{body}" if sign == "-" else body))
        return "".join(parts)


def sym(name: str) -> Poly:
    """The dim variable `name`."""
    return Poly((((Sym(name),), 1),))


def _terms(dim: Dim) -> tuple[tuple[Monomial, int], ...]:
    if isinstance(dim, Poly):
        return dim.terms
    return (((), int(dim)),) if dim else ()


def _make(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, 0) + coefficient
    kept = [(m, c) for m, c in total.items() if c]
    if len(kept) > 1:
        kept.sort(key=_degree)
        if any(len(a[0]) == len(b[0]) for a, b in pairwise(kept)):  # texts are costly
            kept.sort(key=lambda term: _monomial_key(term[0]))
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return Poly(tuple(kept))


def of_atom(atom: Atom) -> Dim:
    """The dim that is this atom."""
    return Poly((((atom,), 1),))


def _split_multiple(num: Dim, den: int) -> tuple[Dim, Dim]:
    """`(a, b)` with `num == den * a + b`; coefficients of `b` are smaller than `den`, its constant
    is from 0 to `den - 1`."""
    whole: list[tuple[Monomial, int]] = []
    rest: list[tuple[Monomial, int]] = []
    for monomial, c in _terms(num):
        times = c // den if c >= 0 or not monomial else -(-c // den)
        whole.append((monomial, times))
        rest.append((monomial, c - times * den))
    return _make(whole), _make(rest)


def _split_by(num: Poly, den: Poly) -> tuple[Dim, Dim]:
    """`(a, b)` with `num == den * a + b`, where `a` is not 0 only if that is simpler: the terms
    that a `den` of one term divides, or all of them."""
    if len(den.terms) == 1:
        monomial, coefficient = den.terms[0]
        whole: list[tuple[Monomial, int]] = []
        rest: list[tuple[Monomial, int]] = []
        for m, c in num.terms:
            left = _without(m, monomial)
            if left is None or c % coefficient:
                rest.append((m, c))
            else:
                whole.append((left, c // coefficient))
        return _make(whole), _make(rest)
    exact = _divide_exactly(num, den)
    return (0, num) if exact is None else (exact, 0)


def _without(monomial: Monomial, factors: Monomial) -> Monomial | None:
    """What is left of a product without some of its factors; None if it lacks one."""
    left = list(monomial)
    for atom in factors:
        if atom not in left:
            return None
        left.remove(atom)
    return tuple(left)


def _degree_order(term: tuple[Monomial, int]) -> tuple[int, list[str]]:
    """Keeps its order when both sides are multiplied by a monomial: what division needs."""
    return -len(term[0]), [_text(atom) for atom in term[0]]


def _divide_exactly(num: Poly, den: Poly) -> Dim | None:
    """The polynomial quotient of `num` by `den`, if it has no remainder."""
    monomial, coefficient = min(den.terms, key=_degree_order)
    quotient: Dim = 0
    rest: Dim = num
    while isinstance(rest, Poly):
        m, c = min(rest.terms, key=_degree_order)
        left = _without(m, monomial)
        if left is None or c % coefficient:
            return None
        part = _make([(left, c // coefficient)])
        quotient, rest = quotient + part, rest - part * den
    return quotient if rest == 0 else None


def floordiv(num: Dim, den: Dim) -> Dim:
    """`num // den` (Python's rounding). ZeroDivisionError when `den` is the constant 0."""
    if isinstance(den, int):
        if isinstance(num, int):
            return num // den
        if den == 0:
            raise ZeroDivisionError("a dim divided by zero")
        if den < 0:
            return floordiv(-num, -den)
        whole, rest = _split_multiple(num, den)
        if isinstance(rest, int):
            return whole + rest // den
        content = _content(rest, den)
        if content > 1:
            rest, den = _scale_down(rest, content), den // content
        inner = _inner_quotient(rest)
        if inner is not None and den > 1:
            under = inner.num + (rest - of_atom(inner)) * inner.den
            return whole + floordiv(under, inner.den * den)
        return whole + (rest if den == 1 else of_atom(Quotient(rest, den)))
    if isinstance(num, int):
        return 0 if num == 0 else of_atom(Quotient(num, den))
    whole, rest = _split_by(num, den)
    if rest == 0:
        return whole
    common = _common(rest, den)
    if common != 1:
        return whole + floordiv(floordiv(rest, common), floordiv(den, common))
    return whole + of_atom(Quotient(rest, den))


def _common(num: Dim, den: Poly) -> Dim:
    """A product that divides every term of both: `a * c // (b * c)` is `a // b` wherever it has
    a value."""
    terms = (*_terms(num), *den.terms)
    shared = reduce(and_, (Counter(monomial) for monomial, _ in terms))
    product_ = tuple(sorted(shared.elements(), key=str))
    return _make([(product_, gcd(*(c for _, c in terms)))])


def _inner_quotient(dim: Poly) -> Quotient | None:
    """The `n // d`, `d` a number, in `n // d + rest`: `(n // d + rest) // e` is one division."""
    for monomial, coefficient in dim.terms:
        atom = monomial[0] if len(monomial) == 1 and coefficient == 1 else None
        if isinstance(atom, Quotient) and isinstance(atom.den, int):
            return atom
    return None


def _content(poly: Poly, den: int) -> int:
    """Greatest common divisor of all coefficients of `poly` and `den`."""
    return reduce(gcd, (c for _, c in poly.terms), den)


def _scale_down(poly: Poly, by: int) -> Poly:
    return Poly(tuple((m, c // by) for m, c in poly.terms))


def mod(num: Dim, den: Dim) -> Dim:
    """`num % den` (Python's sign). ZeroDivisionError when `den` is the constant 0."""
    if isinstance(den, int):
        if isinstance(num, int):
            return num % den
        if den == 0:
            raise ZeroDivisionError("a dim modulo zero")
        if den < 0:
            return num - floordiv(num, den) * den
        _, rest = _split_multiple(_without_remainders(num, den), den)
        if isinstance(rest, int):
            return rest % den
        content = _content(rest, den)
        if content == den:
            return 0
        return content * of_atom(Remainder(_scale_down(rest, content), den // content))
    if isinstance(num, int):
        return 0 if num == 0 else of_atom(Remainder(num, den))
    _, rest = _split_by(num, den)
    if rest == 0:
        return 0
    common = _common(rest, den)
    if common != 1:
        return common * mod(floordiv(rest, common), floordiv(den, common))
    return of_atom(Remainder(rest, den))


def _without_remainders(num: Poly, den: int) -> Dim:
    """A dim with the same `% den`: `c * (n % d)` is `c * n` where `den` divides `c * d`."""
    total: Dim = num
    for monomial, c in num.terms:
        atom = monomial[0] if len(monomial) == 1 else None
        if isinstance(atom, Remainder) and isinstance(atom.den, int) and c * atom.den % den == 0:
            total = total + (atom.num - of_atom(atom)) * c
    return total


def minimum(*args: Dim) -> Dim:
    return _extremum("min", args, min)


def maximum(*args: Dim) -> Dim:
    return _extremum("max", args, max)


def _extremum(kind: str, args: tuple[Dim, ...], pick: Callable[[list[int]], int]) -> Dim:
    """Drops arguments that differ from another by a constant on the losing side."""
    flat: list[Dim] = []
    for arg in args:
        atom = _only_atom(arg)
        flat.extend(atom.args if isinstance(atom, Extremum) and atom.kind == kind else (arg,))
    kept: list[Dim] = []
    for arg in flat:
        for index, other in enumerate(kept):
            difference = arg - other
            if isinstance(difference, int):
                kept[index] = other + pick([0, difference])
                break
        else:
            kept.append(arg)
    if len(kept) == 1:
        return kept[0]
    return of_atom(Extremum(kind, tuple(sorted(set(kept), key=str))))


def _only_atom(dim: Dim) -> Atom | None:
    """The atom that `dim` is, if it is just one."""
    if isinstance(dim, Poly) and len(dim.terms) == 1:
        monomial, coefficient = dim.terms[0]
        if coefficient == 1 and len(monomial) == 1:
            return monomial[0]
    return None


def product(dims: Iterable[Dim]) -> Dim:
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def strides_of(dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """Strides of a tensor in row-major order, in elements."""
    strides: list[Dim] = []
    total: Dim = 1
    for dim in reversed(dims):
        strides.append(total)
        total = total * dim
    return tuple(reversed(strides))


def free_symbols(dim: Dim) -> frozenset[str]:
    """Names of the variables in `dim`."""
    return frozenset() if isinstance(dim, int) else _symbols_of(dim)


@lru_cache(4096)
def _symbols_of(dim: Poly) -> frozenset[str]:
    out: set[str] = set()
    for monomial, _ in dim.terms:
        for atom in monomial:
            match atom:
                case Sym(name):
                    out.add(name)
                case Quotient(num, den) | Remainder(num, den):
                    out |= free_symbols(num) | free_symbols(den)
                case Extremum(_, args):
                    for arg in args:
                        out |= free_symbols(arg)
    return frozenset(out)


def linear_in(dim: Dim, name: str) -> tuple[Dim, Dim] | None:
    """`(factor, rest)` with `dim == factor * name + rest`; None where it isn't so, or factor 0."""
    try:
        rest = substitute(dim, {name: 0})
        factor = substitute(dim, {name: 1}) - rest
    except ZeroDivisionError:
        return None
    linear = dim - factor * sym(name) - rest == 0 and name not in free_symbols(factor)
    return (factor, rest) if linear and factor != 0 else None


def substitute(dim: Dim, env: Mapping[str, Dim]) -> Dim:
    """`dim` with variables replaced; names not in `env` stay."""
    return map_atoms(dim, lambda atom: _substitute_atom(atom, env))


def map_atoms(dim: Dim, meaning: Callable[[Atom], Dim]) -> Dim:
    """`dim` with each atom of its terms replaced by what it means."""
    if isinstance(dim, int):
        return dim
    total: Dim = 0
    for monomial, coefficient in dim.terms:
        term: Dim = coefficient
        for atom in monomial:
            term = term * meaning(atom)
        total = total + term
    return total


def _substitute_atom(atom: Atom, env: Mapping[str, Dim]) -> Dim:
    match atom:
        case Sym(name):
            return env.get(name, of_atom(atom))
        case Quotient(num, den):
            return floordiv(substitute(num, env), substitute(den, env))
        case Remainder(num, den):
            return mod(substitute(num, env), substitute(den, env))
        case Extremum(kind, args):
            values = [substitute(arg, env) for arg in args]
            return minimum(*values) if kind == "min" else maximum(*values)
