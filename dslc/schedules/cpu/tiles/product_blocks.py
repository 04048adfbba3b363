"""In which blocks the rows of several products go, by arithmetic alone: for the template, and for
those who choose between products and a plain sum.

Input: the sizes of the products and the CPU. Output: `Blocks`. Non-goals: how they are run
(`products.py`); TVM, which need not be there to choose.
"""

from __future__ import annotations

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.machine import Machine

NEAR = 3  # L2 caches that a block fills which is as good as in one, where memory is far
FAR, FARTHEST = 4, 6  # L2 caches that a block of panels side by side fills, and where memory is far
MORE = 8  # times as many rows as there are at least, where their number is not known
# What a tile costs beside its rows, in rows (measured); weights that are far come slowly to each.
OF_TILE, OF_TILE_FAR = 1, 2.5
DTYPE = "float32"


@dataclass(frozen=True, slots=True)
class Blocks:
    """Up to `units` register tiles of `rows` rows each, `fewest` where there are few rows; `panels`
    side by side."""

    rows: int
    units: int
    fewest: int
    panels: int


def kept_bytes(machine: Machine) -> int:
    """What a block of frequencies may take of the L2 cache."""
    return machine.l2_bytes * 3 // 4


def blocks_of(
    count: int, depth: int, width: int, rows: int | None, tasks: int, kept: int, machine: Machine,
    least: int = 0, panels: int = 1,
) -> Blocks:  # fmt: skip
    """The blocks of `count` products over `depth`, in panels of `width`, of so many `rows`; the
    arguments are those of `products.plan_products`. Panels are side by side where low tiles would
    read all weights so often that it takes longer than to write more than the L2 cache holds, and
    read it once."""
    lanes = machine.lanes(DTYPE)
    most = 14 if machine.registers == 32 else 6
    wanted = max(1, max(least, most // 2 + 1) if rows is None else rows)

    def busiest(height: int, number: int = wanted) -> int:
        """Tiles of the task that has most."""
        return -(-number // (height * tasks))

    def cost(height: int) -> float:
        """Of a row, in time of one. Where more rows may come, as if they came as often."""
        each = [wanted] if rows is not None else [wanted, MORE * wanted]
        return sum(busiest(height, number) * (height + more_rows) / number for number in each)

    # A row that is computed for nothing costs as much as any; of a low tile each costs more.
    more_rows = OF_TILE_FAR if machine.matrices else OF_TILE
    lowest = min(wanted, most) if wanted <= most and tasks == 1 else min(wanted, most) // 2 + 1
    heights = range(lowest, min(wanted, most) + 1)
    height = min(heights, key=lambda h: (cost(h), -h))
    tiles, of_tile = busiest(height), 4 * count * height
    seen, made = of_tile * _ceil_div(depth, lanes) * lanes, of_tile * width
    fit = max(1, kept // (seen + made))
    most_bytes = (FARTHEST if machine.matrices else FAR) * machine.l2_bytes
    more = max(1, most_bytes // (seen + made * panels))
    spared = _ceil_div(tiles, fit) - _ceil_div(tiles, more)  # times that all weights are read
    spared *= 4 * count * depth * width * panels
    written = tiles * (seen + made * panels)
    # Where memory is far, writing what stays no longer near costs as much as reading it twice.
    near = written <= _ceil_div(tiles, more) * NEAR * machine.l2_bytes
    worth = 2 if machine.registers < 32 or near else 4
    measured = machine.registers < 32 or machine.matrices
    if measured and panels > 1 and spared > worth * written:
        fit = more
    else:
        panels = 1
    fewest = _ceil_div(tiles, _ceil_div(tiles, fit))
    units = fit if rows is None else fewest
    return Blocks(height, units, fewest, panels)


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)
