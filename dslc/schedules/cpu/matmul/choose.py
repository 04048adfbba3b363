"""The plan of a matmul: where its right side is read, the tile, and what tasks share out.

Input: shapes, strides and the machine. Output: a `MatmulPlan`; `blocks.py` says in which blocks its
rows go.

Non-goals: TIR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dslc.schedules.cpu.matmul.blocks import FEW, along_axis, in_blocks
from dslc.schedules.cpu.matmul.plan import ALONG_K, READING, MatmulPlan
from dslc.schedules.cpu.matmul.shares import largest_share
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    Machine,
    Operand,
    Panels,
    Size,
    ceil_div,
    choose_tasks,
    is_int,
    product,
    require,
)
from dslc.schedules.cpu.tiles.dots import WIDENED

MANY = 64  # rows from which packing columns is cheaper than sums over lanes
MANY_LOW = 16  # the same with 16 registers: a tile of sums over lanes loads more than it multiplies
SHORT = 64  # steps up to which storing rows takes as long as the product: longer runs are better
PLACED_ROWS, ALIASED_ROWS = 128, 48  # rows up to which b may be read in place by all tiles
PLACED = 4  # L2 caches that such a b fills at most
TALLEST = 14  # rows of a tile of two vectors: with no more, b is read once
LOWEST = 6  # rows of such a tile with 16 registers
TURNED = 8  # vectors of columns from which turning a pays
LANE_SUM = 8  # multiply-adds that take as long as a sum over lanes
LONG = 256  # columns from which rows of b are read side by side
STRIP = 4096  # sums of such a strip of columns
PACKING, TURNING = 4, 24  # rows of the product that take as long as packing b; along K


def plan_matmul(
    a: Operand, b: Operand | Panels, m: Size, n: Size, k: Size, machine: Machine,
    batch: Sequence[Size] = (), most: int | None = None, fewest: int = 0,
) -> MatmulPlan:  # fmt: skip
    """The plan for a [batch.., M, K] and b [batch.., K, N]; strides are all that is looked at.
    `most`: what M never exceeds, where that is known; `fewest`: what it is at least."""
    plan = replace(_planned(a, b, m, n, k, machine, batch, most), fewest=fewest)
    return in_blocks(plan, machine, along=along_axis(b))


def _planned(
    a: Operand, b: Operand | Panels, m: Size, n: Size, k: Size, machine: Machine,
    batch: Sequence[Size] = (), most: int | None = None,
) -> MatmulPlan:  # fmt: skip
    """The plan without blocks."""
    kept = isinstance(b, Panels) and a.dtype == "float32" and b.dtype in WIDENED
    known = a.dtype in ITEMSIZE and (a.dtype == b.dtype or kept)
    require(known, f"matmul of {a.dtype} and {b.dtype}")
    lanes = machine.lanes(a.dtype)
    most = m if isinstance(m, int) else most
    source = _source(a, b, m, most, n, k, machine)
    tasks = choose_tasks(machine, product([*batch, m + READING, n, k]))
    if source == "place" and _is_stream(m, n, k, machine, a.dtype):
        source = "stream"
    unit = 1 if source in ALONG_K else lanes
    height = min(most, 4) if most is not None and not isinstance(m, int) else most
    rows, vectors = _tile_shape(source, b, height, n, k, machine, a.dtype)
    if source == "stream":
        rows, vectors = m, max(1, min(ceil_div(n, lanes * tasks), STRIP // (m * lanes)))
    packing = TURNING if along_axis(b) == "k" else PACKING
    again = packing_share(m, packing) if source == "pack" and isinstance(m, int) else 0.0
    if source in ("panels", "place", "pack") and isinstance(m, int) and isinstance(n, int):
        step = b.width // lanes if isinstance(b, Panels) else 1
        narrow = _shared_vectors(m, n, batch, vectors, step, lanes, tasks, again)
        if narrow != vectors:
            rows, vectors = _tile_rows(narrow, m, machine), narrow
    shared = machine.repeated and isinstance(n, int) and n >= 2 * tasks * vectors * unit
    # In a loop b is the same at each step: a thread keeps its columns in its cache.
    split = "columns" if shared else _split_axis(m, n, batch, vectors * unit, tasks, again)
    if split == "rows" and isinstance(m, int):
        rows = _shared_rows(m, rows, tasks)
    ready = source in ("panels", "place") or (source in ALONG_K and machine.registers < 32)
    b_bytes = product([n, k]) if ready else None  # of a b that costs nothing to read again
    plan = MatmulPlan(
        m, n, k, tuple(batch), a.dtype, source, rows, vectors, lanes, split, tasks,
        least=machine.least_work,
        rows_outside=isinstance(b_bytes, int) and b_bytes * ITEMSIZE[a.dtype] <= machine.near_bytes,
        along=along_axis(b) if machine.registers == 32 else None,
        turned=_is_turned(a, m, n, machine),
        repeated=machine.repeated,
    )  # fmt: skip
    return plan


def plan_parts(
    a: Operand, b: Panels, m: Size, columns: int, parts: int, k: Size, machine: Machine
) -> MatmulPlan:
    """The plan for panels [.., K, parts * lanes], with the same columns of each part."""
    panels = ceil_div(columns, b.width // parts)
    plan = in_blocks(_planned(a, b, m, panels * b.width, k, machine), machine, whole=True)
    plan = replace(plan, parts=parts, kept=columns)
    fits = (plan.rows + 1) * plan.vectors < machine.registers
    if fits or plan.vectors % 2 or not isinstance(plan.rows, int):
        return plan
    rows = min(m, LOWEST) if isinstance(m, int) else LOWEST
    return replace(plan, rows=rows, passes=plan.vectors // 2)


def _source(
    a: Operand, b: Operand | Panels, m: Size, most: int | None, n: Size, k: Size, machine: Machine
) -> str:
    if isinstance(b, Panels):
        return "panels"
    lanes = machine.lanes(a.dtype)
    few = most is not None and most <= FEW
    along_n, along_k = is_int(b.strides[-1], 1), is_int(b.strides[-2], 1)
    narrow = isinstance(n, int) and n < lanes
    least = 1 if is_int(n, 1) else 8 if few or narrow else 32
    long = isinstance(k, int) and k >= least * lanes
    if along_k and is_int(a.strides[-1], 1) and long:
        many = most is None or most >= (MANY if machine.registers == 32 else MANY_LOW)
        return "dots" if narrow or not many else "pack"
    if along_n and narrow and not few and is_int(a.strides[-1], 1) and _sums_pay(n, k, lanes):
        return "turned"
    near = few or is_int(n, 1) or _is_near(b, m, most, n, k, machine)
    return "place" if along_n and near else "pack"


def _sums_pay(n: int, k: Size, lanes: int) -> bool:
    """Whether sums over lanes of fewer columns than a vector has take clearly less time than
    vectors of them."""
    return isinstance(k, int) and 5 * n * (ceil_div(k, lanes) + LANE_SUM) < 4 * k


def _is_turned(a: Operand, m: Size, n: Size, machine: Machine) -> bool:
    """Whether an a that lies along M is turned first. Read in place, of each step of K a low tile
    has a few elements of another line, most of them on pages of their own and, if K rows lie a
    power of two apart, all in one set of the L1. A tile of many rows has most of a line."""
    along_m = is_int(a.strides[-2], 1) and not is_int(a.strides[-1], 1)
    enough = isinstance(m, int) and m > FEW and isinstance(n, int)
    return bool(
        (machine.registers < 32 or machine.matrices)
        and along_m
        and enough
        and n >= TURNED * machine.lanes(a.dtype)
    )


def _is_near(b: Operand, m: Size, most: int | None, n: Size, k: Size, machine: Machine) -> bool:
    """Whether strips of b are read faster where they lie, by each tile again, than packed: there
    is one tile, or are few, fewer if rows fall into one set of the L1, of a b that isn't far behind
    the L2 cache."""
    stride, itemsize = b.strides[-2], ITEMSIZE[b.dtype]
    known = isinstance(n, int) and isinstance(k, int) and isinstance(stride, int)
    if machine.registers < 32 or most is None or not known:
        return False
    rows = ALIASED_ROWS if stride * itemsize % 4096 == 0 else PLACED_ROWS
    near = most <= rows and n * k * itemsize <= PLACED * machine.l2_bytes
    return bool(near or (is_int(m, most) and most <= TALLEST))


def _is_stream(m: Size, n: Size, k: Size, machine: Machine, dtype: str) -> bool:
    """Whether b comes from behind the L2 cache, in rows that are worth reading to their ends."""
    if not isinstance(m, int) or not isinstance(n, int) or not isinstance(k, int):
        return False
    far = n * k * ITEMSIZE[dtype] > machine.l2_bytes and n >= LONG
    return dtype in ("float32", "float64") and far and 0 < m <= FEW


def _tile_shape(
    source: str, b: Operand | Panels, height: int | None, n: Size, k: Size, machine: Machine,
    dtype: str,
) -> tuple[int, int]:  # fmt: skip
    """Rows and vectors of the tile: as many accumulators as registers allow."""
    lanes = machine.lanes(dtype)
    wide = machine.registers == 32
    if source in ALONG_K:
        return _dots_shape(height, n, wide)
    # An L1 cache of 12 ways, as CPUs with matrices have, keeps 12 rows that fall into one set.
    few_ways = not machine.matrices
    aliased = few_ways and isinstance(k, int) and k > 0 and k * ITEMSIZE[dtype] % 4096 == 0
    available = ceil_div(n, lanes) if isinstance(n, int) and n else 8
    step = b.width // lanes if isinstance(b, Panels) else 1
    short = isinstance(k, int) and k <= SHORT
    if height is not None and height <= FEW and source != "pack":
        wanted = min(8, (machine.registers - 1) // (max(1, height) + 1))
    elif wide and source == "pack" and not short:
        wanted = 3
    elif source == "place" and height is not None and height <= TALLEST:
        wanted = 2
    elif wide and (source != "panels" or aliased or short):
        wanted = 4  # rows that lie a multiple of 4 KiB apart fall into one set of the L1 cache
    else:
        wanted = 2
    vectors = max(step, wanted // step * step)
    if vectors >= available:
        vectors = ceil_div(available, step) * step
    elif step == 1:  # tiles of about equal width
        vectors = ceil_div(available, ceil_div(available, vectors))
    return _tile_rows(vectors, height, machine), vectors


def _tile_rows(vectors: int, height: int | None, machine: Machine) -> int:
    """As many as registers allow beside that many vectors."""
    if machine.registers == 32:
        one = height is not None and height <= TALLEST and vectors <= 2
        rows = TALLEST if vectors == 1 or one else 24 // vectors
    else:
        rows = 8 if vectors == 1 else 12 // vectors
    return min(rows, height) if height else rows


def _dots_shape(height: int | None, n: Size, wide: bool) -> tuple[int, int]:
    rows, vectors = (5, 4) if wide else (3, 4)
    if height is not None and height < 4:
        rows, vectors = max(1, height), (8 if wide else 4)
    return rows, min(vectors, n) if isinstance(n, int) and n else vectors


def _split_axis(
    m: Size, n: Size, batch: Sequence[Size], columns: int, tasks: int, again: float
) -> str:
    """The axis whose tiles the tasks share out best: so that the busiest has the least to do.
    `again`: the share of the work that is packing b, which each task does that has rows."""
    if tasks == 1 or any(not isinstance(extent, int) for extent in batch):
        return "batch" if batch else "rows"
    if not isinstance(n, int):
        return "rows"
    if not isinstance(m, int):
        return "rows" if ceil_div(n, columns) < tasks else "columns"
    shares = {
        "batch": largest_share(product(batch), tasks),
        "rows": largest_share(m, tasks) * (1 - again) + again,
        "columns": largest_share(ceil_div(n, columns), tasks),
    }
    return min(shares, key=lambda axis: shares[axis])


def packing_share(m: int, rows: int) -> float:
    """The share of the work that packing b takes, which takes as long as so many rows."""
    return rows / (m + rows)


def _shared_vectors(
    m: int, n: int, batch: Sequence[Size], vectors: int, step: int, lanes: int, tasks: int,
    again: float,
) -> int:  # fmt: skip
    """The width of tiles of which each task has as many, where sharing out rows or matrices leaves
    one of them more to do, or all of them what was done `again`."""
    tiles = ceil_div(n, vectors * lanes)
    if not n or tiles >= 4 * tasks or any(not isinstance(extent, int) for extent in batch):
        return vectors
    narrow = ceil_div(ceil_div(n, lanes), ceil_div(tiles, tasks) * tasks)
    narrow = ceil_div(narrow, step) * step
    rows = largest_share(m, tasks) * (1 - again) + again
    others = min(largest_share(product(batch), tasks), rows)
    shares = [largest_share(ceil_div(n, width * lanes), tasks) for width in (narrow, vectors)]
    return narrow if shares[0] < 0.9 * min(others, shares[1]) else vectors


def _shared_rows(m: int, rows: int, tasks: int) -> int:
    """The height of tiles of which each task has as many, as far as they don't get much lower."""
    if not m:
        return rows
    tiles = ceil_div(m, rows)
    even = ceil_div(tiles, tasks) * tasks
    return ceil_div(m, even) if tiles < 4 * tasks and even <= m else rows
