"""What groups take: operations, and bytes of what they read and write.

Input: groups of a Grouping. Output: dims. Non-goals: time (a cost model of the machine is the
schedules'), what one element costs (`cost.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim
from dslc.lowering.grouping.cost import flops_of
from dslc.lowering.grouping.group import Group, Grouping


def flops_in(eqns: Iterable[Eqn]) -> Dim:
    """Arithmetic operations of all the equations."""
    total: Dim = 0
    for eqn in eqns:
        total = total + flops_of(eqn)
    return total


def read_by(g: Group, grouping: Grouping) -> list[Value]:
    """What the group reads and does not make."""
    return [value for value in g.inputs if grouping.base(value) not in g.outputs]


def moved(g: Group, grouping: Grouping) -> Dim:
    """Bytes of what the group reads and writes, each once."""
    total: Dim = 0
    for value in [*read_by(g, grouping), *g.outputs]:
        total = total + value.type.nbytes
    return total
