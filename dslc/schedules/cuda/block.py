"""The part of a tile template that does not depend on how it multiplies: blocks, loads, results.

A block makes one tile of the result. Its threads bring the tile's lines, `depth` steps of them at a
time, from global memory into registers (`Loader`), and from there into shared memory, while they
multiply what they brought before. At the end the sums go through shared memory, so that
neighbouring threads store neighbouring elements (`finish_tile`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cuda.product import (
    Expr,
    Half,
    Product,
    Side,
    Size,
    add,
    all_of,
    below,
    ceil_divide,
    divide,
    divides,
    named,
    number,
    times,
)

SHARED_BYTES = 48 << 10  # of a block, without asking the driver for more


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block works: its part of the steps, its batch, its first row and column."""

    thread: Expr
    part: Expr
    batch: Expr
    row: Expr
    column: Expr
    first: Expr  # of its steps
    stop: Expr


@contextmanager
def each_tile(p: Product, rows: int, columns: int, depth: int, threads: int) -> Iterator[Place]:
    """A block for each tile of each part; those of a column of tiles follow each other."""
    down, across = ceil_divide(p.left.lines, rows), ceil_divide(p.right.lines, columns)
    count = times(times(down, across), times(p.batch, p.splits))
    blocks: Expr = tirx.IntImm("int64", max(1, count)) if isinstance(count, int) else count
    if not isinstance(count, int):
        blocks = tirx.max(count, number(1, count))
    with (
        T.launch_thread("blockIdx.x", blocks) as block,
        T.launch_thread("threadIdx.x", tirx.IntImm("int64", threads)) as thread,
    ):
        block, thread = (T.bind(tirx.Cast(p.index, x)) for x in (block, thread))
        with maybe(None if isinstance(count, int) and count else below(block, count)):
            rest, row = divide(block, down)
            rest, column = divide(rest, across)
            part, batch = divide(rest, p.batch)
            first, stop = _part(p, part, depth)
            yield Place(thread, part, batch, times(row, rows), times(column, columns), first, stop)


def _part(p: Product, part: Expr, depth: int) -> tuple[Expr, Expr]:
    """The steps of a part: whole tiles of `depth`, but for the last."""
    if p.splits == 1:
        return 0, p.steps
    each = times(ceil_divide(p.steps, depth * p.splits), depth)
    first = named(times(part, each))
    stop = add(first, each)
    return first, T.bind(
        tirx.min(stop, p.steps if not isinstance(p.steps, int) else number(p.steps, stop))
    )


@contextmanager
def maybe(condition: Expr | None) -> Iterator[None]:
    """The statements inside run if `condition` holds; None: always."""
    if condition is None:
        yield
        return
    with T.If(condition), T.Then():
        yield


def barrier() -> None:
    T.evaluate(tirx.call_intrin("void", "tirx.tvm_storage_sync", "shared"))


@contextmanager
def counted(count: Size, like: Expr, unroll: bool = False) -> Iterator[Expr]:
    """A loop that counts in the type of `like`; one turn leaves no loop."""
    if isinstance(count, int) and count == 1:
        yield 0
        return
    stop = number(count, like) if isinstance(count, int) else count
    with (T.unroll if unroll else T.serial)(number(0, like), stop) as turn:
        yield turn


def local(elements: int, dtype: str) -> Any:
    """An array in registers: every index into it must be known once loops are unrolled."""
    annotations = {"disable_lower_builtin": True}
    return T.alloc_buffer((elements,), dtype, scope="local", layout=None, annotations=annotations)


def shared(elements: int, dtype: str) -> Any:
    return T.alloc_buffer((elements,), dtype, scope="shared", layout=None)


def ramp(first: Size, count: int) -> Expr:
    """The places of `count` neighbours, from a multiple of it on."""
    if isinstance(first, int):
        first = tirx.IntImm("int32", first)
    if count == 1:
        return first
    # TVM makes a vector of it only where it sees the multiple.
    groups = tirx.shift_right(first, number(count.bit_length() - 1, first))
    return tirx.Ramp(groups * number(count, first), number(1, first), count)


class Loader:
    """What a thread loads of a side's tile, into `stage`: groups of `side.width` neighbours, for
    each of `places` (a line and a step of the tile) one. `idle` tells which threads load at all."""

    def __init__(
        self, side: Side, at: Place, lines: int, depth: int, threads: int, first: Expr
    ) -> None:
        self.side, self.at = side, at
        along_step = side.along == "step"
        near = (depth if along_step else lines) // side.width
        far = lines if along_step else depth
        xs, ys = _groups(at.thread, threads, near, far)
        xs = [named(times(x, side.width)) for x in xs]
        self._lines, self._steps = (ys, xs) if along_step else (xs, ys)
        self.places = [
            (line, step) for i, line in enumerate(self._lines) for j, step in enumerate(self._steps)
        ]
        self.idle = None if near * far >= threads else below(at.thread, near * far)
        self.stage = local(len(self.places) * side.width, str(side.buffer.dtype))
        self._known = [self._line(add(first, line), lines) for line in self._lines]

    def _line(self, line: Expr, lines: int) -> tuple[Half, Expr | None]:
        """What is computed once for a line, and whether there is such a line."""
        line = named(line)
        half = tuple(map(named, self.side.line(self.at.batch, line)))
        whole = divides(lines, self.side.lines)
        return half, None if whole else T.bind(below(line, self.side.lines))

    def load(self, start: Expr) -> None:
        """Loads what belongs to the steps from `start` on; zeros beyond the edges."""
        side = self.side
        steps = [self._step(add(start, step)) for step in self._steps]
        slot = 0
        for line, there in self._known:
            for step, reached in steps:
                inside = None if side.inside is None else side.inside(line, step)
                asked = [x for x in (self.idle, there, reached, inside) if x is not None]
                self._fetch(slot, side.offset(line, step), all_of(asked))
                slot += side.width

    def _step(self, step: Expr) -> tuple[Half, Expr]:
        step = named(step)
        half = tuple(map(named, self.side.step(step)))
        return half, T.bind(below(step, self.at.stop))

    def _fetch(self, slot: int, offset: Expr, condition: Expr) -> None:
        width = self.side.width
        target = [ramp(slot, width)]
        zero = tirx.const(0, str(self.side.buffer.dtype))
        with T.If(condition):
            with T.Then():
                T.buffer_store(self.stage, self.side.buffer[ramp(offset, width)], target)
            with T.Else():
                blank = zero if width == 1 else tirx.Broadcast(zero, width)
                T.buffer_store(self.stage, blank, target)


def _groups(thread: Expr, threads: int, near: int, far: int) -> tuple[list[Expr], list[Expr]]:
    """The groups that a thread takes of `far` rows of `near`: neighbouring threads take
    neighbours."""
    if threads >= near:
        y, x = divide(thread, near)
        each = threads // near
        return [x], [named(add(y, i * each)) for i in range(max(1, far // each))]
    return [add(thread, i * threads) for i in range(near // threads)], list(range(far))


def in_turns(
    at: Place, depth: int, load: Callable[[Expr], None], put: Callable[[Expr], None],
    multiply: Callable[[Expr], None],
) -> None:  # fmt: skip
    """`load(first step)` brings `depth` steps into registers, `put(half)` from there into a half of
    shared memory, and `multiply(half)` runs while the next are on their way."""
    load(at.first)
    put(0)
    barrier()
    count = ceil_divide(add(at.stop, times(at.first, -1)), depth)
    with counted(count, at.thread) as turn:
        this = 0 if isinstance(turn, int) else T.bind(tirx.bitwise_and(turn, number(1, turn)))
        load(named(add(at.first, times(add(turn, 1), depth))))
        multiply(this)
        put(add(1, times(this, -1)))
        barrier()


# Writes a thread's sums of round `i` into shared memory: (i, buffer of sums).
Spill = Callable[[Expr, Any], None]


def finish_tile(
    p: Product, at: Place, threads: int, slices: int, columns: int, memory: Any, rounds: int,
    height: int, spill: Spill, row_of: Callable[[Expr, Expr], Expr],
) -> None:  # fmt: skip
    """Hands the tile's sums to `finish`, neighbours by neighbouring threads. In each round `spill`
    puts `height` rows of every slice into `memory`; `row_of(round, i)` is the i-th one's place."""
    size = height * columns
    with counted(rounds, at.thread, unroll=True) as round_:
        barrier()
        spill(round_, memory)
        barrier()
        with counted(-(-size // threads), at.thread) as turn:
            item = named(add(times(turn, threads), at.thread))
            line, column = divide(item, columns)
            row = named(add(at.row, row_of(round_, line)))
            column = named(add(at.column, column))
            asked = [below(row, p.left.lines), below(column, p.right.lines)]
            if size % threads:
                asked.append(below(item, size))
            with T.If(all_of(asked)), T.Then():
                total = memory[item]
                for other in range(1, slices):
                    total = total + memory[add(item, other * size)]
                p.finish(at.part, at.batch, row, column, total)
