"""Rules of `canonicalize` about convolutions that are simpler ops.

A window of one pixel over one channel multiplies: nothing is summed, so that the result is the
same, and the product joins the elementwise work around it.
"""

from __future__ import annotations

from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.rewrite import Context, Rule
from dslc.ops.broadcast import broadcast
from dslc.ops.conv import conv2d, conv2d_input_gradient
from dslc.ops.elementwise import mul
from dslc.ops.shape import reshape
from dslc.ops.windows import ConvAttrs


def scaled_channels(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A convolution 1x1 of each channel for itself, and its gradient."""
    if eqn.op not in (conv2d, conv2d_input_gradient):
        return None
    (x, w), attrs = eqn.inputs, cast(ConvAttrs, eqn.attrs)
    if w.type.dims != (attrs.groups, 1, 1, 1) or attrs.stride != (1, 1) or any(attrs.padding):
        return None
    axis = 1 if attrs.layout == "NCHW" else 3
    scales = reshape(b, w, dims=(attrs.groups,))
    return cast(Value, mul(b, x, broadcast(b, scales, dims=x.type.dims, axes=(axis,))))


RULES: tuple[Rule, ...] = (scaled_channels,)
