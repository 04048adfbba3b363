"""Positions as sums of steps: `2 * i + k - 1` is the offset -1, a step of 2 for i and of 1 for k.

Input: a position, with a symbol for each index (`symbols` maps them to indices). Output: its parts,
or how a view can follow it along an axis. Non-goals: bounds (`ranges.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from dslc._frozen import dataclass
from dslc.ir.core import Value
from dslc.ir.dims import Atom, Dim, Poly, Sym, free_symbols, product
from dslc.ir.prove import Prover
from dslc.semantics.formulas.formula import Index, Position

Symbols = Mapping[str, Index]


def as_dim(atom: Atom) -> Dim:
    return Poly((((atom,), 1),))


def moving(symbols: Symbols, at: Dim) -> set[Index]:
    """The indices that a position depends on."""
    return {symbols[name] for name in free_symbols(at) if name in symbols}


def parts(symbols: Symbols, at: Dim) -> tuple[Dim, dict[Index, Dim], Dim]:
    """Offset and steps of a position, and what of it is not affine."""
    if isinstance(at, int):
        return at, {}, 0
    offset: Dim = 0
    rest: Dim = 0
    steps: dict[Index, Dim] = {}
    for monomial, coefficient in at.terms:
        term = Poly(((monomial, coefficient),)) if monomial else coefficient
        indices = [atom for atom in monomial if moving(symbols, as_dim(atom))]
        if not indices:
            offset = offset + term
        elif len(indices) == 1 and isinstance(indices[0], Sym):
            index = symbols[indices[0].name]
            step: Dim = coefficient
            for atom in monomial:
                step = step if atom is indices[0] else step * as_dim(atom)
            steps[index] = steps.get(index, 0) + step
        else:
            rest = rest + term
    return offset, steps, rest


def affine(symbols: Symbols, position: Position) -> tuple[Dim, dict[Index, Dim]] | None:
    """A position as an offset and a step for each index; None if it is not affine."""
    if isinstance(position.at, Value):
        return None
    offset, steps, rest = parts(symbols, position.at)
    return (offset, steps) if rest == 0 else None


# --- views --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Walk:
    """A slice of an axis, of `size` elements, and the indices that walk it, the largest step
    first."""

    indices: tuple[Index, ...]
    start: Dim
    stop: Dim
    step: int
    size: Dim


def walk(prover: Prover, symbols: Symbols, position: Position, dim: Dim) -> Walk | None:
    """How a view follows a position along an axis of size `dim`, if one can: at a fixed place, by a
    constant step, or through all of it by several indices, each within the step of the one before
    (`2 * i + k` with k below 2)."""
    found = affine(symbols, position)
    if found is None:
        return None
    offset, steps = found
    if not steps:
        return Walk((), offset, offset + 1, 1, 1)
    if len(steps) == 1:
        ((index, step),) = steps.items()
        some = isinstance(index.size, int) and index.size > 0
        if not isinstance(step, int) or (step not in (1, -1) and not some):
            return None
        last = offset + (index.size - 1) * step
        return Walk((index,), offset, last + (1 if step > 0 else -1), step, index.size)
    order = _digits(steps)
    if order is None or offset != 0:
        return None
    size = product(index.size for index in order)
    return Walk(order, 0, dim, 1, size) if prover.equal(size, dim) is True else None


def _digits(steps: Mapping[Index, Dim]) -> tuple[Index, ...] | None:
    """The indices from the one with the largest step on, if they are digits of a number."""
    order: list[Index] = []
    reached: Dim = 1
    left = dict(steps)
    while left:
        index = next((index for index, step in left.items() if step == reached), None)
        if index is None:
            return None
        del left[index]
        order.insert(0, index)
        reached = reached * index.size
    return tuple(order)
