"""Lays blocks of memory out in one arena, so that blocks that live together don't overlap.

Input: blocks, with a size and the steps between which they live. Output: their offsets, and the
size of the arena. Offsets are multiples of 64 bytes.

Sizes that are numbers are laid out exactly, and so are those that are multiples of one product of
dims (`400 * N`, `64 * N`): in units of it. Behind them, sizes of any other form share slots of
equal size; the regions of scans share one as large as the largest of them.

Exactly means first fit: in several orders, of which the best is taken. Non-goals: which value is in
which block (`memory.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dslc.ir.dims import Dim, Monomial, Poly, free_symbols, maximum, product, substitute

ALIGNMENT = 64
TRIES = 24  # orders of first fit that are tried
_TRIED_BLOCKS = 4096  # in all tries together, at most
_USUAL = 64  # what an unknown dim counts as where live sets are compared


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
    by_unit: dict[Monomial, list[_Item]] = {}
    others: list[Block] = []
    for block in blocks:
        unit, count = _multiple(block)
        if count is None:
            others.append(block)
        else:
            by_unit.setdefault(unit, []).append(_Item(block, count))
    total: Dim = 0
    for unit in sorted(by_unit, key=len):
        total = total + _lay_out_multiples(by_unit[unit], unit, total)
    return _lay_out_slots(others, total)


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
        if _usual(live) > _usual(best[1]):
            best = (step, live)
    return best


def _usual(size: Dim) -> int:
    usual: dict[str, Dim] = dict.fromkeys(free_symbols(size), _USUAL)
    number = substitute(size, usual)
    return number if isinstance(number, int) else 0


# --- exactly --------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Item:
    """A block of `count` units; `start` and `depth` (how many lie below it) once it is placed."""

    block: Block
    count: int
    start: int = 0
    depth: int = 0


def _multiple(block: Block) -> tuple[Monomial, int | None]:
    """The block's size as a number of units, which is `()` for bytes."""
    if isinstance(block.size, int):
        return (), align_number(block.size)
    match block.size:
        case Poly(((unit, count),)) if count > 0 and not block.region:
            return unit, count
    return (), None


def align_number(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _lay_out_multiples(items: list[_Item], unit: Monomial, base: Dim) -> Dim:
    """Sets offsets from `base` on; returns the bytes needed. Where a count of units is no multiple
    of the alignment, one more is left free for each block that lies below."""
    height = _pack(items)
    whole = not unit or all(item.count % ALIGNMENT == 0 for item in items)
    deepest = 0 if whole else _deepen(items)
    size = product(Poly((((atom,), 1),)) for atom in unit)
    for item in items:
        gap = 0 if whole else item.depth * ALIGNMENT
        item.block.offset = base + align(item.start * size) + gap
    return align(height * size) + (deepest + 1 if deepest else 0) * ALIGNMENT


def _pack(items: list[_Item]) -> int:
    """Sets where each item starts; returns the height. The first order is by size; the next ones
    put the item first that is on top of all."""
    least = _least(items)
    order = sorted(items, key=lambda i: (-i.count, i.block.first))
    best, kept = _place(order), {i: i.start for i in items}
    for _ in range(min(TRIES, _TRIED_BLOCKS // max(1, len(items)))):
        if best <= least:
            break
        top = max(order, key=lambda i: i.start + i.count)
        order.remove(top)
        order.insert(0, top)
        height = _place(order)
        if height < best:
            best, kept = height, {i: i.start for i in items}
    for item, start in kept.items():
        item.start = start
    return best


def _deepen(items: list[_Item]) -> int:
    """Sets how many blocks lie below each; returns the most."""
    lower: list[_Item] = []
    for item in sorted(items, key=lambda i: i.start):
        below = (o for o in lower if o.start < item.start and meet(item.block, o.block))
        item.depth = max((other.depth + 1 for other in below), default=0)
        lower.append(item)
    return max(item.depth for item in items)


def _least(items: Sequence[_Item]) -> int:
    """The largest number of units that live at the same time."""
    steps = {item.block.first for item in items}
    alive = ([i for i in items if i.block.first <= s <= i.block.last] for s in steps)
    return max((sum(item.count for item in each) for each in alive), default=0)


def _place(order: Sequence[_Item]) -> int:
    """First fit in this order."""
    placed: list[_Item] = []
    for item in order:
        below = [other for other in placed if meet(item.block, other.block)]
        item.start = _first_fit(item.count, below)
        placed.append(item)
    return max((item.start + item.count for item in placed), default=0)


def _first_fit(count: int, below: Iterable[_Item]) -> int:
    """The lowest start at which so many units fit between others."""
    start = 0
    for other in sorted(below, key=lambda o: o.start):
        if start + count <= other.start:
            break
        start = max(start, other.start + other.count)
    return start


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
