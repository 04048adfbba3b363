"""Plans the templates of convolutions and of their weights' gradients for their groups.

Input: a convolution, its sizes and the machine. Output: a `Planned`, if a template takes it.
Non-goals: tiles and tasks (`schedules/cpu/conv`); how weights are packed (`rewrites/pack.py`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn
from dslc.lowering.grouping.group import Group
from dslc.lowering.kernels.buffers import STORED
from dslc.lowering.kernels.loops import is_flat
from dslc.lowering.kernels.planned import Planned, Sizes, ahead_of, dims_of, dtype_of
from dslc.lowering.kernels.products import plan_panels
from dslc.lowering.rewrites.planes import conv_shape
from dslc.ops.broadcast import BroadcastAttrs
from dslc.ops.packed import PackedConvAttrs
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
from dslc.schedules.cpu.conv.conv2d_weight_matrices import (
    emit_weight_matrices,
    plan_weight_matrices,
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
from dslc.schedules.cpu.conv.plane_plan import plan_planes
from dslc.schedules.cpu.conv.plane_tile import takes_planes
from dslc.schedules.cpu.conv.planes import emit_planes
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.conv.spread import emit_spread, plan_spread
from dslc.schedules.cpu.conv.turned import emit_turned, plan_turned
from dslc.schedules.cpu.conv.winograd import emit_winograd
from dslc.schedules.cpu.conv.winograd_plan import plan_winograd
from dslc.schedules.cpu.conv.winograd_transform import PlainWeights
from dslc.schedules.cpu.conv.winograd_weight import emit_winograd_weight
from dslc.schedules.cpu.conv.winograd_weight_plan import plan_winograd_weight, suits_winograd
from dslc.schedules.cpu.tiles.contract import Machine, Operand, Panels, panel_width
from dslc.schedules.cpu.tiles.dots import PAIRS


def plan_packed(anchor: Eqn, machine: Machine, size: Sizes) -> Planned:
    x, w = anchor.inputs
    attrs = cast(PackedConvAttrs, anchor.attrs)
    n, height, width, channels = dims_of(x)
    _, kh, kw, _, lanes = cast(tuple[int, ...], dims_of(w))
    top, bottom, left, right = attrs.padding
    shape = ConvShape(
        size(n), size(height), size(width), cast(int, channels), attrs.channels, (kh, kw),
        attrs.stride, ((size(top), size(bottom)), (size(left), size(right))),
        attrs.dilation, attrs.groups, attrs.spread,
    )  # fmt: skip
    dtype = dtype_of(x)
    image, panels = size.operand(x), Panels(size.buffer(w), dtype, lanes)
    if attrs.depthwise:
        deep = chosen(plan_depthwise(shape, dtype, machine), machine)
        return Planned(
            deep,
            deep.scratch_bytes,
            deep.tasks,
            lambda e, s: emit_depthwise(deep, image, panels, e, s),
        )
    by_matrices = machine.matrices and dtype == PAIRS
    if attrs.spread != (1, 1) and not by_matrices:
        wide = plan_spread(shape, dtype, lanes, machine)
        return Planned(
            wide, wide.scratch_bytes, wide.tasks,
            lambda e, s: emit_spread(wide, image, panels, e, s),
        )  # fmt: skip
    # Of few pixels a tile that ends with its row often comes out lower yet.
    if shape.is_product and (machine.registers < 32 or machine.matrices):
        pixels, rows = (shape.batch, *shape.out), replace(image, strides=image.strides[-2:])
        return plan_panels(
            rows, panels, pixels, shape.out_channels, shape.channels, machine, size
        )  # fmt: skip
    if by_matrices:
        plan = plan_conv2d_matrices(shape, lanes, machine)
        return Planned(
            plan, plan.scratch_bytes, plan.tasks,
            lambda e, s: emit_conv2d_matrices(plan, image, panels, e, s),
        )  # fmt: skip
    plan = chosen(plan_conv2d(shape, dtype, lanes, machine), machine)
    ahead = None if size.task is None else ahead_of(size.task)
    return Planned(
        plan, plan.scratch_bytes, plan.tasks,
        lambda e, s: emit_conv2d(plan, image, panels, e, s, ahead),
    )  # fmt: skip


def plan_over_planes(anchor: Eqn, machine: Machine, size: Sizes, flat: bool) -> Planned | None:
    """`flat`: results are handed on by their place in a plane."""
    (x, w), dtype = anchor.inputs, dtype_of(anchor.inputs[0])
    shape = conv_shape(anchor)
    if shape is None or not takes_planes(shape, dtype):
        return None
    image, weights = size.operand(x), size.operand(w)
    sized = replace(shape, batch=size(shape.batch))
    way, _ = choose_template(shape, dtype, machine.lanes(dtype), machine.registers, flat)
    if way == "turned":
        turned = plan_turned(sized, dtype, machine, flat)
        return Planned(
            turned, turned.scratch_bytes, turned.tasks,
            lambda e, s: emit_turned(turned, image, weights, e, s),
        )  # fmt: skip
    if way == "picked":
        picked = plan_picked(sized, dtype, machine, flat)
        return Planned(picked, 0, picked.tasks, lambda e, _: emit_picked(picked, image, weights, e))
    if way == "clipped":
        clipped = plan_clipped(sized, dtype, machine)
        return Planned(
            clipped, 0, clipped.tasks, lambda e, _: emit_clipped(clipped, image, weights, e)
        )
    plan = plan_planes(sized, dtype, machine, flat)
    ahead = None if size.task is None else ahead_of(size.task)
    return Planned(
        plan, plan.scratch_bytes, plan.tasks,
        lambda e, s: emit_planes(plan, image, weights, e, s, ahead),
    )  # fmt: skip


def is_by_plane(group: Group) -> bool:
    """Whether all that is fused behind a convolution of planes asks for an element's image, channel
    and place in its plane, and not for its row or column."""
    return all(eqn is group.anchor or _asks_for_no_row(eqn) for eqn in group.eqns)


def _asks_for_no_row(eqn: Eqn) -> bool:
    if isinstance(eqn.attrs, BroadcastAttrs):
        return not eqn.attrs.axes or max(eqn.attrs.axes) < 2
    return eqn.op.elementwise or eqn.op.name == "constant"


def plan_by_winograd(anchor: Eqn, machine: Machine, size: Sizes) -> Planned | None:
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
    plain = w.type.rank == 4
    lanes = cast(int, w.type.dims[-1])
    if plain:
        lanes = panel_width(attrs.channels, "float32", machine)
    if lanes % machine.lanes("float32") or (plain and channels < machine.lanes("float32")):
        return None
    image, buffer = size.operand(x), size.buffer(w)
    weights = (
        PlainWeights(buffer, channels, attrs.channels, attrs.kernel, attrs.turned)
        if plain
        else Panels(buffer, "float32", lanes)
    )
    plan = chosen(plan_winograd(shape, attrs.tile, lanes, machine, plain), machine)
    ahead = None if size.task is None else ahead_of(size.task)
    return Planned(
        plan,
        plan.scratch_bytes,
        plan.tasks,
        lambda e, s: emit_winograd(plan, image, weights, e, s, ahead),
    )


def plan_weights_gradient(anchor: Eqn, machine: Machine, size: Sizes) -> Planned | None:
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

    if attrs.wide:
        halves = plan_weight_matrices(shape, machine)
        return Planned(
            halves, halves.scratch_bytes, halves.tasks,
            lambda e, s: emit_weight_matrices(halves, image, cotangent, e, given(s), flat),
        )  # fmt: skip
    if is_depthwise(shape):
        deep = plan_depthwise_backward_weight(shape, dtype, machine)
        return Planned(
            deep, deep.scratch_bytes, deep.tasks,
            lambda e, s: emit_depthwise_backward_weight(deep, image, cotangent, e, given(s)),
        )  # fmt: skip
    if not machine.exact and suits_winograd(shape, dtype, machine):
        fast = plan_winograd_weight(shape, dtype, machine)
        return Planned(
            fast, fast.scratch_bytes, fast.tasks,
            lambda e, s: emit_winograd_weight(fast, image, cotangent, e, given(s), flat),
        )  # fmt: skip
    plan = plan_conv2d_backward_weight(shape, dtype, machine)
    return Planned(
        plan, plan.scratch_bytes, plan.tasks,
        lambda e, s: emit_conv2d_backward_weight(plan, image, cotangent, e, given(s), flat),
    )  # fmt: skip
