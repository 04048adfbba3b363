"""Runs matrix products and convolutions by the register-tiled CPU templates.

Input: a contraction group being emitted. Output: the template's code, with everything that was
fused behind the contraction as its epilogue. What no template takes (integers, convolutions that
were not packed) runs by plain loops; the note that says so ends in the build summary. Pairs of bf16
are one int32 each to the templates.

A template is planned twice by the same code: with dims, to know its scratch memory, and with TIR
expressions, to be emitted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, Poly, free_symbols, product, strides_of, substitute
from dslc.ir.op import Expr
from dslc.ir.prove import Prover
from dslc.lowering.grouping.group import Group
from dslc.lowering.kernels.buffers import STORED
from dslc.lowering.kernels.kernel import declare
from dslc.lowering.kernels.loops import emit_loops, is_flat
from dslc.lowering.kernels.tasks import Task
from dslc.lowering.rewrites.planes import conv_shape
from dslc.ops.broadcast import BroadcastAttrs
from dslc.ops.linalg import MatmulAttrs
from dslc.ops.packed import PackedConvAttrs
from dslc.ops.pairs import is_paired
from dslc.ops.parts import PartsAttrs
from dslc.ops.slicing import SliceAttrs
from dslc.ops.strassen import StrassenAttrs
from dslc.ops.windows import ConvWeightGradientAttrs
from dslc.ops.winograd import WinogradAttrs
from dslc.schedules.cpu.choices import chosen
from dslc.schedules.cpu.conv.clipped_planes import emit_clipped, plan_clipped
from dslc.schedules.cpu.conv.conv2d import emit_conv2d, plan_conv2d
from dslc.schedules.cpu.conv.conv2d_matrices import emit_conv2d_matrices, plan_conv2d_matrices
from dslc.schedules.cpu.conv.conv2d_weight import (
    emit_conv2d_backward_weight,
    plan_conv2d_backward_weight,
)
from dslc.schedules.cpu.conv.depthwise import (
    emit_depthwise,
    emit_depthwise_backward_weight,
    is_depthwise,
    plan_depthwise,
    plan_depthwise_backward_weight,
)
from dslc.schedules.cpu.conv.picked import emit_picked, plan_picked
from dslc.schedules.cpu.conv.plane_choice import choose_template
from dslc.schedules.cpu.conv.plane_tile import takes_planes
from dslc.schedules.cpu.conv.planes import emit_planes, plan_planes
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.conv.spread import emit_spread, plan_spread
from dslc.schedules.cpu.conv.turned import emit_turned, plan_turned
from dslc.schedules.cpu.conv.winograd import emit_winograd, plan_winograd
from dslc.schedules.cpu.conv.winograd_weight import (
    emit_winograd_weight,
    plan_winograd_weight,
    suits_winograd,
)
from dslc.schedules.cpu.matmul.choose import plan_matmul, plan_parts
from dslc.schedules.cpu.matmul.matmul import emit_matmul
from dslc.schedules.cpu.matmul.matrices import emit_matrices, plan_matrices
from dslc.schedules.cpu.matmul.strassen import emit_strassen, plan_strassen
from dslc.schedules.cpu.tiles.contract import (
    ITEMSIZE,
    Ahead,
    Epilogue,
    Machine,
    Operand,
    Panels,
    Size,
    prefetch,
    unflatten,
)
from dslc.schedules.cpu.tiles.dots import PAIRS, imported, stored
from dslc.schedules.cpu.tiles.matrix_tile import LLVM_IR

FAR = 1_000_000  # elements that are no longer in a core's caches when they are read
BEHIND_L2 = 1 << 16  # elements that are no longer in the nearest ones


@dataclass(frozen=True, slots=True)
class _Planned:
    """A template's `plan`: bytes of scratch, whether it runs tasks in parallel, and its code, given
    the epilogue and the scratch memory."""

    plan: object
    scratch: Size
    tasks: int
    emit: Callable[[Epilogue, Operand | None], None]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How dims and operands are written for a template: as they are when planning (without a
    task), as TIR when emitting."""

    task: Task | None

    def __call__(self, dim: Dim) -> Size:
        if isinstance(dim, Poly) and self.task is not None:
            return self.task.k.dim(dim)
        return dim

    @property
    def turn(self) -> Expr | None:
        """The step of the loop that the kernel is called in."""
        return None if self.task is None else self.task.turn

    def buffer(self, value: Value) -> Any:
        if self.task is None:
            return None
        buffer = self.task.graph.memory[value].buffer
        if not is_paired(value.type):
            return buffer
        return declare(self.task.k, buffer.data, value.type.size // 2, stored(PAIRS))

    def operand(self, value: Value, strides: tuple[Dim, ...] | None = None) -> Operand:
        dims = strides if strides is not None else strides_of(_dims(value))
        return Operand(self.buffer(value), _dtype(value), tuple(map(self, dims)))


def _dtype(value: Value) -> str:
    """What a template takes the value's elements for."""
    return PAIRS if is_paired(value.type) else STORED[value.type.dtype]


def _dims(value: Value) -> tuple[Dim, ...]:
    """Dims as a template counts them."""
    return value.type.dims[:-1] if is_paired(value.type) else value.type.dims


def scratch_of(group: Group, machine: Machine) -> Dim:
    """Bytes of scratch memory that the group's template wants."""
    planned = _plan(group, machine, Sizes(None))
    return 0 if planned is None else cast(Dim, planned.scratch)


def contraction_template(group: Group, machine: Machine) -> object | None:
    """The plan of the group's template, if there is one."""
    planned = _plan(group, machine, Sizes(None))
    return None if planned is None else planned.plan


def emit_contraction(task: Task, machine: Machine, scratch: Any) -> str | None:
    """Emits the group; returns a note when it had to take a slow path."""
    anchor = _anchor(task.group)
    planned = _plan(task.group, machine, Sizes(task))
    if planned is None:
        emit_loops(task)
        return f"{anchor.op.name} of {anchor.inputs[0].type.dtype} runs by plain loops"
    task.parallel = planned.tasks > 1
    memory = None
    if scratch is not None:
        dtype = _dtype(anchor.inputs[0])
        elements = scratch_of(task.group, machine) // ITEMSIZE[dtype]
        memory = Operand(declare(task.k, scratch, elements, stored(dtype)), dtype, (1,))
    with imported(_dtype(anchor.inputs[0]), LLVM_IR if machine.matrices else ""):
        planned.emit(_epilogue(task, anchor), memory)
    return None


def _anchor(group: Group) -> Eqn:
    if group.anchor is None:
        raise InternalError("a contraction group without its contraction")
    return group.anchor


def _epilogue(task: Task, anchor: Eqn) -> Epilogue:
    """Stores the group's outputs at an index, given the contraction's elements there."""

    def finish(index: tuple[Expr, ...], *totals: Expr) -> None:
        with task.k.scope():
            where = tuple(task.k.intern(i) for i in index)
            for value, total in zip(anchor.outputs, totals, strict=True):
                task.graph.pin(value, where, task.k.bind(total))
            task.store_all(where)

    return finish


def _ahead(task: Task, far: int = FAR) -> Ahead | None:
    """Asks for what the group reads at an index beside the contraction, and for where it writes: a
    tile has some bytes of each pixel, which the hardware doesn't foresee. None if results are less
    than `far` elements."""
    group, k = task.group, task.k
    values = [value for value in group.inputs if value in group.pointwise]
    values += [value for value in group.outputs if value.type.dims == group.dims]
    values = list({task.graph.memory[value]: value for value in values}.values())  # in place: once
    size = group.outputs[0].type.size
    if isinstance(size, int) and size < far:
        return None

    def ask(index: tuple[Expr, ...]) -> None:
        with k.scope():
            where = tuple(k.intern(i) for i in index)
            for value in values:
                memory = task.graph.memory[value]
                prefetch(memory.buffer[memory.offset(k, where)])

    return ask


def _plan(group: Group, machine: Machine, size: Sizes) -> _Planned | None:
    """The template for a group's contraction, if there is one."""
    anchor = _anchor(group)
    dtype = _dtype(anchor.inputs[0])
    if dtype not in ITEMSIZE or (dtype == PAIRS and not machine.dots):
        return None
    match anchor.op.name:
        case "matmul" | "matmul_pairs":
            return _plan_matmul(anchor, machine, size)
        case "matmul_packed":
            return _plan_packed_matmul(anchor, machine, size)
        case "matmul_parts":
            return _plan_parts(anchor, machine, size)
        case "conv2d":
            return _plan_over_planes(anchor, machine, size, _is_by_plane(group))
        case "conv2d_packed":
            return _plan_packed(anchor, machine, size)
        case "conv2d_winograd":
            return _plan_winograd(anchor, machine, size)
        case "conv2d_strassen" | "matmul_strassen":
            return _plan_strassen(anchor, machine, size)
        case "conv2d_weight_gradient":
            return _plan_weight_gradient(anchor, machine, size)
    return None


# --- matrix products ------------------------------------------------------------------------------


def _plan_matmul(anchor: Eqn, machine: Machine, size: Sizes) -> _Planned:
    a, b = anchor.inputs
    attrs = cast(MatmulAttrs, anchor.attrs)
    *batch, m, n = anchor.outputs[0].type.dims
    inner = _dims(a)[-2 if attrs.transpose_a else -1]
    left = size.operand(a, _matrix_strides(a, attrs.transpose_a))
    right = size.operand(b, _matrix_strides(b, attrs.transpose_b))
    sizes = size(m), size(n), size(inner)
    if machine.matrices and left.dtype == PAIRS:
        return _by_matrices(left, right, *sizes, machine, tuple(map(size, batch)))
    planned = plan_matmul(
        left, right, *sizes, machine, tuple(map(size, batch)), most=_most(m, machine)
    )
    plan = chosen(planned, machine)
    scratch = plan.scratch_bytes(size(inner))
    return _Planned(plan, scratch, plan.tasks, lambda e, s: emit_matmul(plan, left, right, e, s))


def _by_matrices(
    a: Operand, b: Operand | Panels, m: Size, n: Size, k: Size, machine: Machine,
    batch: tuple[Size, ...] = (), rows: tuple[Size, ...] = (),
) -> _Planned:  # fmt: skip
    """By registers that hold matrices; `rows`: the sizes that number a's rows together."""
    plan = plan_matrices(a, b, m, n, k, machine, batch)

    def emit(epilogue: Epilogue, scratch: Operand | None) -> None:
        def finish(index: tuple[Expr, ...], *totals: Expr) -> None:
            *where, row, column = index
            epilogue((*where, *(unflatten(row, rows) if rows else (row,)), column), *totals)

        emit_matrices(plan, a, b, finish, scratch)

    return _Planned(plan, plan.scratch_bytes(k), plan.tasks, emit)


def _most(dim: Dim, machine: Machine) -> int | None:
    """What the dim never exceeds; None: there is no such number."""
    most = dict(machine.most)
    names = free_symbols(dim)
    prover = Prover({name: (0, most.get(name)) for name in names})
    bound = substitute(dim, {name: most.get(name, 1) for name in names})
    return bound if isinstance(bound, int) and prover.compare(dim, "<=", bound) else None


def _plan_packed_matmul(anchor: Eqn, machine: Machine, size: Sizes) -> _Planned:
    a, w = anchor.inputs
    m, n = map(size, anchor.outputs[0].type.dims)
    panels = Panels(size.buffer(w), _dtype(w), cast(int, w.type.dims[2]))
    return _plan_panels(size.operand(a), panels, (m,), n, size(a.type.dims[1]), machine, size)


def _plan_panels(
    left: Operand, panels: Panels, rows: tuple[Size, ...], columns: Size, inner: Size,
    machine: Machine, size: Sizes,
) -> _Planned:  # fmt: skip
    """A product by panels; `rows`: the sizes that number its rows together. Low tiles, of which
    each row has a line, ask ahead for where their results go."""
    if machine.matrices and left.dtype == PAIRS:
        return _by_matrices(left, panels, product(rows), columns, inner, machine, rows=rows)
    plan = plan_matmul(left, panels, product(rows), columns, inner, machine)
    plan = chosen(plan, machine)
    low = size.task is not None and (machine.registers < 32 or machine.matrices)
    ask = _ahead(cast(Task, size.task), BEHIND_L2) if low else None

    def emit(epilogue: Epilogue, scratch: Operand | None) -> None:
        def finish(index: tuple[Expr, ...], *totals: Expr) -> None:
            row, column = index
            epilogue((*unflatten(row, rows), column), *totals)

        def ahead(row: Expr, column: Expr) -> None:
            if ask is not None:
                ask((*unflatten(row, rows), column))

        emit_matmul(plan, left, panels, finish, scratch, size.turn, ahead)

    return _Planned(plan, plan.scratch_bytes(inner), plan.tasks, emit)


def _plan_parts(anchor: Eqn, machine: Machine, size: Sizes) -> _Planned | None:
    (a, w), attrs = anchor.inputs, cast(PartsAttrs, anchor.attrs)
    _, pieces, _, each = cast(tuple[int, ...], w.type.dims)
    if pieces * each % (attrs.parts * machine.lanes(_dtype(a))):
        return None
    left, inner = size.operand(a), size(a.type.dims[1])
    panels = Panels(size.buffer(w), _dtype(w), pieces * each, pieces=pieces)
    plan = plan_parts(
        left, panels, size(a.type.dims[0]), attrs.columns, attrs.parts, inner, machine
    )  # fmt: skip
    turn = size.turn
    ahead = None if size.task is None else _asked_ahead(size.task)
    return _Planned(
        plan, 0, plan.tasks, lambda e, s: emit_matmul(plan, left, panels, e, None, turn, ahead)
    )


def _asked_ahead(task: Task) -> Callable[[Expr, Expr], None]:
    """Asks for what a gate at (row, column) has added to it: a row's gates lie far apart."""
    reads = [
        (eqn.inputs[0], cast(tuple[Dim, Dim], eqn.attrs.starts))
        for eqn in task.group.eqns
        if isinstance(eqn.attrs, SliceAttrs) and eqn.attrs.steps == (1, 1)
        if eqn.inputs[0] in task.group.inputs
    ]

    def ahead(row: Expr, column: Expr) -> None:
        for value, (first, start) in reads:
            memory = task.graph.memory[value]
            index = (row + task.k.dim(first), column + task.k.dim(start))
            prefetch(memory.buffer[memory.offset(task.k, index)], 2)

    return ahead


def _matrix_strides(value: Value, transposed: bool) -> tuple[Dim, ...]:
    *batch, row, column = strides_of(_dims(value))
    return (*batch, column, row) if transposed else (*batch, row, column)


# --- convolutions ---------------------------------------------------------------------------------


def _plan_packed(anchor: Eqn, machine: Machine, size: Sizes) -> _Planned:
    x, w = anchor.inputs
    attrs = cast(PackedConvAttrs, anchor.attrs)
    n, height, width, channels = _dims(x)
    _, kh, kw, _, lanes = cast(tuple[int, ...], _dims(w))
    top, bottom, left, right = attrs.padding
    shape = ConvShape(
        size(n), size(height), size(width), cast(int, channels), attrs.channels, (kh, kw),
        attrs.stride, ((size(top), size(bottom)), (size(left), size(right))),
        attrs.dilation, attrs.groups, attrs.spread,
    )  # fmt: skip
    dtype = _dtype(x)
    image, panels = size.operand(x), Panels(size.buffer(w), dtype, lanes)
    if attrs.depthwise:
        deep = chosen(plan_depthwise(shape, dtype, machine), machine)
        return _Planned(
            deep,
            deep.scratch_bytes,
            deep.tasks,
            lambda e, s: emit_depthwise(deep, image, panels, e, s),
        )
    by_matrices = machine.matrices and dtype == PAIRS
    if attrs.spread != (1, 1) and not by_matrices:
        wide = plan_spread(shape, dtype, lanes, machine)
        return _Planned(
            wide, wide.scratch_bytes, wide.tasks,
            lambda e, s: emit_spread(wide, image, panels, e, s),
        )  # fmt: skip
    # Of few pixels a tile that ends with its row often comes out lower yet.
    if shape.is_product and (machine.registers < 32 or machine.matrices):
        pixels, rows = (shape.batch, *shape.out), replace(image, strides=image.strides[-2:])
        return _plan_panels(
            rows, panels, pixels, shape.out_channels, shape.channels, machine, size
        )  # fmt: skip
    if by_matrices:
        plan = plan_conv2d_matrices(shape, lanes, machine)
        return _Planned(
            plan, plan.scratch_bytes, plan.tasks,
            lambda e, s: emit_conv2d_matrices(plan, image, panels, e, s),
        )  # fmt: skip
    plan = chosen(plan_conv2d(shape, dtype, lanes, machine), machine)
    ahead = None if size.task is None else _ahead(size.task)
    return _Planned(
        plan, plan.scratch_bytes, plan.tasks,
        lambda e, s: emit_conv2d(plan, image, panels, e, s, ahead),
    )  # fmt: skip


def _plan_over_planes(anchor: Eqn, machine: Machine, size: Sizes, flat: bool) -> _Planned | None:
    """`flat`: results are handed on by their place in a plane."""
    (x, w), dtype = anchor.inputs, _dtype(anchor.inputs[0])
    shape = conv_shape(anchor)
    if shape is None or not takes_planes(shape, dtype):
        return None
    image, weights = size.operand(x), size.operand(w)
    sized = replace(shape, batch=size(shape.batch))
    way, _ = choose_template(shape, dtype, machine.lanes(dtype), machine.registers, flat)
    if way == "turned":
        turned = plan_turned(sized, dtype, machine, flat)
        return _Planned(
            turned, turned.scratch_bytes, turned.tasks,
            lambda e, s: emit_turned(turned, image, weights, e, s),
        )  # fmt: skip
    if way == "picked":
        picked = plan_picked(sized, dtype, machine, flat)
        return _Planned(
            picked, 0, picked.tasks, lambda e, _: emit_picked(picked, image, weights, e)
        )
    if way == "clipped":
        clipped = plan_clipped(sized, dtype, machine)
        return _Planned(
            clipped, 0, clipped.tasks, lambda e, _: emit_clipped(clipped, image, weights, e)
        )
    plan = plan_planes(sized, dtype, machine, flat)
    ahead = None if size.task is None else _ahead(size.task)
    return _Planned(
        plan, plan.scratch_bytes, plan.tasks,
        lambda e, s: emit_planes(plan, image, weights, e, s, ahead),
    )  # fmt: skip


def _is_by_plane(group: Group) -> bool:
    """Whether all that is fused behind a convolution of planes asks for an element's image, channel
    and place in its plane, and not for its row or column."""
    return all(eqn is group.anchor or _asks_for_no_row(eqn) for eqn in group.eqns)


def _asks_for_no_row(eqn: Eqn) -> bool:
    if isinstance(eqn.attrs, BroadcastAttrs):
        return not eqn.attrs.axes or max(eqn.attrs.axes) < 2
    return eqn.op.elementwise or eqn.op.name == "constant"


def _plan_winograd(anchor: Eqn, machine: Machine, size: Sizes) -> _Planned | None:
    x, w = anchor.inputs
    attrs = cast(WinogradAttrs, anchor.attrs)
    n, *known = x.type.dims
    padding = attrs.padding
    if not all(isinstance(d, int) for d in (*known, *padding)):
        return None
    height, width, channels = cast(tuple[int, ...], tuple(known))
    top, bottom, left, right = cast(tuple[int, ...], padding)
    shape = ConvShape(
        size(n), height, width, channels, attrs.channels, (attrs.kernel, attrs.kernel),
        (attrs.stride, attrs.stride),
        padding=((top, bottom), (left, right)),
    )  # fmt: skip
    lanes = cast(int, w.type.dims[4])
    if lanes % machine.lanes("float32"):
        return None
    image, panels = size.operand(x), Panels(size.buffer(w), "float32", lanes)
    plan = chosen(plan_winograd(shape, attrs.tile, lanes, machine), machine)
    ahead = None if size.task is None else _ahead(size.task)
    return _Planned(
        plan,
        plan.scratch_bytes,
        plan.tasks,
        lambda e, s: emit_winograd(plan, image, panels, e, s, ahead),
    )


def _plan_strassen(anchor: Eqn, machine: Machine, size: Sizes) -> _Planned | None:
    x, w = anchor.inputs
    steps = (1, *anchor.attrs.stride) if isinstance(anchor.attrs, StrassenAttrs) else (1,)
    _, _, depth, width = cast(tuple[int, ...], w.type.dims)
    lanes = machine.lanes("float32")
    if depth % lanes or width % lanes:
        return None
    *pixels, columns = map(size, anchor.outputs[0].type.dims)
    image, panels = size.operand(x), Panels(size.buffer(w), "float32", width)
    number = product(anchor.outputs[0].type.dims[:-1])
    least = substitute(number, dict.fromkeys(free_symbols(number), 1))
    planned = plan_strassen(
        tuple(pixels), cast(int, columns), depth, steps, width, machine, cast(int, least)
    )
    plan = chosen(planned, machine)
    ahead = None if size.task is None else _ahead(size.task)
    return _Planned(
        plan,
        plan.scratch_bytes,
        plan.tasks,
        lambda e, s: emit_strassen(plan, image, panels, e, s, ahead),
    )


def _plan_weight_gradient(anchor: Eqn, machine: Machine, size: Sizes) -> _Planned | None:
    x, g = anchor.inputs
    attrs = cast(ConvWeightGradientAttrs, anchor.attrs)
    if attrs.layout != "NHWC":
        return None
    n, height, width, channels = x.type.dims
    out = g.type.dims[3]
    if not isinstance(channels, int) or not isinstance(out, int):
        return None
    top, bottom, left, right = attrs.padding
    shape = ConvShape(
        size(n), size(height), size(width), channels, out, attrs.kernel, attrs.stride,
        ((top, bottom), (left, right)), attrs.dilation, attrs.groups,
    )  # fmt: skip
    dtype = STORED[x.type.dtype]
    image, cotangent = size.operand(x), size.operand(g)
    flat = size.task is not None and is_flat(size.task.group)

    def given(scratch: Operand | None) -> Operand:
        if scratch is None:
            raise InternalError("the gradient of a convolution's weights needs scratch memory")
        return scratch

    if is_depthwise(shape):
        deep = plan_depthwise_backward_weight(shape, dtype, machine)
        return _Planned(
            deep, deep.scratch_bytes, deep.tasks,
            lambda e, s: emit_depthwise_backward_weight(deep, image, cotangent, e, given(s)),
        )  # fmt: skip
    if not machine.exact and suits_winograd(shape, dtype, machine):
        fast = plan_winograd_weight(shape, dtype, machine)
        return _Planned(
            fast, fast.scratch_bytes, fast.tasks,
            lambda e, s: emit_winograd_weight(fast, image, cotangent, e, given(s), flat),
        )  # fmt: skip
    plan = plan_conv2d_backward_weight(shape, dtype, machine)
    return _Planned(
        plan, plan.scratch_bytes, plan.tasks,
        lambda e, s: emit_conv2d_backward_weight(plan, image, cotangent, e, given(s), flat),
    )  # fmt: skip
