"""What attention works on: sizes, who sees whom, and working memory cut into areas.

Query head (head, member) reads the keys and values of `head`: with `group` members per head they
are read in place by all of them. Sizes may be ints, dims (while planning) or TIR expressions.
Non-goals: how a kernel runs (`attention.py`, `attention_backward.py`, `attention_decode.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dslc.schedules.cpu.contract import Expr, Index, Size, larger, smaller

# (index (batch.., head, member, i, j), score or weight) -> what takes its place.
Modify = Callable[[Index, Expr], Expr]

ALIGNED = 16  # elements that an area of working memory is a multiple of


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """softmax(q k^T scale) v for q [batch.., heads, group, queries, depth], k [batch.., heads,
    keys, depth] and v [batch.., heads, keys, width].

    Query i stands at `past + i`, key j at j. `causal`: it sees keys at or before its place;
    `window` above 0: only those less than that away.
    """

    batch: tuple[Size, ...]
    heads: Size
    group: Size
    queries: Size
    keys: Size
    depth: Size
    width: Size
    scale: float
    causal: bool = False
    window: int = 0
    past: Size = 0

    @property
    def limited(self) -> bool:
        """Whether places decide who sees whom."""
        return self.causal or self.window > 0

    def first(self, query: Size) -> Size:
        """The first key that a query sees, between 0 and `keys`."""
        if self.window == 0:
            return 0
        return smaller(larger(self.past + query - (self.window - 1), 0), self.keys)

    def stop(self, query: Size) -> Size:
        """The key behind the last that a query sees, between 0 and `keys`."""
        if not self.limited:
            return self.keys
        reach = 1 if self.causal else self.window
        return larger(smaller(self.past + query + reach, self.keys), 0)

    def first_query(self, key: Size) -> Size:
        """The first query that sees a key or one behind it, between 0 and `queries`."""
        if not self.limited:
            return 0
        reach = 1 if self.causal else self.window
        return smaller(larger(key - self.past - (reach - 1), 0), self.queries)

    def stop_query(self, key: Size) -> Size:
        """The query behind the last that sees a key or one before it."""
        if self.window == 0:
            return self.queries
        return larger(smaller(key - self.past + self.window, self.queries), 0)


@dataclass(frozen=True, slots=True)
class Areas:
    """Working memory of a task: where each area starts, in elements, and how many there are."""

    offsets: dict[str, Size]
    size: Size

    @staticmethod
    def of(sizes: Sequence[tuple[str, Size]]) -> Areas:
        offsets: dict[str, Size] = {}
        total: Size = 0
        for name, size in sizes:
            offsets[name] = total
            total = total + round_up(size, ALIGNED)
        return Areas(offsets, total)


def round_up(size: Size, multiple: int) -> Size:
    """`size` or the next multiple; of ints, dims and expressions."""
    return (size + (multiple - 1)) // multiple * multiple


def balanced(length: Size, most: int) -> int:
    """Height of equal tiles of at most `most` rows; `most` when the length is not known."""
    if not isinstance(length, int) or length == 0:
        return most
    tiles = -(-length // most)
    return -(-length // tiles)
