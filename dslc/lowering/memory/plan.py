"""Decides where every stored value lies: in an argument, in a result's buffer, or in the arena.

Input: an Entry, or the body of a scan, and its Grouping. Output: a `Plan`. Values whose lifetimes
don't meet share memory (`arena.py`); a group that reads a dying value only at the index it writes
works in place.

An update (the next value of a weight or state) goes straight into the variable when nothing reads
the old value later; otherwise it is kept aside and copied at the end.

The body of a scan has a region of the arena to itself. Its carries live there, in two slots that
are read and written in turn, or in the place of the scan's result where the next value can be
written over the old one. What
it yields is written straight into the stack, and a carry whose next value is yielded is read there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from dslc._frozen import dataclass
from dslc.ir.core import Entry, Function, Value
from dslc.ir.dims import Dim
from dslc.lowering.grouping.group import Group, Grouping
from dslc.lowering.memory.arena import Block, align, lay_out
from dslc.ops.scan_attrs import ScanAttrs


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


@dataclass(frozen=True, slots=True)
class OfScan:
    """In the body of a scan: the memory of the scan's input (or output) `position`, wherever the
    function around has it; with a `stride`, the step's slice: so many bytes for each."""

    of: Literal["input", "output"]
    position: int
    stride: Dim = 0


@dataclass(frozen=True, slots=True)
class InCarry:
    """In the body of a scan: carry `position` as the step reads it, or as the `following` does."""

    position: int
    following: bool = False


Place = InArgument | InOutput | InArena | OfScan | InCarry


@dataclass(frozen=True, slots=True)
class Copy:
    """After all groups (of a scan's step): so many bytes go from `source` to `target`."""

    source: Place
    target: Place
    size: Dim


@dataclass(frozen=True, slots=True)
class Slots:
    """Where a carry lives. One that is written over lives in `last`, where the scan's result is to
    be; one that takes turns has two slots of `size` bytes from `offset` of the body's region. One
    without slots is `first` in the first step, and then what the step before put into the `stack`.
    """

    offset: Dim
    size: Dim
    slots: int
    first: OfScan
    last: OfScan
    stack: OfScan | None


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """`places` holds every stored value that is not a view; `scratch[i]` is the scratch memory of
    group i, if it asked for some; `size` is the arena's size in bytes (for the body of a scan, its
    region's, and `carries` has where the carries live in it); `blocks` are what it is made of."""

    places: Mapping[Value, Place]
    scratch: Mapping[int, InArena]
    copies: tuple[Copy, ...]
    size: Dim
    carries: tuple[Slots, ...] = ()
    blocks: tuple[Block, ...] = ()


# A carry: its position among the scan's inputs, that among its results, its parameter.
Carried = tuple[int, int, Value]


class _Planner:
    """The state of planning one function. `targets[i]` are the places where result i may be
    computed, the best first; it is copied to one of them at the end if it can be in none."""

    def __init__(
        self,
        function: Function,
        grouping: Grouping,
        params: Sequence[Place],
        targets: Sequence[tuple[Place, ...]],
    ) -> None:
        self.function, self.grouping, self.targets = function, grouping, targets
        self.places: dict[Value, Place] = dict(zip(function.params, params))
        self.holders = {place: value for value, place in self.places.items()}
        self.result_bases = {grouping.base(result) for result in function.results}
        self.made_in = {v: i for i, g in enumerate(grouping.groups) for v in g.outputs}
        self.last_read: dict[Value, int] = {}
        for i, g in enumerate(grouping.groups):
            for value in g.inputs:
                self.last_read[grouping.base(value)] = i
        self.copies: list[tuple[Value, Place]] = []
        self.blocks: dict[Value, Block] = {}
        self.kept: set[Value] = set()  # read by a copy at the end
        self.stacked: dict[int, OfScan] = {}  # carries whose next value is yielded

    def run(self, scratch: Mapping[int, Dim], carries: Sequence[Carried] = ()) -> Plan:
        self.place_results()
        steps = len(self.grouping.groups)
        for i, g in enumerate(self.grouping.groups):
            for value in g.outputs:
                if value not in self.places:
                    last = steps if value in self.kept else self.last_read.get(value, i)
                    self.blocks[value] = self.share(g, i, value, last)
        kinds = [g.kind for g in self.grouping.groups]
        extra = {i: Block(s, i, i, region=kinds[i] == "scan") for i, s in scratch.items()}
        slots = [Block(self.slot_size(i, v), -1, steps) for i, (_, _, v) in enumerate(carries)]
        aside = {v: Block(v.type.nbytes, steps, steps) for v in self.overwritten()}
        blocks = [*dict.fromkeys(self.blocks.values()), *extra.values(), *slots, *aside.values()]
        size = lay_out(blocks)
        for value, block in self.blocks.items():
            self.places[value] = InArena(block.offset, block.size)
        places = {i: InArena(b.offset, b.size) for i, b in extra.items()}
        carried = tuple(
            Slots(
                block.offset,
                align(value.type.nbytes),
                self.slots(i),
                OfScan("input", position),
                OfScan("output", result),
                self.stacked.get(i),
            )
            for i, (block, (position, result, value)) in enumerate(zip(slots, carries))
        )
        kept = {v: InArena(block.offset, block.size) for v, block in aside.items()}
        return Plan(
            self.places, places, self.all_copies(kept), size, carried, tuple(blocks)
        )  # fmt: skip

    def overwritten(self) -> list[Value]:
        """Parameters that one copy reads and another writes: states that change places."""
        written = {target for _, target in self.copies}
        read = dict.fromkeys(self.grouping.base(source) for source, _ in self.copies)
        return [v for v in read if v in self.function.params and self.places[v] in written]

    def all_copies(self, kept: Mapping[Value, Place]) -> tuple[Copy, ...]:
        """The copies, after those of what they would overwrite."""
        copies = [Copy(self.places[v], place, v.type.nbytes) for v, place in kept.items()]
        for source, target in self.copies:
            base = self.grouping.base(source)
            place = kept.get(base, self.places[base])
            copies.append(Copy(place, target, source.type.nbytes))
        return tuple(copies)

    def slots(self, carry: int) -> int:
        """How many slots a carry needs: two if its next value is not written over it."""
        if carry in self.stacked:
            return 0
        written = {*self.places.values(), *(target for _, target in self.copies)}
        return 2 if InCarry(carry, following=True) in written else 1

    def slot_size(self, carry: int, value: Value) -> Dim:
        slots = self.slots(carry)
        return align(value.type.nbytes) * slots if slots > 1 else 0

    def place_results(self) -> None:
        for result, targets in zip(self.function.results, self.targets):
            base = self.grouping.base(result)
            if base in self.made_in and base not in self.places:
                # A result that is the beginning of a value is no room for all of it.
                whole = base.type.size == result.type.size
                place = next((t for t in targets if whole and self.writable(base, t)), None)
                if place is not None:
                    self.places[base] = place
                    continue
            place, (target, *_) = self.places.get(base), targets
            if isinstance(target, InCarry) and isinstance(place, OfScan) and place.of == "output":
                self.stacked[target.position] = place
            elif place != target:
                self.copies.append((result, self.copy_target(targets)))
                self.kept.add(base)

    def copy_target(self, targets: tuple[Place, ...]) -> Place:
        """The first target whose old contents no copy reads."""
        free = (t for t in targets if self.holders.get(t) not in self.result_bases)
        return next(free, targets[-1])

    def writable(self, value: Value, target: Place) -> bool:
        """Whether `value` may be computed straight into `target`: the old contents of a variable
        or carry must not be needed any more then."""
        old = self.holders.get(target)
        if old is None:
            return True
        maker = self.made_in[value]
        if old in self.result_bases:
            return False
        last = self.last_read.get(old, -1)
        return last < maker or (last == maker and self.in_place(maker, old))

    def in_place(self, step: int, old: Value) -> bool:
        """Whether group `step` reads `old` only at the index that it writes."""
        g = self.grouping.groups[step]
        reads = [v for v in g.inputs if self.grouping.base(v) is old]
        return all(v in g.pointwise for v in reads)

    def first_value(self, g: Group, value: Value) -> Value | None:
        """What a scan begins with, of the carry that ends as `value`; None if the scan reads it for
        anything else, too. It is read before the result is written."""
        if g.anchor is None or not isinstance(g.anchor.attrs, ScanAttrs):
            return None
        attrs, inputs = g.anchor.attrs, [self.grouping.base(v) for v in g.anchor.inputs]
        carry = g.anchor.outputs.index(value) - attrs.yields
        if carry < 0 or inputs.count(inputs[attrs.elements + carry]) > 1:
            return None
        return inputs[attrs.elements + carry]

    def share(self, g: Group, step: int, value: Value, last: int) -> Block:
        """A new block, or that of an input that dies here and can be overwritten in place."""
        first = self.first_value(g, value)
        if first is not None:
            block = self.blocks.get(first)
            if block is not None and block.last == step and block.size == value.type.nbytes:
                block.last = max(last, step)
                return block
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
    position = {argument.name: i for i, argument in enumerate(entry.arguments)}
    params = [InArgument(i) for i in range(len(entry.arguments))]
    targets: list[tuple[Place, ...]] = [(InOutput(i),) for i in range(len(entry.outputs))]
    targets += [(InArgument(position[name]),) for name in entry.updates]
    return _Planner(entry.function, grouping, params, targets).run(scratch)


def plan_body(attrs: ScanAttrs, grouping: Grouping, scratch: Mapping[int, Dim]) -> Plan:
    """Where everything in the body of a scan lies, in one step of it."""
    body, count = attrs.body, attrs.elements
    params: list[Place] = []
    for i, param in enumerate(body.params):
        carry = i - count
        if i < count:
            params.append(OfScan("input", i, param.type.nbytes))
        elif carry < attrs.carries:
            params.append(InCarry(carry))
        else:
            params.append(OfScan("input", i))
    targets: list[tuple[Place, ...]] = [
        (OfScan("output", i, result.type.nbytes),)
        for i, result in enumerate(body.results[: attrs.yields])
    ]
    targets += [(InCarry(i), InCarry(i, following=True)) for i in range(attrs.carries)]
    carries = [(count + i, attrs.yields + i, c) for i, c in enumerate(attrs.carried)]
    return _Planner(body, grouping, params, targets).run(scratch, carries)
