"""The register tile: rows x vectors accumulators that never leave the registers.

Turns a reduction, given as readers of scalars (one per row) and of vectors (along the columns),
into TIR whose accumulators all have constant indices, so that LLVM keeps them in registers: per
step one load per column vector, one broadcast per row, rows * vectors multiply-adds. Afterwards
the accumulators are copied out and handed element by element to the epilogue in rolled loops,
which LLVM vectorises, so that a long epilogue is compiled once and not rows * vectors times.

Reference: Goto, van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.
Non-goals: choosing tile sizes, and the loops around a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Index,
    Size,
    address,
    ceil_div,
    div,
    i64,
    is_int,
    larger,
    local,
    loop,
    smaller,
    store_vector,
    vector_at,
    zeros,
)
from dslc.schedules.cpu.tiles.dots import plus_product, summed

RowReader = Callable[[int, Expr], Expr]  # (row of the tile, k) -> scalar
ColumnReader = Callable[[int, Expr], Expr]  # (vector of the tile, k) -> vector of `lanes`

UNROLL = 4  # steps of k per iteration
HOT = 32  # iterations of the inner one of two loops
ROLLED = 32  # columns from which LLVM leaves a loop over them


@dataclass(frozen=True, slots=True)
class Tile:
    """Shape of a register tile, and what it multiplies."""

    rows: int
    vectors: int
    lanes: int
    dtype: str

    @property
    def columns(self) -> int:
        return self.vectors * self.lanes

    @property
    def sets(self) -> int:
        """Partial sums per accumulator: small tiles need several independent multiply-adds in
        flight to hide their latency."""
        accumulators = self.rows * self.vectors
        return 4 if accumulators <= 2 else 2 if accumulators <= 5 else 1

    @property
    def size(self) -> int:
        """Elements of all accumulators."""
        return self.rows * self.columns * self.sets

    def offset(self, row: int, vector: int, part: int = 0) -> Expr:
        return i64(((part * self.rows + row) * self.vectors + vector) * self.lanes)


@dataclass(frozen=True, slots=True)
class Registers:
    """Accumulators of the biggest tile of a kernel, and the buffer its results are copied to."""

    accumulators: Any
    results: Any


def allocate(tiles: list[Tile]) -> Registers:
    """Room for any of `tiles`; call it inside the task that uses it."""
    dtype = summed(tiles[0].dtype)
    return Registers(
        local(max(t.size for t in tiles), dtype),
        local(max(t.rows * t.columns for t in tiles), dtype),
    )


def clear(tile: Tile, registers: Registers) -> None:
    """Accumulators to zero."""
    for part in range(tile.sets):
        for i in range(tile.rows):
            for j in range(tile.vectors):
                zero = zeros(summed(tile.dtype), tile.lanes)
                store_vector(registers.accumulators, zero, tile.offset(i, j, part), tile.lanes)


def load(
    tile: Tile, registers: Registers, buffer: Any, start: Expr, stride: Size,
    factor: Callable[[int], Expr] | None = None,
) -> None:  # fmt: skip
    """Accumulators continue from sums in memory: row i at start + i * stride, times factor(i)."""
    clear(tile, registers)
    for i in range(tile.rows):
        scale = None if factor is None else T.bind(tirx.Broadcast(factor(i), tile.lanes))
        for j in range(tile.vectors):
            at = address(start, (i, stride), (j, tile.lanes))
            value = vector_at(buffer, at, tile.lanes)
            value = value if scale is None else value * scale
            store_vector(registers.accumulators, value, tile.offset(i, j), tile.lanes)


def add(tile: Tile, registers: Registers, buffer: Any, start: Expr, stride: Size) -> None:
    """Sums in memory, row i at start + i * stride, added to the accumulators."""
    for i in range(tile.rows):
        for j in range(tile.vectors):
            at, held = address(start, (i, stride), (j, tile.lanes)), tile.offset(i, j)
            total = vector_at(registers.accumulators, held, tile.lanes)
            total = total + vector_at(buffer, at, tile.lanes)
            store_vector(registers.accumulators, total, held, tile.lanes)


def save(tile: Tile, registers: Registers, buffer: Any, start: Expr, stride: Size) -> None:
    """Accumulators, partial sums added up, to memory: row i to start + i * stride."""
    for i in range(tile.rows):
        for j in range(tile.vectors):
            at = address(start, (i, stride), (j, tile.lanes))
            store_vector(buffer, _total(tile, registers, i, j), at, tile.lanes)


def multiply_add(
    tile: Tile,
    registers: Registers,
    row: Callable[[int], Expr],
    column: Callable[[int], Expr],
    part: int = 0,
) -> None:
    """One step: accumulator[i][j] += row(i) * column(j)."""
    acc, lanes = registers.accumulators, tile.lanes
    columns = [T.bind(column(j)) for j in range(tile.vectors)]
    for i in range(tile.rows):
        value = T.bind(tirx.Broadcast(row(i), lanes))
        for j in range(tile.vectors):
            at = tile.offset(i, j, part)
            total = plus_product(tile.dtype, vector_at(acc, at, lanes), value, columns[j])
            store_vector(acc, total, at, lanes)


def multiply_add_lanes(
    tile: Tile,
    registers: Registers,
    left: Callable[[int], Expr],
    right: Callable[[int], Expr],
) -> None:
    """One step, lane by lane (one vector a row): accumulator[i] += left(i) * right(i)."""
    acc, lanes = registers.accumulators, tile.lanes
    for i in range(tile.rows):
        at = tile.offset(i, 0)
        total = plus_product(tile.dtype, vector_at(acc, at, lanes), left(i), right(i))
        store_vector(acc, total, at, lanes)


def reduce_segment(
    tile: Tile, registers: Registers, length: Size, row: RowReader, column: ColumnReader,
    beside: Callable[[Expr], None] | None = None,
) -> None:  # fmt: skip
    """accumulator[i][j] += sum over k < length of row(i, k) * column(j, k). `beside`: what is done
    once for UNROLL steps of k, given how many such blocks there were before."""

    def step(k: Expr, part: int) -> None:
        multiply_add(tile, registers, lambda i: row(i, k), lambda j: column(j, k), part)

    whole = div(length, UNROLL)
    if not is_int(whole, 0):
        with _hot_loop(whole) as block:
            if beside is not None:
                beside(block)
            for u in range(UNROLL):
                step(block * UNROLL + u, u % tile.sets)
    if isinstance(length, int):
        for k in range(length - length % UNROLL, length):
            step(i64(k), k % tile.sets)
    else:
        with loop(whole * UNROLL, length) as k:
            step(k, 0)


@contextmanager
def _hot_loop(stop: Size) -> Iterator[Expr]:
    """A loop in a loop. To LLVM, what is nested deeper runs more often: it would else keep an
    epilogue's constants in registers, and accumulators in memory for them."""
    if isinstance(stop, int) and stop <= HOT:
        with loop(0, stop) as variable:
            yield variable
        return
    with loop(0, ceil_div(stop, HOT)) as outer:
        start = T.bind(outer * HOT)
        with loop(start, T.bind(i64(smaller(stop, start + HOT)))) as variable:
            yield variable


def finish(
    tile: Tile,
    registers: Registers,
    columns: Size,
    index: Callable[[Expr, Expr], Index],
    epilogue: Epilogue,
    tail: int | None = None,
) -> None:
    """Hands the first `columns` columns of every row to the epilogue.

    `index(i, j)` is the logical index of element (i, j) of the tile, both TIR expressions. `tail`:
    what `columns` are if they aren't all.
    """
    copy_out(tile, registers)
    results = registers.results

    def rows(width: Size) -> None:
        # A short loop over columns LLVM would unroll, and then take rows for lanes.
        apart = tile.rows if isinstance(width, int) and width < ROLLED else 1
        with loop(0, tile.rows // apart) as block:
            for n in range(apart):
                i = block * apart + n
                with loop(0, width) as j:
                    epilogue(index(i, j), results[i * tile.columns + j])

    if isinstance(columns, int):
        rows(columns)
        return
    with T.If(columns == i64(tile.columns)):
        with T.Then():
            rows(tile.columns)
        with T.Else():
            rows(columns if tail is None else tail)


def finish_parts(
    tile: Tile, registers: Registers, parts: int, width: int, left: Size,
    index: Callable[[Expr, Expr], Index], epilogue: Epilogue,
) -> None:  # fmt: skip
    """Hands rows of `parts` results, copied out before, to the epilogue: `width` columns of each
    lie side by side, and `left` of the tile's first part and those to its right are there."""
    results = registers.results

    def rows(first: int, count: Size) -> None:
        with loop(0, tile.rows) as i, loop(0, count) as j:
            at = i * tile.columns + first * parts + j
            totals = [results[at + part * width] for part in range(parts)]
            epilogue(index(i, first + j), *totals)

    for first in range(0, tile.columns // parts, width):
        with T.If(left >= i64(first + width)):
            with T.Then():
                rows(first, width)
            with T.Else():
                rows(first, T.bind(i64(larger(0, left - first))))


def copy_out(tile: Tile, registers: Registers, vectors: int = 0, first: int = 0) -> None:
    """Results of the tile to `registers.results` [rows][vectors * lanes], from vector `first` of a
    row on; without a number, rows of as many vectors as the tile has."""
    columns = (vectors or tile.vectors) * tile.lanes
    save(tile, registers, registers.results, i64(first * tile.lanes), columns)


def _total(tile: Tile, registers: Registers, row: int, vector: int) -> Expr:
    """An accumulator, its partial sums added up."""
    acc, lanes = registers.accumulators, tile.lanes
    parts = [vector_at(acc, tile.offset(row, vector, p), lanes) for p in range(tile.sets)]
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2])]
    return parts[0]
