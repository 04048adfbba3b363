"""Convolution of NHWC images by Winograd's way: 3x3 with a stride of 1 or 2, and 4x4.

`ops/winograd.py` has what is computed.

The results are cut into tiles of m x m, m = 2 to 4, numbered over all images. A block of tiles at a
time:

    frequencies of the pixels of each tile, vectors of channels:          V [frequency, tile, C]
    for each panel of output channels:
        products of each frequency by the register tile, rows are tiles:  M [frequency, tile, width]
        M back to m x m results, handed to the epilogue

A block's V fits the L2 cache. Where that is few tiles, and weights are large, blocks are larger
instead, and all panels' products of a frequency come before those of the next.

Tiles that see nothing but the image are read in place; those at its edges are copied to a patch
first, where what is missing is zero. Of channels that are no whole vectors the last vector holds
some of the next pixel, which no product sees: what has no next pixel is copied, too.

Non-goals: weights (`lowering/rewrites/winograd.py` transforms and packs them), other kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ops.winograd import WAYS, Way
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import (
    Ahead,
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
    i64,
    local,
    loop,
    prefetch,
    rem,
    require,
    run_tasks,
    smaller,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.tiles.products import (
    DTYPE,
    Products,
    Shared,
    emit_by_product,
    emit_products,
    loop_over_blocks,
    plan_products,
)
from dslc.schedules.cpu.tiles.register_tile import allocate
from dslc.schedules.cpu.tiles.transform import transform


@dataclass(frozen=True, slots=True)
class WinogradPlan:
    """How it is run: tiles of m x m results; those of a block are the rows of `products`."""

    shape: ConvShape
    m: int
    products: Products
    tasks: int

    @property
    def way(self) -> Way:
        return WAYS[self.shape.kernel[0], self.shape.stride[0], self.m]

    @property
    def side(self) -> int:
        """Pixels that a tile sees along one side."""
        return self.way.pixels

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles of an image, down and across."""
        height, width = self.shape.out
        return -(-height // self.m), -(-width // self.m)

    @property
    def total(self) -> Size:
        """Tiles of all images."""
        down, across = self.tiles
        return self.shape.batch * (down * across)

    @property
    def panels(self) -> int:
        return -(-self.shape.out_channels // self.products.width)

    @property
    def deep(self) -> bool:
        """Whether products have a step for each vector of the results."""
        return self.products.rows * self.result_vectors <= self.products.steps

    @property
    def result_vectors(self) -> int:
        """Of a tile and a panel."""
        return self.m * self.m * (self.products.width // self.products.lanes)

    @property
    def task_elements(self) -> int:
        """Scratch elements of a task: V, M, then a patch."""
        return self.products.elements + self.side * self.side * self.products.pitch

    @property
    def scratch_bytes(self) -> int:
        return 4 * self.task_elements * self.tasks


def plan_winograd(shape: ConvShape, m: int, width: int, machine: Machine) -> WinogradPlan:
    """The plan for transformed weights in panels of `width`; only the batch may be unknown."""
    lanes, stride = machine.lanes(DTYPE), shape.stride
    taps = shape.kernel[0]
    plain = (taps, (1, 1), 1, (1, 1), stride[0])
    given = (shape.kernel[1], shape.dilation, shape.groups, shape.input_dilation, stride[1])
    known = given == plain and (taps, stride[0], m) in WAYS
    require(known and width % lanes == 0, f"not by Winograd: {shape}")
    count = WAYS[taps, stride[0], m].frequencies ** 2
    height, across = shape.out
    each = -(-height // m) * -(-across // m)
    tasks = choose_tasks(machine, shape.work)
    tiles = shape.batch * each if isinstance(shape.batch, int) else None
    products = plan_products(
        count, shape.channels, width, tiles, tasks, machine.l2_bytes * 3 // 4, machine, each,
        panels=-(-shape.out_channels // width),
    )  # fmt: skip
    return WinogradPlan(shape, m, products, tasks)


def emit_winograd(
    plan: WinogradPlan, x: Operand, weights: Panels, epilogue: Epilogue,
    scratch: Operand | None = None, ahead: Ahead | None = None,
) -> None:  # fmt: skip
    """Emits the kernel's body; x is [batch, height, width, channels]. The epilogue's index is
    (image, row, column, output channel). `scratch` (rank 1) holds `plan.scratch_bytes` bytes.
    `ahead` is called beside products, for each vector of their results."""
    p = plan.products
    require(weights.width == p.width, "weights are packed for another tile")
    if scratch is None:
        raise InternalError("Winograd's convolution needs scratch")
    at = scratch.offset

    def body(task: Expr, tasks: int) -> None:
        place = local(p.count * p.lanes, DTYPE)
        results = local(plan.m * plan.m * p.width, DTYPE)
        seen = T.bind(address(at, (task if tasks > 1 else 0, plan.task_elements)))
        made = T.bind(seen + p.count * p.seen_stride)
        patch = T.bind(made + p.count * p.made_stride)
        run = _Run(plan, x, epilogue, scratch.buffer, place, results, seen, made, patch)
        registers = allocate([p.tile])
        with loop_over_blocks(p, plan.total, task, tasks) as (first, count):
            with loop(0, count) as t:
                _see(run, T.bind(first + t), t)
            units = T.bind(i64(ceil_div(count, p.rows)))
            if p.panels > 1:
                emit_by_product(p, registers, scratch.buffer, seen, made, weights, (0, units),
                                Shared(plan.way.weights))  # fmt: skip
                with loop(0, p.panels) as panel, loop(0, count) as t:
                    _make(run, panel, T.bind(first + t), t)
                return
            with loop(0, plan.panels) as panel:
                ask = (
                    _asking(plan, first, panel, ahead) if ahead is not None and plan.deep else None
                )
                emit_products(p, registers, scratch.buffer, seen, made, weights, panel, (0, units),
                              Shared(plan.way.weights), ask)  # fmt: skip
                with loop(0, count) as t:
                    _make(run, panel, T.bind(first + t), t)

    run_tasks(plan.tasks, plan.shape.work, body)


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
