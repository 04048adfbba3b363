"""Convolution of NHWC images by Winograd's way: 3x3 with a stride of 1 or 2, and 4x4.

`ops/winograd.py` has what is computed.

The results are cut into tiles of m x m, m = 2 to 4, numbered over all images. A block of tiles at a
time:

    frequencies of the pixels of each tile, vectors of channels:          V [frequency, tile, C]
    for each panel of output channels:
        products of each frequency by the register tile, rows are tiles:  M [frequency, tile, width]
        M back to m x m results, handed to the epilogue

A block's V fits the L2 cache. Where that is few tiles, and weights are large, blocks are larger
instead, and all panels' products of a frequency come before those of the next. Tasks share out
tiles; few tiles of large weights are seen by each task, which makes the results of some panels.

Tiles that see nothing but the image are read in place; those at its edges are copied to a patch
first, where what is missing is zero. Of channels that are no whole vectors the last vector holds
some of the next pixel, which no product sees: what has no next pixel is copied, too.

Weights that never change are transformed beforehand (`lowering/rewrites/winograd.py`). Others are
by the kernel (`winograd_transform.py`): all of them first, if the L2 cache holds what that makes;
if not, for some channels of a panel at a time, whose products are added to M before the next. Then
what is read from memory is the weights as they lie, a quarter or less.

Non-goals: other kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.schedules.cpu.conv.winograd_plan import WinogradPlan
from dslc.schedules.cpu.conv.winograd_transform import PlainWeights, Target, emit_transform
from dslc.schedules.cpu.tiles.contract import (
    Ahead,
    Epilogue,
    Expr,
    Operand,
    Panels,
    Size,
    address,
    ceil_div,
    div,
    each_item,
    i64,
    local,
    loop,
    prefetch,
    rem,
    require,
    run_tasks,
    share,
    smaller,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.product_blocks import DTYPE
from dslc.schedules.cpu.tiles.products import (
    Shared,
    add_products,
    clear_products,
    emit_by_product,
    emit_products,
    loop_over_blocks,
)
from dslc.schedules.cpu.tiles.register_tile import Registers, allocate
from dslc.schedules.cpu.tiles.transform import transform


def emit_winograd(
    plan: WinogradPlan, x: Operand, weights: Panels | PlainWeights, epilogue: Epilogue,
    scratch: Operand | None = None, ahead: Ahead | None = None,
) -> None:  # fmt: skip
    """Emits the kernel's body; x is [batch, height, width, channels]. The epilogue's index is
    (image, row, column, output channel). `scratch` (rank 1) holds `plan.scratch_bytes` bytes.
    `ahead` is called beside products, for each vector of their results."""
    p = plan.products
    if scratch is None:
        raise InternalError("Winograd's convolution needs scratch")
    at = address(scratch.offset) + plan.before if plan.before else scratch.offset
    if isinstance(weights, PlainWeights):
        require(plan.plain, "weights have to be transformed")
        panels = Panels(scratch.buffer, DTYPE, p.width, offset=scratch.offset, spare=p.lanes)
        if not plan.chunk:
            _transform_all(plan, weights, panels)
    else:
        panels = weights
    require(panels.width == p.width, "weights are packed for another tile")

    def body(task: Expr, tasks: int) -> None:
        place = local(p.count * p.lanes, DTYPE)
        results = local(plan.m * plan.m * p.width, DTYPE)
        seen = T.bind(address(at, (task if tasks > 1 else 0, plan.task_elements)))
        made = T.bind(seen + p.count * p.seen_stride)
        patch = T.bind(made + p.count * p.made_stride)
        run = _Run(plan, x, epilogue, scratch.buffer, place, results, seen, made, patch)
        registers = allocate([p.tile])
        with _each_block(plan, task, tasks) as (first, count):
            with loop(0, count) as t:
                _see(run, T.bind(first + t), t)
            units = T.bind(i64(ceil_div(count, p.rows)))
            if p.panels > 1:
                emit_by_product(p, registers, scratch.buffer, seen, made, panels, (0, units),
                                Shared(plan.way.weights))  # fmt: skip
                with loop(0, p.panels) as panel, loop(0, count) as t:
                    _make(run, panel, T.bind(first + t), t)
                return
            if isinstance(weights, PlainWeights) and plan.chunk:
                place = T.bind(patch + plan.side * plan.side * p.pitch)
                with loop(0, plan.panels) as panel:
                    _add_by_chunks(run, registers, weights, place, panel, units)
                    with loop(0, count) as t:
                        _make(run, panel, T.bind(first + t), t)
                return
            with _each_panel(plan, task, tasks) as panel:
                ask = (
                    _asking(plan, first, panel, ahead) if ahead is not None and plan.deep else None
                )
                emit_products(p, registers, scratch.buffer, seen, made, panels, panel, (0, units),
                              Shared(plan.way.weights), ask)  # fmt: skip
                with loop(0, count) as t:
                    _make(run, panel, T.bind(first + t), t)

    run_tasks(plan.tasks, plan.shape.work, body)


@contextmanager
def _each_block(plan: WinogradPlan, task: Expr, tasks: int) -> Iterator[tuple[Expr, Expr]]:
    """A loop over a task's blocks of tiles: first tile, and how many there are."""
    if plan.by_panels:
        yield i64(0), i64(plan.total)
        return
    with loop_over_blocks(plan.products, plan.total, task, tasks) as block:
        yield block


@contextmanager
def _each_panel(plan: WinogradPlan, task: Expr, tasks: int) -> Iterator[Expr]:
    """A loop over a task's panels."""
    if plan.by_panels:
        with each_item(task, tasks, plan.panels) as panel:
            yield panel
        return
    with loop(0, plan.panels) as panel:
        yield panel


@dataclass(frozen=True, slots=True)
class _Run:
    """A task: its memory is `scratch` from `seen` (V), `made` (M) and `patch` on, vectors of one
    tile in `place` and its results in `results`."""

    plan: WinogradPlan
    x: Operand
    epilogue: Epilogue
    scratch: Any
    place: Any
    results: Any
    seen: Expr
    made: Expr
    patch: Expr


def _position(plan: WinogradPlan, tile: Expr) -> tuple[Expr, Expr, Expr]:
    """Image, first row and first column of the results of a tile."""
    down, across = plan.tiles
    image, within = T.bind(div(tile, down * across)), T.bind(rem(tile, down * across))
    row, column = div(within, across) * plan.m, rem(within, across) * plan.m
    return image, T.bind(i64(row)), T.bind(i64(column))


def _asking(
    plan: WinogradPlan, first: Expr, panel: Expr, ahead: Ahead
) -> Callable[[Expr, Expr], None]:
    """Asks for where the results of register tile after register tile will lie, and what is read
    there, a vector at each step: all at once they would take as long as memory does."""
    p, m = plan.products, plan.m
    height, width = plan.shape.out
    vectors = p.width // p.lanes

    def ask(unit: Expr, step: Expr) -> None:
        tile = first + unit * p.rows + div(step, plan.result_vectors)
        image, row, column = _position(plan, T.bind(i64(smaller(tile, plan.total - 1))))
        within = T.bind(rem(step, plan.result_vectors))
        pixel = T.bind(div(within, vectors))
        row = smaller(row + div(pixel, m), height - 1)
        column = smaller(column + rem(pixel, m), width - 1)
        channel = panel * p.width + rem(within, vectors) * p.lanes
        ahead((image, T.bind(i64(row)), T.bind(i64(column)), T.bind(i64(channel))))

    return ask


# --- weights that change with each call -----------------------------------------------------------


def _transform_all(plan: WinogradPlan, weights: PlainWeights, panels: Panels) -> None:
    """All weights, a vector of channels of a panel after the other; the last ends with the last
    channel."""
    p, channels = plan.products, plan.shape.channels
    each = min(p.lanes, channels)
    extents = (plan.panels, -(-channels // each))

    def body(task: Expr, tasks: int) -> None:
        with loop(*share(extents[0] * extents[1], task, tasks)) as item:
            panel, block = (T.bind(i64(at)) for at in unflatten(item, extents))
            first = T.bind(i64(smaller(block * each, channels - each)))
            start = address(panels.offset, (panel, plan.places * plan.place_stride))
            start = T.bind(start + first * p.width)
            target = Target(panels.buffer, start, plan.place_stride, p.width, p.lanes)
            emit_transform(weights, plan.way, panel, first, each, target)

    run_tasks(plan.tasks, plan.shape.work, body)


def _add_by_chunks(
    run: _Run, registers: Registers, weights: PlainWeights, place: Expr, panel: Expr, units: Expr
) -> None:
    """All products of a panel, over some channels after the other."""
    plan, p = run.plan, run.plan.products
    target = Target(run.scratch, place, plan.place_stride, p.width, p.lanes)
    made = Panels(run.scratch, DTYPE, p.width, offset=place)
    clear_products(p, run.scratch, run.made, units)
    with loop(0, plan.shape.channels // plan.chunk) as chunk:
        first = T.bind(chunk * plan.chunk)
        emit_transform(weights, plan.way, panel, first, plan.chunk, target)
        seen = T.bind(run.seen + first)
        add_products(p, registers, run.scratch, seen, run.made, made, plan.chunk,
                     plan.place_stride, units, Shared(plan.way.weights))  # fmt: skip


# --- pixels to frequencies ------------------------------------------------------------------------


def _see(run: _Run, tile: Expr, t: Expr) -> None:
    """Tile number `tile` of all to place `t` of V."""
    plan, x, pitch = run.plan, run.x, run.plan.products.pitch
    image, row, column = _position(plan, tile)
    (top, _), (left, _) = plan.shape.padding
    step = plan.shape.stride[0]
    row, column = T.bind(row * step - top), T.bind(column * step - left)

    with T.If(_whole(run, image, row, column)):
        with T.Then():
            base = T.bind(x.at(image, row, column, i64(0)))
            _transform_pixels(run, x.buffer, base, x.strides[1], x.strides[2], t)
        with T.Else():
            _copy_patch(run, image, row, column)
            _transform_pixels(run, run.scratch, run.patch, plan.side * pitch, pitch, t)


def _whole(run: _Run, image: Expr, row: Expr, column: Expr) -> Expr:
    """Whether a tile from that pixel on lies in the image, and its last vector in memory."""
    shape, side, lanes = run.plan.shape, run.plan.side, run.plan.products.lanes
    low = tirx.And(row >= i64(0), column >= i64(0))
    high = tirx.And(row <= i64(shape.height - side), column <= i64(shape.width - side))
    inside = tirx.And(low, high)
    if shape.channels % lanes == 0:
        return inside
    beyond = -shape.channels % lanes
    last = run.x.at(image, row + (side - 1), column + (side - 1), i64(beyond))
    end = run.x.at(i64(shape.batch - 1), i64(shape.height - 1), i64(shape.width - 1), i64(0))
    return tirx.And(inside, last <= end)


def _copy_patch(run: _Run, image: Expr, row: Expr, column: Expr) -> None:
    """The pixels from there on, zeros where there are none."""
    plan, x = run.plan, run.x
    shape, side = plan.shape, plan.side
    with loop(0, side) as i, loop(0, side) as j:
        h, w = T.bind(row + i), T.bind(column + j)
        target = T.bind(run.patch + (i * side + j) * plan.products.pitch)
        inside = tirx.And(
            tirx.And(h >= i64(0), h < i64(shape.height)),
            tirx.And(w >= i64(0), w < i64(shape.width)),
        )
        with T.If(inside):
            with T.Then():
                source = T.bind(x.at(image, h, w, i64(0)))
                with loop(0, shape.channels) as c:
                    T.buffer_store(run.scratch, x.buffer[source + c], [target + c])
            with T.Else(), loop(0, shape.channels) as c:
                T.buffer_store(run.scratch, tirx.const(0.0, DTYPE), [target + c])


def _transform_pixels(
    run: _Run, buffer: Any, base: Expr, row_stride: Size, pixel: Size, t: Expr
) -> None:
    """B d B' of the tile from `base` on, vector by vector of its channels."""
    p, side, into = run.plan.products, run.plan.side, run.plan.way.b
    lanes, frequencies = p.lanes, len(into)
    with loop(0, -(-p.depth // lanes)) as block:
        at = T.bind(base + block * lanes)
        to = T.bind(run.seen + t * p.pitch + block * lanes)
        for j in range(side):
            column = [
                vector_at(buffer, address(at, (i, row_stride), (j, pixel)), lanes)
                for i in range(side)
            ]
            for i, value in enumerate(transform(into, column, DTYPE, lanes)):
                store_vector(run.place, value, i64((i * side + j) * lanes), lanes)
        for i in range(frequencies):
            row = [vector_at(run.place, i64((i * side + j) * lanes), lanes) for j in range(side)]
            for j, value in enumerate(transform(into, row, DTYPE, lanes)):
                where = T.bind(to + (i * frequencies + j) * p.seen_stride)
                store_vector(run.scratch, value, where, lanes)


# --- back to results ------------------------------------------------------------------------------


def _make(run: _Run, panel: Expr, tile: Expr, t: Expr) -> None:
    """A' m A of place `t` of M: the results of tile number `tile`, to the epilogue."""
    p, m, back = run.plan.products, run.plan.m, run.plan.way.a
    lanes, frequencies = p.lanes, run.plan.way.frequencies
    image, row, column = _position(run.plan, tile)
    within = t * p.width if p.panels == 1 else panel * p.made_panel + t * p.width
    source = T.bind(run.made + within)
    with loop(0, p.width // lanes) as vector:
        at = T.bind(source + vector * lanes)
        for j in range(frequencies):
            values = [
                vector_at(run.scratch, at + (i * frequencies + j) * p.made_stride, lanes)
                for i in range(frequencies)
            ]
            for i, value in enumerate(transform(back, values, DTYPE, lanes)):
                store_vector(run.place, value, i64((i * frequencies + j) * lanes), lanes)
        for i in range(m):
            values = [
                vector_at(run.place, i64((i * frequencies + j) * lanes), lanes)
                for j in range(frequencies)
            ]
            for j, value in enumerate(transform(back, values, DTYPE, lanes)):
                to = i64((i * m + j) * p.width) + vector * lanes
                store_vector(run.results, value, to, lanes)
    _hand_over(run, panel, image, row, column)


def _hand_over(run: _Run, panel: Expr, image: Expr, row: Expr, column: Expr) -> None:
    """The results of a tile that exist to the epilogue."""
    plan, m = run.plan, run.plan.m
    height, width = plan.shape.out
    first = T.bind(i64(panel * plan.products.width))
    down = m if height % m == 0 else T.bind(i64(smaller(height - row, m)))
    across = m if width % m == 0 else T.bind(i64(smaller(width - column, m)))

    def pixels(columns: Size) -> None:
        with loop(0, down) as i, loop(0, across) as j:
            start = T.bind((i * m + j) * plan.products.width)
            prefetch(run.results[start])  # so LLVM makes no lanes of pixels
            with loop(0, columns) as c:
                value = run.results[start + c]
                run.epilogue((image, row + i, column + j, first + c), value)

    left = plan.shape.out_channels % plan.products.width
    if not left:
        pixels(plan.products.width)
    elif plan.panels == 1:
        pixels(left)
    else:
        with T.If(panel < i64(plan.panels - 1)):
            with T.Then():
                pixels(plan.products.width)
            with T.Else():
                pixels(left)
