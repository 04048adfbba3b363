"""The parameters of a template: what its plan holds, what else they could be.

Input: a plan as the cost model made it, the machine. Output: other choices that are possible; or
the plan with one of them in it. A choice names fields of the plan; one that the plan can't have (it
came from a file) changes nothing. Non-goals: measuring (`build/tune.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from dslc.schedules.cpu.contract import Choice, Machine
from dslc.schedules.cpu.conv2d import ConvPlan
from dslc.schedules.cpu.matmul_plan import MatmulPlan

_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 14)
_VECTORS = (1, 2, 3, 4, 6, 8)
_PIXELS = (4, 6, 7, 8, 10, 12, 14)

Plan = TypeVar("Plan")


def choices(plan: object, machine: Machine) -> list[Choice]:
    """What the plan's parameters could be instead, those first that use most registers."""
    found: list[Choice] = []
    match plan:
        case MatmulPlan():
            for rows in _ROWS:
                for vectors in _VECTORS:
                    for outside in (0, 1):
                        tile = (("rows", rows), ("vectors", vectors), ("rows_outside", outside))
                        found.append(tile)
        case ConvPlan():
            found += [(("pixels", pixels),) for pixels in _PIXELS]
    other = [choice for choice in found if chosen(plan, machine, choice) != plan]
    return sorted(other, key=lambda choice: -_used(chosen(plan, machine, choice)))


def chosen(plan: Plan, machine: Machine, choice: Choice | None = None) -> Plan:
    """The plan with the machine's choice (or the one given) in it, if that is possible."""
    values = dict(machine.choice if choice is None else choice)
    if isinstance(plan, MatmulPlan) and values.keys() == {"rows", "vectors", "rows_outside"}:
        rows, vectors = values["rows"], values["vectors"]
        possible = (
            plan.source == "place"
            or (plan.source == "panels" and vectors == plan.vectors)
            or (plan.source == "pack" and not values["rows_outside"])  # one panel at a time
        )
        wide = isinstance(plan.n, int) and (vectors - 1) * plan.lanes >= plan.n > 0
        high = isinstance(plan.m, int) and rows > plan.m
        if not possible or wide or high or not _fits(rows, vectors, machine):
            return plan
        outside = bool(values["rows_outside"])
        return replace(plan, rows=rows, vectors=vectors, rows_outside=outside)
    if isinstance(plan, ConvPlan) and values.keys() == {"pixels"}:
        pixels, width = values["pixels"], plan.shape.out[1]
        if not _fits(pixels, plan.vectors, machine):
            return plan
        narrow = isinstance(width, int) and 0 < width <= pixels // 2
        return replace(plan, pixels=pixels, tile_rows=pixels // width if narrow else 0)
    return plan


def _fits(rows: int, vectors: int, machine: Machine) -> bool:
    """Whether a tile and what it is multiplied by lie in registers."""
    return rows > 0 and vectors > 0 and (rows + 1) * vectors + 1 <= machine.registers


def _used(plan: object) -> int:
    match plan:
        case MatmulPlan():
            return plan.rows * plan.vectors
        case ConvPlan():
            return plan.pixels * plan.vectors
    return 0
