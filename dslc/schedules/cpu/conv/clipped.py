"""The tile of a depthwise convolution that reads an image where it lies, and ends where that does.

The image is NHWC, and lanes run along its channels. Every pixel that a tile of one row's results
sees is loaded once, and multiplied for all results that see it; what would be padding is left out:
above and below by the bounds of the loop over the kernel's rows, on the left and right by the code,
for which tiles at the edges stand alone.

Non-goals: what is handed on (`depthwise.py`, `turned.py`), images of unknown width.
"""

from __future__ import annotations

from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import (
    Expr,
    Operand,
    Panels,
    Size,
    address,
    ceil_div,
    edge_vector,
    larger,
    loop,
    smaller,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.tiles.register_tile import Registers, Tile
from dslc.schedules.cpu.tiles.split import Group, split


@dataclass(frozen=True, slots=True)
class Clipped:
    """Block `block` of the image's channels, of which so many exist, and its weights: panels of
    `lanes`."""

    shape: ConvShape
    lanes: int
    x: Operand
    weights: Panels
    block: Expr
    exist: Size


def tiles_of_row(shape: ConvShape, pixels: int) -> list[Group]:
    """Tiles of up to so many pixels; those that see padding on a side stand alone."""
    apart: list[Group] = []
    for group in split(shape.out[1], pixels):
        starts = [group.start + t * group.height for t in range(group.count)]
        inside = [s for s in starts if _is_inside(shape, s, group.height)]
        before = [s for s in starts if s not in inside and (not inside or s < inside[0])]
        apart += [Group(s, 1, group.height) for s in before]
        if inside:
            apart.append(Group(inside[0], len(inside), group.height))
        apart += [Group(s, 1, group.height) for s in starts if s not in inside + before]
    return apart


def _is_inside(shape: ConvShape, start: int, pixels: int) -> bool:
    """Whether nothing that such a tile sees is padding."""
    step = shape.stride[1]
    first = start * step - shape.padding[1][0]
    last = first + (pixels - 1) * step + shape.extent[1]
    return bool(first >= 0 and last <= shape.width)


def add_clipped(
    run: Clipped, tile: Tile, registers: Registers, place: tuple[Expr, Expr, Expr], group: Group
) -> None:
    """Adds a tile's products to its accumulators; its first result is (image, row, column)."""
    shape, lanes, block, x = run.shape, run.lanes, run.block, run.x
    (kh, kw), (sh, sw), (dh, dw) = shape.kernel, shape.stride, shape.dilation
    (top, _), (left, _) = shape.padding
    image, row, column = place
    above = T.bind(row * sh - top)
    first = T.bind(x.at(image, above, column * sw - left, block * lanes))
    start: Size = 0
    stop: Size = kh
    if shape.is_padded:
        start = T.bind(larger(0, ceil_div(-above, dh)))
        stop = T.bind(smaller(kh, ceil_div(shape.height - above, dh)))
    edge = group.count == 1 and not _is_inside(shape, group.start, group.height)
    with loop(start, stop) as y:
        line = T.bind(address(first, (y * dh, x.strides[1])))
        taken = T.bind(address(run.weights.offset, ((block * kh + y) * kw, lanes)))
        factors = [
            T.bind(vector_at(run.weights.buffer, taken + z * lanes, lanes)) for z in range(kw)
        ]
        for seen in range((tile.rows - 1) * sw + shape.extent[1]):
            if edge and not 0 <= group.start * sw - left + seen < shape.width:
                continue
            users = [(i, z) for i in range(tile.rows) for z in range(kw) if i * sw + z * dw == seen]
            if not users:
                continue
            at = address(line, (seen, x.strides[2]))
            pixel = T.bind(edge_vector(x.buffer, x.dtype, at, lanes, 0, run.exist, lanes))
            for i, z in users:
                at = tile.offset(i, 0)
                total = vector_at(registers.accumulators, at, lanes) + pixel * factors[z]
                store_vector(registers.accumulators, total, at, lanes)
