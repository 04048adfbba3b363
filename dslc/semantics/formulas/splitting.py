"""Indices that are read by their quotients and remainders, as two indices each.

    y[n, c, i, j] = x[n, 4 * c + 2 * (i % 2) + j % 2, i // 2, j // 2]

Input: a formula whose indices have ranges. Output: where all positions know `i` by `i // 2` and
`i % 2`, and its range is a multiple of 2, `i` has two parts, `2 * high + low`, which positions and
reductions have in its place: so they are affine again, and reads views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dslc.ir.core import Value
from dslc.ir.dims import (
    Atom,
    Dim,
    Poly,
    Quotient,
    Remainder,
    Sym,
    free_symbols,
    map_atoms,
    mod,
    of_atom,
    sym,
)
from dslc.semantics.context import Context
from dslc.semantics.formulas.formula import Formula, Index, Position, Reduction


def split_indices(ctx: Context, formula: Formula, result: Value) -> None:
    """Gives indices their parts."""
    used = {value for eqn in formula.scratch.builder.eqns for value in eqn.inputs}
    used |= {m.body for m in formula.meanings.values() if isinstance(m, Reduction)}
    used |= {p.at for read in formula.reads for p in read.positions if isinstance(p.at, Value)}
    for index in list(formula.indices):
        by = _divisor(formula, index)
        if by is None or index.value in used or index.value is result:
            continue
        if ctx.prover.equal(mod(index.size, by), 0) is True:
            _split(formula, index, by)


def _divisor(formula: Formula, index: Index) -> int | None:
    """The one number by which all positions divide the index."""
    found: set[int] = set()
    for read in formula.reads:
        for position in read.positions:
            if isinstance(position.at, Poly) and index.symbol in free_symbols(position.at):
                for monomial, _ in position.at.terms:
                    for atom in monomial:
                        if not _collect(atom, index, found):
                            return None
    return found.pop() if len(found) == 1 else None


def _collect(atom: Atom, index: Index, found: set[int]) -> bool:
    """False where the index stands in the atom in another way."""
    match atom:
        case Sym():
            return True
        case Quotient(num, int() as den) | Remainder(num, int() as den) if num == sym(index.symbol):
            found.add(den)
            return True
    return index.symbol not in free_symbols(of_atom(atom))


def _split(formula: Formula, index: Index, by: int) -> None:
    high, low = (
        Index(index.name, index.span, f"{index.symbol}.{part}", index.value, extent=extent)
        for part, extent in (("high", index.size // by), ("low", by))
    )
    whole = sym(index.symbol)
    atoms: Mapping[Atom, Dim] = {
        Sym(index.symbol): sym(high.symbol) * by + sym(low.symbol),
        Quotient(whole, by): sym(high.symbol),
        Remainder(whole, by): sym(low.symbol),
    }

    def replaced(atom: Atom) -> Dim:
        return atoms.get(atom, of_atom(atom))

    for read in formula.reads:
        read.positions = tuple(
            p if isinstance(p.at, Value) else Position(p.span, map_atoms(p.at, replaced))
            for p in read.positions
        )
    for value, meaning in formula.meanings.items():
        if isinstance(meaning, Reduction) and index in meaning.indices:
            parts = [(high, low) if i is index else (i,) for i in meaning.indices]
            indices = tuple(part for some in parts for part in some)
            formula.meanings[value] = replace(meaning, indices=indices)
    index.parts = (high, low)
    place = formula.indices.index(index)
    formula.indices[place : place + 1] = [high, low]
