"""Computes values again where they are read late, so that an entry needs less memory.

Input: an Entry, the bytes that its arena may have, and how it is laid out. Output: the Entry with
some equations twice: where a value lives across the step at which most bytes live, it is let go,
and made again before it is read next, from what is there then (Chen et al. 2016, arXiv:1604.06174).
What costs least for its bytes goes first: element-wise chains and norms before products. What was
made again is used by all that stands behind it, so that a block of layers is run again once, not
once for each of its values.

The same equations give the same numbers, so that results change only where a value that is made
again meets another kernel. Non-goals: loops, whose steps are not looked into; swapping to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field, replace

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Eqn, Function, Value
from dslc.ir.dims import Dim, free_symbols, substitute
from dslc.lowering.grouping.cost import flops_of
from dslc.lowering.grouping.group import Grouping
from dslc.lowering.memory.arena import largest_live_set
from dslc.lowering.program import Layout

ROUNDS = 24  # of letting values go and laying out again
PATIENCE = 4  # rounds without progress
BYTE = 4  # operations that cost what it costs to move a byte
# What is not run twice: it changes its operand in place, or is a loop.
ONCE = ("scan", "put", "argsort")

LayOut = Callable[[Entry], Layout]


class TooLittleMemory(Exception):
    """No such layout was found; the text says what the least is."""


def within(entry: Entry, memory: int, lay_out: LayOut, sizes: Mapping[str, int]) -> Entry:
    """The entry with an arena of at most `memory` bytes; dims known at a call count as `sizes`.
    TooLittleMemory."""
    found: list[int] = []
    # To let go of just what is too much may lead nowhere where letting go of more does not.
    for aim in (memory, 0):
        made, best, since = entry, None, 0
        for _ in range(ROUNDS):
            layout = lay_out(made)
            size = _number(layout.plan.size, sizes, entry.name)
            if size <= memory:
                return made
            found.append(size)
            since = 0 if best is None or size < best else since + 1
            best = size if best is None else min(best, size)
            function = None if since == PATIENCE else _relieved(made, layout, size - aim, sizes)
            if function is None:
                break
            made = replace(made, function=function)
    raise TooLittleMemory(
        f"{entry.name} needs {min(found):,} bytes of arena, however much is computed again; "
        f"{memory:,} are too few"
    )


def _number(size: Dim, sizes: Mapping[str, int], name: str) -> int:
    env: dict[str, Dim] = {**sizes}
    number = substitute(size, env)
    if not isinstance(number, int):
        unknown = ", ".join(sorted(free_symbols(number)))
        raise TooLittleMemory(
            f"{name} needs memory for {unknown}, which is known only at a call: to fit it into a "
            f"number of bytes, say for which size (--dim {unknown.split(', ')[0]}=32)"
        )
    return number


# --- in the order of kernels ----------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Schedule:
    """A function whose equations stand in the order of the groups that compute them, each in one:
    `group[eqn]`. `views[v]` is the value whose memory `v` is; `stored`: what lies in memory."""

    function: Function
    starts: list[int]
    group: dict[Eqn, int] = field(default_factory=dict)
    views: dict[Value, Value] = field(default_factory=dict)
    stored: dict[Value, int] = field(default_factory=dict)  # and the group that makes it

    def base(self, value: Value) -> Value:
        return self.views.get(value, value)


def scheduled(function: Function, grouping: Grouping) -> _Schedule:
    """The function in the order of its groups; what several compute, once for each."""
    b = Builder.over(function)
    makers = {out: eqn for eqn in function.eqns for out in eqn.outputs}
    made: dict[Value, Value] = {p: p for p in function.params}
    schedule = _Schedule(function, [])

    def emit(eqn: Eqn, inside: dict[Value, Value], at: int) -> None:
        inputs = tuple(resolve(v, inside, at) for v in eqn.inputs)
        inside.update(zip(eqn.outputs, b.copy(eqn, inputs)))
        schedule.group[b.eqns[-1]] = at

    def resolve(value: Value, inside: dict[Value, Value], at: int) -> Value:
        known = inside.get(value) or made.get(value)
        if known is not None:
            return known
        emit(makers[value], inside, at)
        view, source = inside[value], b.eqns[-1].inputs[0]
        schedule.views[view] = schedule.base(source)
        return view

    for i, group in enumerate(grouping.groups):
        schedule.starts.append(len(b.eqns))
        inside: dict[Value, Value] = {}
        for eqn in group.eqns:
            if eqn.outputs[0] not in inside:
                emit(eqn, inside, i)
        for value in group.outputs:
            made[value] = inside[value]
            schedule.stored[inside[value]] = i
    schedule.starts.append(len(b.eqns))
    end: dict[Value, Value] = {}
    results = [resolve(result, end, len(grouping.groups)) for result in function.results]
    schedule.function = b.function(function.name, results)
    return schedule


# --- letting go -----------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Relief:
    """Values that are let go at the group `peak`. `again[v]` holds what stands for `v` behind it:
    (the group before which it is made, the value)."""

    schedule: _Schedule
    peak: int
    sizes: Mapping[str, int]
    builder: Builder
    makers: dict[Value, Eqn]
    reads: dict[Value, list[int]]
    again: dict[Value, tuple[int, Value]] = field(default_factory=dict)
    inserted: dict[int, list[Eqn]] = field(default_factory=dict)
    costs: dict[Eqn, float] = field(default_factory=dict)

    def candidates(self) -> Iterator[Value]:
        """Values that live at the peak and are read behind it only."""
        results = {self.schedule.base(result) for result in self.schedule.function.results}
        for value, made in self.schedule.stored.items():
            reads = self.reads.get(value, [])
            waits = made < self.peak and self.peak not in reads
            if waits and value not in results and any(at > self.peak for at in reads):
                yield value

    def next_read(self, value: Value) -> int:
        return min(at for at in self.reads[value] if at > self.peak)

    def needed(self, value: Value, at: int) -> dict[Eqn, None] | None:
        """The equations that make `value` before group `at`, in order, from what is there then;
        None if some can't be run twice."""
        found: dict[Eqn, None] = {}
        seen: set[Value] = set()

        def visit(u: Value) -> bool:
            if u in seen or (u is not value and self.there(u, at) is not None):
                return True
            seen.add(u)
            eqn = self.makers[u]
            if eqn.op.name in ONCE or not all(visit(v) for v in eqn.inputs):
                return False
            found[eqn] = None
            return True

        return found if visit(value) else None

    def there(self, value: Value, at: int) -> Value | None:
        """What holds the value's numbers before group `at`, without living longer at the peak."""
        if value not in self.makers:
            return value
        made, again = self.again.get(value, (at + 1, value))
        if made <= at:
            return again
        lives = value in self.schedule.stored and max(self.reads.get(value, [-1])) >= at
        return value if lives else None

    def cost(self, eqns: Mapping[Eqn, None]) -> float:
        """What it costs to run them again, in operations."""
        return sum(self.cost_of(eqn) for eqn in eqns)

    def cost_of(self, eqn: Eqn) -> float:
        if eqn not in self.costs:
            env: dict[str, Dim] = {**self.sizes}
            flops = substitute(flops_of(eqn), env)
            moved = substitute(eqn.outputs[0].type.nbytes, env)
            both = flops + moved * BYTE
            self.costs[eqn] = both if isinstance(both, int) else 0.0
        return self.costs[eqn]

    def let_go(self, value: Value) -> bool:
        """Makes the value again before its next read behind the peak."""
        at = self.next_read(value)
        made, _ = self.again.get(value, (at + 1, value))
        eqns = {} if made <= at else self.needed(value, at)
        if eqns is None:
            return False
        for eqn in eqns:
            outputs = self.builder.copy(eqn, [self.there(v, at) or v for v in eqn.inputs])
            self.inserted.setdefault(at, []).append(self.builder.eqns[-1])
            self.again.update((out, (at, new)) for out, new in zip(eqn.outputs, outputs))
        self.reads[value] = [g for g in self.reads[value] if g < self.peak]
        return True

    def function(self) -> Function:
        """The function with what is made again; all that stands behind reads that."""
        schedule, eqns = self.schedule, []
        gone = {value for value in self.again if value in schedule.stored}
        for i, eqn in enumerate(schedule.function.eqns):
            at = schedule.group[eqn]
            if i == schedule.starts[at]:
                eqns += self.inserted.get(at, [])
            inputs = tuple(self.later(v, at, gone) for v in eqn.inputs)
            eqns.append(Eqn(eqn.op, inputs, eqn.attrs, eqn.outputs, eqn.origin))
        old = schedule.function
        return Function(old.name, old.params, tuple(eqns), old.results)

    def later(self, value: Value, at: int, gone: set[Value]) -> Value:
        made, again = self.again.get(value, (at + 1, value))
        return again if made <= at and value in gone else value


def _relieved(
    entry: Entry, layout: Layout, surplus: int, sizes: Mapping[str, int]
) -> Function | None:
    """The function with values let go where most bytes live, about as many as are too much; None
    if there are none."""
    schedule = scheduled(entry.function, layout.grouping)
    peak, _ = largest_live_set(layout.plan.blocks)
    reads: dict[Value, list[int]] = {}
    for eqn, at in schedule.group.items():
        for value in eqn.inputs:
            reads.setdefault(schedule.base(value), []).append(at)
    makers = {out: eqn for eqn in schedule.function.eqns for out in eqn.outputs}
    relief = _Relief(schedule, peak, sizes, Builder.over(schedule.function), makers, reads)
    rated = []
    for value in relief.candidates():
        eqns = relief.needed(value, relief.next_read(value))
        size = _number(value.type.nbytes, sizes, entry.name)
        if eqns is not None and size:
            rated.append((relief.cost(eqns) / size, value.name, value, size))
    for _, _, value, size in sorted(rated, key=lambda each: each[:2]):
        if surplus <= 0:
            break
        if relief.let_go(value):
            surplus -= size
    return relief.function() if relief.again else None
