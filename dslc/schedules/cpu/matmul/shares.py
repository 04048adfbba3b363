"""What the tasks of a product share out: its matrices, its rows or its columns.

Input: a plan that says which. Output: a task's part of that axis. Non-goals: which axis is best
(`plan.py`, `matrices.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from dslc.schedules.cpu.tiles.contract import Expr, Size, ceil_div, each_part, i64, is_int, product


class Split(Protocol):
    """A plan: the axis that it splits ("batch", "rows" or "columns"), its matrices, its work."""

    @property
    def split(self) -> str: ...
    @property
    def batch(self) -> tuple[Size, ...]: ...
    @property
    def work(self) -> Size: ...


@contextmanager
def dealt(
    plan: Split, axis: str, units: Size, task: Expr, tasks: int
) -> Iterator[tuple[Expr, int]]:
    """Part of an axis, and how many there are: one, if it is not what tasks share out."""
    if plan.split != axis:
        yield i64(0), 1
    elif axis != "batch" and not is_int(product(plan.batch), 1):
        yield task, tasks  # again for each matrix
    else:
        with each_part(task, tasks, units, plan.work) as part:
            yield part


def largest_share(items: int, tasks: int) -> float:
    """Of that many items, what the busiest task has."""
    return ceil_div(items, tasks) / items if items else 1.0
