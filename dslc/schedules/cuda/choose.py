"""Which tile a product gets: the one whose blocks end first, by plain arithmetic.

A block takes the time of its multiply-adds, or of the lines that it brings, whichever is more, and
as many run at once as there are multiprocessors (and fit on one). Unknown sizes count as GUESS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dslc._frozen import dataclass
from dslc.schedules.cuda.fma import Tile, emit_product
from dslc.schedules.cuda.mma import STEPS, WarpTile, emit_warps
from dslc.schedules.cuda.product import HALVES, ITEMSIZE, Product, Size

GUESS = 256
PROCESSORS = 128
LATENCY = 700  # clocks until what is loaded is there
SPLITS = (1, 2, 4, 8, 16, 32, 64)

# In f32; in f64 a tile takes twice the shared memory, so it has half the depth.
TILES = (
    Tile(128, 128, 16, 8, 8),
    Tile(128, 64, 16, 8, 8, 2),
    Tile(64, 128, 16, 8, 8, 2),
    Tile(64, 64, 32, 8, 8, 4),
    Tile(64, 32, 32, 4, 8, 4),
    Tile(32, 64, 32, 8, 4, 4),
    Tile(32, 32, 32, 4, 4, 4),
    Tile(16, 32, 32, 4, 4, 8),
    Tile(16, 64, 32, 4, 8, 8),
)


# Of f16 and bf16.
WARP_TILES = (
    WarpTile(128, 128, 32, 64, 32),
    WarpTile(128, 64, 32, 32, 32),
    WarpTile(64, 128, 32, 32, 32),
    WarpTile(64, 64, 32, 32, 16),
    WarpTile(32, 64, 64, 16, 16),
    WarpTile(64, 32, 64, 16, 16),
    WarpTile(16, 64, 64, 16, 16),
)

LAUNCH = 4000  # clocks that a second kernel takes at least


@dataclass(frozen=True, slots=True)
class Plan:
    """A tile, and into how many parts the steps are cut."""

    tile: Tile | WarpTile
    splits: int

    def emit(self, p: Product) -> None:
        """The whole kernel of a product, thread bindings included."""
        if isinstance(self.tile, Tile):
            emit_product(p, self.tile)
        else:
            emit_warps(p, self.tile)


def choose(sizes: Sequence[Size], dtype: str) -> Plan:
    """The plan for a batch of so many rows, columns and steps of a dtype."""
    known = [x if isinstance(x, int) else GUESS for x in sizes]
    tiles: Sequence[Tile | WarpTile] = WARP_TILES if dtype in HALVES else TILES
    plans = [Plan(tile, splits) for tile in tiles for splits in SPLITS]
    best = min(plans, key=lambda plan: _time(plan, known))
    if ITEMSIZE[dtype] == 8:
        return replace(best, tile=replace(best.tile, depth=best.tile.depth // 2))
    return best


def _step(tile: Tile | WarpTile) -> float:
    """Clocks of a step: of its multiply-adds, of what it brings, or of what is read again from
    shared memory."""
    area, lines = tile.rows * tile.columns, tile.rows + tile.columns
    if isinstance(tile, Tile):  # 128 multiply-adds at a clock; 32 bytes, and 32 words of 4
        shared = tile.threads * (tile.row + tile.column) / tile.slices / 128
        return max(area / 128, lines / 8, shared)
    words = tile.threads * (tile.row / 4 + tile.column / 4) / STEPS
    return max(area / 1024, lines / 16, words / 32)


def _time(plan: Plan, sizes: Sequence[int]) -> float:
    """Clocks of the product, about."""
    batch, rows, columns, steps = sizes
    tile, splits = plan.tile, plan.splits
    blocks = splits * batch * -(-rows // tile.rows) * -(-columns // tile.columns)
    turns = -(-steps // (tile.depth * splits)) + 2
    # Blocks on one multiprocessor hide each other's waits.
    waits = LATENCY / max(1, min(blocks / PROCESSORS, 2048 // (8 * tile.threads // 4)))
    waves = -(-blocks // PROCESSORS)
    time = waves * turns * (tile.depth * _step(tile)) + turns * waits
    if splits > 1:
        results = batch * rows * columns
        time += LAUNCH + results * splits / (PROCESSORS * 4)
    return time
