"""What attention works on: sizes, who sees whom, and working memory cut into areas.

Query head (head, member) reads the keys and values of `head`: with `group` members per head they
are read in place by all of them. Sizes may be ints, dims (while planning) or TIR expressions.
Non-goals: how a kernel runs (`forward.py`, `backward.py`, `decode.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.contract import Expr, Index, Size, larger, product, smaller
from dslc.schedules.cpu.tiles.register_tile import Tile

# (index (batch.., head, member, i, j), element) -> what takes its place.
Modify = Callable[[Index, Expr], Expr]

ALIGNED = 16  # elements that an area of working memory is a multiple of


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """softmax(q k^T scale) v for q [batch.., heads, group, queries, depth], k [batch.., heads,
    keys, depth] and v [batch.., heads, keys, width].

    Query i stands at `past + i`, key j at j; the query sees the key if low <= past + i - j <= high,
    where there are such bounds: low=0 is a causal mask.
    """

    batch: tuple[Size, ...]
    heads: Size
    group: Size
    queries: Size
    keys: Size
    depth: Size
    width: Size
    scale: float
    low: Size | None = None
    high: Size | None = None
    past: Size = 0

    @property
    def limited(self) -> bool:
        """Whether places decide who sees whom."""
        return self.low is not None or self.high is not None

    @property
    def work(self) -> Size:
        """Multiply-adds of the two products."""
        rows = product([*self.batch, self.heads, self.group, self.queries])
        return rows * self.keys * (self.depth + self.width)

    def first(self, query: Size) -> Size:
        """The first key that a query sees, between 0 and `keys`."""
        return 0 if self.high is None else between(self.past + query - self.high, self.keys)

    def stop(self, query: Size) -> Size:
        """The key behind the last that a query sees, between 0 and `keys`."""
        if self.low is None:
            return self.keys
        return between(self.past + query - self.low + 1, self.keys)

    def first_query(self, key: Size) -> Size:
        """The first query that sees a key or one behind it, between 0 and `queries`."""
        return 0 if self.low is None else between(key + self.low - self.past, self.queries)

    def stop_query(self, key: Size) -> Size:
        """The query behind the last that sees a key or one before it, between 0 and `queries`."""
        if self.high is None:
            return self.queries
        return between(key + self.high - self.past + 1, self.queries)


def between(position: Size, most: Size) -> Size:
    """`position`, or 0 or `most` if it lies beyond."""
    return larger(smaller(position, most), 0)


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


def columns_tile(columns: Size, lanes: int, most: int, rows: int) -> Tile:
    """The tile of a product as wide as `columns`, of at most `most` vectors: that with the fewest
    steps, those of rows and columns behind the last included."""
    if not isinstance(columns, int) or not columns:
        return Tile(balanced(rows, 6), most, lanes, "float32")
    tiles = [Tile(_height(rows, 6 * most // v), v, lanes, "float32") for v in range(1, most + 1)]
    return min(tiles, key=lambda t: (steps(t, rows, columns), abs(t.vectors - most // 2)))


def steps(tile: Tile, rows: int, columns: int) -> int:
    """Multiply-adds of a step along the sum. A step loads so many vectors and scalars, one in the
    time of a product."""
    height, vectors = tile.rows, tile.vectors
    return (
        -(-rows // height) * -(-columns // tile.columns) * max(height * vectors, height + vectors)
    )


def _height(rows: int, most: int) -> int:
    """Rows of tiles that have as few as possible behind the last, and half of the most at least."""
    heights = range(min(rows, (most + 1) // 2), min(rows, most) + 1)
    return min(heights, key=lambda height: (-(-rows // height) * height, -height))
