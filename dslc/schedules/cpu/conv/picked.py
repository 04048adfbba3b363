"""Strided depthwise convolution of 1x1 kernels over NCHW images whose rows are short.

A few of a plane's pixels are multiplied by the channel's weight. Rows that are shorter than a
vector would leave most of its lanes empty; so the plane is read as it lies, some rows as one run,

    a . b . | . . . . | c . d . | . . . .   ->   a b c d

and a vector takes its pixels from as many as they are spread over, by shuffles that are the same
for all tiles. Nothing is read behind the last pixel that is seen.

Non-goals: images whose height and width are not known, spread images, rows of many vectors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.picked_plan import PickedPlan, choose_rows, takes_picked, work
from dslc.schedules.cpu.conv.plane_rows import PlaneRows, hand_on, rows_of
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Machine,
    Operand,
    address,
    choose_tasks,
    div,
    each_item,
    i64,
    local,
    loop,
    masked_vector,
    product,
    rem,
    require,
    run_tasks,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.pack import shuffle


@dataclass(frozen=True, slots=True)
class _Run:
    """A strip's pixels lie from `begin` on; they are multiplied by `weight`, in every lane."""

    plan: PickedPlan
    buffer: Any
    begin: Expr
    weight: Expr
    results: Any


def plan_picked(shape: ConvShape, dtype: str, machine: Machine, flat: bool) -> PickedPlan:
    """The plan; `flat`: results are handed on by their place in a plane alone."""
    lanes = machine.lanes(dtype)
    require(takes_picked(shape, dtype, lanes), f"depthwise convolution of pixels: {shape}")
    plan = choose_rows(shape, dtype, lanes, flat)
    return replace(plan, tasks=choose_tasks(machine, work(plan)))


def emit_picked(plan: PickedPlan, x: Operand, w: Operand, epilogue: Epilogue) -> None:
    """Emits the kernel's body; operands and epilogue are those of `emit_planes`."""
    shape = plan.shape
    extents = (shape.batch, shape.channels, plan.strips)

    def body(task: Expr, tasks: int) -> None:
        results = local(plan.results, plan.dtype)
        with each_item(task, tasks, product(extents), work(plan)) as item:
            image, channel, number = (T.bind(i) for i in unflatten(item, extents))
            first, rows = rows_of(number, plan.strip, plan.shape.plane[0])
            begin = T.bind(x.at(image, channel, i64(first * shape.stride[0]), i64(0)))
            scalar = w.load(channel, i64(0), i64(0), i64(0))
            weight = T.bind(tirx.Broadcast(scalar, plan.lanes))
            run = _Run(plan, x.buffer, begin, weight, results)
            with loop(0, div(rows, plan.rows)) as tile:
                _tile(run, T.bind(tile * plan.rows), plan.rows)
            if left := plan.shape.plane[0] % plan.rows:
                with T.If(rem(i64(rows), plan.rows) > i64(0)), T.Then():
                    _tile(run, T.bind(i64(rows - left)), left)
            of = PlaneRows(image, channel, first, rows, plan.shape.plane[1])
            hand_on(of, results, i64(0), plan.flat, epilogue)

    run_tasks(plan.tasks, work(plan), body)


def _tile(run: _Run, row: Expr, rows: int) -> None:
    """`rows` rows of the strip's results, from `row` on. What is stored behind them is written over
    by the next."""
    plan, lanes = run.plan, run.plan.lanes
    down = plan.shape.stride[0] * plan.shape.width
    begin = T.bind(address(run.begin, (row, down)))
    target = T.bind(row * plan.shape.plane[1])
    for number, pixels in enumerate(plan.vectors(rows)):
        value = _picked(run, begin, pixels) * run.weight
        store_vector(run.results, value, target + number * lanes, lanes)


def _picked(run: _Run, begin: Expr, pixels: list[int]) -> Expr:
    """A vector of the pixels at such distances from `begin`; any, where there are fewer."""
    lanes, value = run.plan.lanes, None
    for start in range(pixels[0], pixels[-1] + 1, lanes):
        read, vector = _vector(run, begin, start, pixels[-1])
        chosen = [p - read if start <= p < start + lanes else None for p in pixels]
        chosen += [0] * (lanes - len(pixels))
        if value is None:
            value = shuffle([vector], [n or 0 for n in chosen])
        else:
            value = shuffle(
                [value, vector], [i if n is None else lanes + n for i, n in enumerate(chosen)]
            )
    return value


def _vector(run: _Run, begin: Expr, start: int, last: int) -> tuple[int, Expr]:
    """The vector at a distance from `begin`, not behind the `last`; and where it does start."""
    plan, lanes = run.plan, run.plan.lanes
    first = min(start, last + 1 - lanes)
    if first >= 0:
        return first, T.bind(vector_at(run.buffer, begin + first, lanes))
    mask = tirx.Ramp(i64(start), i64(1), lanes) <= tirx.Broadcast(i64(last), lanes)
    return start, T.bind(masked_vector(run.buffer, plan.dtype, begin + start, lanes, mask))
