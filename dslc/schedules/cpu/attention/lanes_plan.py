"""The plan for attention with a query in each lane (`lanes.py`): blocks and tiles.

Input: what attention works on, the machine. Output: a plan, or None where sizes are not known.
"""

from __future__ import annotations

from dataclasses import replace

from dslc._frozen import dataclass
from dslc.schedules.cpu.attention.blocks import DTYPE
from dslc.schedules.cpu.attention.shape import Areas, AttentionShape, round_up
from dslc.schedules.cpu.tiles.contract import Machine, Size, choose_tasks
from dslc.schedules.cpu.tiles.register_tile import Tile

KEYS = 512  # of a block, about: their scores stay in the caches
# What it costs that a block of queries reads all keys, of what one vector of them takes. Where
# registers are few, a tile of one vector also has a number to load for each multiply-add.
READING, READING_FEW = 0.05, 0.5
LATENT = 8  # multiply-adds that a step takes as long as, or it would wait for the one before
STREAMS = 8  # keys of a tile of one vector, where registers are few: of more, no tile is faster


@dataclass(frozen=True, slots=True)
class LanesPlan:
    """How attention is run. `keys` keys are a block; `score` is the tile of scores, `outs` are
    those of the result: each with its first element and how many there are. `copied`: keys and
    values are copied to lie side by side."""

    shape: AttentionShape
    keys: int
    score: Tile
    outs: tuple[tuple[Tile, int, int], ...]
    tasks: int
    copied: bool

    @property
    def queries(self) -> int:
        """Of a block."""
        return self.score.columns

    @property
    def whole(self) -> bool:
        """Whether a block has all keys."""
        return bool(self.shape.keys <= self.keys)

    @property
    def areas(self) -> Areas:
        shape, queries = self.shape, self.queries
        width = round_up(shape.width, self.score.lanes)
        # The last tile of keys may begin before its block.
        rows = self.keys + 2 * self.score.rows
        return Areas.of(
            [
                ("queries", shape.depth * queries), ("scores", rows * queries),
                ("out", width * queries),
                ("keys", shape.keys * shape.depth if self.copied else 0),
                ("values", shape.keys * shape.width if self.copied else 0),
                *((name, queries) for name in ("maximum", "before", "sum", "scale")),
            ]
        )  # fmt: skip

    @property
    def scratch_bytes(self) -> Size:
        return self.areas.size * (4 * self.tasks)


def plan_lanes(shape: AttentionShape, machine: Machine, apart: bool = False) -> LanesPlan | None:
    """The plan for attention in float32 whose scores are nothing but products; None where sizes are
    not known. `apart`: rows of keys or values don't lie side by side."""
    sizes = (shape.keys, shape.depth, shape.width)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    queries, lanes = shape.queries, machine.lanes(DTYPE)
    vectors = _vectors(queries, lanes, READING if machine.registers == 32 else READING_FEW)
    keys = -(-shape.keys // -(-shape.keys // KEYS))
    several = not isinstance(queries, int) or queries > 2 * vectors * lanes
    return lanes_plan(shape, machine, vectors, keys, apart and several)


def lanes_plan(
    shape: AttentionShape, machine: Machine, vectors: int, keys: int, copied: bool
) -> LanesPlan:
    """The plan for blocks of so many vectors of queries and at least so many keys."""
    lanes, most = machine.lanes(DTYPE), 24 if machine.registers == 32 else 12
    height = most // vectors if machine.registers == 32 else min(most // vectors, STREAMS)
    score = Tile(_rows(shape.keys, height, vectors), vectors, lanes, DTYPE)
    tiles = -(-shape.width // height)
    rows, higher = divmod(shape.width, tiles)
    outs = [(replace(score, rows=rows), higher * (rows + 1), tiles - higher)]
    if higher:
        outs.append((replace(score, rows=rows + 1), 0, higher))
    whole = -(-keys // score.rows) * score.rows
    tasks = choose_tasks(machine, shape.work)
    return LanesPlan(shape, whole, score, tuple(outs), tasks, copied)


def _vectors(queries: Size, lanes: int, reading: float) -> int:
    """Vectors of queries in a block: those with the fewest lanes idle, and keys read seldom."""
    if not isinstance(queries, int):
        return 2
    return min((1, 2), key=lambda v: -(-queries // (v * lanes)) * (v + reading))


def _rows(keys: int, most: int, vectors: int) -> int:
    """Keys of a tile: those with the fewest steps, some of keys that are computed twice."""

    def cost(height: int) -> int:
        return -(-keys // height) * max(height * vectors, LATENT)

    heights = range(min(keys, (most + 1) // 2), min(keys, most) + 1)
    return min(heights, key=lambda height: (cost(height), -height))
