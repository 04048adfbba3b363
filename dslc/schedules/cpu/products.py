"""Several products of one size, one after the other, by the register tile: what is left of a
convolution or a product whose operands were turned into sums that need fewer products.

    made[f, row, column] = sum over k of seen[f, row, k] * weights[panel, f, k, column]

`seen` and `made` lie in a task's scratch memory, weights in panels of one array; those of the next
product are asked for while this one runs, since they come from memory once a call.

Non-goals: what the products are of (`winograd.py`, `strassen.py`), and how they are put together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.contract import (
    Expr,
    Machine,
    Panels,
    address,
    ceil_div,
    div,
    i64,
    loop,
    rem,
    smaller,
    vector_at,
)
from dslc.schedules.cpu.register_tile import (
    UNROLL,
    Registers,
    Tile,
    clear,
    reduce_segment,
    save,
)

LINE = 16  # float32 of a cache line
DTYPE = "float32"


@dataclass(frozen=True, slots=True)
class Products:
    """`count` products for a panel, over `depth`, of up to `units` register tiles of `rows` rows
    each; rows of `seen` are `pitch` elements apart, of `made` the width of a panel."""

    count: int
    depth: int
    width: int
    lanes: int
    rows: int
    units: int

    @property
    def tile(self) -> Tile:
        return Tile(self.rows, self.width // self.lanes, self.lanes, DTYPE)

    @property
    def block(self) -> int:
        """Rows that are done together."""
        return self.rows * self.units

    @property
    def pitch(self) -> int:
        """Whole vectors, and no multiple of 2 KB: such rows share few lines of the L1 cache."""
        whole = -(-self.depth // self.lanes) * self.lanes
        return whole + self.lanes if whole % 512 == 0 else whole

    @property
    def seen_stride(self) -> int:
        """Elements of `seen` from one product to the next."""
        return self.block * self.pitch + self.lanes

    @property
    def made_stride(self) -> int:
        """Elements of `made` from one product to the next."""
        return self.block * self.width + self.lanes

    @property
    def elements(self) -> int:
        """Elements of `seen` and `made`, the one behind the other."""
        return self.count * (self.seen_stride + self.made_stride)


@dataclass(frozen=True, slots=True)
class Shared:
    """Products in a square, `numbers[i]` by `numbers[j]`: those of equal numbers have the same
    weights, which lie there once. Numbers only grow, and from the last one on are the same."""

    numbers: tuple[int, ...]

    @property
    def weights(self) -> int:
        """Of a panel."""
        return (self.numbers[-1] + 1) ** 2

    def place(self, f: Expr) -> Expr:
        """Which weights a product has."""
        last, count = self.numbers[-1], len(self.numbers)
        if last == count - 1:
            return f
        row, column = smaller(div(f, count), last), smaller(rem(f, count), last)
        return row * (last + 1) + column


def plan_products(
    count: int, depth: int, width: int, rows: int | None, tasks: int, kept: int, machine: Machine,
    least: int = 0,
) -> Products:  # fmt: skip
    """Products of so many `rows` in all, of which a block's `seen` takes at most `kept` bytes; if
    their number is not known, of `least` and more. Blocks are shared out to `tasks`."""
    lanes = machine.lanes(DTYPE)
    most = 14 if machine.registers == 32 else 6
    wanted = max(1, max(least, most // 2 + 1) if rows is None else rows)

    def plan(height: int) -> tuple[int, int]:
        """Tiles of a block, and those that the busiest task has."""
        fit = max(1, kept // (4 * count * height * ceil_div(depth, lanes) * lanes))
        tiles = ceil_div(wanted, height)
        if rows is None:
            return fit, tiles
        share = ceil_div(tiles, tasks)
        units = ceil_div(share, ceil_div(share, fit))
        return units, min(tiles, ceil_div(ceil_div(tiles, units), tasks) * units)

    # A row that is computed for nothing costs as much as any; of a low tile each costs more.
    lowest = min(wanted, most) if wanted <= most and tasks == 1 else min(wanted, most) // 2 + 1
    heights = range(lowest, min(wanted, most) + 1)
    height = min(heights, key=lambda h: (plan(h)[1] * (h + 1), -h))
    return Products(count, depth, width, lanes, height, plan(height)[0])


def emit_products(
    p: Products, registers: Registers, scratch: Any, seen: Expr, made: Expr, weights: Panels,
    panel: Expr, units: Expr, shared: Shared | None = None,
) -> None:  # fmt: skip
    """All products of a panel, of the first `units` tiles; `seen` and `made`: where they lie."""
    size = p.depth * p.width
    each = p.count if shared is None else shared.weights
    with loop(0, p.count) as f:
        place = f if shared is None else T.bind(i64(shared.place(f)))
        start = T.bind(address(weights.offset) + (panel * each + place) * size)
        source, target = T.bind(seen + f * p.seen_stride), T.bind(made + f * p.made_stride)
        with loop(0, units) as unit:
            row = T.bind(source + unit * (p.rows * p.pitch))
            next_ = _next_weights(p, weights.buffer, T.bind(start + size), unit)
            clear(p.tile, registers)
            reduce_segment(
                p.tile, registers, p.depth,
                lambda i, k: scratch[row + i * p.pitch + k],
                lambda j, k: vector_at(weights.buffer, start + k * p.width + j * p.lanes, p.lanes),
                next_,
            )  # fmt: skip
            save(p.tile, registers, scratch, T.bind(target + unit * (p.rows * p.width)), p.width)


def _next_weights(p: Products, buffer: Any, start: Expr, unit: Expr) -> Callable[[Expr], None]:
    """Asks for the weights behind these, some at each step of the reduction; tiles share it."""
    lines = -(-UNROLL * p.width // (LINE * p.units))
    steps = p.depth // UNROLL

    def ask(step: Expr) -> None:
        first = T.bind(start + (unit * steps + step) * (lines * LINE))
        for line in range(lines):
            at = tirx.address_of(buffer[first + line * LINE])
            T.evaluate(tirx.call_intrin("void", "tirx.prefetch", at, 0, 2, 1))

    return ask
