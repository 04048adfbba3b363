"""Depthwise convolution of NCHW images whose rows are short: lanes run along channels.

A row of few pixels fills no vector, and with a stride its pixels lie apart. So as many planes as a
vector has lanes are turned, strip by strip, as they lie:

    [channel][pixel]  ->  [pixel][lane]  ->  sums, pixel by pixel  ->  [channel][pixel]

by shuffles in registers; what lies between stays in the caches near the core. Turned, the strip is
an NHWC image of one vector of channels, and runs by the tile of `depthwise.py`. Channels are cut
into blocks of one or two sizes; lanes without a channel are 0. Weights, [C, 1, KH, KW], are turned
in the same way, once for all images of a block.

Non-goals: images whose height and width are not known, spread images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.schedules.cpu.conv.clipped import Clipped, add_clipped, tiles_of_row
from dslc.schedules.cpu.conv.plane_rows import PlaneRows, hand_on, rows_of
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.conv.turned_plan import TurnedPlan, choose_strips, takes_turned, work
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Machine,
    Operand,
    Panels,
    Size,
    address,
    ceil_div,
    choose_tasks,
    div,
    each_part,
    i64,
    is_zero,
    larger,
    loop,
    masked_vector,
    product,
    rem,
    require,
    run_tasks,
    share,
    smaller,
    store_vector,
    unflatten,
    vector_at,
    zeros,
)
from dslc.schedules.cpu.tiles.pack import transpose
from dslc.schedules.cpu.tiles.register_tile import Registers, Tile, allocate, clear, save
from dslc.schedules.cpu.tiles.split import Group, split


@dataclass(frozen=True, slots=True)
class _Run:
    """What the code of a block of `channels` channels needs: where a task's scratch has its parts,
    the strip's rows."""

    plan: TurnedPlan
    x: Operand
    epilogue: Epilogue
    scratch: Operand
    weights: Expr
    strip: Expr
    results: Expr
    planes: Expr
    channels: int


@dataclass(frozen=True, slots=True)
class _Strip:
    """`rows` rows of results from `first` on, of the planes from `channel` on of an image."""

    image: Expr
    channel: Expr
    first: Size
    rows: Size


def plan_turned(shape: ConvShape, dtype: str, machine: Machine, flat: bool) -> TurnedPlan:
    """The plan; `flat`: results are handed on by their place in a plane alone."""
    require(takes_turned(shape, dtype), f"depthwise convolution of planes: {shape}")
    lanes, most = machine.lanes(dtype), machine.l2_bytes // 4
    plan = choose_strips(shape, dtype, lanes, machine.registers, flat, most)
    tasks = choose_tasks(machine, work(plan))
    batch = shape.batch if isinstance(shape.batch, int) and shape.batch else 1
    least = -(-tasks // (batch * -(-shape.channels // lanes)))
    plan = choose_strips(shape, dtype, lanes, machine.registers, flat, most, least)
    return replace(plan, tasks=tasks)


def emit_turned(
    plan: TurnedPlan, x: Operand, w: Operand, epilogue: Epilogue, scratch: Operand | None
) -> None:
    """Emits the kernel's body; operands, epilogue and scratch are those of `emit_planes`."""
    shape = plan.shape
    if scratch is None:
        raise InternalError("turned planes need scratch")
    if is_zero(shape.batch):
        return
    tiles = [Tile(g.height, 1, plan.lanes, plan.dtype) for g in _groups(plan)]

    def body(task: Expr, tasks: int) -> None:
        registers = allocate(tiles)
        start = T.bind(address(scratch.offset, (task, plan.task_elements)))
        weights, pixels, results, planes = (T.bind(start + part) for part in plan.parts)
        for blocks in split(shape.channels, plan.lanes):
            run = _Run(
                plan, x, epilogue, scratch, weights, pixels, results, planes, blocks.height
            )  # fmt: skip
            extents = (blocks.count, shape.batch, plan.strips)
            items = product(extents)
            with each_part(task, tasks, items, work(plan)) as (part, parts):
                first, stop = share(items, part, parts)
                with loop(first, stop) as item:
                    block, image, number = (T.bind(i) for i in unflatten(item, extents))
                    channel = T.bind(block * blocks.height + blocks.start)
                    begins = tirx.And(tirx.EQ(image, i64(0)), tirx.EQ(number, i64(0)))
                    with T.If(tirx.Or(begins, tirx.EQ(item, i64(first)))), T.Then():
                        at = T.bind(w.at(channel, i64(0), i64(0), i64(0)))
                        _turn(run, w.buffer, at, plan.taps, plan.taps, run.weights)
                    strip = _strip(plan, image, channel, number)
                    _compute(run, tiles, registers, strip, _turned_image(run, strip))
                    _finish(run, strip)

    run_tasks(plan.tasks, work(plan), body)


def _groups(plan: TurnedPlan) -> list[Group]:
    return tiles_of_row(plan.shape, plan.tile)


def _strip(plan: TurnedPlan, image: Expr, channel: Expr, number: Expr) -> _Strip:
    return _Strip(image, channel, *rows_of(number, plan.strip, plan.shape.plane[0]))


def _turned_image(run: _Run, strip: _Strip) -> Operand:
    """Turns the rows that a strip sees; gives them as those of an NHWC image."""
    plan, shape = run.plan, run.plan.shape
    step, width, lanes = shape.stride[0], shape.width, plan.lanes
    above = strip.first * step - shape.padding[0][0]
    below = above + (strip.rows - 1) * step + shape.extent[0]
    first = larger(0, above)
    pixels = larger(0, (smaller(below, shape.height) - first) * width)
    if not isinstance(pixels, int):
        first, pixels = T.bind(i64(first)), T.bind(i64(pixels))
    source = T.bind(run.x.at(strip.image, strip.channel, i64(first), i64(0)))
    _turn(run, run.x.buffer, source, shape.height * width, pixels, run.strip)
    offset = T.bind(run.strip - first * (width * lanes))
    return Operand(run.scratch.buffer, plan.dtype, (0, width * lanes, lanes, 1), offset)


def _turn(run: _Run, buffer: Any, source: Expr, plane: int, pixels: Size, target: Expr) -> None:
    """[channels][pixels], from `source` on, to [pixels][lanes]: whole vectors of pixels are
    stored."""
    plan, lanes = run.plan, run.plan.lanes

    def block(first: Expr, mask: Expr | None) -> None:
        begin, to = T.bind(source + first), T.bind(address(target, (first, lanes)))

        def row(at: Expr) -> Expr:
            if mask is None:
                return vector_at(buffer, at, lanes)
            return masked_vector(buffer, plan.dtype, at, lanes, mask)

        vectors = [T.bind(row(begin + c * plane)) for c in range(run.channels)]
        vectors += [zeros(plan.dtype, lanes)] * (lanes - run.channels)
        for j, vector in enumerate(transpose(vectors)):
            store_vector(run.scratch.buffer, vector, to + j * lanes, lanes)

    whole, left = div(pixels, lanes), rem(pixels, lanes)
    with loop(0, whole) as number:
        block(T.bind(number * lanes), None)
    if is_zero(left):
        return
    with T.If(i64(left) > i64(0)), T.Then():
        mask = tirx.Ramp(i64(0), i64(1), lanes) < tirx.Broadcast(i64(left), lanes)
        block(T.bind(i64(whole) * lanes), mask)


def _compute(
    run: _Run, tiles: Sequence[Tile], registers: Registers, strip: _Strip, x: Operand
) -> None:
    """The strip's results, [pixel][lane]."""
    plan = run.plan
    panels = Panels(run.scratch.buffer, plan.dtype, plan.lanes, offset=run.weights)
    clipped = Clipped(plan.shape, plan.lanes, x, panels, i64(0), plan.lanes)
    with loop(0, strip.rows) as row:
        for tile, group in zip(tiles, _groups(plan), strict=True):
            with loop(0, group.count) as t:
                column = T.bind(i64(t * group.height + group.start))
                clear(tile, registers)
                place = i64(0), T.bind(i64(strip.first + row)), column
                add_clipped(clipped, tile, registers, place, group)
                at = address(run.results, (row * plan.shape.plane[1] + column, plan.lanes))
                save(tile, registers, run.scratch.buffer, T.bind(at), plan.lanes)


def _finish(run: _Run, strip: _Strip) -> None:
    """Turns the results back, and hands them to the epilogue."""
    plan, lanes, scratch = run.plan, run.plan.lanes, run.scratch.buffer
    width, pixels = plan.shape.plane[1], strip.rows * plan.shape.plane[1]
    plane = plan.whole(plan.pixels)
    with loop(0, ceil_div(pixels, lanes)) as number:
        first = T.bind(number * lanes)
        begin = T.bind(address(run.results, (first, lanes)))
        vectors = [T.bind(vector_at(scratch, begin + j * lanes, lanes)) for j in range(lanes)]
        for c, vector in enumerate(transpose(vectors)[: run.channels]):
            store_vector(scratch, vector, run.planes + c * plane + first, lanes)
    with loop(0, run.channels) as c:
        at, channel = T.bind(address(run.planes, (c, plane))), T.bind(strip.channel + c)
        rows = PlaneRows(strip.image, channel, strip.first, strip.rows, width)
        hand_on(rows, scratch, at, plan.flat, run.epilogue)
