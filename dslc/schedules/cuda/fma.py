"""A product by multiply-adds of f32 or f64: each thread keeps a small tile of sums in registers.

Tiles of both sides lie in shared memory step by step, so that a thread reads its rows and columns
of a step as vectors. Two of each are there in turn: one is multiplied while the next is on its way.
Threads in `slices` share the steps of a tile; their sums are added up at the end. That keeps
more threads busy where tiles are few.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cuda.block import (
    SHARED_BYTES,
    Loader,
    Place,
    counted,
    each_tile,
    finish_tile,
    in_turns,
    local,
    maybe,
    ramp,
    shared,
)
from dslc.schedules.cuda.product import (
    ITEMSIZE,
    Expr,
    Product,
    add,
    divide,
    named,
    summed,
    times,
)

_UNROLLED = 8  # steps whose multiply-adds are written out
_PAD = 4  # elements behind a step's lines, so that a line's steps lie in different banks


@dataclass(frozen=True, slots=True)
class Tile:
    """Lines of each side and steps of a block's tile, lines of a thread's, and slices."""

    rows: int
    columns: int
    depth: int
    row: int
    column: int
    slices: int = 1

    @property
    def threads(self) -> int:
        return self.rows // self.row * (self.columns // self.column) * self.slices

    @property
    def down(self) -> int:
        """Threads of a slice above each other."""
        return self.rows // self.row

    @property
    def across(self) -> int:
        return self.columns // self.column


def shared_elements(tile: Tile) -> int:
    """Of two tiles of each side."""
    return 2 * tile.depth * (tile.rows + tile.columns + 2 * _PAD)


def emit_product(p: Product, tile: Tile) -> None:
    """The whole kernel, thread bindings included."""
    with each_tile(p, tile.rows, tile.columns, tile.depth, tile.threads) as at:
        _Emitter(p, tile, at).emit()


class _Emitter:
    """One block's tile."""

    def __init__(self, p: Product, tile: Tile, at: Place) -> None:
        self.p, self.tile, self.at, self.dtype = p, tile, at, summed(p.left.dtype)
        self.lanes = 16 // ITEMSIZE[self.dtype]
        self.slice, self.y, self.x = self._position()
        self.left = Loader(p.left, at, tile.rows, tile.depth, tile.threads, at.row)
        self.right = Loader(p.right, at, tile.columns, tile.depth, tile.threads, at.column)
        self.memory = shared(shared_elements(tile), self.dtype)
        self.sums = local(tile.row * tile.column, self.dtype)

    def _position(self) -> tuple[Expr, Expr, Expr]:
        """The thread's slice, and where its tile lies in the block's. A warp's tiles form a block
        of 4 x 8, for which it reads fewest lines."""
        tile = self.tile
        slice_, within = divide(self.at.thread, tile.down * tile.across)
        if tile.down % 4 or tile.across % 8:
            y, x = divide(within, tile.across)
            return slice_, y, x
        warp, lane = divide(within, 32)
        y, x = divide(warp, tile.across // 8)
        above, beside = divide(lane, 8)
        return slice_, named(add(times(y, 4), above)), named(add(times(x, 8), beside))

    def emit(self) -> None:
        tile, at = self.tile, self.at
        with counted(tile.row * tile.column, at.thread, unroll=True) as i:
            T.buffer_store(self.sums, tirx.const(0.0, self.dtype), [i])
        in_turns(at, tile.depth, self._load, self._put, self._multiply)
        self._finish()

    # --- tiles ------------------------------------------------------------------------------------

    def _load(self, start: Expr) -> None:
        self.left.load(start)
        self.right.load(start)

    def _put(self, half: Expr) -> None:
        """What was loaded into one half of the shared memory."""
        for loader, base, stride in self._parts(half):
            for i, (line, step) in enumerate(loader.places):
                with maybe(loader.idle):
                    self._put_group(loader, i, add(base, line), step, stride)

    def _put_group(self, loader: Loader, i: int, line: Expr, step: Expr, stride: int) -> None:
        """One group of neighbours."""
        width, along_line = loader.side.width, loader.side.along == "line"
        if along_line:
            target = ramp(add(line, times(step, stride)), width)
            T.buffer_store(self.memory, loader.stage[ramp(i * width, width)], [target])
            return
        for j in range(width):
            target = add(line, times(add(step, j), stride))
            T.buffer_store(self.memory, loader.stage[i * width + j], [ramp(target, 1)])

    def _parts(self, half: Expr) -> list[tuple[Loader, Expr, int]]:
        """Of each side: its loader, where its tile begins, and what lies between its steps."""
        tile = self.tile
        rows, columns = tile.rows + _PAD, tile.columns + _PAD
        start = times(half, tile.depth * (rows + columns))
        return [
            (self.left, start, rows),
            (self.right, add(start, tile.depth * rows), columns),
        ]

    def _multiply(self, half: Expr) -> None:
        tile = self.tile
        each = tile.depth // tile.slices
        (_, left, rows), (_, right, columns) = self._parts(half)
        a, b = local(tile.row, self.dtype), local(tile.column, self.dtype)
        first = times(self.slice, each)
        few = min(each, _UNROLLED)
        with (
            counted(each // few, self.at.thread) as many,
            counted(few, self.at.thread, unroll=True) as k,
        ):
            step = add(first, add(times(many, few), k))
            self._read(a, add(left, times(step, rows)), tile.row, tile.down, self.y)
            self._read(b, add(right, times(step, columns)), tile.column, tile.across, self.x)
            like = self.at.thread
            with (
                counted(tile.row, like, unroll=True) as i,
                counted(tile.column, like, unroll=True) as j,
            ):
                at = add(times(i, tile.column), j)
                T.buffer_store(self.sums, self.sums[at] + a[i] * b[j], [at])

    def _read(self, into: Any, base: Expr, count: int, threads: int, number: Expr) -> None:
        """A thread's lines of a step, as vectors that lie apart."""
        width = min(self.lanes, count)
        for group in range(count // width):
            at = add(base, add(group * threads * width, times(number, width)))
            T.buffer_store(into, self.memory[ramp(at, width)], [ramp(group * width, width)])

    # --- results ----------------------------------------------------------------------------------

    def _finish(self) -> None:
        tile = self.tile
        room = min(shared_elements(tile), SHARED_BYTES // ITEMSIZE[self.dtype])
        height = tile.row
        while height > 1 and height * tile.down * tile.columns * tile.slices > room:
            height //= 2
        width = min(self.lanes, tile.column)

        def spill(round_: Expr, memory: Any) -> None:
            with counted(height, self.at.thread, unroll=True) as i:
                line = add(times(i, tile.down), self.y)
                base = times(add(times(self.slice, height * tile.down), line), tile.columns)
                for group in range(tile.column // width):
                    here = add(group * tile.across * width, times(self.x, width))
                    mine = add(times(add(times(round_, height), i), tile.column), group * width)
                    value = self.sums[ramp(mine, width)]
                    T.buffer_store(memory, value, [ramp(add(base, here), width)])

        def row_of(round_: Expr, line: Expr) -> Expr:
            """Rows of threads come in groups of a vector, as `_read` reads them."""
            i, y = divide(line, tile.down)
            wide = min(self.lanes, tile.row)
            group, within = divide(named(add(times(round_, height), i)), wide)
            return add(times(group, tile.down * wide), add(times(y, wide), within))

        finish_tile(
            self.p, self.at, tile.threads, tile.slices, tile.columns, self.memory,
            tile.row // height, height * tile.down, spill, row_of,
        )  # fmt: skip
