"""How a matmul is run: where its operands are read, the tile, and what tasks share out.

Input: shapes, strides and the machine. Output: a `MatmulPlan`, which `matmul.py` emits. All of it
is plain arithmetic over the sizes that are known.

Non-goals: TIR.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace

from dslc._frozen import dataclass
from dslc.schedules.cpu.matmul.shares import largest_share
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    LINE_BYTES,
    MOST_PARTS,
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
from dslc.schedules.cpu.tiles.pack_ahead import Ahead, Asks, AsksInPlace
from dslc.schedules.cpu.tiles.register_tile import UNROLL
from dslc.schedules.cpu.tiles.split import split as split_rows

ALONG_K = ("dots", "turned")  # sources of tiles whose lanes run along K
FEW = 8  # rows up to which packing b would take longer than the product
MANY = 64  # rows from which packing columns is cheaper than sums over lanes
MANY_LOW = 16  # the same with 16 registers: a tile of sums over lanes loads more than it multiplies
SHORT = 64  # steps up to which storing rows takes as long as the product: longer runs are better
PLACED_ROWS, ALIASED_ROWS = 128, 48  # rows up to which b may be read in place by all tiles
PLACED = 4  # L2 caches that such a b fills at most
TALLEST = 14  # rows of a tile of two vectors: with no more, b is read once
LOWEST = 6  # rows of such a tile with 16 registers
TURNED = 8  # vectors of columns from which turning a pays
TURNED_BYTES = 4 << 20  # of it that lie in scratch
LEAST_ROWS = 96  # but so many rows, whatever they take
ASKED_ROWS = 256  # rows up to which the panel that is packed next is asked for
ASKING = 7  # rows from which asking for panels in the L3 cache takes less than it saves
NEAR_MEMORY = 6 << 20  # bytes of panels, or rows, that the L3 cache has for a core
DEPTH = 320  # steps of K of a part of it: a panel and the rows of a tile stay in the L1 cache
DEEP_ROWS = 128  # rows up to which parts of K pay, of those that aren't turned anyway
LEAST_HIGH = 40  # rows that have to stay in the L2 cache, or they come from behind it
LEAST_ABREAST = 4  # panels: shorter runs of results cost as much as single ones
KEPT_BYTES = 4 << 20  # of all panels, if they are packed once for several blocks of rows
SOME_K = 4096  # stands for a K that isn't known
LANE_SUM = 8  # multiply-adds that take as long as a sum over lanes
LONG = 256  # columns from which rows of b are read side by side
STRIP = 4096  # sums of such a strip of columns
FULL = 2  # L2 caches that rows fill before panels are read again for those below
PANELS = 3  # from which on each is packed while the one before it is multiplied
PACKING = 4  # rows of the product that take as long as packing b
PART_ROWS = 64  # that take long enough to read a b again that is not in the L2 cache
READING = 2  # rows that would be multiplied while b is read from behind the L2 cache


@dataclass(frozen=True, slots=True)
class MatmulPlan:
    """How a matmul is run. `source`: where column vectors come from, "panels" (packed
    beforehand), "place" (b itself) or "pack" (scratch); "dots", "turned" (the same, of columns
    that are packed first) and "stream" are other kinds of tiles.
    `along`: the axis that b lies in one piece along, "n" or "k"; with many registers panels of it
    are packed, or asked for, while others are multiplied.
    `split`: what the tasks share out: "batch", "rows" or "columns"; `least`: the work from which
    there are several. `parts`: of panels in which that many results lie side by side, `kept`
    columns of each (`n` counts all that there are in the panels); `passes`: over K, each for some
    of a tile's vectors, where all of them leave registers for too few rows. `high`: the most rows
    that are multiplied by all columns before those below them are (0: all); `turned`: after they
    were turned into scratch, of an a that lies along M; `keeps`: by panels that were all packed
    before. `depth`: steps of K that all tiles of a block of rows go before the next ones, with
    their sums in scratch (0: all). `abreast`: panels that a tile's rows meet before the next rows
    do, for results beside each other. `far`: whether b comes from behind the L2 cache, and next
    panels are asked for. `repeated`: in each step of a loop, where tasks have the same columns."""

    m: Size
    n: Size
    k: Size
    batch: tuple[Size, ...]
    dtype: str
    source: str
    rows: int
    vectors: int
    lanes: int
    split: str
    tasks: int
    least: int
    rows_outside: bool
    parts: int = 1
    kept: int = 0
    passes: int = 1
    high: int = 0
    turned: bool = False
    keeps: bool = False
    depth: int = 0
    abreast: int = 1
    far: bool = False
    along: str | None = field(default=None, repr=False)
    repeated: bool = field(default=False, repr=False)

    @property
    def work(self) -> Size:
        """What it takes, counted in multiply-adds: few rows wait for b."""
        return product([*self.batch, self.m + READING, self.n, self.k])

    @property
    def width(self) -> int:
        """Columns of a tile."""
        return self.vectors * self.unit

    @property
    def unit(self) -> int:
        """Columns that one accumulator of a row holds."""
        return 1 if self.dots else self.lanes

    @property
    def dots(self) -> bool:
        """Whether lanes run along K."""
        return self.source in ALONG_K

    def scratch_bytes(self, k: Size) -> Size:
        """Bytes of scratch, given K (in whatever form the caller counts sizes)."""
        return self.part(k) * (ITEMSIZE[self.dtype] * self.tasks)

    def part(self, k: Size) -> Size:
        """Elements of each task's scratch: b as it is packed, behind it a as it is turned, then
        sums."""
        return self.packed(k) + self.held * self.pitch(self.depth or k) + self.sums

    def packed(self, k: Size) -> Size:
        """Elements of b in each task's scratch."""
        if self.source == "turned":
            return self.n * self.lanes * ceil_div(k, self.lanes)
        deep = self.depth if self.depth and not self.keeps else k
        return deep * (self.width * self.sides) if self.source == "pack" else 0

    def pitch(self, k: Size) -> Size:
        """Elements from one turned row of a to the next: room for whole vectors, and of a known K
        such that few rows share a set of the L1."""
        if not isinstance(k, int):
            return k + self.lanes
        whole = self.lanes * ceil_div(k, self.lanes)
        return whole + self.lanes if whole % 512 == 0 else whole

    @property
    def blocks(self) -> int:
        """Blocks of rows that are multiplied one after the other, those of all tasks."""
        shared = self.tasks if self.split == "rows" else 1
        if not self.high:
            return shared
        return int(shared * ceil_div(ceil_div(self.tiles, shared), ceil_div(self.high, self.rows)))

    @property
    def tiles(self) -> int:
        """Tiles below each other, of a known M."""
        return int(sum(group.count for group in split_rows(self.m, self.rows)))

    @property
    def column_units(self) -> Size:
        """Pieces of the columns that are worth a part of a task: each turns a, or packs all of b,
        anew."""
        if self.repeated or self.turned or self.source == "turned":
            return 1
        return ceil_div(self.n, self.width * self.abreast)

    @property
    def row_units(self) -> Size:
        """The same of the rows: each reads all of b anew, or packs it, unless that was done before;
        those of a block do."""
        if self.repeated:
            return 1
        if self.high:
            blocks = max(1, ceil_div(self.blocks, self.tasks))
            return int(ceil_div(blocks, ceil_div(blocks, MOST_PARTS)) * self.tasks)
        if self.source == "pack" and not self.keeps:
            return 1
        return ceil_div(self.m, self.rows if self.rows_outside else PART_ROWS)

    @property
    def held(self) -> int:
        """Rows of a that lie turned in each task's scratch: whole vectors of the highest block."""
        if not self.turned:
            return 0
        return int(min(self.m, self.lanes * ceil_div(self.highest, self.lanes)))

    @property
    def highest(self) -> int:
        """Rows of the highest block."""
        return int(ceil_div(self.tiles, self.blocks) * self.rows)

    @property
    def sums(self) -> int:
        """Elements of the sums of a block of rows over some steps of K."""
        if not self.depth:
            return 0
        return int(self.highest * self.lanes * ceil_div(self.n, self.lanes))

    @property
    def sides(self) -> int:
        """Panels that lie in scratch: all, those abreast, or one that is packed while another is
        multiplied."""
        if self.keeps:
            return int(ceil_div(self.n, self.width))
        ahead = self.ahead(self.depth or self.k)
        return 2 if ahead is not None and ahead.copies else self.abreast

    def asks(self, k: Size) -> Asks | AsksInPlace | None:
        """What is asked for of the next panel of so many rows while one is multiplied, if
        anything."""
        if not self.far and not self.keeps:
            return None
        if self.source == "pack" and not self.keeps:
            line, tiles = LINE_BYTES // ITEMSIZE[self.dtype], self.tiles // self.blocks
            return AsksInPlace(k, self.width, line, self.along == "n", tiles)
        k = self.depth or self.k
        return Asks(k // UNROLL, k * self.width, self.tiles // self.blocks)

    @property
    def asks_rows(self) -> bool:
        """Whether the next tile's rows of a are asked for: of long rows that are read once, each
        ends before the hardware foresees it."""
        m, k = self.m, self.k
        known = self.dots and self.rows_outside and isinstance(m, int) and isinstance(k, int)
        return bool(known and m * k * ITEMSIZE[self.dtype] > NEAR_MEMORY)

    def ahead(self, k: Size) -> Ahead | None:
        """What is done for a panel of so many rows while the one before it is multiplied, if
        anything."""
        m, n, along = self.m, self.n, self.along
        known = isinstance(m, int) and isinstance(n, int) and isinstance(k, int)
        if self.source != "pack" or along is None or self.far or not known:
            return None
        tiles = self.tiles // self.blocks
        made = Ahead(k, self.vectors, self.lanes, tiles, copies=along == "n")
        return made if made.pays and n >= PANELS * self.width else None


def plan_matmul(
    a: Operand, b: Operand | Panels, m: Size, n: Size, k: Size, machine: Machine,
    batch: Sequence[Size] = (), most: int | None = None,
) -> MatmulPlan:  # fmt: skip
    """The plan for a [batch.., M, K] and b [batch.., K, N]; strides are all that is looked at.
    `most`: what M never exceeds, where that is known."""
    plan = _planned(a, b, m, n, k, machine, batch, most)
    return _in_blocks(plan, machine, along=_along(b))


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
    elif source in ("panels", "place") and isinstance(m, int) and isinstance(n, int):
        step = b.width // lanes if isinstance(b, Panels) else 1
        vectors = _shared_vectors(m, n, batch, vectors, step, lanes, tasks)
    shared = machine.repeated and isinstance(n, int) and n >= 2 * tasks * vectors * unit
    # In a loop b is the same at each step: a thread keeps its columns in its cache.
    split = "columns" if shared else _split_axis(m, n, batch, rows, vectors * unit, tasks, source)
    if split == "rows" and isinstance(m, int):
        rows = _shared_rows(m, rows, tasks)
    again = source in ("panels", "place") or (source in ALONG_K and machine.registers < 32)
    b_bytes = product([n, k]) if again else None  # of a b that costs nothing to read again
    plan = MatmulPlan(
        m, n, k, tuple(batch), a.dtype, source, rows, vectors, lanes, split, tasks,
        least=machine.least_work,
        rows_outside=isinstance(b_bytes, int) and b_bytes * ITEMSIZE[a.dtype] <= machine.near_bytes,
        along=_along(b) if machine.registers == 32 else None,
        turned=_is_turned(a, m, n, machine),
        repeated=machine.repeated,
    )  # fmt: skip
    return plan


def plan_parts(
    a: Operand, b: Panels, m: Size, columns: int, parts: int, k: Size, machine: Machine
) -> MatmulPlan:
    """The plan for panels [.., K, parts * lanes], with the same columns of each part."""
    panels = ceil_div(columns, b.width // parts)
    plan = _in_blocks(_planned(a, b, m, panels * b.width, k, machine), machine, whole=True)
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


def _in_blocks(
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
        depth, plan = 0, replace(plan, far=asks and _is_far(plan, along, machine))
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
        # Where memory is far, panels aren't read again for rows that the L2 cache has room for.
        full = machine.registers < 32 or m * row > FULL * machine.l2_bytes
        again = plan.source == "panels" and full
        if several and (kept or again or depth):
            return near
    return replace(plan, high=max(LEAST_ROWS, TURNED_BYTES // row)) if plan.turned else plan


def _depth(plan: MatmulPlan, machine: Machine) -> int:
    """Steps of K that are done at a time, 0 for all: fewer where the rows that the L2 cache has
    beside panels would be too few. Of many rows in place that doesn't pay: their sums come and
    go."""
    m, n, k, itemsize = plan.m, plan.n, plan.k, ITEMSIZE[plan.dtype]
    known = isinstance(m, int) and isinstance(n, int) and isinstance(k, int)
    if not known or plan.source not in ("panels", "pack") or plan.rows_outside:
        return 0
    panels = 2 * plan.width if plan.source == "pack" else 0
    near = machine.near_bytes // itemsize >= k * (LEAST_HIGH + panels)
    if near or not (FEW < m <= DEEP_ROWS or plan.turned) or n <= plan.width or k <= DEPTH:
        return 0
    return int(UNROLL * ceil_div(k, UNROLL * ceil_div(k, DEPTH)))


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
    m, n, k = plan.m, plan.n, plan.k
    known = isinstance(m, int) and isinstance(n, int) and isinstance(k, int)
    if not known or plan.rows_outside or machine.repeated:
        return False
    bytes_ = n * k * ITEMSIZE[plan.dtype]
    if plan.source == "pack":
        return bool(along and m <= ASKED_ROWS and bytes_ > machine.l2_bytes)
    return bool(
        plan.source == "panels" and m > 1
        and bytes_ > (machine.near_bytes if m >= ASKING else NEAR_MEMORY)
    )  # fmt: skip


def _along(b: Operand | Panels) -> str | None:
    if isinstance(b, Panels):
        return None
    return "n" if is_int(b.strides[-1], 1) else "k" if is_int(b.strides[-2], 1) else None


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
    aliased = isinstance(k, int) and k > 0 and k * ITEMSIZE[dtype] % 4096 == 0
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
    if wide:
        one = height is not None and height <= TALLEST and vectors <= 2
        rows = TALLEST if vectors == 1 or one else 24 // vectors
    else:
        rows = 8 if vectors == 1 else 12 // vectors
    return min(rows, height) if height else rows, vectors


def _dots_shape(height: int | None, n: Size, wide: bool) -> tuple[int, int]:
    rows, vectors = (5, 4) if wide else (3, 4)
    if height is not None and height < 4:
        rows, vectors = max(1, height), (8 if wide else 4)
    return rows, min(vectors, n) if isinstance(n, int) and n else vectors


def _split_axis(
    m: Size, n: Size, batch: Sequence[Size], rows: int, columns: int, tasks: int, source: str
) -> str:
    """The axis whose tiles the tasks share out best: so that the busiest has the least to do."""
    if tasks == 1 or any(not isinstance(extent, int) for extent in batch):
        return "batch" if batch else "rows"
    if not isinstance(n, int):
        return "rows"
    if not isinstance(m, int):
        return "rows" if ceil_div(n, columns) < tasks else "columns"
    again = PACKING / (m + PACKING) if source == "pack" else 0.0  # by each task all of b
    shares = {
        "batch": largest_share(product(batch), tasks),
        "rows": largest_share(m, tasks) * (1 - again) + again,
        "columns": largest_share(ceil_div(n, columns), tasks),
    }
    return min(shares, key=lambda axis: shares[axis])


def _shared_vectors(
    m: int, n: int, batch: Sequence[Size], vectors: int, step: int, lanes: int, tasks: int
) -> int:
    """The width of tiles of which each task has as many, where sharing out rows or matrices leaves
    one of them more to do."""
    tiles = ceil_div(n, vectors * lanes)
    if not n or tiles >= 4 * tasks or any(not isinstance(extent, int) for extent in batch):
        return vectors
    narrow = ceil_div(ceil_div(n, lanes), ceil_div(tiles, tasks) * tasks)
    narrow = ceil_div(narrow, step) * step
    others = min(largest_share(product(batch), tasks), largest_share(m, tasks))
    shares = [largest_share(ceil_div(n, width * lanes), tasks) for width in (narrow, vectors)]
    return narrow if shares[0] < 0.9 * min(others, shares[1]) else vectors


def _shared_rows(m: int, rows: int, tasks: int) -> int:
    """The height of tiles of which each task has as many, as far as they don't get much lower."""
    if not m:
        return rows
    tiles = ceil_div(m, rows)
    even = ceil_div(tiles, tasks) * tasks
    return ceil_div(m, even) if tiles < 4 * tasks and even <= m else rows
