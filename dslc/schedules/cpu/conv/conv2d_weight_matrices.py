"""The gradient of a convolution's weights, of bf16, by registers that hold matrices.

dw[kh, kw][c][o] = sum over pixels of x[c][pixel + what (kh, kw) is behind it] dy[pixel][o]: pixels
are what is summed over, row after row of a padded image. The image is turned in scratch, so that
pixels of a channel lie side by side, and another position of the kernel is another first pixel;
with a stride it becomes one image for each remainder. Of the cotangent each two pixels are joined
to pairs, with zeros where the rows of the padded image have more of them.

Items are some whole images, or strips of one, that the L2 cache holds. Their sums wait in scratch
in between; each task has its own, which are added up at the end (`conv2d_weight.py`).

Non-goals: groups, images of unknown size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.conv2d_weight import add_up
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles import matrix_tile
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Machine,
    Operand,
    Size,
    address,
    ceil_div,
    choose_tasks,
    div,
    i64,
    loop,
    masked_vector,
    rem,
    require,
    run_tasks,
    share,
    smaller,
    store_vector,
    vector_at,
)
from dslc.schedules.cpu.tiles.dots import HALF
from dslc.schedules.cpu.tiles.matrix_tile import (
    BYTES,
    FASTER,
    FEW,
    LANES,
    PAIR,
    STEP,
    MatrixTile,
    Side,
    joined,
)
from dslc.schedules.cpu.tiles.pack import transpose


@dataclass(frozen=True, slots=True)
class WeightMatricesPlan:
    """How the gradient is run: items of `images` whole images, or of one a strip of `rows` rows of
    results."""

    shape: ConvShape
    rows: int
    images: int
    tasks: int

    @property
    def tile(self) -> MatrixTile:
        return MatrixTile(2, 2) if self.shape.channels > LANES else MatrixTile(1, FEW)

    @property
    def heights(self) -> tuple[int, ...]:
        return (LANES,) * self.tile.down

    # --- sums ---------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.tile.columns

    @property
    def panels(self) -> int:
        return ceil_div(self.shape.out_channels, self.width)

    @property
    def positions(self) -> int:
        """Of the kernel."""
        return self.shape.kernel[0] * self.shape.kernel[1]

    @property
    def padded_channels(self) -> int:
        """Input channels in whole tiles."""
        rows = self.tile.down * LANES
        return ceil_div(self.shape.channels, rows) * rows

    @property
    def sums(self) -> int:
        """Elements of one task's sums: [panel][KH][KW][channel][width]."""
        return self.panels * self.positions * self.padded_channels * self.width

    # --- pixels -------------------------------------------------------------------------------

    @property
    def phases(self) -> tuple[int, int]:
        """Images that one with a stride becomes, down and across: those that the kernel sees."""
        (down, across), extent = self.shape.stride, self.shape.extent
        return min(down, extent[0]), min(across, extent[1])

    @property
    def columns(self) -> int:
        """Pixels from one row to the next."""
        return self.shape.plane[1] + (self.shape.extent[1] - 1) // self.shape.stride[1]

    @property
    def lanes(self) -> int:
        """Of a vector of sums."""
        return LANES

    @property
    def steps(self) -> int:
        """Of an image's or a strip's sum."""
        return ceil_div((self.rows - 1) * self.columns + self.shape.plane[1], STEP)

    @property
    def image_rows(self) -> int:
        """Rows that hold all pixels which the sum reads, and those which its last step does."""
        (kh, kw), (sh, sw) = self.shape.extent, self.shape.stride
        last = self.steps * STEP + (kh - 1) // sh * self.columns + (kw - 1) // sw
        return ceil_div(last, self.columns)

    @property
    def pitch(self) -> int:
        """Pixels from channel to channel, with what the last row's block writes behind its end. Of
        a multiple of 512 bytes all rows of a register would fall into few sets of the cache."""
        behind = ceil_div(self.columns, STEP) * STEP - self.columns
        pixels = ceil_div(self.image_rows * self.columns + behind, LANES) * LANES
        return pixels + (LANES if pixels % 256 == 0 else 0)

    @property
    def image(self) -> int:
        """Elements of 32 bits of an image that was turned."""
        return self.phases[0] * self.phases[1] * self.padded_channels * self.pitch // PAIR

    @property
    def cotangent(self) -> int:
        """Pairs of the cotangent's pixels: [panel][pair][width]."""
        return self.panels * self.steps * LANES * self.width

    @property
    def task_elements(self) -> int:
        """Scratch elements of one task."""
        return self.sums + self.images * (self.image + self.cotangent)

    @property
    def scratch_bytes(self) -> Size:
        return self.task_elements * (BYTES * self.tasks)

    @property
    def strips(self) -> int:
        """Of an image."""
        return ceil_div(self.shape.plane[0], self.rows)

    @property
    def items(self) -> Size:
        if self.strips > 1:
            return self.shape.batch * self.strips
        return ceil_div(self.shape.batch, self.images)


def plan_weight_matrices(shape: ConvShape, machine: Machine) -> WeightMatricesPlan:
    """The plan for the gradient of the weights of a convolution of `shape`."""
    height, _ = shape.plane
    work = shape.work // FASTER if isinstance(shape.work, int) else shape.work
    tasks = choose_tasks(machine, work)
    room = machine.l2_bytes  # these CPUs have twice of it
    # A batch that is known only at each call may be one image.
    batch = max(1, shape.batch) if isinstance(shape.batch, int) else 1
    strips = min(height, ceil_div(tasks, batch))
    while True:
        plan = WeightMatricesPlan(shape, ceil_div(height, max(1, strips)), 1, tasks)
        size = (plan.image + plan.cotangent // plan.panels) * BYTES
        if size <= room or plan.rows <= 1:
            break
        strips = max(strips + 1, ceil_div(height, plan.rows - 1))
    if plan.strips > 1:
        return plan
    images = max(1, room // size)
    if isinstance(shape.batch, int):
        each = ceil_div(batch, tasks)
        images = ceil_div(each, ceil_div(each, images))
    return replace(plan, images=images)


def emit_weight_matrices(
    plan: WeightMatricesPlan, x: Operand, dy: Operand, epilogue: Epilogue, scratch: Operand,
    flat: bool = False,
) -> None:  # fmt: skip
    """Emits the kernel's body; x [batch, height, width, channels] and dy [batch, out.., out
    channels] hold bf16 (as `HALF`). The epilogue's index is (o, c, kh, kw), its values f32; for
    `flat` see `conv2d_weight.hand_over`. `scratch` (rank 1) holds `plan.scratch_bytes`."""
    require(x.strides[3] == 1 and dy.strides[3] == 1, "channels must lie side by side")
    sums, halves = _as(scratch, "float32"), _as(scratch, HALF)

    def body(task: Expr, tasks: int) -> None:
        base = T.bind(address(scratch.offset, (task if tasks > 1 else 0, plan.task_elements)))
        run = _Run(plan, x, dy, sums, halves, base)
        start, stop = share(plan.items, task, tasks)
        matrix_tile.configure(plan.heights)
        with loop(start, stop) as item:
            first, count, strip = run.part(item)
            with loop(0, count) as number:
                image = T.bind(first + number)
                _turn_image(run, image, strip, number)
                _join_cotangent(run, image, strip, number)
            _add(run, count, item == i64(start))
        matrix_tile.release()
        with T.If(i64(start) == i64(stop)), T.Then():
            _clear(run, 0, 1)
        if tasks == 1:
            _clear(run, 1, plan.tasks)

    run_tasks(plan.tasks, plan.shape.work, body)
    add_up(plan, epilogue, Operand(sums, "float32", (1,), scratch.offset), flat)


def _as(scratch: Operand, dtype: str) -> Any:
    """The memory (of numbers of 32 bits) as a buffer of another type."""
    size = i64(scratch.buffer.shape[0]) * (PAIR if dtype == HALF else 1)
    return T.decl_buffer(
        (size,), dtype, data=scratch.buffer.data, align=BYTES // PAIR, layout=None
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Run:
    """A task's: its sums start at `base` in `memory`; `halves` is the same memory."""

    plan: WeightMatricesPlan
    x: Operand
    dy: Operand
    memory: Any
    halves: Any
    base: Expr

    def part(self, item: Expr) -> tuple[Expr, Size, Expr]:
        """The first image, how many they are, and the strip of an item."""
        plan = self.plan
        if plan.strips > 1:
            return T.bind(div(item, plan.strips)), 1, T.bind(rem(item, plan.strips))
        first = T.bind(item * plan.images)
        batch = plan.shape.batch
        if isinstance(batch, int) and batch % plan.images == 0:
            return first, plan.images, i64(0)
        return first, T.bind(smaller(batch - first, i64(plan.images))), i64(0)

    def image(self, number: Expr) -> Expr:
        """Where a turned image starts, in `halves`."""
        start = self.base + self.plan.sums + number * self.plan.image
        return T.bind(start * PAIR)

    def cotangent(self, number: Expr) -> Expr:
        plan = self.plan
        start = self.base + (plan.sums + plan.images * plan.image)
        return T.bind(start + number * plan.cotangent)


def _clear(run: _Run, start: int, stop: int) -> None:
    """The sums of tasks from one to another, behind this one."""
    plan = run.plan
    with loop(start, stop) as task, loop(0, plan.sums) as i:
        at = address(run.base, (task, plan.task_elements)) + i
        T.buffer_store(run.memory, tirx.const(0.0, "float32"), [at])


def _add(run: _Run, count: Size, first: Expr) -> None:
    """Adds the products of an item of `count` images to all sums; the first item sets them."""
    plan, shape, tile = run.plan, run.plan.shape, run.plan.tile
    (kh, kw), (sh, sw), (dh, dw) = shape.kernel, shape.stride, shape.dilation
    rows, across, apart = tile.down * LANES, plan.phases[1], LANES * plan.pitch
    images, cotangents = run.image(i64(0)), run.cotangent(i64(0))
    with loop(0, plan.panels) as panel, loop(0, plan.padded_channels // rows) as block:
        right = T.bind(cotangents + panel * (plan.steps * LANES * plan.width))
        with loop(0, kh) as y, loop(0, kw) as z:
            phase = rem(y * dh, sh) * across + rem(z * dw, sw)
            channel = phase * plan.padded_channels + block * rows
            behind = div(y * dh, sh) * plan.columns + div(z * dw, sw)
            left = T.bind(images + channel * plan.pitch + behind)
            place = (panel * plan.positions + (y * kw + z)) * plan.padded_channels + block * rows
            sums = T.bind(run.base + place * plan.width)
            with T.If(first):
                with T.Then():
                    matrix_tile.clear(tile)
                with T.Else():
                    matrix_tile.load(tile, plan.heights, run.memory, sums, plan.width)
            with loop(0, count) as number:
                a = T.bind(left + number * (plan.image * PAIR))
                b = T.bind(right + number * plan.cotangent)
                matrix_tile.multiply(
                    tile, plan.steps,
                    Side(run.halves, lambda i, k: a + k * PAIR + i * apart, plan.pitch // PAIR),
                    Side(run.memory, lambda j, k: b + k * plan.width + j * LANES, plan.width),
                )  # fmt: skip
            matrix_tile.save(tile, plan.heights, run.memory, sums, plan.width)


def _turn_image(run: _Run, image: Expr, strip: Expr, number: Expr) -> None:
    """[phase][channel][row][column], with zeros around the image. Of a row, what is behind its end
    is written over by the next one."""
    plan, shape = run.plan, run.plan.shape
    (sh, _), (top, _), (down, across) = shape.stride, shape.padding[0], plan.phases
    base = run.image(number)
    with loop(0, plan.image_rows) as row, loop(0, down) as phase:
        y = T.bind((strip * plan.rows + row) * sh + phase - top)
        inside = tirx.And(y >= i64(0), y < i64(shape.height))
        for px in range(across):
            plane = (phase * across + px) * plan.padded_channels
            target = T.bind(base + plane * plan.pitch + row * plan.columns)
            source = T.bind(run.x.at(image, y, i64(0), i64(0)))
            with T.If(inside):
                with T.Then():
                    _turn_row(run, source, target, px)
                with T.Else():
                    _no_row(run, target)


def _no_row(run: _Run, target: Expr) -> None:
    with loop(0, run.plan.shape.channels) as c, loop(0, run.plan.columns) as column:
        at = target + c * run.plan.pitch + column
        T.buffer_store(run.halves, tirx.const(0, HALF), [at])


def _turn_row(run: _Run, source: Expr, target: Expr, phase: int) -> None:
    """Blocks of 32 pixels: those that lie in the image are alike, the others know what does."""
    plan, shape = run.plan, run.plan.shape
    left, step = shape.padding[1][0], shape.stride[1]

    def column(pixel: int) -> int:
        return pixel * step + phase - left

    blocks = ceil_div(plan.columns, STEP)
    whole = [
        block for block in range(blocks)
        if column(block * STEP) >= 0 and column(block * STEP + STEP - 1) < shape.width
    ]  # fmt: skip
    for block in range(blocks):
        if block in whole[1:]:
            continue
        if block in whole:
            with loop(block, whole[-1] + 1) as some:
                first = T.bind(some * STEP)
                begin = T.bind(source + (first * step + (phase - left)) * run.x.strides[2])
                _turn_block(run, begin, T.bind(target + first), [True] * STEP)
            continue
        there = [0 <= column(block * STEP + i) < shape.width for i in range(STEP)]
        begin = T.bind(source + column(block * STEP) * i64(run.x.strides[2]))
        _turn_block(run, begin, T.bind(target + block * STEP), there)


def _turn_block(run: _Run, source: Expr, target: Expr, there: list[bool]) -> None:
    """32 pixels of all channels, those that are `there`."""
    plan, shape = run.plan, run.plan.shape
    apart = shape.stride[1] * run.x.strides[2]
    nothing = tirx.Broadcast(tirx.const(0, "uint32"), LANES)

    def vectors(start: int, stop: int, channels: int) -> None:
        with loop(start, stop) as vector:
            lines = []
            for i in range(0, STEP, PAIR):
                halves = [
                    _half(run.x, source + (i + n) * apart + vector * LANES, channels)
                    if there[i + n] else nothing
                    for n in range(PAIR)
                ]  # fmt: skip
                lines.append(joined(*halves))
            for c, line in enumerate(transpose(lines)):
                at = T.bind(target + (vector * LANES + c) * plan.pitch)
                pixels = tirx.reinterpret(f"{HALF}x{STEP}", line)
                store_vector(run.halves, pixels, at, STEP)

    whole, rest = divmod(shape.channels, LANES)
    vectors(0, whole, LANES)
    if rest:
        vectors(whole, whole + 1, rest)


def _half(operand: Operand, at: Expr, count: Size) -> Expr:
    """The first `count` of 16 elements, as words."""
    if isinstance(count, int) and count >= LANES:
        value = vector_at(operand.buffer, at, LANES)
    else:
        lanes = tirx.Ramp(tirx.const(0, "int32"), 1, LANES)
        mask = lanes < tirx.Broadcast(tirx.Cast("int32", i64(count)), LANES)
        value = masked_vector(operand.buffer, HALF, at, LANES, mask)
    return T.bind(tirx.Cast(f"uint32x{LANES}", value))


def _join_cotangent(run: _Run, image: Expr, strip: Expr, number: Expr) -> None:
    """[panel][pair of pixels][output channel]"""
    plan, shape = run.plan, run.plan.shape
    height, width = shape.plane
    base = run.cotangent(number)
    begin = T.bind(run.dy.at(image, strip * plan.rows, i64(0), i64(0)))
    rows = T.bind(i64(smaller(height - strip * plan.rows, i64(plan.rows))))
    panel = plan.steps * LANES * plan.width
    with loop(0, plan.steps * LANES) as pair:
        places = []
        for n in range(PAIR):
            pixel = T.bind(pair * PAIR + n)
            y, z = T.bind(div(pixel, plan.columns)), T.bind(rem(pixel, plan.columns))
            there = tirx.And(y < rows, z < i64(width))
            at = address(begin, (y, run.dy.strides[1]), (z, run.dy.strides[2]))
            # What is not there is not read.
            places.append((T.bind(at), T.bind(tirx.Select(there, i64(LANES), i64(0)))))
        with loop(0, plan.panels * plan.width // LANES) as vector:
            channel = T.bind(vector * LANES)
            left = i64(shape.out_channels) - channel
            halves = [
                _half(run.dy, at + channel, T.bind(smaller(count, left))) for at, count in places
            ]
            to = base + div(channel, plan.width) * panel + pair * plan.width
            store_vector(run.memory, joined(*halves), T.bind(to + rem(channel, plan.width)), LANES)
