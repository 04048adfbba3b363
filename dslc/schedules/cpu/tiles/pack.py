"""Copying a matrix into panel order, inside a kernel.

`pack_panel` turns columns [0, columns) of a [K, N] operand of any strides into [K][width], zeros
from `columns` on. Contiguous along N: row copies. Contiguous along K: blocks are turned by shuffles
in registers, since single strided stores would cost more than the multiplication they serve.

A block has few columns: where they lie a multiple of 4 KiB apart, one set of the L1 cache holds as
many lines, and of a vector across two lines the second is still there for the block below. Blocks
below each other come first, until as many lines of panels are begun as the cache holds: those
beside them fill them up.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.contract import (
    Expr,
    Operand,
    Size,
    ceil_div,
    div,
    edge_vector,
    i64,
    is_int,
    loop,
    masked_vector,
    smaller,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.tiles.dots import zero

COLUMNS = 8  # of a block: the ways of an L1 cache
CHUNK = 8  # blocks below each other


def pack_panel(
    source: Operand, target: Operand, k: Size, columns: Size, width: int, lanes: int
) -> None:
    """source [K, N] to target [K][width]; `columns` of `width` exist, the others become 0."""
    if is_int(source.strides[0], 1) and not is_int(source.strides[1], 1):
        _turn(source, target, k, columns, width, lanes)
    elif isinstance(columns, int):
        _copy(source, target, 0, k, columns, width, lanes)
    else:
        with T.If(columns == i64(width)):
            with T.Then():
                _copy(source, target, 0, k, width, width, lanes)
            with T.Else():
                _copy(source, target, 0, k, columns, width, lanes)


def _copy(
    source: Operand, target: Operand, start: Size, stop: Size, columns: Size, width: int, lanes: int
) -> None:
    """Rows [start, stop)."""
    with loop(start, stop) as row:
        if is_int(source.strides[1], 1):
            for j in range(width // lanes):
                at = source.at(row, i64(j * lanes))
                value = edge_vector(source.buffer, source.dtype, at, lanes, j, columns, width)
                store_vector(target.buffer, value, target.at(row, i64(j * lanes)), lanes)
        else:
            with loop(0, columns) as j:
                T.buffer_store(target.buffer, source.load(row, j), [target.at(row, j)])
            with loop(columns, width) as j:
                T.buffer_store(target.buffer, zero(source.dtype), [target.at(row, j)])


def _turn(source: Operand, target: Operand, k: Size, columns: Size, width: int, lanes: int) -> None:
    turning = _Turning(source, target, k, lanes)
    whole = div(columns, lanes)
    with loop(0, whole) as vector:
        turning.vector(T.bind(vector * lanes), lanes)
    if not (isinstance(columns, int) and columns % lanes == 0):
        with loop(whole, ceil_div(columns, lanes)) as vector:
            first = T.bind(vector * lanes)
            turning.vector(first, columns % lanes if isinstance(columns, int) else columns - first)
    with loop(ceil_div(columns, lanes), width // lanes) as vector, loop(0, k) as row:
        nothing = _nothing(source.dtype, lanes)
        store_vector(target.buffer, nothing, target.at(row, vector * lanes), lanes)
    if not isinstance(k, int):
        _copy(source, target, turning.blocks * lanes, k, columns, width, lanes)


@dataclass(frozen=True, slots=True)
class _Turning:
    """Of an unknown K, the rows behind the last whole block are left out. Of a known one, the last
    block ends with it, and so goes over some of the rows above once more."""

    source: Operand
    target: Operand
    k: Size
    lanes: int

    @property
    def each(self) -> int:
        """Columns of a block."""
        return min(COLUMNS, self.lanes)

    @property
    def blocks(self) -> Size:
        """Blocks below each other."""
        return ceil_div(self.k, self.lanes) if isinstance(self.k, int) else div(self.k, self.lanes)

    def vector(self, first: Expr, columns: Size) -> None:
        """A vector of columns, of which `columns` exist."""
        beside = self.lanes // self.each
        with loop(0, ceil_div(self.blocks, CHUNK)) as chunk:
            start = T.bind(chunk * CHUNK)
            stop = T.bind(i64(smaller(start + CHUNK, self.blocks)))
            if not is_int(columns, self.lanes) and isinstance(columns, int):
                for i in range(beside):
                    left = min(max(columns - i * self.each, 0), self.each)
                    self._chunk(start, stop, first + i * self.each, left)
                return
            with loop(0, beside) as i:
                left = self.each if isinstance(columns, int) else columns - i * self.each
                self._chunk(start, stop, T.bind(first + i * self.each), left)

    def _chunk(self, start: Expr, stop: Expr, column: Expr, columns: Size) -> None:
        with loop(start, stop) as block:
            row = block * self.lanes
            if isinstance(self.k, int) and self.k > self.lanes and self.k % self.lanes:
                row = smaller(row, self.k - self.lanes)
            self._block(T.bind(i64(row)), column, columns)

    def _block(self, row: Expr, column: Expr, columns: Size) -> None:
        vectors = [T.bind(self._read(row, column, i, columns)) for i in range(self.each)]
        for i, vector in enumerate(transpose(vectors, self.lanes)):
            for part in range(0, self.lanes, self.each):
                if isinstance(self.k, int) and i + part >= self.k:
                    continue
                at = self.target.at(row + (i + part), column)
                store_vector(self.target.buffer, _part(vector, part, self.each, self.lanes), at,
                             self.each)  # fmt: skip

    def _read(self, row: Expr, column: Expr, i: int, columns: Size) -> Expr:
        """Column i of a block, zeros where there is none."""
        source, lanes = self.source, self.lanes
        known = isinstance(columns, int)
        if known and i >= columns:
            return _nothing(source.dtype, lanes)
        at = T.bind(source.at(row, column + (i if known else smaller(i, columns - 1))))
        if isinstance(self.k, int) and self.k < lanes:
            mask = tirx.Ramp(i64(0), i64(1), lanes) < tirx.Broadcast(i64(self.k), lanes)
            value = masked_vector(source.buffer, source.dtype, at, lanes, mask)
        else:
            value = vector_at(source.buffer, at, lanes)
        if known:
            return value
        there = tirx.Broadcast(i64(i) < columns, lanes)
        return tirx.Select(there, value, _nothing(source.dtype, lanes))


def _nothing(dtype: str, lanes: int) -> Expr:
    return tirx.Broadcast(zero(dtype), lanes)


def _part(vector: Expr, first: int, count: int, lanes: int) -> Expr:
    return vector if count == lanes else shuffle([vector], [first + i for i in range(count)])


def transpose(vectors: list[Expr], lanes: int = 0) -> list[Expr]:
    """Transposes vectors of as many lanes (or a multiple, `lanes`: then vector i holds the rows
    i, i + len(vectors), ...): log2(len(vectors)) rounds of two-input shuffles.

    Round r exchanges, between vectors that differ in bit r of their number, the elements whose
    lane differs in that bit.
    """
    lanes = lanes or len(vectors)
    bit = 1
    while bit < len(vectors):
        low = [lane if not lane & bit else lanes + lane - bit for lane in range(lanes)]
        high = [lane + bit if not lane & bit else lanes + lane for lane in range(lanes)]
        done = list(vectors)
        for first in (i for i in range(len(vectors)) if not i & bit):
            pair = [vectors[first], vectors[first + bit]]
            done[first], done[first + bit] = shuffle(pair, low), shuffle(pair, high)
        vectors, bit = done, bit * 2
    return vectors


def shuffle(vectors: list[Expr], lanes: list[int]) -> Expr:
    """A vector of the elements of such numbers, counted through all of `vectors`."""
    return T.bind(tirx.Shuffle(vectors, [tirx.IntImm("int32", lane) for lane in lanes]))
