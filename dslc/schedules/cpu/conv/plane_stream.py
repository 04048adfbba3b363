"""1x1 convolution of NCHW images to few channels: planes are read from end to end of long strips.

Each image is a matrix [channels, pixels] in memory, and its results are a few rows of weights by
it. A tile reads a few vectors of every plane, each on another page, for few multiply-adds. Here
some planes are added to sums that stay in the cache before the next ones are read
(`tiles/row_stream.py`). With strides, strips are whole rows of results, and pixels are picked as
they are read.

Non-goals: which convolutions are worth it (`PlanesPlan.streams`).
"""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx.script import builder as T

from dslc.schedules.cpu.conv.plane_image import PlaneView
from dslc.schedules.cpu.conv.plane_tile import PlanesPlan
from dslc.schedules.cpu.tiles import row_stream
from dslc.schedules.cpu.tiles.contract import Epilogue, Expr, Index, Operand, i64
from dslc.schedules.cpu.tiles.register_tile import Registers, Tile
from dslc.schedules.cpu.tiles.row_stream import Runs


def emit_strip(
    plan: PlanesPlan, view: PlaneView, w: Operand, registers: Registers, epilogue: Epilogue,
    image: Expr, group: Expr, strip: Expr,
) -> None:  # fmt: skip
    """The results of a strip of an image's group."""
    shape, tile = plan.shape, stream_tile(plan)
    first, outputs = T.bind(strip * plan.strip), shape.group_out_channels
    channel = T.bind(group * outputs)
    weights = T.bind(w.at(channel, i64(0), i64(0), i64(0)))
    rows = Operand(w.buffer, plan.dtype, (shape.group_channels, 1), weights)
    planes = Operand(view.buffer, plan.dtype, (view.channel, 1), view.at(0, 0, 0, 0))

    def index(o: Expr, row: Expr, j: Expr) -> Index:
        if plan.flat:
            return (image, channel + o, i64(0), first + j)
        return (image, channel + o, first + row, j)

    def part(length: int) -> None:
        runs = _runs(plan, length)
        row_stream.emit(tile, registers, shape.group_channels, runs, rows, planes)
        row_stream.finish(tile, registers, runs, index, epilogue)

    _of_either(plan, strip, part)


def _runs(plan: PlanesPlan, length: int) -> Runs:
    """What so many rows, or pixels, of results are made of."""
    if plan.flat:
        return Runs(1, length, 0, 1, length)
    shape, (step, width) = plan.shape, (plan.shape.stride[1], plan.shape.plane[1])
    return Runs(length, width, plan.pitch, step, min(shape.width, width * step))


def _of_either(plan: PlanesPlan, strip: Expr, body: Callable[[int], None]) -> None:
    """`body` of the length of a strip; the last one may be shorter."""
    last = plan.length - plan.strip * (plan.strips - 1)
    if plan.even or plan.strips == 1:
        body(last)
        return
    with T.If(strip < i64(plan.strips - 1)):
        with T.Then():
            body(plan.strip)
        with T.Else():
            body(last)


def stream_tile(plan: PlanesPlan) -> Tile:
    """All channels of a group by a strip."""
    vectors = plan.wide if plan.flat else plan.strip * plan.wide
    return Tile(plan.shape.group_out_channels, vectors, plan.lanes, plan.dtype)
