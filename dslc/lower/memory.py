"""Decides where every stored value lies: in an argument, in a result's buffer, or in the arena.

Input: an Entry and its Grouping. Output: a `Plan`. Values whose lifetimes don't meet share memory;
a group that reads a dying value only at the index it writes works in place. Static sizes are laid
out exactly, first fit, largest first; values with dynamic sizes share only slots of equal size
expressions, behind the static part. Offsets are multiples of 64 bytes.

An update (the next value of a weight or state) goes straight into the variable when nothing reads
the old value later; otherwise it is kept aside and copied at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dslc.ir.core import Entry, Value
from dslc.ir.dims import Dim
from dslc.lower.group import Group, Grouping

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class InArgument:
    """The buffer of the function's parameter `position`."""

    position: int


@dataclass(frozen=True, slots=True)
class InOutput:
    """The buffer of the entry's output `position`."""

    position: int


@dataclass(frozen=True, slots=True)
class InArena:
    """Bytes `[offset, offset + size)` of the arena."""

    offset: Dim
    size: Dim


Place = InArgument | InOutput | InArena


@dataclass(frozen=True, slots=True)
class Copy:
    """After all groups: the bytes of `source` go to `target`."""

    source: Value
    target: Place


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """`places` holds every stored value that is not a view; `scratch[i]` is the scratch memory of
    group i, if it asked for some; `size` is the arena's size in bytes."""

    places: Mapping[Value, Place]
    scratch: Mapping[int, InArena]
    copies: tuple[Copy, ...]
    size: Dim


@dataclass(slots=True, eq=False)
class Block:
    """Memory needed from step `first` to step `last` (both included)."""

    size: Dim
    first: int
    last: int
    offset: Dim = 0


def align(size: Dim) -> Dim:
    """`size` rounded up to a multiple of the alignment."""
    return (size + (ALIGNMENT - 1)) // ALIGNMENT * ALIGNMENT


def lay_out(blocks: Sequence[Block]) -> Dim:
    """Sets the offset of every block so that blocks that live together don't overlap; returns
    the total size. First fit, largest first; blocks of unknown size behind the others."""
    fixed = [block for block in blocks if isinstance(block.size, int)]
    placed: list[Block] = []
    for block in sorted(fixed, key=lambda b: (-_bytes(b), b.first)):
        block.offset = _first_fit(block, placed)
        placed.append(block)
    total: Dim = max((_bytes(b, b.offset) for b in placed), default=0)
    slots: list[tuple[Block, list[Block]]] = []
    for block in sorted((b for b in blocks if b not in fixed), key=lambda b: b.first):
        for slot, tenants in slots:
            if slot.size == block.size and not any(_meet(block, t) for t in tenants):
                block.offset = slot.offset
                tenants.append(block)
                break
        else:
            block.offset = total
            total = total + align(block.size)
            slots.append((block, [block]))
    return total


def _bytes(block: Block, offset: Dim = 0) -> int:
    """The aligned end of a block of known size placed at `offset`."""
    end = align(block.size) + offset
    return end if isinstance(end, int) else 0


def _meet(a: Block, b: Block) -> bool:
    return a.first <= b.last and b.first <= a.last


def _first_fit(block: Block, placed: Iterable[Block]) -> int:
    """The lowest offset at which `block` fits between those that live with it."""
    offset = 0
    ranges = sorted((int(b.offset), _bytes(b, b.offset)) for b in placed if _meet(block, b))  # type: ignore[arg-type]
    for start, end in ranges:
        if offset + _bytes(block) <= start:
            break
        offset = max(offset, end)
    return offset


class _Planner:
    """The state of planning one entry."""

    def __init__(self, entry: Entry, grouping: Grouping) -> None:
        self.entry, self.grouping = entry, grouping
        self.places: dict[Value, Place] = {
            value: InArgument(i) for i, value in enumerate(entry.function.params)
        }
        self.position = {a.name: i for i, a in enumerate(entry.arguments)}
        self.made_in = {v: i for i, g in enumerate(grouping.groups) for v in g.outputs}
        self.last_read: dict[Value, int] = {}
        for i, g in enumerate(grouping.groups):
            for value in g.inputs:
                self.last_read[grouping.base(value)] = i
        self.copies: list[Copy] = []
        self.blocks: dict[Value, Block] = {}
        self.kept: set[Value] = set()  # read by a copy at the end

    def run(self, scratch: Mapping[int, Dim]) -> Plan:
        self.place_results()
        steps = len(self.grouping.groups)
        for i, g in enumerate(self.grouping.groups):
            for value in g.outputs:
                if value not in self.places:
                    last = steps if value in self.kept else self.last_read.get(value, i)
                    self.blocks[value] = self.share(g, i, value, last)
        extra = {i: Block(size, i, i) for i, size in scratch.items()}
        size = lay_out([*dict.fromkeys(self.blocks.values()), *extra.values()])
        for value, block in self.blocks.items():
            self.places[value] = InArena(block.offset, block.size)
        places = {i: InArena(b.offset, b.size) for i, b in extra.items()}
        return Plan(self.places, places, tuple(self.copies), size)

    def place_results(self) -> None:
        count = len(self.entry.outputs)
        for i, result in enumerate(self.entry.function.results):
            target: Place = InOutput(i)
            if i >= count:
                target = InArgument(self.position[self.entry.updates[i - count]])
            base = self.grouping.base(result)
            if base in self.made_in and base not in self.places and self.writable(base, target):
                self.places[base] = target
            elif self.places.get(base) != target:
                self.copies.append(Copy(result, target))
                self.kept.add(base)

    def writable(self, value: Value, target: Place) -> bool:
        """Whether `value` may be computed straight into `target`: the old contents of a variable
        must not be needed any more then."""
        if not isinstance(target, InArgument):
            return True
        old = self.entry.function.params[target.position]
        maker = self.made_in[value]
        if any(self.grouping.base(r) is old for r in self.entry.function.results):
            return False
        last = self.last_read.get(old, -1)
        return last < maker or (last == maker and self.in_place(maker, old))

    def in_place(self, step: int, old: Value) -> bool:
        """Whether group `step` reads `old` only at the index that it writes."""
        g = self.grouping.groups[step]
        reads = [v for v in g.inputs if self.grouping.base(v) is old]
        return all(v in g.pointwise for v in reads)

    def share(self, g: Group, step: int, value: Value, last: int) -> Block:
        """A new block, or that of an input that dies here and can be overwritten in place."""
        for read in (v for v in g.inputs if v in g.pointwise):  # in order: builds repeat
            base = self.grouping.base(read)
            block = self.blocks.get(base)
            if (
                block is not None
                and block.last == step
                and base.type.dtype == value.type.dtype
                and block.size == value.type.nbytes
                and self.in_place(step, base)
                and not any(self.blocks.get(v) is block for v in g.outputs)
            ):
                block.last = max(last, step)
                return block
        return Block(value.type.nbytes, step, max(last, step))


def plan(entry: Entry, grouping: Grouping, scratch: Mapping[int, Dim]) -> Plan:
    """Where everything lies. `scratch` gives bytes of working memory that a group asked for."""
    return _Planner(entry, grouping).run(scratch)
