"""Kernels that don't wait for one another share a launch.

    update a · update b · update c    in one parallel region: each thread does its part of each

Input: groups in the order in which they run, and where their values lie. Output: runs of
neighbouring groups none of which touches memory that another one writes. In such a run small
kernels are done beside each other, each by one thread, threads are woken once, and they wait for
each other once.

What counts is memory, not values: two values that never live together may lie at one place. Groups
keep their order, and values their places; the arena would grow if more was to live at once.
Non-goals: products, convolutions and attention, whose kernels may be several loops; kernels in a
scan, which threads go through together anyway.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from dslc._frozen import dataclass
from dslc.ir.dims import Dim
from dslc.lowering.grouping.group import Group, Grouping
from dslc.lowering.grouping.work import flops_in, moved
from dslc.lowering.kernels.kernel import places_of
from dslc.lowering.kernels.stream import STREAMED_BYTES
from dslc.lowering.kernels.tasks import MOVED
from dslc.lowering.memory.arena import is_never_negative
from dslc.lowering.memory.plan import InArena, Place, Plan

KINDS = ("loop", "reduce", "rows", "scatter")


def shared_launches(grouping: Grouping, plan: Plan) -> tuple[range, ...]:
    """The positions of the groups of each launch that several share."""
    launches: list[range] = []
    run = _Run(grouping, plan)
    for position in range(len(grouping.groups) + 1):
        if position < len(grouping.groups) and run.takes(position):
            continue
        if len(run.positions) > 1:
            launches.append(range(run.positions[0], position))
        run = _Run(grouping, plan)
        if position < len(grouping.groups):
            run.takes(position)
    return tuple(launches)


@dataclass(slots=True, eq=False)
class _Run:
    """Neighbouring groups while they are joined, and the memory that they touch."""

    grouping: Grouping
    plan: Plan
    positions: list[int] = field(default_factory=list)
    read: list[Place] = field(default_factory=list)
    written: list[Place] = field(default_factory=list)

    def takes(self, position: int) -> bool:
        """Adds the group at `position`, if it can be one of them."""
        group = self.grouping.groups[position]
        if group.kind not in KINDS or self.is_streamed(group) or position in self.plan.scratch:
            return False
        touched = places_of(group, self.grouping, self.plan, position)
        written = [self.plan.places[self.grouping.base(value)] for value in group.outputs]
        if meet(written, [*self.read, *self.written]) or meet(touched, self.written):
            return False
        self.positions.append(position)
        self.read += touched
        self.written += written
        return True

    def is_streamed(self, group: Group) -> bool:
        """Whether it may be stored past the caches, which has loops behind the parallel one."""
        size = moved(group, self.grouping)
        return isinstance(size, int) and size >= STREAMED_BYTES


def meet(places: Sequence[Place], others: Sequence[Place]) -> bool:
    """Whether any of the places may have memory in common with one of the others."""
    if not set(places).isdisjoint(others):
        return True
    blocks = [place for place in others if isinstance(place, InArena)]
    return any(
        not is_above(place, block) and not is_above(block, place)
        for place in places if isinstance(place, InArena) for block in blocks
    )  # fmt: skip


def is_above(place: InArena, other: InArena) -> bool:
    """Whether it begins where the other one ends or later, whatever the dims are."""
    return is_never_negative(place.offset - other.offset - other.size)


def work_of(group: Group, grouping: Grouping) -> Dim:
    """Operations, and those that take as long as the bytes which are moved."""
    halves = round(2 * MOVED)  # dims are whole numbers
    return flops_in(group.eqns) + moved(group, grouping) * halves // 2
