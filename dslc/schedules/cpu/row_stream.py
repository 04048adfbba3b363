"""Few rows times a large matrix in place: rows of b are read side by side, from end to end.

Adds STREAMS rows of b, each times its element of every row of a, to sums that stay in the cache,
before it goes on to the next ones. A register tile reads a narrow strip down all of b instead: each
step is on another page, and with rows a power of two apart in one set of the cache.

    sums[i][j] = sum over k of a[i, k] * b[k, j]

A `Tile` here is all rows of a by a strip of thousands of columns.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.contract import (
    Epilogue,
    Expr,
    Index,
    Operand,
    edge_vector,
    i64,
    loop,
    store_vector,
    vector_at,
    zeros,
)
from dslc.schedules.cpu.register_tile import Registers, Tile

STREAMS = 8  # rows of b at a time, as many as the hardware prefetches


def emit(tile: Tile, registers: Registers, k: int, columns: int, a: Operand, b: Operand) -> None:
    """The sums of the first `columns` columns to `registers.results`."""
    sums = registers.results
    with loop(0, tile.rows * tile.vectors) as vector:
        store_vector(sums, zeros(tile.dtype, tile.lanes), vector * tile.lanes, tile.lanes)
    with loop(0, k // STREAMS) as block:
        _add(tile, registers, block * STREAMS, STREAMS, columns, a, b)
    if k % STREAMS:
        _add(tile, registers, i64(k - k % STREAMS), k % STREAMS, columns, a, b)


def _add(
    tile: Tile, registers: Registers, first: Expr, steps: int, columns: int, a: Operand, b: Operand
) -> None:
    """sums += the products of `steps` rows of b."""
    sums, lanes = registers.results, tile.lanes
    factors = [
        [T.bind(tirx.Broadcast(a.load(i64(i), first + s), lanes)) for s in range(steps)]
        for i in range(tile.rows)
    ]
    heads = [T.bind(b.at(first + s, i64(0))) for s in range(steps)]

    def add(vector: Expr, load: Callable[[Expr], Expr]) -> None:
        values = [T.bind(load(head + vector * lanes)) for head in heads]
        for i, row in enumerate(factors):
            at = i * tile.columns + vector * lanes
            total = vector_at(sums, at, lanes)
            for factor, value in zip(row, values):
                total = total + factor * value
            store_vector(sums, total, at, lanes)

    whole, left = divmod(columns, lanes)
    with loop(0, whole) as vector:
        add(vector, lambda at: vector_at(b.buffer, at, lanes))
    if left:
        add(i64(whole), lambda at: edge_vector(b.buffer, b.dtype, at, lanes, 0, left, lanes))


def finish(
    tile: Tile, registers: Registers, columns: int, index: Callable[[Expr, Expr], Index],
    epilogue: Epilogue,
) -> None:  # fmt: skip
    """Hands the first `columns` sums of every row to the epilogue."""
    with loop(0, tile.rows) as i, loop(0, columns) as j:
        epilogue(index(i, j), registers.results[i * tile.columns + j])
