"""3x3 convolution of NHWC images by Winograd's F(m, 3), m = 2 or 4 (`ops/winograd.py`).

The results are cut into tiles of m x m, numbered over all images. A block of tiles at a time:

    frequencies of the pixels of each tile, vectors of channels:  V [(m + 2)(m + 2), tile, C]
    for each panel of output channels:
        products of each frequency by the register tile, rows are tiles:  M [.., tile, width]
        M back to m x m results, handed to the epilogue

A block's V fits the L2 cache. Tiles that see nothing but the image are read in place; those at its
edges, and channels that are no whole vectors, are copied to a patch first, where what is missing is
zero. Blocks are shared out to tasks.

Non-goals: weights (`lowering/winograd.py` transforms and packs them), other kernels and strides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.schedules.cpu.contract import (
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
    rem,
    require,
    run_tasks,
    share,
    smaller,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.conv_shape import ConvShape
from dslc.schedules.cpu.register_tile import Registers, Tile, allocate, clear, reduce_segment, save

DTYPE = "float32"


@dataclass(frozen=True, slots=True)
class WinogradPlan:
    """How it is run: blocks of `units` register tiles of `rows` tiles each."""

    shape: ConvShape
    m: int
    width: int
    lanes: int
    rows: int
    units: int
    tasks: int

    @property
    def side(self) -> int:
        """Pixels of a tile along one side: m + 2."""
        return self.m + 2

    @property
    def frequencies(self) -> int:
        return self.side * self.side

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
    def block(self) -> int:
        """Tiles of a block."""
        return self.rows * self.units

    @property
    def blocks(self) -> Size:
        return ceil_div(self.total, self.block)

    @property
    def pitch(self) -> int:
        """Elements from one tile of V to the next, of pixels in a patch too: whole vectors, and no
        multiple of 2 KB, which would share few lines of the L1 cache."""
        whole = -(-self.shape.channels // self.lanes) * self.lanes
        return whole + self.lanes if whole % 512 == 0 else whole

    @property
    def seen_stride(self) -> int:
        """Elements of V from one frequency to the next."""
        return self.block * self.pitch + self.lanes

    @property
    def made_stride(self) -> int:
        """Elements of M from one frequency to the next."""
        return self.block * self.width + self.lanes

    @property
    def panels(self) -> int:
        return -(-self.shape.out_channels // self.width)

    @property
    def task_elements(self) -> int:
        """Scratch elements of a task: V, M, then a patch."""
        return self.frequencies * (self.seen_stride + self.made_stride + self.pitch)

    @property
    def scratch_bytes(self) -> int:
        return 4 * self.task_elements * self.tasks


def plan_winograd(shape: ConvShape, m: int, width: int, machine: Machine) -> WinogradPlan:
    """The plan for transformed weights in panels of `width`; only the batch may be unknown."""
    lanes = machine.lanes(DTYPE)
    plain = ((3, 3), (1, 1), (1, 1), 1, (1, 1))
    given = (shape.kernel, shape.stride, shape.dilation, shape.groups, shape.input_dilation)
    require(given == plain and width % lanes == 0, f"not by Winograd: {shape}")
    height, across = shape.out
    each = -(-height // m) * -(-across // m)
    tiles = shape.batch * each if isinstance(shape.batch, int) else each
    tasks = choose_tasks(machine, shape.work)
    highest = 14 if machine.registers == 32 else 6
    rows = _rows(tiles if isinstance(shape.batch, int) else max(tiles, highest // 2 + 1), highest)
    vector_rows = 4 * (m + 2) ** 2 * rows * -(-shape.channels // lanes) * lanes
    most = max(1, machine.l2_bytes * 3 // 4 // vector_rows)
    if isinstance(shape.batch, int):
        found = -(-tiles // rows)
        blocks = max(1, -(-found // most))
        blocks = min(found, -(-blocks // tasks) * tasks)
        most = max(1, -(-found // max(1, blocks)))
    return WinogradPlan(shape, m, width, lanes, rows, most, tasks)


def _rows(tiles: int, most: int) -> int:
    """Rows of the register tile: the last one of all should not be nearly empty. A row that is
    computed for nothing costs as much as any; of a low tile each costs more."""
    if tiles <= most:
        return max(1, tiles)
    heights = range(most // 2 + 1, most + 1)
    return min(heights, key=lambda h: (-(-tiles // h) * (h + 1), -h))


def emit_winograd(
    plan: WinogradPlan, x: Operand, weights: Panels, epilogue: Epilogue,
    scratch: Operand | None = None,
) -> None:  # fmt: skip
    """Emits the kernel's body; x is [batch, height, width, channels]. The epilogue's index is
    (image, row, column, output channel). `scratch` (rank 1) holds `plan.scratch_bytes` bytes."""
    require(weights.width == plan.width, "weights are packed for another tile")
    if scratch is None:
        raise InternalError("Winograd's convolution needs scratch")
    tile = Tile(plan.rows, plan.width // plan.lanes, plan.lanes, DTYPE)
    at = scratch.offset

    def body(task: Expr, tasks: int) -> None:
        place = local(plan.frequencies * plan.lanes, DTYPE)
        results = local(plan.m * plan.m * plan.width, DTYPE)
        seen = T.bind(address(at, (task if tasks > 1 else 0, plan.task_elements)))
        made = T.bind(seen + plan.frequencies * plan.seen_stride)
        patch = T.bind(made + plan.frequencies * plan.made_stride)
        run = _Run(plan, x, weights, epilogue, scratch.buffer, tile, allocate([tile]),
                   place, results, seen, made, patch)  # fmt: skip
        start, stop = share(plan.blocks, task, tasks)
        with loop(start, stop) as block:
            first = T.bind(i64(block * plan.block))
            count = T.bind(i64(smaller(plan.total - first, plan.block)))
            with loop(0, count) as t:
                _see(run, T.bind(first + t), t)
            units = T.bind(i64(ceil_div(count, plan.rows)))
            with loop(0, plan.panels) as panel:
                _multiply(run, panel, units)
                with loop(0, count) as t:
                    _make(run, panel, T.bind(first + t), t)

    run_tasks(plan.tasks, plan.shape.work, body)


@dataclass(frozen=True, slots=True)
class _Run:
    """A task: its memory is `scratch` from `seen` (V), `made` (M) and `patch` on, vectors of one
    tile in `place` and its results in `results`."""

    plan: WinogradPlan
    x: Operand
    weights: Panels
    epilogue: Epilogue
    scratch: Any
    tile: Tile
    registers: Registers
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


# --- pixels to frequencies ------------------------------------------------------------------------


def _see(run: _Run, tile: Expr, t: Expr) -> None:
    """Tile number `tile` of all to place `t` of V."""
    plan, x = run.plan, run.x
    image, row, column = _position(plan, tile)
    (top, _), (left, _) = plan.shape.padding
    row, column = T.bind(row - top), T.bind(column - left)

    def copied() -> None:
        _copy_patch(run, image, row, column)
        _transform_pixels(run, run.scratch, run.patch, plan.side * plan.pitch, plan.pitch, t)

    if plan.shape.channels % plan.lanes:
        copied()
        return
    with T.If(_whole(plan, row, column)):
        with T.Then():
            base = T.bind(x.at(image, row, column, i64(0)))
            _transform_pixels(run, x.buffer, base, x.strides[1], x.strides[2], t)
        with T.Else():
            copied()


def _whole(plan: WinogradPlan, row: Expr, column: Expr) -> Expr:
    """Whether a tile from that pixel on lies in the image."""
    low = tirx.And(row >= i64(0), column >= i64(0))
    high = tirx.And(
        row <= i64(plan.shape.height - plan.side), column <= i64(plan.shape.width - plan.side)
    )
    return tirx.And(low, high)


def _copy_patch(run: _Run, image: Expr, row: Expr, column: Expr) -> None:
    """The pixels from there on, zeros where there are none."""
    plan, x = run.plan, run.x
    shape, side = plan.shape, plan.side
    with loop(0, side) as i, loop(0, side) as j:
        h, w = T.bind(row + i), T.bind(column + j)
        target = T.bind(run.patch + (i * side + j) * plan.pitch)
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
    plan, lanes, side = run.plan, run.plan.lanes, run.plan.side
    with loop(0, -(-plan.shape.channels // lanes)) as block:
        at = T.bind(base + block * lanes)
        to = T.bind(run.seen + t * plan.pitch + block * lanes)
        for j in range(side):
            column = [
                T.bind(vector_at(buffer, address(at, (i, row_stride), (j, pixel)), lanes))
                for i in range(side)
            ]
            for i, value in enumerate(_times_b(plan.m, column, lanes)):
                store_vector(run.place, value, i64((i * side + j) * lanes), lanes)
        for i in range(side):
            row = [
                T.bind(vector_at(run.place, i64((i * side + j) * lanes), lanes))
                for j in range(side)
            ]
            for j, value in enumerate(_times_b(plan.m, row, lanes)):
                store_vector(
                    run.scratch, value, T.bind(to + (i * side + j) * plan.seen_stride), lanes
                )


def _times_b(m: int, d: list[Expr], lanes: int) -> list[Expr]:
    """B d, with what its rows share computed once."""
    if m == 2:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]

    def times(number: float, x: Expr) -> Expr:
        return tirx.Broadcast(tirx.const(number, DTYPE), lanes) * x

    even, odd = T.bind(d[4] - times(4, d[2])), T.bind(d[3] - times(4, d[1]))
    other, twice = T.bind(d[4] - d[2]), T.bind(times(2, d[3] - d[1]))
    first = times(4, d[0]) - times(5, d[2]) + d[4]
    last = times(4, d[1]) - times(5, d[3]) + d[5]
    return [first, even + odd, even - odd, other + twice, other - twice, last]


# --- products -------------------------------------------------------------------------------------


def _multiply(run: _Run, panel: Expr, units: Expr) -> None:
    """M of one panel: V times the weights, frequency by frequency."""
    plan, tile, channels = run.plan, run.tile, run.plan.shape.channels
    with loop(0, plan.frequencies) as f:
        start = T.bind(
            address(run.weights.offset) + (panel * plan.frequencies + f) * (channels * plan.width)
        )
        seen = T.bind(run.seen + f * plan.seen_stride)
        made = T.bind(run.made + f * plan.made_stride)
        with loop(0, units) as unit:
            row = T.bind(seen + unit * (plan.rows * plan.pitch))
            clear(tile, run.registers)
            reduce_segment(
                tile, run.registers, channels,
                lambda i, k: run.scratch[row + i * plan.pitch + k],
                lambda j, k: vector_at(
                    run.weights.buffer, start + k * plan.width + j * plan.lanes, plan.lanes
                ),
            )  # fmt: skip
            save(tile, run.registers, run.scratch, T.bind(made + unit * (plan.rows * plan.width)),
                 plan.width)  # fmt: skip


# --- back to results ------------------------------------------------------------------------------


def _make(run: _Run, panel: Expr, tile: Expr, t: Expr) -> None:
    """A' m A of place `t` of M: the results of tile number `tile`, to the epilogue."""
    plan, m, side, lanes = run.plan, run.plan.m, run.plan.side, run.plan.lanes
    image, row, column = _position(plan, tile)
    source = T.bind(run.made + t * plan.width)
    with loop(0, plan.width // lanes) as vector:
        at = T.bind(source + vector * lanes)
        for j in range(side):
            values = [
                T.bind(vector_at(run.scratch, at + (i * side + j) * plan.made_stride, lanes))
                for i in range(side)
            ]
            for i, value in enumerate(_times_a(m, values, lanes)):
                store_vector(run.place, value, i64((i * side + j) * lanes), lanes)
        for i in range(m):
            values = [
                T.bind(vector_at(run.place, i64((i * side + j) * lanes), lanes))
                for j in range(side)
            ]
            for j, value in enumerate(_times_a(m, values, lanes)):
                to = i64((i * m + j) * plan.width) + vector * lanes
                store_vector(run.results, value, to, lanes)
    _hand_over(run, panel, image, row, column)


def _times_a(m: int, d: list[Expr], lanes: int) -> list[Expr]:
    """A d, with what its rows share computed once."""
    if m == 2:
        return [d[0] + d[1] + d[2], d[1] - d[2] - d[3]]

    def times(number: float, x: Expr) -> Expr:
        return tirx.Broadcast(tirx.const(number, DTYPE), lanes) * x

    plus, minus = T.bind(d[1] + d[2]), T.bind(d[1] - d[2])
    plus2, minus2 = T.bind(d[3] + d[4]), T.bind(d[3] - d[4])
    return [
        d[0] + plus + plus2,
        minus + times(2, minus2),
        plus + times(4, plus2),
        minus + times(8, minus2) + d[5],
    ]


def _hand_over(run: _Run, panel: Expr, image: Expr, row: Expr, column: Expr) -> None:
    """The results of a tile that exist to the epilogue."""
    plan, m = run.plan, run.plan.m
    height, width = plan.shape.out
    first = T.bind(i64(panel * plan.width))
    down = m if height % m == 0 else T.bind(i64(smaller(height - row, m)))
    across = m if width % m == 0 else T.bind(i64(smaller(width - column, m)))

    def pixels(columns: Size) -> None:
        with loop(0, down) as i, loop(0, across) as j, loop(0, columns) as c:
            value = run.results[(i * m + j) * plan.width + c]
            run.epilogue((image, row + i, column + j, first + c), value)

    left = plan.shape.out_channels % plan.width
    if not left:
        pixels(plan.width)
    elif plan.panels == 1:
        pixels(left)
    else:
        with T.If(panel < i64(plan.panels - 1)):
            with T.Then():
                pixels(plan.width)
            with T.Else():
                pixels(left)
