"""Rows of a plane of results that lie side by side in memory, to the epilogue.

Input: where they lie, and which they are. Where nothing behind the convolution asks for a row or a
column, they are one run; LLVM makes no vectors of short rows.
"""

from __future__ import annotations

from typing import Any

from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Size,
    i64,
    loop,
    prefetch,
    smaller,
)


@dataclass(frozen=True, slots=True)
class PlaneRows:
    """`rows` rows of `width` results, from row `first` of a channel's plane on."""

    image: Expr
    channel: Expr
    first: Size
    rows: Size
    width: int


def rows_of(number: Expr, strip: int, height: int) -> tuple[Size, Size]:
    """The first row of strip `number` of those that have `strip` rows, and how many it has."""
    if strip >= height:
        return 0, height
    first = T.bind(number * strip)
    return first, strip if height % strip == 0 else T.bind(i64(smaller(height - first, strip)))


def hand_on(of: PlaneRows, buffer: Any, at: Expr, flat: bool, epilogue: Epilogue) -> None:
    """Results from `at` on to the epilogue; `flat`: it asks for a place in the plane alone."""
    # So that LLVM makes no lanes of channels or rows.
    if flat:
        begin = T.bind(i64(of.first * of.width))
        prefetch(buffer[at])
        with loop(0, of.rows * of.width) as j:
            epilogue((of.image, of.channel, i64(0), begin + j), buffer[at + j])
        return
    with loop(0, of.rows) as row:
        begin = T.bind(at + row * of.width)
        prefetch(buffer[begin])
        with loop(0, of.width) as column:
            epilogue((of.image, of.channel, of.first + row, column), buffer[begin + column])
