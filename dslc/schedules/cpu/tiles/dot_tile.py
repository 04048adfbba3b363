"""The dot tile: rows x columns sums of products, lanes along K.

Turns rows of `a` and columns of `b`, both contiguous along K, into rows * columns vector
accumulators: per step one load for each row and column, rows * columns multiply-adds. The last
K % lanes elements are read under a mask. Lanes are added up at the end by a shuffle tree.

A `Tile` here has `vectors` columns: one accumulator holds one output element.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    LINE_BYTES,
    Epilogue,
    Expr,
    Index,
    Operand,
    Size,
    div,
    i64,
    is_int,
    is_zero,
    local,
    loop,
    masked_vector,
    prefetch,
    rem,
    smaller,
    store_vector,
    vector_at,
    zeros,
)
from dslc.schedules.cpu.tiles.dots import plus_product, summed
from dslc.schedules.cpu.tiles.register_tile import Registers, Tile
from dslc.schedules.cpu.tiles.vector import lane_sum


def allocate(tiles: list[Tile]) -> Registers:
    """Room for any of `tiles`."""
    dtype = summed(tiles[0].dtype)
    return Registers(
        local(max(t.rows * t.columns for t in tiles), dtype),
        local(max(t.rows * t.vectors for t in tiles), dtype),
    )


def emit(
    tile: Tile, registers: Registers, k: Size, columns: Size, a: Operand, b: Operand,
    ahead: Size = 0,
) -> None:  # fmt: skip
    """results[i][j] = sum over k of a[i, k] * b[k, j]; from `columns` on, the last again. Elements
    of a that lie `ahead` of those that are read are asked for, if it isn't 0."""
    acc, lanes = registers.accumulators, tile.lanes
    for i in range(tile.rows):
        for j in range(tile.vectors):
            at = i64((i * tile.vectors + j) * lanes)
            store_vector(acc, zeros(summed(tile.dtype), lanes), at, lanes)
    rows = [T.bind(a.at(i64(i), i64(0))) for i in range(tile.rows)]
    last = columns - 1 if isinstance(columns, int) else T.bind(columns - 1)
    heads = [T.bind(b.at(i64(0), i64(smaller(j, last)))) for j in range(tile.vectors)]
    _multiply_add(tile, registers, k, a, b, rows, heads, ahead)
    for i in range(tile.rows):
        for j in range(tile.vectors):
            at = i * tile.vectors + j
            total = lane_sum(vector_at(acc, i64(at * lanes), lanes), lanes)
            T.buffer_store(registers.results, total, [i64(at)])


def _multiply_add(
    tile: Tile, registers: Registers, k: Size, a: Operand, b: Operand,
    rows: list[Expr], heads: list[Expr], ahead: Size,
) -> None:  # fmt: skip
    acc, lanes = registers.accumulators, tile.lanes

    def step(load: Callable[[Operand, Expr], Expr]) -> None:
        columns = [T.bind(load(b, head)) for head in heads]
        for i, row in enumerate(rows):
            value = T.bind(load(a, row))
            for j, column in enumerate(columns):
                at = i64((i * tile.vectors + j) * lanes)
                total = plus_product(tile.dtype, vector_at(acc, at, lanes), value, column)
                store_vector(acc, total, at, lanes)

    whole, tail = div(k, lanes), rem(k, lanes)
    done: Size = 0
    if not is_zero(ahead):  # a line is asked for once
        together = max(1, LINE_BYTES // (ITEMSIZE[tile.dtype] * lanes))
        done = div(whole, together) * together
        with loop(0, div(whole, together)) as block:
            for row in rows:
                prefetch(a.buffer[row + (block * (together * lanes) + ahead)])
            for u in range(together):
                step(partial(_vector, lanes, block * together + u))
    if not is_int(whole - done, 0):
        with loop(done, whole) as block:
            step(partial(_vector, lanes, block))
    if is_zero(tail):
        return
    mask = tirx.Ramp(i64(0), i64(1), lanes) < tirx.Broadcast(i64(tail), lanes)
    start = i64(whole) * lanes
    step(lambda operand, base: masked_vector(
        operand.buffer, tile.dtype, base + start, lanes, mask
    ))  # fmt: skip


def _vector(lanes: int, number: Expr, operand: Operand, base: Expr) -> Expr:
    """That vector of a row or column from `base` on."""
    return vector_at(operand.buffer, base + number * lanes, lanes)


def finish(
    tile: Tile,
    registers: Registers,
    columns: Size,
    index: Callable[[Expr, Expr], Index],
    epilogue: Epilogue,
) -> None:
    """Hands the first `columns` results of every row to the epilogue."""
    with loop(0, tile.rows) as i, loop(0, columns) as j:
        epilogue(index(i, j), registers.results[i * tile.vectors + j])
