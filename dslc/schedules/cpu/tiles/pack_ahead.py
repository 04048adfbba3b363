"""Packs the columns that come next while those before them are multiplied.

A panel of a right side that lies in rows has a short piece of each: lines far apart, mostly on
pages of their own, which the hardware doesn't foresee. So the register tiles of one panel copy the
next one, a vector or two for some steps of theirs, and ask for what they will copy a little later.
Of one that lies in columns they only ask for the lines, since it has to be turned; of one that was
packed before the call, too.

Where registers are few, nothing is copied meanwhile: tiles only ask (`Asks`, `AsksInPlace`).

Input: where the next panel lies and where it goes. Non-goals: columns beyond the last one
(`pack.py` packs them, before they are multiplied).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.contract import (
    Expr,
    Operand,
    div,
    i64,
    prefetch,
    rem,
    smaller,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.tiles.register_tile import UNROLL

DISTANCE = 8  # steps between asking for a line and copying it: what memory takes to answer
LINE = 16  # elements of a cache line
L2 = 2  # the cache that a panel is asked into: it fills most of the L1
MOST = 6  # vectors of a step: of more, packing first is as good


@dataclass(frozen=True, slots=True)
class Ahead:
    """Of a panel of `k` rows of `vectors`, what `tiles` register tiles of that depth do; `copies`:
    whether the panel's rows lie in one piece."""

    k: int
    vectors: int
    lanes: int
    tiles: int
    copies: bool

    @property
    def steps(self) -> int:
        """Of a tile."""
        return self.k // UNROLL

    @property
    def each(self) -> int:
        """Vectors of a step."""
        return -(-self.k * self.vectors // max(1, self.tiles * self.steps))

    @property
    def pays(self) -> bool:
        return self.tiles * self.steps > 0 and self.each <= MOST

    def during(self, tile: Expr, source: Operand, target: Operand) -> Callable[[Expr], None]:
        """What the tile of that number does beside, given how many steps of UNROLL it has done."""

        def act(step: Expr) -> None:
            first = T.bind(i64((tile * self.steps + step) * self.each))
            for i in range(self.each):
                if self.copies:
                    row, column = self._in_rows(first + (DISTANCE * self.each + i))
                    prefetch(source.buffer[source.at(row, column + (self.lanes - 1))])
                    self._copy(source, target, first + i)
                else:
                    prefetch(source.buffer[source.at(*self._in_columns(first + i))])

        return act

    def _in_rows(self, number: Expr) -> tuple[Expr, Expr]:
        """Row and column of a vector; of those behind the last one the last row's."""
        row = smaller(div(number, self.vectors), self.k - 1)
        return row, rem(number, self.vectors) * self.lanes

    def _in_columns(self, number: Expr) -> tuple[Expr, Expr]:
        width = self.vectors * self.lanes
        return smaller(div(number, width) * self.lanes, self.k - 1), rem(number, width)

    def _copy(self, source: Operand, target: Operand, number: Expr) -> None:
        row, column = (T.bind(i64(x)) for x in self._in_rows(number))
        value = vector_at(source.buffer, source.at(row, column), self.lanes)
        store_vector(target.buffer, value, target.at(row, column), self.lanes)


@dataclass(frozen=True, slots=True)
class Asks:
    """Of a panel of `elements` in one piece, which `tiles` register tiles of `steps` steps ask for
    evenly: it comes from memory or the L3 cache, and takes as long as a few of them. `more`: there
    may be more tiles, which ask for nothing new."""

    steps: int
    elements: int
    tiles: int
    more: bool = False

    @property
    def each(self) -> int:
        """Elements of a step."""
        return -(-self.elements // max(1, self.tiles * self.steps))

    def during(self, tile: Expr, buffer: Any, start: Expr) -> Callable[[Expr], None]:
        """What the tile of that number does beside, given how many steps of UNROLL it has done."""

        def act(step: Expr) -> None:
            ahead = (tile * self.steps + step) * self.each
            first = T.bind(i64(start + (smaller(ahead, self.elements) if self.more else ahead)))
            for i in range(0, self.each, LINE):
                prefetch(buffer[first + i], L2)

        return act


@dataclass(frozen=True, slots=True)
class AsksInPlace:
    """Of a panel of `k` rows of `width` columns that is yet to be packed, which lies in rows or in
    columns, what `tiles` register tiles of that depth ask for evenly. `line`: elements of a cache
    line."""

    k: int
    width: int
    line: int
    in_rows: bool
    tiles: int

    @property
    def steps(self) -> int:
        """Of a tile."""
        return self.k // UNROLL

    @property
    def each(self) -> int:
        """Lines of a step."""
        lines = self.k * self.across if self.in_rows else -(-self.k // self.line) * self.width
        return -(-lines // max(1, self.tiles * self.steps))

    @property
    def across(self) -> int:
        """Lines of a row."""
        return -(-self.width // self.line)

    def during(self, tile: Expr, source: Operand) -> Callable[[Expr], None]:
        """What the tile of that number does beside, given how many steps of UNROLL it has done."""

        def act(step: Expr) -> None:
            first = T.bind(i64((tile * self.steps + step) * self.each))
            for i in range(self.each):
                prefetch(source.buffer[source.at(*self._place(first + i))], L2)

        return act

    def _place(self, number: Expr) -> tuple[Expr, Expr]:
        """Row and column of a line's last element: where panels straddle lines, the first one came
        with the panel before."""
        last = self.line - 1
        if self.in_rows:
            row = smaller(div(number, self.across), self.k - 1)
            return row, rem(number, self.across) * self.line + last
        row = smaller(div(number, self.width) * self.line + last, self.k - 1)
        return row, rem(number, self.width)
