"""The gradient of a convolution with respect to its weights, over NHWC images.

dw[o, c, kh, kw] = epilogue(sum over n, i, j of x[n, i s + kh d - p, j s + kw d - p, c] *
dy[n, i, j, o]): a register tile of weights (rows: the KW * C elements a kernel row touches, which
lie side by side in x) by output channels (lanes), reduced over the pixels of a strip. Strips are
small enough for x and dy to stay in the L2 cache while all tiles pass over them; between strips
the sums wait in scratch. Every task has sums of its own, which are added up, always in the same
order, at the end: nothing is atomic, and the result does not depend on the number of threads.

Non-goals: as in `conv2d.py`.
"""

from __future__ import annotations

from typing import Any, Protocol

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.image import Strips, View, copy_strip, plan_strips, view_in_place
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    Epilogue,
    Expr,
    Machine,
    Operand,
    Size,
    address,
    ceil_div,
    choose_tasks,
    div,
    edge_vector,
    i64,
    local,
    loop,
    panel_width,
    rem,
    require,
    run_tasks,
    share,
    smaller,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.pack import transpose
from dslc.schedules.cpu.tiles.register_tile import (
    Registers,
    Tile,
    allocate,
    load,
    reduce_segment,
    save,
)
from dslc.schedules.cpu.tiles.split import split


@dataclass(frozen=True, slots=True)
class ConvWeightPlan:
    """How the gradient is run: tiles of up to `rows` weights x `vectors` vectors of output
    channels. With `whole_kernel` one tile holds all KH * KW * C rows."""

    shape: ConvShape
    dtype: str
    vectors: int
    lanes: int
    rows: int
    whole_kernel: bool
    strips: Strips
    tasks: int

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes

    @property
    def panels(self) -> int:
        """Panels of one group."""
        return -(-self.shape.group_out_channels // self.width)

    @property
    def positions(self) -> int:
        """Of the kernel."""
        return self.shape.kernel[0] * self.shape.kernel[1]

    @property
    def padded_channels(self) -> int:
        return self.shape.group_channels

    @property
    def kernel_rows(self) -> int:
        """Rows of one group's sums: KH * KW * C / groups."""
        return self.positions * self.padded_channels

    @property
    def sums(self) -> int:
        """Elements of one task's sums: [group, panel][KH][KW][C][width]."""
        return self.shape.groups * self.panels * self.kernel_rows * self.width

    @property
    def task_elements(self) -> Size:
        """Scratch elements of one task: its sums, then its padded strip."""
        return self.sums + (self.strips.elements if self.shape.is_padded else 0)

    @property
    def scratch_bytes(self) -> Size:
        """Bytes of scratch."""
        return self.task_elements * (ITEMSIZE[self.dtype] * self.tasks)


def plan_conv2d_backward_weight(shape: ConvShape, dtype: str, machine: Machine) -> ConvWeightPlan:
    """The plan for the gradient of the weights of a convolution of `shape`."""
    require(dtype in ITEMSIZE, f"gradient of a convolution of {dtype}")
    lanes = machine.lanes(dtype)
    vectors = panel_width(shape.group_out_channels, dtype, machine) // lanes
    most = 24 // vectors if machine.registers == 32 else 12 // vectors
    rows = min(14, most)
    tasks = choose_tasks(machine, shape.work)
    kh, kw = shape.kernel
    return ConvWeightPlan(
        shape, dtype, vectors, lanes, rows,
        whole_kernel=shape.groups == 1 and kh * kw * shape.channels <= rows,
        strips=plan_strips(shape, machine, dtype, tasks, shape.channels, shape.out_channels),
        tasks=tasks,
    )  # fmt: skip


def emit_conv2d_backward_weight(
    plan: ConvWeightPlan, x: Operand, dy: Operand, epilogue: Epilogue, scratch: Operand,
    flat: bool = False,
) -> None:  # fmt: skip
    """Emits the kernel's body; x is [batch, height, width, channels], dy [batch, out.., out
    channels]. The epilogue's index is (o, c, kh, kw), c counted within o's group; for `flat` see
    `hand_over`.

    `scratch` (rank 1) holds `plan.scratch_bytes` bytes.
    """
    require(dy.strides[3] == 1, "a gradient must be contiguous along channels")
    shape, strips = plan.shape, plan.strips
    heights = [g.height for g in split(_row_length(plan), plan.rows)]
    tiles = [Tile(h, plan.vectors, plan.lanes, plan.dtype) for h in heights]

    def body(task: Expr, tasks: int) -> None:
        sums = clear_sums(scratch, task, tasks, plan.tasks, plan.sums, plan.task_elements)
        registers = allocate(tiles)
        start, stop = share(shape.batch * strips.count, task, tasks)
        with loop(start, stop) as item:
            image, strip = unflatten(item, (shape.batch, strips.count))
            if shape.is_padded:
                base = T.bind(sums + plan.sums)
                view = copy_strip(strips, x, scratch, base, image, strip)
            else:
                view = view_in_place(strips, x, image, strip)
            _strip(_Strip(plan, view, dy, scratch, sums, registers, image, strip))

    run_tasks(plan.tasks, shape.work, body)
    add_up(plan, epilogue, scratch, flat)


def clear_sums(
    scratch: Operand, task: Expr, tasks: int, planned: int, sums: int, part: Size
) -> Expr:
    """Sets the task's `sums` elements, one `part` after the other, to zero; all `planned` tasks'
    when one does the work of all. Gives where the task's start."""
    start = T.bind(address(scratch.offset, (task if tasks > 1 else 0, part)))
    with loop(0, planned if tasks == 1 else 1) as other, loop(0, sums) as i:
        at = address(start, (other, part)) + i
        T.buffer_store(scratch.buffer, tirx.const(0.0, scratch.dtype), [at])
    return start


@dataclass(frozen=True, slots=True)
class _Strip:
    plan: ConvWeightPlan
    view: View
    dy: Operand
    scratch: Operand
    sums: Expr
    registers: Registers
    image: Expr
    strip: Expr


def _row_length(plan: ConvWeightPlan) -> int:
    """Rows that tiles are cut from: of the whole kernel, else the most of a kernel row."""
    if plan.whole_kernel:
        return plan.kernel_rows
    shape = plan.shape
    fused = shape.groups == 1 and (shape.kernel[1] == 1 or shape.dilation[1] == 1)
    return shape.group_channels * (shape.kernel[1] if fused else 1)


def _strip(run: _Strip) -> None:
    """Adds a strip's products to all sums of the task."""
    plan, shape = run.plan, run.plan.shape
    (kh, kw), (dh, dw) = shape.kernel, shape.dilation
    rows = plan.strips.output_rows(run.strip)
    with loop(0, shape.groups * plan.panels) as panel:
        group = div(panel, plan.panels)
        sums = T.bind(run.sums + panel * (plan.kernel_rows * plan.width))
        if plan.whole_kernel:
            offsets = [
                run.view.at(y * dh, z * dw, c) - run.view.base
                for y in range(kh) for z in range(kw) for c in range(shape.channels)
            ]  # fmt: skip
            _tile(run, panel, rows, offsets, run.view.base, sums)
            return
        length = _row_length(plan)
        positions = kw if length == shape.group_channels else 1
        channel = group * shape.group_channels if shape.groups > 1 else 0
        with loop(0, kh) as y, loop(0, positions) as z:
            first = T.bind(run.view.at(y * dh, z * dw, channel))
            at = T.bind(sums + (y * positions + z) * (length * plan.width))
            for g in split(length, plan.rows):
                with loop(0, g.count) as t:
                    row = T.bind(t * g.height + g.start)
                    _tile(run, panel, rows, [i64(i) for i in range(g.height)],
                          T.bind(first + row), T.bind(at + row * plan.width))  # fmt: skip


def _tile(
    run: _Strip, panel: Expr, rows: Size, offsets: list[Expr], origin: Expr, sums: Expr
) -> None:
    """sums[i][:] += sum over the strip's pixels of x[origin + offsets[i] + pixel] * dy[pixel]."""
    plan, shape, view = run.plan, run.plan.shape, run.view
    tile = Tile(len(offsets), plan.vectors, plan.lanes, plan.dtype)
    sh, sw = shape.stride
    part = rem(panel, plan.panels)
    left = shape.group_out_channels - part * plan.width
    whole = shape.group_out_channels % plan.width == 0
    columns = plan.width if whole else T.bind(i64(smaller(left, plan.width)))
    channel = address(0, (div(panel, plan.panels), shape.group_out_channels), (part, plan.width))
    first = T.bind(run.dy.at(run.image, run.strip * plan.strips.rows, i64(0), channel))
    load(tile, run.registers, run.scratch.buffer, sums, plan.width)
    with loop(0, rows) as row:
        source = T.bind(address(origin, (row, sh * view.row_stride)))
        gradient = T.bind(address(first, (row, run.dy.strides[1])))
        reduce_segment(
            tile, run.registers, shape.out[1],
            lambda i, k: view.buffer[address(source, (k, sw * view.pixel)) + offsets[i]],
            lambda j, k: edge_vector(
                run.dy.buffer, plan.dtype,
                address(gradient, (k, run.dy.strides[2]), (j, plan.lanes)),
                plan.lanes, j, columns, plan.width,
            ),
        )  # fmt: skip
    save(tile, run.registers, run.scratch.buffer, sums, plan.width)


class Summed(Protocol):
    """What the plan of a gradient tells of its sums, which start each task's part of the scratch
    memory: [group, panel][KH][KW][channel][width]."""

    @property
    def shape(self) -> ConvShape: ...
    @property
    def width(self) -> int: ...
    @property
    def lanes(self) -> int: ...
    @property
    def panels(self) -> int: ...  # of one group
    @property
    def positions(self) -> int: ...
    @property
    def padded_channels(self) -> int: ...  # of one group
    @property
    def tasks(self) -> int: ...
    @property
    def task_elements(self) -> Size: ...


def add_up(plan: Summed, epilogue: Epilogue, scratch: Operand, flat: bool) -> None:
    """Hands every weight, the tasks' sums added up in order, to the epilogue."""
    shape, width, apart = plan.shape, plan.width, plan.padded_channels
    outputs, channels, positions = shape.group_out_channels, shape.group_channels, plan.positions
    most, lanes = channels_of_run(channels, positions), plan.lanes
    extents = (shape.groups, plan.panels, -(-channels // most))

    def body(task: Expr, tasks: int) -> None:
        memory = RunMemory.of(most * positions, width, lanes, scratch.dtype)
        with loop(*share(shape.groups * plan.panels * extents[2], task, tasks)) as item:
            group, panel, block = unflatten(item, extents)
            channel = T.bind(i64(block * most))
            row = T.bind((group * plan.panels + panel) * (positions * apart) + channel)
            base = T.bind(i64(scratch.offset) + row * width)
            run = Run(
                T.bind(group * outputs + panel * width), smaller(outputs - panel * width, width),
                width, channel, T.bind(i64(smaller(channels - channel, most))), shape.kernel,
            )  # fmt: skip
            with loop(0, run.count) as c, loop(0, positions) as position:
                source = T.bind(base + (position * apart + c) * width)
                target = T.bind((c * positions + position) * width)
                with loop(0, width // lanes) as j:
                    at = T.bind(source + j * lanes)
                    total = add_sums(scratch, at, plan.tasks, plan.task_elements, lanes)
                    store_vector(memory.rows, total, target + j * lanes, lanes)
            hand_over(run, memory, epilogue, flat)

    run_tasks(plan.tasks, shape.work, body)


RUN = 288  # weights of an output channel that are handed over together: 1 KB of memory


def channels_of_run(channels: int, positions: int) -> int:
    """Input channels whose weights are handed over together."""
    return max(1, min(channels, RUN // positions))


@dataclass(frozen=True, slots=True)
class Run:
    """Weights of output channels [first, first + exist) of a panel, and of `count` input channels
    from `channel` on."""

    first: Expr
    exist: Size
    width: int
    channel: Expr
    count: Expr
    kernel: tuple[int, int]


@dataclass(frozen=True, slots=True)
class RunMemory:
    """Where a run waits: its weights in `rows` of a panel's output channels, row after row as they
    lie in an output channel's memory, [input channel, position]; those of `lanes` output channels
    turned round, in `columns` of `height`, a multiple of `lanes`."""

    rows: Any
    columns: Any
    height: int
    lanes: int

    @staticmethod
    def of(count: int, width: int, lanes: int, dtype: str) -> RunMemory:
        """Of a run of `count` weights of each output channel."""
        height = -(-count // lanes) * lanes
        return RunMemory(local(height * width, dtype), local(lanes * height, dtype), height, lanes)


def hand_over(run: Run, memory: RunMemory, epilogue: Epilogue, flat: bool) -> None:
    """Hands the weights that wait in `memory.rows` to the epilogue. Where that is `flat` (it treats
    all elements alike), input channels and positions come as one last index, in the order in which
    they lie in memory, so that vectors can follow: squares are turned in registers."""
    (kh, kw), width, lanes, height = run.kernel, run.width, memory.lanes, memory.height
    if not flat:
        with loop(0, run.count) as c, loop(0, kh) as y, loop(0, kw) as z, loop(0, run.exist) as j:
            value = memory.rows[((c * kh + y) * kw + z) * width + j]
            epilogue((run.first + j, run.channel + c, y, z), value)
        return
    count = T.bind(i64(run.count * (kh * kw)))
    # Of the last square some rows may be of no weight, which nobody reads turned.
    with loop(0, width // lanes) as vector:
        first = T.bind(vector * lanes)
        with loop(0, ceil_div(count, lanes)) as square:
            row = T.bind(square * lanes)
            vectors = [
                T.bind(vector_at(memory.rows, (row + i) * width + first, lanes))
                for i in range(lanes)
            ]
            for j, column in enumerate(transpose(vectors)):
                store_vector(memory.columns, column, row + j * height, lanes)
        with loop(0, smaller(lanes, run.exist - first)) as j, loop(0, count) as r:
            value = memory.columns[j * height + r]
            epilogue((run.first + (first + j), run.channel, i64(0), r), value)


def add_sums(scratch: Operand, at: Expr, tasks: int, part: Size, lanes: int = 1) -> Expr:
    """An element, or a vector of them, of all tasks' sums, added up; `at` is that of the first."""
    places = [address(at, (other, part)) for other in range(tasks)]
    total = None
    for place in places:
        sums = scratch.buffer[place] if lanes == 1 else vector_at(scratch.buffer, place, lanes)
        total = sums if total is None else total + sums
    return total
