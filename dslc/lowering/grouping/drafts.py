"""Groups while they grow, and the order in which they can run.

Input: groups, each with those that read what it stores. Output: whether one waits for another; all
in an order that can run. Non-goals: what becomes part of a group (`group.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Literal

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim

Kind = Literal["loop", "reduce", "scatter", "contract", "rank", "scan", "put", "attention", "rows"]


@dataclass(slots=True, eq=False)
class Draft:
    """A group while it grows. `identity` holds equations read only at the index written;
    `grows` those that are read more often than they have elements."""

    dims: tuple[Dim, ...]
    eqns: set[Eqn] = field(default_factory=set)
    outputs: list[Value] = field(default_factory=list)
    anchor: Eqn | None = None
    kind: Kind = "loop"
    identity: set[Eqn] = field(default_factory=set)
    grows: set[Eqn] = field(default_factory=set)
    after: set[Draft] = field(default_factory=set)  # groups that read its outputs

    def reaches(self, other: Draft) -> bool:
        """Whether `other` needs, directly or not, what this group stores."""
        seen: set[Draft] = set()
        stack = [self]
        while stack:
            draft = stack.pop()
            if draft is other:
                return True
            if draft not in seen:
                seen.add(draft)
                stack.extend(draft.after)
        return False


def in_order(drafts: Sequence[Draft], place: Mapping[Draft, int]) -> list[Draft]:
    """The drafts in an order that can run: of those that may come last, the one with the latest
    `place` does, and so on towards the front."""
    waiting = {draft: len(draft.after) for draft in drafts}
    before: dict[Draft, list[Draft]] = {draft: [] for draft in drafts}
    for draft in drafts:
        for later in draft.after:
            before[later].append(draft)
    ready = [draft for draft in drafts if not waiting[draft]]
    backwards: list[Draft] = []
    while ready:
        draft = max(ready, key=place.__getitem__)
        ready.remove(draft)
        backwards.append(draft)
        for earlier in before[draft]:
            waiting[earlier] -= 1
            if not waiting[earlier]:
                ready.append(earlier)
    if len(backwards) != len(drafts):
        raise InternalError("groups wait for each other")
    return backwards[::-1]
