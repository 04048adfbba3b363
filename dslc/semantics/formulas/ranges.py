"""How far each index goes, and that every read stays inside of its tensor.

Input: a formula whose right side is known. Output: the extent of each index; positions count all
indices from 0; reads that may be outside know along which axes. A range follows from what `in`
says, from the dims that the index walks alone, from the declared type (which may stop short of
those dims), or else from reads with `else` that it walks alone. Non-goals: proofs (`ir/prove.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from dslc.diagnostics import Diagnostic
from dslc.ir.core import Value
from dslc.ir.dims import (
    Atom,
    Dim,
    Poly,
    Quotient,
    Remainder,
    Sym,
    floordiv,
    free_symbols,
    product,
    substitute,
    sym,
)
from dslc.ir.prove import Fact, Prover
from dslc.semantics import errors
from dslc.semantics.context import Context, Mistake
from dslc.semantics.formulas.formula import Formula, Index, Position, Read, Reduction
from dslc.source import Span

_SYMBOL = re.compile(r"\.([A-Za-z_]\w*)(\.\d+)?")


def settle(ctx: Context, formula: Formula, result: Value) -> None:
    """Gives every index its range and checks every read; `result` is the right side."""
    used = _used(formula, result)
    for index in formula.indices:
        if not index.is_left and index not in used:
            raise Mistake(errors.unused_index(index.name, index.span))
    for index in formula.indices:
        _set_range(ctx, formula, index)
    _count_from_zero(formula)
    for read in formula.reads:
        _check(ctx, formula, read)


def shown(dim: Dim) -> str:
    """A position as its writer knows it: indices by their names."""
    return _SYMBOL.sub(r"\1", str(dim))


def _used(formula: Formula, result: Value) -> set[Index]:
    """Indices that something depends on."""
    symbols: set[str] = set()
    values: set[Value] = {result}
    for meaning in formula.meanings.values():
        if isinstance(meaning, Read):
            for position in meaning.positions:
                if isinstance(position.at, Value):
                    values.add(position.at)
                else:
                    symbols |= free_symbols(position.at)
        elif isinstance(meaning, Reduction):
            values.add(meaning.body)
    for eqn in formula.scratch.builder.eqns:
        values.update(eqn.inputs)
    return {index for index in formula.indices if index.symbol in symbols or index.value in values}


# --- ranges -----------------------------------------------------------------------------------


def _walks(formula: Formula, index: Index, *, strict: bool) -> Iterator[tuple[Dim, Read, int]]:
    """Dims that the index walks alone, in reads that must be inside (or in the others)."""
    for read in formula.reads:
        if (read.outside is None) == strict:
            for axis, position in enumerate(read.positions):
                if position.at == sym(index.symbol):
                    yield read.source.type.dims[axis], read, axis


def _set_range(ctx: Context, formula: Formula, index: Index) -> None:
    if index.range is not None:
        index.low, high = index.range
        index.extent, index.why = high - index.low, "as it says"
        _check_count(ctx, index, index.span)
        return
    walks = list(_walks(formula, index, strict=True))
    declared = index.declared
    if walks:
        dim, read, axis = walks[0]
        index.extent, index.why = dim, _place(read, axis)
        for other, again, place in walks[1:]:
            if ctx.same(dim, other) is not True and not _stops_short(ctx, declared, dim, other):
                known = ctx.prover.equal(dim, other) is False
                second = (str(other), _place(again, place), again.positions[place].span)
                first = (str(dim), index.why)
                span = read.positions[axis].span
                raise Mistake(errors.ranges_differ(index.name, span, first, second, known))
        if declared is not None and ctx.same(dim, declared[0]) is not True:
            if not _stops_short(ctx, declared, *(walk[0] for walk in walks)):
                known = ctx.prover.equal(dim, declared[0]) is False
                second = (str(dim), index.why, read.positions[axis].span)
                first = (str(declared[0]), "as declared")
                raise Mistake(errors.ranges_differ(index.name, declared[1], first, second, known))
            index.extent, index.why = declared[0], "as declared"
            _check_count(ctx, index, declared[1])
        return
    loose = next(_walks(formula, index, strict=False), None)
    if declared is not None:
        index.extent, index.why = declared[0], "as declared"
        _check_count(ctx, index, declared[1])
    elif loose is not None:
        index.extent, index.why = loose[0], _place(loose[1], loose[2])
    else:
        names = ", ".join(i.name for i in formula.indices if i.is_left)
        left = f"{formula.target}[{names}]" if index.is_left else None
        raise Mistake(errors.no_range(index.name, index.span, left))


def _check_count(ctx: Context, index: Index, span: Span) -> None:
    """No range has fewer than no values, for any size of the dims."""
    known = ctx.prover.compare(index.size, ">=", 0)
    if known is False or (known is None and ctx.choices is None):
        size = str(index.size)
        raise Mistake(errors.negative_range(index.name, size, span, known is False))


def _stops_short(ctx: Context, declared: object, *dims: Dim) -> bool:
    """Whether the declared dim is known to be within all of `dims`."""
    if not isinstance(declared, tuple):
        return False
    return all(ctx.prover.compare(declared[0], "<=", dim) is True for dim in dims)


def _place(read: Read, axis: int) -> str:
    return f"dim {axis} of {_tensor_text(read)}"


def _tensor_text(read: Read) -> str:
    return " ".join(read.span.text.split()).partition("[")[0]


def _count_from_zero(formula: Formula) -> None:
    """Indices that begin elsewhere begin at 0 in positions from here on."""
    moved: Mapping[str, Dim] = {
        index.symbol: sym(index.symbol) + index.low for index in formula.indices if index.low != 0
    }
    if moved:
        for read in formula.reads:
            read.positions = tuple(
                p if isinstance(p.at, Value) else Position(p.span, substitute(p.at, moved))
                for p in read.positions
            )


# --- reads ------------------------------------------------------------------------------------


def _check(ctx: Context, formula: Formula, read: Read) -> None:
    guarded: list[int] = []
    for axis, position in enumerate(read.positions):
        dim = read.source.type.dims[axis]
        if isinstance(position.at, Value):
            if read.outside is None:
                raise Mistake(_known_at_run_time(read, axis))
            guarded.append(axis)
        elif not _inside(ctx, formula, position.at, dim):
            if read.outside is not None:
                guarded.append(axis)
            elif not _benefit(ctx, formula, position.at, dim):
                raise Mistake(_may_be_outside(ctx, formula, read, axis))
    read.guarded = tuple(guarded)


def _indices_in(formula: Formula, at: Dim) -> list[Index]:
    symbols = free_symbols(at)
    return [index for index in formula.indices if index.symbol in symbols]


def _prover(ctx: Context, indices: Sequence[Index]) -> Prover:
    """The prover, with what is known about indices that count from 0."""
    prover = ctx.prover
    for index in indices:
        if isinstance(index.size, int):
            prover = prover.bound(index.symbol, 0, index.size - 1)
        else:
            prover = prover.bound(index.symbol, 0, None)
            prover = prover.assume(Fact(sym(index.symbol), "<=", index.size - 1))
    return prover


def _inside(ctx: Context, formula: Formula, at: Dim, dim: Dim) -> bool:
    indices = _indices_in(formula, at)
    if len(indices) == 1 and at == sym(indices[0].symbol) and indices[0].size == dim:
        return True
    prover = _prover(ctx, indices)
    return prover.compare(at, ">=", 0) is True and prover.compare(at, "<", dim) is True


def _benefit(ctx: Context, formula: Formula, at: Dim, dim: Dim) -> bool:
    """In a layer checked on its own, other sizes may be right; not where it is wrong for all."""
    if ctx.choices is None:
        return False
    low, high = _extremes(ctx, formula, at)
    below = low is not None and ctx.prover.compare(low, "<", 0) is True
    above = high is not None and ctx.prover.compare(high, ">=", dim) is True
    return not below and not above


def _known_at_run_time(read: Read, axis: int) -> Diagnostic:
    text = " ".join(read.span.text.split())
    return errors.may_be_outside(
        text,
        read.positions[axis].span,
        axis,
        str(read.source.type.dims[axis]),
        "known only when the program runs",
        read.tensor.origin,
        (),
        (f"say what stands outside: ({text} else 0)",),
    )


def _may_be_outside(ctx: Context, formula: Formula, read: Read, axis: int) -> Diagnostic:
    position, dim = read.positions[axis], read.source.type.dims[axis]
    at = position.at
    if isinstance(at, Value):
        return _known_at_run_time(read, axis)
    indices = _indices_in(formula, at)
    low, high = _extremes(ctx, formula, at)
    says = f"from {low} to {high}" if low is not None and high is not None else ""
    if low is not None and low == high:
        says = f"element {low}"
    notes = []
    if indices:
        ranges = [f"{i.name} goes from {i.low} to {i.low + i.size - 1} ({i.why})" for i in indices]
        notes.append(", ".join(ranges))
    text = " ".join(read.span.text.split())
    helps = [f"say what stands outside: ({text} else 0)"]
    condition = _condition(ctx, low, high, dim)
    if isinstance(at, int) and at < 0:
        helps = [f"the last element is number {dim - 1}"]
    elif condition:
        helps.append(f"or, if that never happens: assert {condition}")
    tensor = read.tensor.origin
    return errors.may_be_outside(text, position.span, axis, str(dim), says, tensor, notes, helps)


def _condition(ctx: Context, low: Dim | None, high: Dim | None, dim: Dim) -> str | None:
    """What would make the read safe, if that could be so."""
    if low is None or high is None:
        return None
    at_least = ctx.prover.compare(low, ">=", 0)
    at_most = ctx.prover.compare(high, "<", dim)
    if at_least is False or at_most is False:
        return None
    wanted = [] if at_least else [f"{low} >= 0"]
    wanted += [] if at_most else [f"{high} < {dim}"]
    return " and ".join(wanted) or None


# --- bounds, for messages ---------------------------------------------------------------------


def _extremes(ctx: Context, formula: Formula, at: Dim) -> tuple[Dim | None, Dim | None]:
    """The least and the greatest value of a position, where that is easily said."""
    if isinstance(at, int):
        return at, at
    low: Dim = 0
    high: Dim = 0
    for monomial, coefficient in at.terms:
        ends = _of_monomial(ctx, formula, monomial)
        if ends is None:
            return None, None
        least, most = ends if coefficient > 0 else (ends[1], ends[0])
        low, high = low + least * coefficient, high + most * coefficient
    return low, high


def _of_monomial(
    ctx: Context, formula: Formula, monomial: tuple[Atom, ...]
) -> tuple[Dim, Dim] | None:
    """The ends of a product with one factor that depends on indices; the others are sizes."""
    moving = [atom for atom in monomial if _indices_in(formula, Poly((((atom,), 1),)))]
    fixed = product(Poly((((atom,), 1),)) for atom in monomial if atom not in moving)
    if not moving:
        return fixed, fixed
    ends = _of_atom(ctx, formula, moving[0]) if len(moving) == 1 else None
    return None if ends is None else (fixed * ends[0], fixed * ends[1])


def _of_atom(ctx: Context, formula: Formula, atom: Atom) -> tuple[Dim, Dim] | None:
    match atom:
        case Sym(name):
            index = next(i for i in formula.indices if i.symbol == name)
            return 0, index.size - 1
        case Quotient(num, int() as den) if den > 0:
            low, high = _extremes(ctx, formula, num)
            return (
                None if low is None or high is None else (floordiv(low, den), floordiv(high, den))
            )
        case Remainder(_, den) if not _indices_in(formula, den):
            return 0, den - 1
    return None
