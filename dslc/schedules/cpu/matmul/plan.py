"""How a matmul is run: where its operands are read, the tile, and what tasks share out.

A `MatmulPlan` (`choose.py` makes it, `matmul.py` emits it) and what follows from it. All of it is
plain arithmetic over the sizes that are known.

Non-goals: TIR.
"""

from __future__ import annotations

from dataclasses import field

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    LINE_BYTES,
    MOST_PARTS,
    Size,
    ceil_div,
    product,
)
from dslc.schedules.cpu.tiles.pack_ahead import Ahead, Asks, AsksInPlace
from dslc.schedules.cpu.tiles.register_tile import UNROLL
from dslc.schedules.cpu.tiles.split import split as split_rows

ALONG_K = ("dots", "turned")  # sources of tiles whose lanes run along K
NEAR_MEMORY = 6 << 20  # bytes of panels, or rows, that the L3 cache has for a core
PANELS = 3  # from which on each is packed while the one before it is multiplied
PART_ROWS = 128  # that take long enough to read a b again that is not in the L2 cache
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
    panels are asked for, of an unknown M as if it was `fewest`. `repeated`: in each step of a loop,
    where tasks have the same columns."""

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
    fewest: int = field(default=0, repr=False)

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
        known = isinstance(self.m, int)
        tiles = self.tiles // self.blocks if known else ceil_div(self.fewest, self.rows)
        return Asks(k // UNROLL, k * self.width, tiles, more=not known)

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
