"""The planes of an NCHW image as the tiles of `planes.py` read them.

A strided convolution is one of stride 1 over the phases of its image, that is, over the pixels of
equal remainders by the stride. So a strip is copied to scratch as

    [channel][phase down][phase across][row][column],    zeros where there is padding,

and each tap of the kernel reads vectors of neighbours. A row is read once for all phases across:
`stride` vectors of neighbours are shuffled into one of each phase. Without padding the image is
read where it is, if it has no stride or the kernel is 1x1; strided vectors are then shuffled when
they are read. For flat tiles, a copied strip is copied once more, for each tap what it sees,

    [channel][tap][row x column of results].

Input: a plan, the image. Output: a `PlaneView`, and the code that copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.plane_tile import PlanesPlan
from dslc.schedules.cpu.tiles.contract import (
    Expr,
    Operand,
    Size,
    address,
    div,
    i64,
    loop,
    masked_vector,
    prefetch,
    rem,
    store_vector,
    vector_at,
    zeros,
)

NEAR = 2  # a cache line is wanted in the L2 cache
AHEAD = 1 << 12  # pixels from one to that which is asked for; the hardware ends with each page


@dataclass(frozen=True, slots=True)
class PlaneView:
    """Element (channel, phase, row, column) of a strip lies at base + channel * .channel + ..."""

    buffer: Any
    base: Expr
    channel: int
    phase: int
    row: int
    column: int

    def at(self, channel: Size, phase: Size, row: Size, column: Size) -> Expr:
        terms = ((channel, self.channel), (phase, self.phase), (row, self.row))
        return address(self.base, *terms, (column, self.column))


def planes_in_place(
    plan: PlanesPlan, x: Operand, image: Expr, group: Expr, strip: Expr
) -> PlaneView:
    """The strip where it lies in x."""
    shape, pitch = plan.shape, plan.pitch
    begin = x.at(image, group * shape.group_channels, i64(0), i64(0))
    base = T.bind(address(begin, (strip, plan.strip * pitch)))
    return PlaneView(x.buffer, base, shape.height * shape.width, 0, pitch, shape.stride[1])


def copy_planes(
    plan: PlanesPlan, x: Operand, scratch: Operand, start: Expr, image: Expr, group: Expr,
    strip: Expr,
) -> PlaneView:  # fmt: skip
    """Emits the copy of a strip to scratch[start..] and gives its view."""
    shape, (downs, acrosses) = plan.shape, plan.phases
    size = plan.phase_elements
    view = PlaneView(scratch.buffer, start, plan.channel_elements, size, plan.pitch, 1)
    above = T.bind(strip * plan.strip)
    with loop(0, shape.group_channels) as c:
        channel = T.bind(group * shape.group_channels + c)
        for number, down in enumerate(downs):
            first = number * len(acrosses)
            with loop(0, plan.rows_of(down)) as row:
                source = T.bind((above + row) * shape.stride[0] + (down - shape.padding[0][0]))
                inside = tirx.And(source >= i64(0), source < i64(shape.height))
                phases = range(first, first + len(acrosses))
                targets = [T.bind(view.at(c, phase, row, 0)) for phase in phases]
                with T.If(inside):
                    with T.Then():
                        begin = T.bind(x.at(image, channel, source, i64(0)))
                        _copy_row(_Row(plan, x, scratch, begin, targets))
                    with T.Else(), loop(0, -(-plan.pitch // plan.lanes)) as block:
                        nothing = [zeros(plan.dtype, plan.lanes)] * shape.stride[1]
                        _store(plan, scratch, targets, block, nothing)
    return _flat_view(plan, view) if plan.flat else view


def _flat_view(plan: PlanesPlan, copied: PlaneView) -> PlaneView:
    """The copy as flat tiles read it: as it is, or with the pixels that each position of the kernel
    sees gathered behind it, row behind row."""
    width = plan.vectors * plan.lanes
    if not plan.gathers:
        return PlaneView(copied.buffer, copied.base, copied.channel, 0, width, 1)
    start = T.bind(address(copied.base, (1, plan.copied_elements)))
    view = PlaneView(copied.buffer, start, plan.gathered_elements, 0, width, 1)
    (kh, kw), across, lanes = plan.shape.kernel, plan.shape.out[1], plan.lanes
    (sh, sw), (dh, dw), acrosses = plan.shape.stride, plan.shape.dilation, plan.phases[1]
    with loop(0, plan.shape.group_channels) as c, loop(0, kh) as y:
        phases = rem(y * dh, sh) * len(acrosses)
        for z in range(kw):
            phase = phases + acrosses.index(z * dw % sw)
            source = T.bind(copied.at(c, phase, div(y * dh, sh), z * dw // sw))
            target = T.bind(view.at(c * (kh * kw) + (y * kw + z), 0, 0, 0))
            with loop(0, plan.strip) as row, loop(0, -(-across // lanes)) as block:
                at = address(source, (row, copied.row), (block, lanes))
                to = address(target, (row, across), (block, lanes))
                store_vector(view.buffer, vector_at(copied.buffer, at, lanes), to, lanes)
    return view


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the image, from `begin` on, goes to the `targets`, one for each phase across."""

    plan: PlanesPlan
    x: Operand
    scratch: Operand
    begin: Expr
    targets: Sequence[Expr]


def _copy_row(row: _Row) -> None:
    """A block is a vector of each phase. What is stored behind a row's end is written over by the
    next."""
    plan, shape = row.plan, row.plan.shape
    step, lanes = shape.stride[1], row.plan.lanes
    first = -shape.padding[1][0]  # the pixel of column 0
    span, below = step * lanes, shape.stride[0] * shape.width
    # To the same place of a row that is copied, too: of this channel, or of the next one.
    ahead = shape.height * shape.width if plan.asks_channels else -(-AHEAD // below) * below

    def kind(block: int) -> int:
        """0: nothing exists, 1: all; edges stand alone."""
        start = first + block * span
        exist = max(0, min(shape.width, start + span) - max(0, start))
        return exist // span if exist % span == 0 else block + 2

    for found, numbers in groupby(range(-(-plan.pitch // lanes)), kind):
        blocks = list(numbers)
        with loop(blocks[0], blocks[-1] + 1) as block:
            at = T.bind(address(row.begin + first, (block, span)))
            if plan.far:
                for start in range(0, span, plan.line):
                    prefetch(row.x.buffer[at + (start + ahead)], NEAR)
            vectors = [
                vector_at(row.x.buffer, at + k * lanes, lanes) if found == 1
                else _edge(row, at, first + blocks[0] * span, k)
                for k in range(step)
            ]  # fmt: skip
            _store(plan, row.scratch, row.targets, block, [T.bind(v) for v in vectors])


def _edge(row: _Row, at: Expr, start: int, number: int) -> Expr:
    """Vector `number` of those from pixel `start` on, at `at`: pixels that don't exist are 0."""
    plan, lanes, width = row.plan, row.plan.lanes, row.plan.shape.width
    low = start + number * lanes
    if low + lanes <= 0 or low >= width:
        return zeros(plan.dtype, lanes)
    pixel = tirx.Ramp(i64(low), i64(1), lanes)
    mask = pixel < tirx.Broadcast(i64(width), lanes)
    if low < 0:
        mask = tirx.And(pixel >= tirx.Broadcast(i64(0), lanes), mask)
    return masked_vector(row.x.buffer, plan.dtype, at + number * lanes, lanes, mask)


def _store(
    plan: PlanesPlan, scratch: Operand, targets: Sequence[Expr], block: Expr, vectors: list[Expr]
) -> None:
    """Vector `block` of each phase, taken of the neighbours in `vectors`."""
    lanes = plan.lanes
    for target, across in zip(targets, plan.phases[1], strict=True):
        value = taken_apart(vectors, across, lanes)
        store_vector(scratch.buffer, value, T.bind(address(target, (block, lanes))), lanes)


def taken_apart(vectors: list[Expr], first: int, lanes: int) -> Expr:
    """Of the elements of some vectors one in as many, from `first` on."""
    step = len(vectors)
    if step == 1:
        return vectors[0]
    return tirx.Shuffle(vectors, [tirx.IntImm("int32", first + i * step) for i in range(lanes)])
