"""Lays blocks of memory out in one arena, so that blocks that live together don't overlap.

Input: blocks, with a size and the steps between which they live. Output: their offsets, and the
size of the arena. Offsets are multiples of 64 bytes.

A size is a sum of multiples of units: bytes, and products of dims that are known at a call only.

    400 * N + 64    is    (64 bytes, 400 of N)

One block lies above another, whatever the dims are, if it begins with no fewer of each unit than
the other ends with. So sizes that are numbers and sizes that aren't lie in one another's gaps.
Behind them, sizes that are no such sums (`T - c * (T // c)`) share slots of equal size.

Blocks are placed one after the other, each at the lowest place where it fits (first fit), in
several orders, of which the best is taken. Non-goals: which value is in which block (`memory.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import le

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
    items: list[_Item] = []
    others: list[Block] = []
    for block in blocks:
        size = align(block.size) if isinstance(block.size, int) else block.size
        terms = dict(_terms(size))
        if terms.keys() <= units.keys() and _is_about(terms):
            items.append(_Item(block, tuple(max(0, terms.get(unit, 0)) for unit in units)))
        else:
            others.append(block)
    if any(block.region for block in others):  # all regions share one slot
        others += [item.block for item in items if item.block.region]
        items = [item for item in items if not item.block.region]
    return _lay_out_slots(others, _lay_out_multiples(items, tuple(units)))


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


@dataclass(slots=True, eq=False)
class _Item:
    """A block of a size in units; `start` and `top` once it is placed, and `depth`: how many blocks
    below it end anywhere."""

    block: Block
    size: Counts
    start: Counts = ()
    top: Counts = ()
    depth: int = 0

    def place(self, start: Counts) -> None:
        self.start = start
        self.top = tuple(map(sum, zip(start, self.size)))

    @property
    def whole(self) -> bool:
        """Whether it begins and ends at multiples of the alignment, whatever the units are."""
        return not any(count % ALIGNMENT for count in (*self.start, *self.size))

    @property
    def gaps(self) -> int:
        """How many blocks that may end anywhere there are up to its end."""
        return self.depth + (not self.whole)


def _lies_below(end: Counts, start: Counts) -> bool:
    return all(map(le, end, start))


def _is_under(item: _Item, other: _Item) -> bool:
    """Whether what the other one ends with, alignments included, has room for the item."""
    return _lies_below(item.top, other.top) and item.gaps <= other.gaps


# --- first fit ------------------------------------------------------------------------------------


def _lay_out_multiples(items: list[_Item], units: Sequence[Monomial]) -> Dim:
    """Sets offsets; returns the bytes needed. Where the end of a block may be no multiple of the
    alignment, one more is left free below what lies above it."""
    _pack(items, units)
    _deepen(items)
    for item in items:
        item.block.offset = align(_dim(item.start, units)) + item.depth * ALIGNMENT
    highest = [i for i in items if not any(o.top != i.top and _is_under(i, o) for o in items)]
    tops = [align(_dim(item.top, units)) + item.gaps * ALIGNMENT for item in highest]
    return maximum(*tops) if tops else 0


def _dim(counts: Counts, units: Sequence[Monomial]) -> Dim:
    total: Dim = 0
    for unit, count in zip(units, counts):
        if count:
            total = total + (Poly(((unit, count),)) if unit else count)
    return total


def _pack(items: list[_Item], units: Sequence[Monomial]) -> None:
    """Places the items. The first orders are by size, now and for large dims, by time, and those of
    the largest live set before all others; the next ones put the item first that is on top of all.
    """
    samples = [[_number(_dim((1,), [unit]), n) for unit in units] for n in _SAMPLES]
    *_, usual = samples
    least = [_most_live(items, values) for values in samples]

    def excess(item: _Item) -> float:
        """How much higher the item ends than the least height."""
        return max(_worth(item.top, each) / max(1, low) for each, low in zip(samples, least))

    def by_size(item: _Item) -> tuple[int, int]:
        return -_worth(item.size, usual), item.block.first

    step, _ = largest_live_set(item.block for item in items)
    fullest = {item for item in items if item.block.first <= step <= item.block.last}
    orders = [
        sorted(items, key=by_size),
        sorted(items, key=lambda i: (tuple(-count for count in reversed(i.size)), i.block.first)),
        sorted(items, key=lambda i: (i.block.first - i.block.last, *by_size(i))),
        sorted(items, key=lambda i: i.block.first),
        sorted(items, key=lambda i: (i not in fullest, i.block.first - i.block.last, *by_size(i))),
    ]
    best = float("inf")
    kept: list[tuple[_Item, Counts]] = []
    for turn in range(len(orders) + min(TRIES, _TRIED_BLOCKS // max(1, len(items)))):
        order = orders[turn % len(orders)]
        _place(order, usual)
        top = max(order, key=excess, default=None)
        if top is None or excess(top) < best:
            best = 0 if top is None else excess(top)
            kept = [(item, item.start) for item in items]
        if top is None or best <= 1:
            break
        order.remove(top)
        order.insert(0, top)
    for item, start in kept:
        item.place(start)


def _worth(counts: Counts, values: Sequence[int]) -> int:
    return sum(count * value for count, value in zip(counts, values))


def _most_live(items: Sequence[_Item], values: Sequence[int]) -> int:
    """The most that lives at the same time."""
    changes: dict[int, int] = {}
    for item in items:
        size = _worth(item.size, values)
        changes[item.block.first] = changes.get(item.block.first, 0) + size
        changes[item.block.last + 1] = changes.get(item.block.last + 1, 0) - size
    live = most = 0
    for step in sorted(changes):
        live += changes[step]
        most = max(most, live)
    return most


def _place(order: Sequence[_Item], values: Sequence[int]) -> None:
    """First fit in this order."""
    placed: list[_Item] = []
    for item in order:
        near = [other for other in placed if meet(item.block, other.block)]
        near.sort(key=lambda o: _worth(o.start, values))
        item.place(_first_fit(item.size, near))
        placed.append(item)


def _first_fit(size: Counts, near: Sequence[_Item]) -> Counts:
    """A low start at which the size fits between others, which are sorted from below."""
    start: Counts = (0,) * len(size)
    end = size
    moved = True
    while moved:
        moved = False
        for other in near:
            if not (_lies_below(other.top, start) or _lies_below(end, other.start)):
                start = tuple(map(max, start, other.top))
                end = tuple(map(sum, zip(start, size)))
                moved = True
    return start


def _deepen(items: Sequence[_Item]) -> None:
    """Sets how many blocks that may end anywhere lie below each."""
    if all(item.whole for item in items):
        return
    lower: list[_Item] = []
    for item in sorted(items, key=lambda i: sum(i.start)):
        below = [o for o in lower if meet(item.block, o.block) and _lies_below(o.top, item.start)]
        item.depth = max((other.gaps for other in below), default=0)
        lower.append(item)


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
