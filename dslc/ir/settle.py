"""The assertion that would settle an equation between dims that the prover can't decide.

Input: a prover and an equation that it answers None for. Output: facts that, if they hold, make it
decide, as simple as can be found: `T % 2 == 0` for `T // 2 * 2 == T`, `N >= 2` for
`N - min(2, N) == N - 2`; else the equation itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from dslc.ir.dims import Dim, Extremum, Poly, Quotient, Remainder, mod
from dslc.ir.prove import Fact, Prover

_MOST_TRIED = 24


def settling(prover: Prover, left: Dim, right: Dim) -> tuple[Fact, ...]:
    """Facts that would prove `left == right`."""
    tried = list(dict.fromkeys(_candidates(left - right)))[:_MOST_TRIED]
    possible = [f for f in tried if prover.compare(f.left, f.op, f.right) is None]
    for fact in possible:
        if prover.assume(fact).equal(left, right) is True:
            return (fact,)
    whole = tuple(fact for fact in possible if fact.op == "==")
    if len(whole) > 1 and prover.assume(*whole).equal(left, right) is True:
        return whole
    return (Fact(left, "==", right),)


def _candidates(dim: Dim) -> Iterator[Fact]:
    for monomial, _ in dim.terms if isinstance(dim, Poly) else ():
        for atom in monomial:
            match atom:
                case Quotient(num, den) | Remainder(num, den):
                    yield from _candidates(num)
                    yield Fact(mod(num, den), "==", 0)
                case Extremum(_, args):
                    for arg in args:
                        yield from _candidates(arg)
                    for a in args:
                        for b in args:
                            if a != b and not isinstance(a, int):
                                yield Fact(a, ">=", b)
                                yield Fact(a, "<=", b)
