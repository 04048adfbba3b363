"""In which blocks a matmul's rows go, some steps of K at a time, and what is asked for meanwhile.

Input: a `MatmulPlan` without, and the machine. Output: the plan with `high`, `depth`, `abreast`,
`keeps` and `far`.

Non-goals: TIR; the tile.
"""

from __future__ import annotations

from dataclasses import replace

from dslc.schedules.cpu.matmul.plan import NEAR_MEMORY, MatmulPlan
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    Machine,
    Operand,
    Panels,
    ceil_div,
    is_int,
    product,
)
from dslc.schedules.cpu.tiles.register_tile import UNROLL

FEW = 8  # rows up to which packing b would take longer than the product
TURNED_BYTES = 4 << 20  # of it that lie in scratch
LEAST_ROWS = 96  # but so many rows, whatever they take
ASKED_ROWS = 256  # rows up to which the panel that is packed next is asked for
ASKING = 7  # rows from which asking for panels in the L3 cache takes less than it saves
DEPTH = 320  # steps of K of a part of it: a panel and the rows of a tile stay in the L1 cache
WIDE_DEPTH = 128  # the same with 32 registers, whose panels are up to four vectors wide
LONG_DEPTHS = 8  # of them in a K from which on that pays
DEEP_ROWS = 128  # rows up to which parts of K pay, of those that aren't turned anyway
LEAST_HIGH = 40  # rows that have to stay in the L2 cache, or they come from behind it
LEAST_ABREAST = 4  # panels: shorter runs of results cost as much as single ones
KEPT_BYTES = 4 << 20  # of all panels, if they are packed once for several blocks of rows
SOME_K = 4096  # stands for a K that isn't known


def in_blocks(
    plan: MatmulPlan, machine: Machine, whole: bool = False, along: str | None = None
) -> MatmulPlan:
    """The plan with `high`, `depth` and `keeps`, where tiles are so low that each column needs a's
    rows often: from the L2 cache they come at full speed. `whole`: with all steps of K, and no
    panel is asked for. `along`: the axis that b lies in one piece along, if one is known."""
    m, n, k, itemsize = plan.m, plan.n, plan.k, ITEMSIZE[plan.dtype]
    if machine.registers == 32:
        if not machine.matrices:
            return plan
        asks = plan.source == "panels" and not whole
        depth = _depth(plan, machine) if asks else 0
        plan = replace(plan, depth=depth, far=asks and _is_far(plan, along, machine))
    else:
        depth = 0 if whole else _depth(plan, machine)
        plan = replace(plan, depth=depth, far=not whole and _is_far(plan, along, machine))
        plan = replace(plan, along=along if plan.far else None)
        plan = replace(plan, abreast=1 if whole else _abreast(plan, machine))
    if not isinstance(m, int):
        return plan
    row = itemsize * (depth or (k if isinstance(k, int) and k else SOME_K))
    rows = machine.near_bytes // row
    bytes_ = product([n, k, itemsize, plan.tasks])
    if rows >= LEAST_HIGH and isinstance(k, int) and not plan.rows_outside:
        kept = plan.source == "pack" and isinstance(bytes_, int) and bytes_ <= KEPT_BYTES
        near = replace(plan, high=rows, keeps=kept, along=None if kept else plan.along)
        several = near.blocks > (plan.tasks if plan.split == "rows" else 1)
        # Where memory is far, panels aren't read again for rows that the L2 cache has room for,
        # beside what comes and goes for the results.
        full = machine.registers < 32 or m * row > machine.l2_bytes
        again = plan.source == "panels" and full
        if several and (kept or again or depth):
            return near
    return replace(plan, high=max(LEAST_ROWS, TURNED_BYTES // row)) if plan.turned else plan


def _depth(plan: MatmulPlan, machine: Machine) -> int:
    """Steps of K that are done at a time, 0 for all: fewer where the rows that the L2 cache has
    beside panels would be too few, or of wide tiles a panel exceeds the L1 cache. Of many rows in
    place that doesn't pay: their sums come and go."""
    m, n, k, itemsize = plan.m, plan.n, plan.k, ITEMSIZE[plan.dtype]
    known = isinstance(m, int) and isinstance(n, int) and isinstance(k, int)
    if not known or plan.source not in ("panels", "pack") or plan.rows_outside:
        return 0
    panels = 2 * plan.width if plan.source == "pack" else 0
    near = machine.near_bytes // itemsize >= k * (LEAST_HIGH + panels)
    near = k < LONG_DEPTHS * WIDE_DEPTH if machine.registers == 32 else near
    most = WIDE_DEPTH if machine.registers == 32 else DEPTH
    if near or not (FEW < m <= DEEP_ROWS or plan.turned) or n <= plan.width or k <= most:
        return 0
    return int(UNROLL * ceil_div(k, UNROLL * ceil_div(k, most)))


def _abreast(plan: MatmulPlan, machine: Machine) -> int:
    """Panels that a tile's rows meet one after the other: as many as half of what is near holds.
    Down a single one each row of results is written in a piece of a line or two, on a page of its
    own; where K is short these writes take longer than the sums. A panel that is asked for while
    another is multiplied stays near only if it is the next one. In a loop columns are taken to and
    fro."""
    n, k = plan.n, plan.depth or plan.k
    known = isinstance(n, int) and isinstance(k, int) and k > 0
    unlike = plan.source not in ("panels", "pack", "place") or plan.rows_outside or machine.repeated
    if not known or unlike or (plan.source == "pack" and plan.far):
        return 1
    fit = machine.near_bytes // (2 * k * plan.width * ITEMSIZE[plan.dtype])
    panels = max(1, n // plan.width)
    return int(ceil_div(panels, ceil_div(panels, fit))) if fit >= LEAST_ABREAST else 1


def _is_far(plan: MatmulPlan, along: str | None, machine: Machine) -> bool:
    """Whether panels come from so far that asking for the next one hides more than it takes. A row
    by a matrix waits for memory whatever is asked for; in a loop caches hold what the step before
    left. Of many rows, what is packed isn't waited for long."""
    counted = isinstance(plan.m, int)
    m, n, k = plan.m if counted else plan.fewest, plan.n, plan.k
    known = isinstance(n, int) and isinstance(k, int)
    if not known or plan.rows_outside or machine.repeated:
        return False
    if not counted and (plan.source != "panels" or m < ASKING):
        return False
    bytes_ = n * k * ITEMSIZE[plan.dtype]
    if plan.source == "pack":
        return bool(along and m <= ASKED_ROWS and bytes_ > machine.l2_bytes)
    return bool(
        plan.source == "panels" and m > 1
        and bytes_ > (machine.near_bytes if m >= ASKING else NEAR_MEMORY)
    )  # fmt: skip


def along_axis(b: Operand | Panels) -> str | None:
    if isinstance(b, Panels):
        return None
    return "n" if is_int(b.strides[-1], 1) else "k" if is_int(b.strides[-2], 1) else None
