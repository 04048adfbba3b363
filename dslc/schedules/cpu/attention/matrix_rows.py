"""Rows of bf16 as registers that hold matrices want them (`tiles/matrix_tile.py`).

Turns rows of queries, keys, values or cotangents, of any strides and sizes, into pairs in working
memory, with zeros behind the last row and column. A left side is rows as they are, or joined two
by two and turned, [element][pair of rows]; a right side rows turned, [pair of elements][row], or
joined, [pair of rows][element], in panels. Pairs have the type of that memory, float32, of which
they are only the bits.

Non-goals: pairs of a product's operands (`tiles/pack.py`).
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.attention.blocks import Work
from dslc.schedules.cpu.attention.shape import round_up
from dslc.schedules.cpu.tiles.contract import (
    Expr,
    Operand,
    Size,
    ceil_div,
    div,
    i64,
    is_int,
    loop,
    masked_vector,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.tiles.dots import HALF
from dslc.schedules.cpu.tiles.matrix_tile import BITS, LANES, PAIR, STEP, joined
from dslc.schedules.cpu.tiles.pack import transpose

MOST_STEPS = 8  # of a row that are written out


def pitch(columns: Size) -> Size:
    """Pairs of a row that fill registers."""
    whole = round_up(columns, STEP)
    return whole // PAIR


def copy_pairs(
    work: Work, name: str, source: Operand, rows: Size, padded: Size, columns: Size,
    behind: Size = 0,
) -> None:  # fmt: skip
    """[padded][pitch], `behind` pairs behind the start of the area."""
    apart, full = pitch(columns), _same(rows, padded)
    with loop(0, padded) as row:
        start = T.bind(work.at(name, behind + row * i64(apart)))

        def step(number: Size) -> None:
            pairs = _pairs(source, row, rows, full, number, columns)
            store_vector(work.memory, pairs, start + number * LANES, LANES)

        _steps(apart, step)


def pack_turned(
    work: Work, name: str, source: Operand, rows: Size, columns: Size, width: int
) -> None:
    """[panel][pitch][width], `width` rows a panel."""
    apart, full = pitch(columns), isinstance(rows, int) and rows % width == 0
    with loop(0, ceil_div(rows, width)) as panel, loop(0, width // LANES) as vector:
        first = T.bind(panel * width + vector * LANES)
        start = T.bind(work.at(name, panel * (i64(apart) * width) + vector * LANES))

        def step(number: Size) -> None:
            lines = [
                _pairs(source, T.bind(first + i), rows, full, number, columns) for i in range(LANES)
            ]
            for i, turned in enumerate(transpose(lines)):
                at = start + (number * LANES + i) * width
                store_vector(work.memory, turned, at, LANES)

        _steps(apart, step)


def pack_joined(
    work: Work, name: str, source: Operand, rows: Size, padded: Size, columns: Size, width: int
) -> None:
    """[panel][padded / 2][width], `width` columns a panel."""
    apart, full = div(padded, PAIR), _same(rows, padded)
    with loop(0, apart) as pair, loop(0, ceil_div(columns, width)) as panel:
        start = T.bind(work.at(name, panel * (i64(apart) * width) + pair * width))
        for vector in range(width // LANES):
            column = T.bind(panel * width + vector * LANES)
            joined = _joined(source, T.bind(pair * PAIR), rows, full, column, columns, width)
            store_vector(work.memory, joined, start + vector * LANES, LANES)


def pack_joined_turned(
    work: Work, name: str, source: Operand, rows: Size, padded: Size, columns: Size,
    behind: Size = 0,
) -> None:  # fmt: skip
    """[padded / 32][columns, whole registers][16 pairs of rows]"""
    across, full = PAIR * pitch(columns), _same(rows, padded)
    with loop(0, div(padded, STEP)) as step, loop(0, div(across, LANES)) as vector:
        column = T.bind(vector * LANES)
        start = T.bind(work.at(name, behind + (step * i64(across) + column) * LANES))
        lines = [
            _joined(source, T.bind(step * STEP + PAIR * i), rows, full, column, columns, STEP)
            for i in range(LANES)
        ]
        for i, turned in enumerate(transpose(lines)):
            store_vector(work.memory, turned, start + i * LANES, LANES)


def _joined(
    source: Operand, row: Expr, rows: Size, full: bool, column: Expr, columns: Size, width: int
) -> Expr:
    """Elements of a row from `column` on, each with that of the row below as a pair."""
    some = not (isinstance(columns, int) and columns % width == 0)
    words = []
    for i in range(PAIR):
        at = T.bind(source.at(row + i, column))
        if some or not full:
            left = _where_there(row + i, rows, full, columns - column)
            value = masked_vector(source.buffer, HALF, at, LANES, _mask(left, LANES))
        else:
            value = vector_at(source.buffer, at, LANES)
        words.append(T.bind(tirx.Cast(f"uint32x{LANES}", value)))
    return joined(*words)


def _steps(apart: Size, body: Callable[[Size], None]) -> None:
    """`body(number)` for each register that a row fills a row of."""
    steps = div(apart, LANES)
    if isinstance(steps, int) and steps <= MOST_STEPS:
        for number in range(steps):
            body(number)
        return
    with loop(0, steps) as number:
        body(number)


def _pairs(source: Operand, row: Expr, rows: Size, full: bool, number: Size, columns: Size) -> Expr:
    """The pairs of a row for a register; `full`: there are all rows that are asked for."""
    at = T.bind(source.at(row, i64(number * STEP)))
    known = isinstance(columns, int) and (
        columns % STEP == 0 or (isinstance(number, int) and columns >= (number + 1) * STEP)
    )
    if known and full:
        value = vector_at(source.buffer, at, STEP)
    else:
        left = _where_there(row, rows, full, columns - number * STEP)
        value = masked_vector(source.buffer, HALF, at, STEP, _mask(left, STEP))
    return T.bind(tirx.reinterpret(BITS, value))


def _where_there(row: Expr, rows: Size, full: bool, columns: Size) -> Size:
    """`columns`; 0 if there is no such row, which not `full` ones have."""
    if full:
        return columns
    return T.bind(tirx.Select(row < i64(rows), i64(columns), i64(0)))


def _same(rows: Size, padded: Size) -> bool:
    return isinstance(rows, int) and is_int(padded, rows)


def _mask(left: Size, lanes: int) -> Expr:
    """The first `left` lanes."""
    lane = tirx.Ramp(tirx.const(0, "int32"), 1, lanes)
    return lane < tirx.Broadcast(T.bind(tirx.Cast("int32", i64(left))), lanes)
