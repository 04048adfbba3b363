"""Few rows times a large matrix in place: rows of b are read side by side, from end to end.

Adds STREAMS rows of b, each times its element of every row of a, to sums that stay in the cache,
before it goes on to the next ones. A register tile reads a narrow strip down all of b instead: each
step is on another page, and with rows a power of two apart in one set of the cache.

    sums[i][j] = sum over k of a[i, k] * b[k, j]

A `Tile` here is all rows of a by a strip of thousands of columns. These may be some runs of b's row
(`Runs`), and of a run every other element, which shuffles pick.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.plane_image import taken_apart
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Index,
    Operand,
    address,
    edge_vector,
    i64,
    loop,
    store_vector,
    vector_at,
    zeros,
)
from dslc.schedules.cpu.tiles.register_tile import Registers, Tile

STREAMS = 8  # rows of b at a time, as many as the hardware prefetches


@dataclass(frozen=True, slots=True)
class Runs:
    """The columns of a strip: `count` runs of `columns` columns, `below` elements of b apart. A
    column is the first of `step` elements; behind the `elements` of a run nothing is read."""

    count: int
    columns: int
    below: int
    step: int
    elements: int

    def pitch(self, lanes: int) -> int:
        """Sums from run to run."""
        return -(-self.columns // lanes) * lanes


def emit(tile: Tile, registers: Registers, k: int, runs: Runs, a: Operand, b: Operand) -> None:
    """The sums of the columns in `runs` to `registers.results`."""
    sums = registers.results
    with loop(0, tile.rows * tile.vectors) as vector:
        store_vector(sums, zeros(tile.dtype, tile.lanes), vector * tile.lanes, tile.lanes)
    with loop(0, k // STREAMS) as block:
        _add(tile, registers, block * STREAMS, STREAMS, runs, a, b)
    if k % STREAMS:
        _add(tile, registers, i64(k - k % STREAMS), k % STREAMS, runs, a, b)


def _add(
    tile: Tile, registers: Registers, first: Expr, steps: int, runs: Runs, a: Operand, b: Operand
) -> None:
    """sums += the products of `steps` rows of b."""
    sums, lanes, span = registers.results, tile.lanes, runs.step * tile.lanes
    factors = [
        [T.bind(tirx.Broadcast(a.load(i64(i), first + s), lanes)) for s in range(steps)]
        for i in range(tile.rows)
    ]
    heads = [T.bind(b.at(first + s, i64(0))) for s in range(steps)]

    def terms(run: Expr, stride: int) -> list[tuple[Expr, int]]:
        return [(run, stride)] if runs.count > 1 else []

    def add(run: Expr, vector: Expr, exist: int) -> None:
        """A vector of sums, of so many elements of each row."""
        ahead = [(vector, span), *terms(run, runs.below)]
        values = [_picked(b, address(head, *ahead), runs.step, exist, lanes) for head in heads]
        for i, row in enumerate(factors):
            at = address(i * tile.columns, (vector, lanes), *terms(run, runs.pitch(lanes)))
            total = vector_at(sums, at, lanes)
            for factor, value in zip(row, values):
                total = total + factor * value
            store_vector(sums, total, at, lanes)

    whole, left = divmod(runs.elements, span)
    with loop(0, runs.count) as run:
        with loop(0, whole) as vector:
            add(run, vector, span)
        if left:
            add(run, i64(whole), left)


def _picked(b: Operand, at: Expr, step: int, exist: int, lanes: int) -> Expr:
    """A vector of every `step`th element from `at` on, of the first `exist` ones."""
    vectors = [
        edge_vector(b.buffer, b.dtype, at + n * lanes, lanes, n, exist, step * lanes)
        for n in range(-(-exist // lanes))
    ]
    if step > 1:
        vectors = [T.bind(vector) for vector in vectors]
        vectors += [zeros(b.dtype, lanes)] * (step - len(vectors))
    return T.bind(taken_apart(vectors, 0, lanes))


def finish(
    tile: Tile, registers: Registers, runs: Runs, index: Callable[[Expr, Expr, Expr], Index],
    epilogue: Epilogue,
) -> None:  # fmt: skip
    """Hands the sums of every row to the epilogue; `index` of (row, run, column)."""
    with loop(0, tile.rows) as i, loop(0, runs.count) as run, loop(0, runs.columns) as j:
        at = i * tile.columns + j
        if runs.count > 1:
            at = at + run * runs.pitch(tile.lanes)
        epilogue(index(i, run, j), registers.results[at])
