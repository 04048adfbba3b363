"""Replaces convolutions by those that the GPU's templates run, with weights packed for them.

    conv2d(x, w)                  becomes   conv2d_packed(x, pack(w))
    conv2d_input_gradient(g, w)   becomes   conv2d_packed(g, pack(w turned round))

Packed weights hold a group's output channels side by side, [groups, KH, KW, C / groups, width], so
that threads beside each other read elements beside each other; `width` is rounded up to whole
vectors. In an inference entry `hoist` moves the packing to `prepare`, which runs once at load.
Input and output: an Entry whose convolutions are NHWC. Others stay as they are, as do depthwise
ones: each of their results is a sum of few products.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Eqn, Value
from dslc.ir.dims import Dim
from dslc.ir.rewrite import Context, rewrite
from dslc.lowering.rewrites.pack import turned_round
from dslc.ops.conv import conv2d, conv2d_input_gradient
from dslc.ops.packed import PackedConvAttrs, conv2d_packed
from dslc.ops.shape import reshape, transpose
from dslc.ops.slicing import pad
from dslc.ops.windows import ConvAttrs, ConvInputGradientAttrs

_VECTOR = 4  # elements
TAKEN = ("f32", "f64", "f16", "bf16")


def pack_for_cuda(entry: Entry) -> Entry:
    """The entry for a GPU."""

    def rule(eqn: Eqn, b: Builder, _context: Context) -> Value | None:
        if eqn.op is conv2d and _packable(eqn):
            return _forward(eqn, b)
        if eqn.op is conv2d_input_gradient and _packable(eqn):
            return _to_input(eqn, b)
        return None

    return replace(entry, function=rewrite(entry.function, [rule]))


def _packable(eqn: Eqn) -> bool:
    attrs, weight = cast(ConvAttrs, eqn.attrs), eqn.inputs[1].type
    if attrs.layout != "NHWC" or weight.dtype not in TAKEN or not weight.is_static:
        return False
    out, per_group = cast(tuple[int, ...], weight.dims[:2])
    return 0 not in weight.dims and (attrs.groups == 1 or max(out // attrs.groups, per_group) > 1)


def _forward(eqn: Eqn, b: Builder) -> Value:
    attrs, (x, w) = cast(ConvAttrs, eqn.attrs), eqn.inputs
    made = PackedConvAttrs(
        cast(int, w.type.dims[0]), attrs.stride, attrs.padding, attrs.dilation, groups=attrs.groups
    )
    return b.emit(conv2d_packed, (x, _pack(b, w, attrs.groups)), made)[0]


def _to_input(eqn: Eqn, b: Builder) -> Value:
    """The gradient as a convolution of the cotangent, spread by the stride."""
    attrs, (g, w) = cast(ConvInputGradientAttrs, eqn.attrs), eqn.inputs
    _, per_group, kh, kw = cast(tuple[int, ...], w.type.dims)
    padding: list[Dim] = []
    for axis, (low, kernel) in enumerate(((attrs.padding[0], kh), (attrs.padding[2], kw))):
        reach = (kernel - 1) * attrs.dilation[axis]
        seen = (g.type.dims[1 + axis] - 1) * attrs.stride[axis] + 1
        padding += [reach - low, attrs.size[axis] - seen + low]
    above, below, before, behind = padding
    made = PackedConvAttrs(
        per_group * attrs.groups, padding=(above, below, before, behind),
        dilation=attrs.dilation, spread=attrs.stride, groups=attrs.groups,
    )  # fmt: skip
    packed = _pack(b, turned_round(b, w, attrs.groups), attrs.groups)
    return b.emit(conv2d_packed, (g, packed), made)[0]


def _pack(b: Builder, w: Value, groups: int) -> Value:
    """OIHW weights as [groups, KH, KW, C / groups, width]."""
    out, per_group, kh, kw = cast(tuple[int, ...], w.type.dims)
    count = out // groups
    width = -(-count // _VECTOR) * _VECTOR
    value = reshape(b, w, dims=(groups, count, per_group, kh, kw))
    if width != count:
        value = pad(b, value, low=(0,) * 5, high=(0, width - count, 0, 0, 0))
    return cast(Value, transpose(b, value, perm=(0, 3, 4, 2, 1)))
