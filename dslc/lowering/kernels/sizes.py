"""Dims as TIR: a dim over a kernel's (or an entry's) dim variables becomes an int64 expression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import tirx

from dslc.diagnostics import InternalError
from dslc.ir.dims import Dim, Extremum, Quotient, Remainder, Sym
from dslc.ir.op import Expr


def i64(value: int) -> Expr:
    return tirx.IntImm("int64", value)


def dim_expression(dim: Dim, symbols: Mapping[str, Expr]) -> Expr:
    """A dim over the kernel's dim variables, as an int64 expression."""
    if isinstance(dim, int):
        return i64(dim)
    total: Expr = None
    for monomial, coefficient in dim.terms:
        term: Expr = None if coefficient == 1 and monomial else i64(coefficient)
        for atom in monomial:
            factor = _atom_expression(atom, symbols)
            term = factor if term is None else term * factor
        total = term if total is None else total + term
    return total


def _atom_expression(atom: Any, symbols: Mapping[str, Expr]) -> Expr:
    match atom:
        case Sym(name):
            return symbols[name]
        case Quotient(num, den):
            return tirx.floordiv(dim_expression(num, symbols), dim_expression(den, symbols))
        case Remainder(num, den):
            return tirx.floormod(dim_expression(num, symbols), dim_expression(den, symbols))
        case Extremum(kind, args):
            pick = tirx.min if kind == "min" else tirx.max
            total = dim_expression(args[0], symbols)
            for arg in args[1:]:
                total = pick(total, dim_expression(arg, symbols))
            return total
    raise InternalError(f"unknown atom {atom!r} in a dim")
