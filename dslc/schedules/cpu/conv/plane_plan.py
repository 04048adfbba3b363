"""The plan of a convolution of planes: its tile (`plane_tile.py`), strips for caches and tasks.

Input: a `ConvShape` that `takes_planes`, and the machine. Output: a `PlanesPlan`, which `planes.py`
emits. Non-goals: TIR.
"""

from __future__ import annotations

from dataclasses import replace

from dslc.schedules.cpu.conv.plane_tile import (
    PANEL,
    SUMS,
    PlanesPlan,
    choose_tile,
    fit_flat,
    takes_planes,
)
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import ITEMSIZE, Machine, ceil_div, choose_tasks, require

FARTHER = 1.04  # as long takes what fills the L2 cache
COPIED_ONCE = 8  # rows for each that is copied twice


def plan_planes(shape: ConvShape, dtype: str, machine: Machine, flat: bool) -> PlanesPlan:
    """The plan; for `flat` see `choose_tile`."""
    require(takes_planes(shape, dtype), f"convolution of planes: {shape}")
    plan = choose_tile(shape, dtype, machine.lanes(dtype), machine.registers, flat)
    tasks = choose_tasks(machine, shape.work)
    plan = replace(plan, remote=machine.matrices)
    plan = replace(plan, strip=_strip_rows(plan, machine, tasks), tasks=tasks)
    return fit_flat(plan, machine.registers) if plan.flat else plan


def _strip_rows(plan: PlanesPlan, machine: Machine, tasks: int) -> int:
    """As many rows as stay in the L2 cache; if what is copied is read only once, of the L1
    cache, but not so few that most rows would be copied twice."""
    shape, length = plan.shape, plan.length
    if plan.streams:  # as long as their sums stay in the L1 cache
        sums, unit = plan.pixels * shape.group_out_channels, plan.lanes if plan.flat else 1
        units = -(-length // unit)
        count = max(-(-sums // SUMS), _least_strips(shape, tasks))
        return -(-units // min(count, units)) * unit
    if plan.gathers and plan.is_narrow:
        return _gathered_rows(plan, machine, tasks)
    row = plan.pitch * plan.planes * shape.group_channels * ITEMSIZE[plan.dtype]
    if plan.gathers:
        row = shape.out[1] * plan.seen.group_channels * ITEMSIZE[plan.dtype]
    rows = machine.near_bytes // row
    if plan.copies and shape.group_out_channels == plan.channels:
        twice = plan.strip_rows - plan.strip
        rows = min(rows, max(machine.l1_bytes // 2 // row, COPIED_ONCE * twice))
    count = max(-(-length // max(1, rows)), _least_strips(shape, tasks))
    if plan.flat:  # equal strips have no tiles that are wider than what is left
        even = (n for n in range(count, min(2 * count, length + 1)) if length % n == 0)
        if (n := next(even, 0)) > 0 and (plan.copies or n == 1):
            return length // n
    unit = plan.vectors * plan.lanes if plan.flat and not plan.copies else plan.rows
    blocks = -(-length // unit)
    return -(-blocks // min(count, blocks)) * unit


def _gathered_rows(plan: PlanesPlan, machine: Machine, tasks: int) -> int:
    """As many rows as leave few lanes of a strip's last vectors empty, and no task more to do than
    others; more than stay near if that takes clearly less."""
    length, (_, width), shape = plan.length, plan.shape.plane, plan.shape
    row = width * plan.seen.group_channels * ITEMSIZE[plan.dtype]
    images = shape.batch * shape.groups if isinstance(shape.batch, int) else shape.groups

    def cost(rows: int) -> float:
        """Vectors of all strips."""
        whole, left = divmod(length, rows)
        vectors = whole * ceil_div(rows * width, plan.lanes) + ceil_div(left * width, plan.lanes)
        items = max(1, images * ceil_div(length, rows))
        busiest = ceil_div(items, tasks) * tasks / items
        far = rows > 1 and rows * row > machine.near_bytes
        return float(vectors * busiest * (FARTHER if far else 1.0))

    return min(range(1, min(max(1, PANEL // row), length) + 1), key=lambda n: (cost(n), -n))


def _least_strips(shape: ConvShape, tasks: int) -> int:
    """Of each image's groups, for all tasks to have one."""
    batch = shape.batch if isinstance(shape.batch, int) and shape.batch else 1
    return -(-tasks // (batch * shape.groups))
