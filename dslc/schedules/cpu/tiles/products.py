"""Several products of one size, one after the other, by the register tile: what is left of a
convolution or a product whose operands were turned into sums that need fewer products.

    made[f, row, column] = sum over k of seen[f, row, k] * weights[panel, f, k, column]

`seen` and `made` lie in a task's scratch memory, weights in panels of one array; those of the next
product are asked for while this one runs, since they come from memory once a call.

Rows are shared out to tasks by whole register tiles, so that few rows are shared evenly, too; a
task does its own in blocks.

Non-goals: what the products are of (`conv/winograd.py`, `matmul/strassen.py`), and how they are put
together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.tiles.contract import (
    MOST_PARTS,
    Expr,
    Machine,
    Panels,
    Size,
    address,
    ceil_div,
    div,
    each_part,
    i64,
    larger,
    loop,
    prefetch,
    rem,
    share,
    smaller,
    store_vector,
    vector_at,
    zeros,
)
from dslc.schedules.cpu.tiles.product_blocks import DTYPE, blocks_of
from dslc.schedules.cpu.tiles.register_tile import (
    UNROLL,
    Registers,
    Tile,
    clear,
    load,
    reduce_segment,
    save,
)

LINE = 16  # float32 of a cache line


@dataclass(frozen=True, slots=True)
class Products:
    """`count` products for a panel, over `depth`, of up to `units` register tiles of `rows` rows
    each, `fewest` where there are few rows; rows of `seen` are `pitch` elements apart, of `made`
    the width of a panel. `apart`: `made` holds one tile, whose products are put together before
    those of the next are made. `panels`: so many are side by side in `made`; if they are several,
    all of one product come before those of the next."""

    count: int
    depth: int
    width: int
    lanes: int
    rows: int
    units: int
    fewest: int
    apart: bool = False
    panels: int = 1

    @property
    def tile(self) -> Tile:
        return Tile(self.rows, self.width // self.lanes, self.lanes, DTYPE)

    @property
    def block(self) -> int:
        """Rows that are done together."""
        return self.rows * self.units

    @property
    def steps(self) -> int:
        """Of all products of a tile, each some of the depth."""
        return self.count * (self.depth // UNROLL)

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
        return (self.rows if self.apart else self.block) * self.width * self.panels + self.lanes

    @property
    def made_panel(self) -> int:
        """Elements of `made` from one panel to the next."""
        return self.block * self.width

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
    least: int = 0, apart: bool = False, panels: int = 1,
) -> Products:  # fmt: skip
    """Products of so many `rows` in all, of which a block's `seen` takes at most `kept` bytes; if
    their number is not known, of `least` and more. Rows are shared out to `tasks`. `panels`: so
    many there are, if they may be side by side in `made`."""
    blocks = blocks_of(count, depth, width, rows, tasks, kept, machine, least, panels)
    return Products(
        count, depth, width, machine.lanes(DTYPE), blocks.rows, blocks.units, blocks.fewest, apart,
        blocks.panels,
    )  # fmt: skip


@contextmanager
def loop_over_blocks(
    p: Products, total: Size, task: Expr, tasks: int
) -> Iterator[tuple[Expr, Expr]]:
    """A loop over the blocks of a task's share of `total` rows: first row, and how many there
    are."""
    tiles = ceil_div(total, p.rows)
    units = larger(1, ceil_div(ceil_div(tiles, tasks), p.units))  # blocks of a task
    if isinstance(units, int):  # of which each part has as many
        units = ceil_div(units, ceil_div(units, MOST_PARTS)) * tasks
    with each_part(task, tasks, units) as (part, parts):
        start, stop = share(tiles, part, parts)
        blocks = larger(1, ceil_div(stop - start, p.units))
        each = ceil_div(stop - start, blocks)  # of about as many tiles: each reads all weights
        blocks, each = T.bind(i64(blocks)), T.bind(i64(each))
        with loop(0, blocks) as block:
            tile = T.bind(start + block * each)
            first = T.bind(tile * p.rows)
            last = smaller(smaller(tile + each, stop) * p.rows, total)
            yield first, T.bind(i64(last - first))


def emit_products(
    p: Products, registers: Registers, scratch: Any, seen: Expr, made: Expr, weights: Panels,
    panel: Expr, tiles: tuple[Size, Size], shared: Shared | None = None,
    beside: Callable[[Expr, Expr], None] | None = None,
) -> None:  # fmt: skip
    """All products of a panel, of those `tiles`; `seen` and `made`: where they lie. `beside`: what
    is done at each of a tile's `p.steps`, given the tile and the number of the step."""
    # From these weights to those of what comes next.
    next_ = (p.depth * p.width + weights.spare) * (p.count if p.apart else 1)
    with loop(0, p.count) as f:
        start = _start(p, weights, panel, f, shared)
        source, target = T.bind(seen + f * p.seen_stride), T.bind(made + f * p.made_stride)
        _product(p, registers, scratch, source, target, weights, start, start + next_, tiles, f,
                 beside)  # fmt: skip


def add_products(
    p: Products, registers: Registers, scratch: Any, seen: Expr, made: Expr, weights: Panels,
    channels: int, apart: int, tiles: Size, shared: Shared,
) -> None:  # fmt: skip
    """To the sums of a panel in `made`, those over `channels` of the depth, which `seen` begins
    with; of them `weights` hold [channels][width] for each place, which are `apart`."""
    with loop(0, p.count) as f:
        place = T.bind(i64(shared.place(f)))
        start = T.bind(address(weights.offset) + place * apart)
        source, target = T.bind(seen + f * p.seen_stride), T.bind(made + f * p.made_stride)
        with loop(0, tiles) as unit:
            row = T.bind(source + unit * (p.rows * p.pitch))
            to = T.bind(target + unit * (p.rows * p.width))
            load(p.tile, registers, scratch, to, p.width)
            reduce_segment(
                p.tile, registers, channels,
                lambda i, k: scratch[row + i * p.pitch + k],
                lambda j, k: vector_at(weights.buffer, start + k * p.width + j * p.lanes, p.lanes),
            )  # fmt: skip
            save(p.tile, registers, scratch, to, p.width)


def clear_products(p: Products, scratch: Any, made: Expr, tiles: Size) -> None:
    """The sums of a panel in `made` to nothing."""
    with loop(0, p.count) as f:
        target = T.bind(made + f * p.made_stride)
        with loop(0, tiles) as unit, loop(0, p.rows * p.width // p.lanes) as vector:
            at = target + unit * (p.rows * p.width) + vector * p.lanes
            store_vector(scratch, zeros(DTYPE, p.lanes), at, p.lanes)


def emit_by_product(
    p: Products, registers: Registers, scratch: Any, seen: Expr, made: Expr, weights: Panels,
    tiles: tuple[Size, Size], shared: Shared | None = None,
) -> None:  # fmt: skip
    """The same of all panels, one product after the other: a block reads each weight once, and what
    was seen for a product stays in the L1 cache meanwhile."""
    with loop(0, p.count) as f:
        source = T.bind(seen + f * p.seen_stride)
        with loop(0, p.panels) as panel:
            start = _start(p, weights, panel, f, shared)
            last = tirx.EQ(panel, i64(p.panels - 1))
            following = _start(
                p, weights, T.bind(tirx.Select(last, i64(0), panel + 1)),
                T.bind(tirx.Select(last, f + 1, f)), shared,
            )  # fmt: skip
            target = T.bind(made + f * p.made_stride + panel * p.made_panel)
            _product(p, registers, scratch, source, target, weights, start, following, tiles, f)


def _start(p: Products, weights: Panels, panel: Expr, f: Expr, shared: Shared | None) -> Expr:
    """Where a product's weights for a panel begin."""
    each = p.count if shared is None else shared.weights
    place = f if shared is None else T.bind(i64(shared.place(f)))
    size = p.depth * p.width + weights.spare
    return T.bind(address(weights.offset) + (panel * each + place) * size)


def _product(
    p: Products, registers: Registers, scratch: Any, source: Expr, target: Expr, weights: Panels,
    start: Expr, following: Expr, tiles: tuple[Size, Size], f: Expr,
    beside: Callable[[Expr, Expr], None] | None = None,
) -> None:  # fmt: skip
    """Product number `f` of those tiles, from and to there; `following`: where the weights begin
    that come next."""
    with loop(*tiles) as unit:
        row = T.bind(source + unit * (p.rows * p.pitch))
        to = target if p.apart else T.bind(target + unit * (p.rows * p.width))
        clear(p.tile, registers)
        reduce_segment(
            p.tile, registers, p.depth,
            lambda i, k: scratch[row + i * p.pitch + k],
            lambda j, k: vector_at(weights.buffer, start + k * p.width + j * p.lanes, p.lanes),
            _asked(_next_weights(p, weights.buffer, T.bind(following), unit), p, f, unit, beside),
        )  # fmt: skip
        save(p.tile, registers, scratch, to, p.width)


def _asked(
    weights: Callable[[Expr], None], p: Products, f: Expr, unit: Expr,
    beside: Callable[[Expr, Expr], None] | None,
) -> Callable[[Expr], None]:  # fmt: skip
    """What is done beside a step: asking for weights, and what the caller wants."""
    if beside is None:
        return weights

    def both(step: Expr) -> None:
        weights(step)
        beside(unit, T.bind(f * (p.depth // UNROLL) + step))

    return both


def _next_weights(p: Products, buffer: Any, start: Expr, unit: Expr) -> Callable[[Expr], None]:
    """Asks for the weights behind these, some at each step of the reduction; tiles share it. Where
    there are more of them than `fewest`, the last ones ask for nothing new."""
    lines = -(-UNROLL * p.width // (LINE * p.fewest))
    steps = p.depth // UNROLL
    size = steps * UNROLL * p.width

    def ask(step: Expr) -> None:
        ahead: Expr = (unit * steps + step) * (lines * LINE)
        if p.units > p.fewest:
            ahead = smaller(ahead, size)
        first = T.bind(start + ahead)
        for line in range(lines):
            prefetch(buffer[first + line * LINE], 2)

    return ask
