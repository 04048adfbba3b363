"""Convolutions of images that are spread by zeros: transposed ones, and gradients of strides.

Of a kernel, a result sees only the positions that fall on pixels and not on the zeros between
them, and which those are depends on the remainder of its place by the spread alone. So results of
one remainder along each axis (a phase) are a convolution of the image as it is, with a smaller
kernel: no zero is multiplied. Each phase is run by `conv2d.py`.

Non-goals: depthwise kernels.
"""

from __future__ import annotations

from math import gcd

from tvm import sym, tirx
from tvm.ir import Expr as TirExpr

from dslc._frozen import dataclass
from dslc.schedules.cpu.conv.conv2d import ConvPlan, Positions, emit_conv2d, plan_conv2d
from dslc.schedules.cpu.conv.shape import ConvShape, Pair
from dslc.schedules.cpu.tiles.contract import (
    Epilogue,
    Expr,
    Machine,
    Operand,
    Panels,
    Size,
    is_zero,
    loop,
    product,
    require,
    run_tasks,
    share,
    unflatten,
)
from dslc.schedules.cpu.tiles.dots import summed


@dataclass(frozen=True, slots=True)
class Phase:
    """Results `first`, `first` + spread, ... of both axes: `count` of them, by `plan`; without one
    they see nothing but zeros."""

    first: Pair
    count: tuple[Size, Size]
    plan: ConvPlan | None


@dataclass(frozen=True, slots=True)
class SpreadPlan:
    """How a convolution of a spread image is run: phase by phase."""

    shape: ConvShape
    dtype: str
    phases: tuple[Phase, ...]
    tasks: int

    @property
    def scratch_bytes(self) -> Size:
        """Bytes of scratch: phases have it one after the other."""
        most: Size = 0
        for phase in self.phases:
            if phase.plan is not None:
                wanted = phase.plan.scratch_bytes
                both = isinstance(wanted, int) and isinstance(most, int)
                most = max(most, wanted) if both else most + wanted
        return most


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of a phase: results, kernel positions [first, first + step, ...], and the padding
    and dilation that their convolution has."""

    count: Size
    taps: range
    before: int
    dilation: int

    @property
    def reach(self) -> int:
        """From the first pixel that a result sees to the last."""
        return (len(self.taps) - 1) * self.dilation


def plan_spread(shape: ConvShape, dtype: str, width: int, machine: Machine) -> SpreadPlan:
    """The plan for weights in panels of `width`."""
    down, across = shape.input_dilation
    require(shape.stride == (1, 1), "a spread image with a stride")
    phases = [
        _phase(shape, dtype, width, machine, (i, j)) for i in range(down) for j in range(across)
    ]
    # A result that is smaller than the spread has not all of them.
    phases = [phase for phase in phases if not any(map(is_zero, phase.count))]
    plans = [phase.plan for phase in phases if phase.plan is not None]
    tasks = max([plan.tasks for plan in plans], default=1)
    return SpreadPlan(shape, dtype, tuple(phases), tasks)


def _phase(shape: ConvShape, dtype: str, width: int, machine: Machine, first: Pair) -> Phase:
    rows, columns = (_axis(shape, axis, first[axis]) for axis in (0, 1))
    count = (rows.count, columns.count)
    if not rows.taps or not columns.taps:
        return Phase(first, count, None)
    kernel = (len(rows.taps), len(columns.taps))
    padding = tuple(
        (axis.before, _simplest(axis.count + axis.reach - size - axis.before))
        for axis, size in ((rows, shape.height), (columns, shape.width))
    )  # fmt: skip
    part = ConvShape(
        shape.batch, shape.height, shape.width, shape.channels, shape.out_channels, kernel,
        padding=(padding[0], padding[1]), dilation=(rows.dilation, columns.dilation),
        groups=shape.groups,
    )  # fmt: skip
    positions = Positions(shape.kernel, (rows.taps, columns.taps))
    return Phase(first, count, plan_conv2d(part, dtype, width, machine, positions))


def _axis(shape: ConvShape, axis: int, first: int) -> _Axis:
    spread, dilation, kernel = (
        shape.input_dilation[axis], shape.dilation[axis], shape.kernel[axis],
    )  # fmt: skip
    before = shape.padding[axis][0]
    count = (shape.out[axis] + (spread - 1 - first)) // spread
    taps = [t for t in range(kernel) if (first + t * dilation - before) % spread == 0]
    if not taps:
        return _Axis(count, range(0), 0, 1)
    step = spread // gcd(spread, dilation)
    start = (first + taps[0] * dilation - before) // spread
    return _Axis(count, range(taps[0], kernel, step), -start, step * dilation // spread)


def _simplest(size: Size) -> Size:
    """Dims are simplified as they are made, and expressions are not: both plans have to see whether
    there is padding."""
    if not isinstance(size, TirExpr):
        return size
    least = sym.Analyzer().simplify(size)
    return int(least) if isinstance(least, tirx.IntImm) else least


def emit_spread(
    plan: SpreadPlan, x: Operand, weights: Panels, epilogue: Epilogue,
    scratch: Operand | None = None,
) -> None:  # fmt: skip
    """Emits the kernel's body; operands, epilogue and scratch are those of `emit_conv2d`."""
    down, across = plan.shape.input_dilation
    for phase in plan.phases:

        def finish(index: tuple[Expr, ...], total: Expr, first: Pair = phase.first) -> None:
            image, row, column, channel = index
            at = (image, row * down + first[0], column * across + first[1], channel)
            epilogue(at, total)

        if phase.plan is not None:
            emit_conv2d(phase.plan, x, weights, finish, scratch)
        else:
            _nothing(plan, phase, finish)


def _nothing(plan: SpreadPlan, phase: Phase, epilogue: Epilogue) -> None:
    """Results that no pixel reaches."""
    shape = plan.shape
    extents = (shape.batch, *phase.count)

    def body(task: Expr, tasks: int) -> None:
        with loop(*share(product(extents), task, tasks)) as flat:
            image, row, column = unflatten(flat, extents)
            with loop(0, shape.out_channels) as channel:
                epilogue((image, row, column, channel), tirx.const(0.0, summed(plan.dtype)))

    run_tasks(plan.tasks, shape.work, body)
