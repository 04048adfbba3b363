"""Lays blocks of memory out in one arena, so that blocks that live together don't overlap.

Input: blocks, with a size and the steps between which they live. Output: their offsets, and the
size of the arena. Offsets are multiples of 64 bytes.

A size is a sum of multiples of units: bytes, and products of dims that are known at a call only.

    400 * N + 64    is    (64 bytes, 400 of N)

One block lies above another, whatever the dims are, if it begins with no fewer of each unit than
the other ends with. So sizes that are numbers and sizes that aren't lie in one another's gaps.
Behind them, sizes that are no such sums (`T - c * (T // c)`) share slots of equal size.

Blocks are placed one after the other, each at the lowest place where it fits (first fit), in
several orders, of which the best is taken. A training step has thousands: what is asked of many of
them at once is asked of arrays. Non-goals: which value is in which block (`plan.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

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
    free_symbols,
    maximum,
    substitute,
)  # fmt: skip

ALIGNMENT = 64
TRIES = 24  # orders of first fit that are tried
_CLOSE = 1.005  # to the least height: no more orders are tried then
_TRIED_BLOCKS = 4096  # in all tries together, at most
_USUAL = 64  # what an unknown dim counts as where live sets are compared
_SAMPLES = (1, _USUAL)  # and where layouts are


@dataclass(slots=True, eq=False)
class Block:
    """Memory of the arena during `first..last` (both included). `region`: of a scan's body."""

    size: Dim
    first: int
    last: int
    offset: Dim = 0
    region: bool = False


def align(size: Dim) -> Dim:
    """`size` rounded up to a multiple of the alignment."""
    return (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT


def meet(a: Block, b: Block) -> bool:
    """Whether two blocks live at the same time."""
    return a.first <= b.last and b.first <= a.last


def lay_out(blocks: Sequence[Block]) -> Dim:
    """Sets the offset of every block; returns the total size."""
    units = _units(blocks)
    items: list[tuple[Block, Counts]] = []
    others: list[Block] = []
    for block in blocks:
        size = align(block.size) if isinstance(block.size, int) else block.size
        terms = dict(_terms(size))
        if terms.keys() <= units.keys() and _is_about(terms):
            items.append((block, tuple(max(0, terms.get(unit, 0)) for unit in units)))
        else:
            others.append(block)
    if any(block.region for block in others):  # all regions share one slot
        others += [block for block, _ in items if block.region]
        items = [(block, size) for block, size in items if not block.region]
    multiples = _items_of([block for block, _ in items], [size for _, size in items], len(units))
    return _lay_out_slots(others, _lay_out_multiples(multiples, tuple(units)))


def largest_live_set(blocks: Iterable[Block]) -> tuple[int, Dim]:
    """The step at which most bytes live, and how many: no layout needs less. Unknown dims count as
    if each were 64 where steps are compared."""
    each = list(blocks)
    changes: dict[int, Dim] = {}
    for block in each:
        size = align(block.size)
        changes[block.first] = changes.get(block.first, 0) + size
        changes[block.last + 1] = changes.get(block.last + 1, 0) - size
    best: tuple[int, Dim] = (0, 0)
    live: Dim = 0
    for step in sorted(changes):
        live = live + changes[step]
        if _number(live, _USUAL) > _number(best[1], _USUAL):
            best = (step, live)
    return best


def _number(size: Dim, each: int) -> int:
    """The size where each unknown dim is the same number."""
    known: dict[str, Dim] = dict.fromkeys(free_symbols(size), each)
    number = substitute(size, known)
    return number if isinstance(number, int) else 0


# --- units ----------------------------------------------------------------------------------------

Array = np.ndarray[Any, Any]
Counts = tuple[int, ...]  # of each unit


def _terms(size: Dim) -> tuple[tuple[Monomial, int], ...]:
    return size.terms if isinstance(size, Poly) else (((), size),) if size else ()


def _units(blocks: Iterable[Block]) -> dict[Monomial, None]:
    """What sizes are multiples of, and is never negative, as a sorted set: bytes first."""
    found: set[Monomial] = {()}
    for block in blocks:
        terms = _terms(block.size)
        alone = len(terms) == 1  # a size is not negative
        found.update(unit for unit, _ in terms if alone or all(map(_is_natural, unit)))
    return dict.fromkeys(sorted(found, key=lambda unit: (len(unit), str(unit))))


def _is_about(terms: Mapping[Monomial, int]) -> bool:
    """Whether the size is about the sum of its positive terms, which have room for it: what is
    taken off has fewer factors, as in `N * T - N`."""
    return all(
        any(c > 0 and set(unit) < set(other) for other, c in terms.items())
        for unit, count in terms.items()
        if count < 0
    )


def _is_natural(atom: Atom) -> bool:
    """Whether it is never negative, as far as can be seen."""
    match atom:
        case Sym():
            return True
        case Quotient(num, den):
            return is_never_negative(num) and is_never_negative(den)
        case Remainder(_, den):
            return is_never_negative(den)
        case Extremum(kind, args):
            return (any if kind == "max" else all)(map(is_never_negative, args))


def is_never_negative(dim: Dim) -> bool:
    return all(count > 0 and all(map(_is_natural, unit)) for unit, count in _terms(dim))


@dataclass(frozen=True, slots=True, eq=False)
class _Items:
    """Blocks of sizes in units: `sizes` is blocks x units, `first` and `last` one of each block."""

    blocks: Sequence[Block]
    sizes: Array
    first: Array
    last: Array


def _items_of(blocks: Sequence[Block], sizes: Sequence[Counts], units: int) -> _Items:
    return _Items(
        blocks,
        np.array(sizes, np.int64).reshape(len(blocks), units),
        np.array([block.first for block in blocks], np.int64),
        np.array([block.last for block in blocks], np.int64),
    )


# --- first fit ------------------------------------------------------------------------------------


def _lay_out_multiples(items: _Items, units: Sequence[Monomial]) -> Dim:
    """Sets offsets; returns the bytes needed. Where the end of a block may be no multiple of the
    alignment, one more is left free below what lies above it."""
    starts = _pack(items, units)
    tops = starts + items.sizes
    odd = (np.hstack([starts, items.sizes]) % ALIGNMENT != 0).any(axis=1)
    depths = _depths(items, starts, odd)
    for block, start, depth in zip(items.blocks, starts.tolist(), depths.tolist()):
        block.offset = align(_dim(start, units)) + depth * ALIGNMENT
    ends = np.unique(np.hstack([tops, (depths + odd)[:, None]]), axis=0)
    highest = [end.tolist() for end in ends if (end <= ends).all(axis=1).sum() == 1]
    sizes = [align(_dim(top, units)) + gaps * ALIGNMENT for *top, gaps in highest]
    return maximum(*sizes) if sizes else 0


def _dim(counts: Iterable[int], units: Sequence[Monomial]) -> Dim:
    total: Dim = 0
    for unit, count in zip(units, counts):
        if count:
            total = total + (Poly(((unit, count),)) if unit else count)
    return total


def _pack(items: _Items, units: Sequence[Monomial]) -> Array:
    """Where the items start. The first orders are by size, now and for large dims, by time, and
    those of the largest live set before all others; the next ones put the item first that is on top
    of all.
    """
    samples = np.array([[_number(_dim((1,), [u]), n) for u in units] for n in _SAMPLES], float).T
    usual = samples[:, -1]
    least = np.maximum(1, [_most_live(items, values) for values in samples.T])
    worth = -(items.sizes @ usual)
    lives = items.first - items.last
    step, _ = largest_live_set(items.blocks)
    passed = (items.first > step) | (items.last < step)
    # The last key counts first.
    orders = [
        np.lexsort((items.first, worth)).tolist(),
        np.lexsort((items.first, *-items.sizes.T)).tolist(),
        np.lexsort((items.first, worth, lives)).tolist(),
        np.argsort(items.first, kind="stable").tolist(),
        np.lexsort((items.first, worth, lives, passed)).tolist(),
    ]
    best, kept = float("inf"), np.zeros_like(items.sizes)
    for turn in range(len(orders) + min(TRIES, _TRIED_BLOCKS // max(1, len(items.blocks)))):
        order = orders[turn % len(orders)]
        if not order:
            break
        starts = _place(order, items, usual)
        # How much higher each ends than the least height.
        excess = ((starts + items.sizes) @ samples / least).max(axis=1)[order]
        top = int(excess.argmax())
        if excess[top] < best:
            best, kept = float(excess[top]), starts
        if best <= _CLOSE:
            break
        order.insert(0, order.pop(top))
    return kept


def _most_live(items: _Items, values: Array) -> float:
    """The most that lives at the same time."""
    if not items.blocks:
        return 0
    changes = np.zeros(int(items.last.max()) - int(items.first.min()) + 2)
    np.add.at(changes, items.first - items.first.min(), items.sizes @ values)
    np.subtract.at(changes, items.last + 1 - items.first.min(), items.sizes @ values)
    return float(changes.cumsum().max())


def _place(order: Sequence[int], items: _Items, values: Array) -> Array:
    """First fit in this order: where each starts."""
    starts, tops = np.zeros_like(items.sizes), np.zeros_like(items.sizes)
    placed = np.zeros(len(order), np.int64)  # what has a place, from below
    heights: list[float] = []
    for count, item in enumerate(order):
        known = placed[:count]
        meet = (items.first[known] <= items.last[item]) & (items.last[known] >= items.first[item])
        near = known[meet]
        starts[item] = _first_fit(items.sizes[item], starts[near], tops[near])
        tops[item] = starts[item] + items.sizes[item]
        height = float(starts[item] @ values)
        at = bisect_right(heights, height)
        heights.insert(at, height)
        placed[at + 1 : count + 1] = placed[at:count].copy()
        placed[at] = item
    return starts


def _first_fit(size: Array, starts: Array, tops: Array) -> Array:
    """The lowest start above some of the others, which are sorted, with room below all the rest."""
    floor = np.vstack([np.zeros_like(size), tops])
    ceiling = np.vstack([starts, np.full_like(size, np.iinfo(np.int64).max)])
    low = np.maximum.accumulate(floor)
    high = np.minimum.accumulate(ceiling[::-1])[::-1]
    lowest: Array = low[(low + size <= high).all(axis=1).argmax()]
    return lowest


def _depths(items: _Items, starts: Array, odd: Array) -> Array:
    """How many blocks that may end anywhere (`odd`) lie below each."""
    depths = np.zeros(len(starts), np.int64)
    if not odd.any():
        return depths
    tops = starts + items.sizes
    lower = np.argsort(starts.sum(axis=1), kind="stable")
    for count, item in enumerate(lower):
        known = lower[:count]
        meet = (items.first[known] <= items.last[item]) & (items.last[known] >= items.first[item])
        below = known[meet & (tops[known] <= starts[item]).all(axis=1)]
        depths[item] = (depths[below] + odd[below]).max(initial=0)
    return depths


# --- slots ----------------------------------------------------------------------------------------


def _lay_out_slots(blocks: Sequence[Block], total: Dim) -> Dim:
    """Behind `total`: blocks of equal size that don't live together share a slot."""
    slots: list[list[Block]] = []
    for block in sorted(blocks, key=lambda b: b.first):
        for tenants in slots:
            alike = all(t.size == block.size or (t.region and block.region) for t in tenants)
            if alike and not any(meet(block, t) for t in tenants):
                tenants.append(block)
                break
        else:
            slots.append([block])
    for tenants in slots:
        for block in tenants:
            block.offset = total
        total = total + maximum(*(align(block.size) for block in tenants))
    return total
