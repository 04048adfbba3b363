"""Cutting a range into tiles of one or two heights.

A known length is balanced (50 rows = 2 tiles of 13 and 2 of 12, not 3 of 14 and one of 8): two
kernel sizes at most. An unknown one is cut into full tiles, then tiles of 4, then of 1.
"""

from __future__ import annotations

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.contract import Size, ceil_div, div, rem


@dataclass(frozen=True, slots=True)
class Group:
    """`count` tiles of `height`, one after the other from `start` on."""

    start: Size
    count: Size
    height: int


def split(length: Size, height: int) -> list[Group]:
    """Tiles of at most `height` that cover `length`."""
    if isinstance(length, int):
        return _balanced(length, height)
    groups: list[Group] = []
    start: Size = 0
    left: Size = length
    for h in sorted({height, min(4, height), 1}, reverse=True):
        count = div(left, h)
        groups.append(Group(start, count, h))
        start, left = start + count * h, rem(left, h)
    return groups


def _balanced(length: int, height: int) -> list[Group]:
    if length == 0:
        return []
    tiles = ceil_div(length, height)
    low, taller = divmod(length, tiles)
    groups = [Group(0, taller, low + 1), Group(taller * (low + 1), tiles - taller, low)]
    return [g for g in groups if g.count]
