"""Decides which convolutions a CPU does by Winograd's way, and transforms their weights.

Input: the sizes of a convolution; packed weights. Output: the size of its tile, 2 to 4, or 0 for
the plain sum; the panels of transformed weights, by ordinary equations.

The decision counts cycles: multiply-adds, the transforms of images and results, weights that come
from memory (16/9 or 4 times as many), and where weights change with each call, their transform by
the kernel, or what it takes to pack them for the plain sum.

Non-goals: packing (`pack.py`), how it runs (`schedules/cpu/conv/winograd.py`).
"""

from __future__ import annotations

from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import Dim
from dslc.lowering.rewrites.rates import ONE, Rates
from dslc.ops.constants import fill
from dslc.ops.elementwise import add, mul, neg
from dslc.ops.packed import panel_width
from dslc.ops.shape import concat, reshape
from dslc.ops.slicing import slice_axis
from dslc.ops.winograd import WAYS, Matrix, tiles
from dslc.schedules.cpu.tiles.machine import Machine
from dslc.schedules.cpu.tiles.product_blocks import blocks_of, kept_bytes

FEWEST_CHANNELS = 16  # below, transforms cost more than products
# Cycles of clearing and storing a sum, and what a vector of one tile's frequencies costs each way,
# where a multiply-add takes one (measured on a CPU whose `Rates` are ONE). By kernel, stride and
# size of the tile.
SAVED = 4
INTO = {(3, 1, 2): 100, (3, 1, 4): 300, (3, 2, 2): 120, (3, 2, 4): 500, (4, 1, 3): 300}
BACK = {(3, 1, 2): 80, (3, 1, 4): 240, (3, 2, 2): 100, (3, 2, 4): 400, (4, 1, 3): 200}
FEWEST_TILES = 8  # the products of fewer take as long
CACHED = 1 << 20  # bytes of weights, of which no more come from memory
# Cycles for weights from one input channel to a vector of output channels, which change with each
# call: to transform them, and to pack one of them for the plain sum.
TRANSFORMED = 300
PACKED = 20


@dataclass(frozen=True, slots=True)
class Convolution:
    """A convolution with a square kernel; sizes are those of the results."""

    batch: Dim
    height: Dim
    width: Dim
    channels: int
    out_channels: int
    stride: int = 1
    kernel: int = 3


def choose_tile(conv: Convolution, lanes: int, fixed: bool, rates: Rates = ONE) -> int:
    """The size of the tile; `fixed`: weights stay the same from call to call. A batch that is known
    only at each call counts as one image."""
    if min(conv.channels, conv.out_channels) < FEWEST_CHANNELS:
        return 0
    found = costs(conv, lanes, fixed, rates)
    return min(found, key=lambda m: found[m], default=0)


def costs(conv: Convolution, lanes: int, fixed: bool, rates: Rates = ONE) -> dict[int, float]:
    """Cycles by the size of the tile, 0: of the plain sum; none of an image of unknown size."""
    height, width = conv.height, conv.width
    batch = conv.batch if isinstance(conv.batch, int) else 1
    if not isinstance(height, int) or not isinstance(width, int) or min(batch, height, width) < 1:
        return {}
    inputs, outputs = (-(-c // lanes) for c in (conv.channels, conv.out_channels))
    products, positions = rates.product * conv.channels * outputs, conv.kernel**2
    changing = 0 if fixed else conv.channels * outputs
    plain = batch * height * width * positions * products
    memory = _memory(conv, positions, lanes, rates, plain)
    found: dict[int, float] = {0: plain + changing * positions * PACKED + memory}
    for m in tiles(conv.kernel, conv.stride):
        kind = conv.kernel, conv.stride, m
        way, count = WAYS[kind], batch * -(-height // m) * -(-width // m)
        each = products + SAVED * outputs
        moved = count * (inputs * INTO[kind] + outputs * BACK[kind])
        summed = max(count, FEWEST_TILES) * way.frequencies**2 * each
        seen = positions  # what changes is read as it lies
        if fixed:
            reads = _reads(conv, count, m, lanes) if rates.hidden else 1
            seen = len(way.g) ** 2 * reads
        memory = _memory(conv, seen, lanes, rates, summed)
        found[m] = summed + moved + changing * TRANSFORMED + memory
    return found


def _reads(conv: Convolution, count: int, m: int, lanes: int) -> int:
    """How often all transformed weights are read for `count` tiles, on one thread: by each block
    of them."""
    machine, width = Machine(32 * lanes, matrices=True), panel_width(conv.out_channels, lanes)
    frequencies = WAYS[conv.kernel, conv.stride, m].frequencies
    blocks = blocks_of(
        frequencies**2, conv.channels, width, count, 1, kept_bytes(machine), machine,
        panels=-(-conv.out_channels // width),
    )  # fmt: skip
    return -(-count // (blocks.rows * blocks.units))


def _memory(conv: Convolution, positions: int, lanes: int, rates: Rates, meanwhile: float) -> float:
    """Cycles that weights, in whole vectors, take to come from memory, beside products that take
    so many."""
    size = 4 * positions * conv.channels * -(-conv.out_channels // lanes) * lanes
    return max(0.0, max(0, size - CACHED) / rates.weights - rates.hidden * meanwhile)


def transformed(b: Builder, packed: Value, tile: int, stride: int = 1) -> Value:
    """Panels of transformed weights from panels of square ones: G w G', one axis at a time.

    The axis in question is laid into the last one, so that what a frequency is made of lies side by
    side.
    """
    panels, taps, _, channels, width = cast(tuple[int, ...], packed.type.dims)
    g, run = WAYS[taps, stride, tile].g, channels * width
    side = len(g)
    value = cast(Value, reshape(b, packed, dims=(panels * taps, taps * run)))
    value = _times_g(b, value, g, run)
    value = cast(Value, reshape(b, value, dims=(panels, taps * side * run)))
    value = _times_g(b, value, g, side * run)
    return cast(Value, reshape(b, value, dims=(panels, side, side, channels, width)))


def _times_g(b: Builder, value: Value, g: Matrix, run: int) -> Value:
    """Each row, as many pieces of `run` numbers as g has columns, becomes one piece for each of its
    rows."""
    pieces = [slice_axis(b, value, 1, i * run, (i + 1) * run) for i in range(len(g[0]))]
    made = []
    for factors in g:
        terms = [_scaled(b, x, factor) for x, factor in zip(pieces, factors) if factor]
        total = terms[0]
        for term in terms[1:]:
            total = cast(Value, add(b, total, term))
        made.append(total)
    return cast(Value, concat(b, *made, axis=1))


def _scaled(b: Builder, x: Value, factor: float) -> Value:
    if factor == 1:
        return x
    if factor == -1:
        return cast(Value, neg(b, x))
    return cast(Value, mul(b, x, fill(b, factor, x.type)))
