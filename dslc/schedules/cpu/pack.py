"""Copying a matrix into panel order, inside a kernel.

`pack_panel` turns columns [0, columns) of a [K, N] operand of any strides into [K][width], zeros
from `columns` on. Contiguous along N: row copies. Contiguous along K: square blocks of lanes x
lanes are turned by shuffles in registers, since single strided stores would cost more than the
multiplication they serve.
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.contract import (
    Expr,
    Operand,
    Size,
    div,
    i64,
    is_int,
    is_zero,
    loop,
    rem,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.dots import zero


def pack_panel(
    source: Operand, target: Operand, k: Size, columns: Size, width: int, lanes: int
) -> None:
    """source [K, N] to target [K][width]; `columns` of `width` exist, the others become 0."""
    if is_int(columns, width):
        _pack_whole(source, target, k, width, lanes)
        return
    if isinstance(columns, int):
        _pack_edge(source, target, k, columns, width)
        return
    with T.If(columns == i64(width)):
        with T.Then():
            _pack_whole(source, target, k, width, lanes)
        with T.Else():
            _pack_edge(source, target, k, columns, width)


def _pack_edge(source: Operand, target: Operand, k: Size, columns: Size, width: int) -> None:
    zero_ = zero(source.dtype)
    with loop(0, k) as row:
        with loop(0, columns) as j:
            T.buffer_store(target.buffer, source.load(row, j), [target.at(row, j)])
        with loop(columns, width) as j:
            T.buffer_store(target.buffer, zero_, [target.at(row, j)])


def _pack_whole(source: Operand, target: Operand, k: Size, width: int, lanes: int) -> None:
    if not is_int(source.strides[0], 1) or is_int(source.strides[1], 1):
        with loop(0, k) as row, loop(0, width) as j:
            T.buffer_store(target.buffer, source.load(row, j), [target.at(row, j)])
        return
    blocks, left = div(k, lanes), rem(k, lanes)
    if not is_zero(blocks):
        with loop(0, blocks) as block, loop(0, width // lanes) as vector:
            transpose_block(source, target, block * lanes, vector * lanes, lanes)
    if is_zero(left):
        return
    with loop(i64(blocks) * lanes, k) as row, loop(0, width) as j:
        T.buffer_store(target.buffer, source.load(row, j), [target.at(row, j)])


def transpose_block(source: Operand, target: Operand, row: Expr, column: Expr, lanes: int) -> None:
    """A lanes x lanes block of source (contiguous along rows) to target (along columns)."""
    vectors = [
        T.bind(vector_at(source.buffer, source.at(row, column + j), lanes)) for j in range(lanes)
    ]
    for i, vector in enumerate(transpose(vectors)):
        store_vector(target.buffer, vector, target.at(row + i, column), lanes)


def transpose(vectors: list[Expr]) -> list[Expr]:
    """Transposes as many vectors as each has lanes: log2(lanes) rounds of two-input shuffles.

    Round r exchanges, between vectors that differ in bit r of their number, the elements whose
    lane differs in that bit.
    """
    lanes = len(vectors)
    bit = 1
    while bit < lanes:
        low = [lane if not lane & bit else lanes + lane - bit for lane in range(lanes)]
        high = [lane + bit if not lane & bit else lanes + lane for lane in range(lanes)]
        done = list(vectors)
        for first in (i for i in range(lanes) if not i & bit):
            pair = [vectors[first], vectors[first + bit]]
            done[first], done[first + bit] = _shuffle(pair, low), _shuffle(pair, high)
        vectors, bit = done, bit * 2
    return vectors


def _shuffle(pair: list[Expr], lanes: list[int]) -> Expr:
    return T.bind(tirx.Shuffle(pair, [tirx.IntImm("int32", lane) for lane in lanes]))
