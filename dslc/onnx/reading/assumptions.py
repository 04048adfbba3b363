"""What must hold of dims: asserted in the file where it can't be seen, refused where it can't be.

Input: pairs of sizes that handlers need to be equal, to divide, to be large enough. Output: the
conditions of `assert` statements; `Fixed` where a dim can only be one number. Non-goals: proofs
(the checker's).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from dslc.ir.dims import (
    Dim,
    Poly,
    Quotient,
    floordiv,
    free_symbols,
    mod,
    of_atom,
    substitute,
    sym,
)
from dslc.onnx.reading.problems import Fixed, Refused


class Assumptions:
    """Conditions on dims, in the order in which nodes need them.

    `careful` ones say as well that windows fit, where that is known only when the model is called;
    most texts are proven without.
    """

    def __init__(self, careful: bool) -> None:
        self.careful = careful
        self.asserts: dict[str, None] = {}

    def assume(self, a: Dim, b: Dim) -> None:
        """Two dims are equal; what can't be seen is asserted. Refused where they differ."""
        if a == b:
            return
        difference = a - b
        if isinstance(difference, int):
            raise Refused(f"a size of {a} stands where {b} is needed", "E0504")
        a, b = self._multiplied(*_without_common(a, b))
        if a == b:
            return
        if isinstance(a - b, int):
            raise Refused(f"a size of {a} stands where {b} is needed", "E0504")
        for dim, size in ((a, b), (b, a)):
            if isinstance(dim, Poly) and isinstance(size, int) and str(dim).isidentifier():
                raise Fixed(str(dim), size)
        # The symmetric text is the same condition.
        if f"{b} == {a}" not in self.asserts:
            self.asserts.setdefault(f"{a} == {b}")

    def _multiplied(self, a: Dim, b: Dim) -> tuple[Dim, Dim]:
        """Without a division that leaves no rest: T * N // 5 == N says T == 5."""
        for dim, other in ((a, b), (b, a)):
            atom = dim.terms[0][0][0] if isinstance(dim, Poly) and dim.terms[0][0] else None
            if not isinstance(atom, Quotient) or of_atom(atom) != dim:
                continue
            if f"{mod(atom.num, atom.den)} == 0" in self.asserts:
                return _without_common(atom.num, other * atom.den)
        return a, b

    def assume_at_most(self, dim: Dim, most: int) -> None:
        """A dim is no larger."""
        self.asserts.setdefault(f"{dim} <= {most}")

    def exact_quotient(self, dim: Dim, by: Dim) -> Dim:
        """dim // by; asserted to leave no rest where that can't be seen."""
        quotient = floordiv(dim, by)
        if quotient * by != dim:
            dim, by = _without_common(dim, by)
            rest = mod(dim, by)
            if isinstance(rest, int):
                raise Refused(f"{dim} is no multiple of {by}", "E0504")
            self.asserts.setdefault(f"{rest} == 0")
        return quotient

    def assume_at_least(self, dim: Dim, least: int) -> None:
        """A dim is at least so large."""
        if isinstance(dim, int):
            if dim < least:
                raise Refused(f"a size of {dim} is too small: {least} is needed", "E0504")
        else:
            self.asserts.setdefault(f"{dim} >= {least}")

    def assume_windows(self, sizes: Sequence[Dim]) -> None:
        """There are so many windows along each dim; Refused where that is none."""
        for size in sizes:
            if isinstance(size, int):
                if size < 1:
                    raise Refused("its window does not fit into what it reads", "E0504")
            elif self.careful:
                least = substitute(size, dict.fromkeys(free_symbols(size), 0))
                if isinstance(least, int) and least < 0:
                    # Written without the number that is taken off: H >= 4, not H - 4 >= 0.
                    self.asserts.setdefault(f"{size - least} >= {-least}")


def _without_common(a: Dim, b: Dim) -> tuple[Dim, Dim]:
    """Both without the factors that they share."""
    for name in sorted(free_symbols(a) & free_symbols(b)):
        while _divides(sym(name), a) and _divides(sym(name), b):
            a, b = floordiv(a, sym(name)), floordiv(b, sym(name))
    numbers = [c for d in (a, b) for c in ([d] if isinstance(d, int) else [c for _, c in d.terms])]
    common = gcd(*numbers) or 1
    return floordiv(a, common), floordiv(b, common)


def _divides(factor: Dim, dim: Dim) -> bool:
    return dim != 0 and floordiv(dim, factor) * factor == dim
