"""Sizes of the IR as the artifact keeps them.

Input: a `Dim`, in normal form. Output: a `DimExpr`, which the runtime evaluates at each call.
"""

from __future__ import annotations

from dslc.ir.dims import Atom, Dim, Extremum, Quotient, Remainder, Sym
from dslc_runtime.dims import DimExpr


def dim_expr(dim: Dim) -> DimExpr:
    """A dim in the manifest's form: `2 * N + 1` is `("+", ("*", 2, "N"), 1)`."""
    if isinstance(dim, int):
        return dim
    terms = []
    for monomial, coefficient in dim.terms:
        factors: list[DimExpr] = [_atom(atom) for atom in monomial]
        if coefficient != 1 or not factors:
            factors.insert(0, coefficient)
        terms.append(factors[0] if len(factors) == 1 else ("*", *factors))
    return terms[0] if len(terms) == 1 else ("+", *terms)


def _atom(atom: Atom) -> DimExpr:
    match atom:
        case Sym(name):
            return name
        case Quotient(num, den):
            return ("//", dim_expr(num), dim_expr(den))
        case Remainder(num, den):
            return ("%", dim_expr(num), dim_expr(den))
        case Extremum(kind, args):
            return (kind, *(dim_expr(arg) for arg in args))
