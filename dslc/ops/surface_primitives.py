"""The primitives of the library: how convolution, pooling and random numbers look in `.dl`.

Input: the statics in `[ ]` and the arguments as Values. Output: equations. They are named
`prim_...`, because users call the layers of `std` that wrap them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.op import StaticParam, Surface
from dslc.ir.types import TensorType
from dslc.ops import conv, pool, random
from dslc.ops.errors import bad_static, wrong_rank

Statics = Mapping[str, Any]
Args = tuple[Value, ...]


def pair(name: str, value: Any) -> tuple[int, int]:
    """(height, width) from one int or two."""
    given = (value, value) if isinstance(value, int) else tuple(value)
    if len(given) != 2:
        raise bad_static(f"{name} is one int or (height, width), not {given}")
    return cast("tuple[int, int]", given)


def sides(value: Any) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) from one int, (height, width) or all four."""
    given = (value, value) if isinstance(value, int) else tuple(value)
    if len(given) == 2:
        return given[0], given[0], given[1], given[1]
    if len(given) != 4:
        raise bad_static(
            f"padding is one int, (height, width) or (top, bottom, left, right), not {given}"
        )
    return cast("tuple[int, int, int, int]", given)


def _conv_statics(statics: Statics, w: TensorType) -> dict[str, Any]:
    """The attributes of a convolution with a weight of type `w`; "same" and "valid" as PyTorch has
    them: with "same" an odd element of padding stands at the end."""
    stride, dilation = pair("stride", statics["stride"]), pair("dilation", statics["dilation"])
    padding = statics["padding"]
    if padding == "same":
        if stride != (1, 1):
            raise bad_static(f'padding="same" is for a stride of 1, not {stride}')
        whole = [step * (size - 1) for step, size in zip(dilation, conv.kernel_size(w))]
        padding = tuple(side for total in whole for side in (total // 2, total - total // 2))
    return {
        "stride": stride,
        "padding": sides(0 if padding == "valid" else padding),
        "dilation": dilation,
        "groups": statics["groups"],
    }


def _conv2d(b: Builder, statics: Statics, args: Args) -> Value:
    return cast(Value, conv.conv2d(b, *args, **_conv_statics(statics, args[1].type)))


def _conv2d_transpose(b: Builder, statics: Statics, args: Args) -> Value:
    """The adjoint of the convolution that takes the result's size to the image's."""
    image, weight = (x.type for x in args)
    attrs = _conv_statics(statics, weight)
    if image.rank != 4 or weight.rank != 4:
        raise wrong_rank("convolve", (image, weight), "four dims are needed")
    extra = pair("output_padding", statics["output_padding"])
    stride, dilation = attrs["stride"], attrs["dilation"]
    if any(not 0 <= e < s for e, s in zip(extra, stride)):
        raise bad_static(f"output_padding {extra} must be less than the stride {stride}")
    top, bottom, left, right = attrs["padding"]
    size = tuple(
        (count - 1) * s + d * (k - 1) + 1 + e - padding
        for count, s, d, k, e, padding in zip(
            image.dims[2:],
            stride,
            dilation,
            conv.kernel_size(weight),
            extra,
            (top + bottom, left + right),
        )
    )
    return cast(Value, conv.conv2d_input_gradient(b, *args, size=size, **attrs))


def _pool_statics(statics: Statics) -> dict[str, Any]:
    kernel = pair("kernel", statics["kernel"])
    stride = statics["stride"]
    return {
        "kernel": kernel,
        "stride": kernel if stride is None else pair("stride", stride),
        "padding": sides(statics["padding"]),
    }


def _max_pool2d(b: Builder, statics: Statics, args: Args) -> Value:
    return cast(Value, pool.max_pool2d(b, *args, **_pool_statics(statics)))


def _avg_pool2d(b: Builder, statics: Statics, args: Args) -> Value:
    include = statics["count_include_pad"]
    attrs = _pool_statics(statics)
    return cast(Value, pool.avg_pool2d(b, *args, count_include_pad=include, **attrs))


def _random(op: Any) -> Any:
    def build(b: Builder, statics: Statics, args: Args) -> Value:
        return cast(Value, op(b, *args, dims=tuple(statics["dims"]), stream=statics["stream"]))

    return build


_DIMS = StaticParam("dims", "dims", required=True)
_PADDING = StaticParam("padding", "ints", 0)
_CONVOLUTION = (
    StaticParam("stride", "ints", 1),
    StaticParam("padding", "padding", 0),
    StaticParam("dilation", "ints", 1),
    StaticParam("groups", "int", 1),
)
_WINDOW = (StaticParam("kernel", "ints", required=True), StaticParam("stride", "ints"), _PADDING)
_DRAW = (_DIMS, StaticParam("stream", "int", 0))

SURFACES: tuple[Surface, ...] = (
    Surface(
        "prim_conv2d",
        ("x", "weight"),
        _conv2d,
        _CONVOLUTION,
        doc="2-d convolution of (N, C, H, W) with (O, C / groups, KH, KW).",
    ),
    Surface(
        "prim_conv2d_transpose",
        ("x", "weight"),
        _conv2d_transpose,
        (*_CONVOLUTION, StaticParam("output_padding", "ints", 0)),
        doc="Transposed 2-d convolution of (N, C, H, W) with (C, O / groups, KH, KW).",
    ),
    Surface("prim_max_pool2d", ("x",), _max_pool2d, _WINDOW, doc="Maxima of windows."),
    Surface(
        "prim_avg_pool2d",
        ("x",),
        _avg_pool2d,
        (*_WINDOW, StaticParam("count_include_pad", "bool", True)),
        doc="Means of windows.",
    ),
    Surface(
        "prim_random_uniform",
        ("seed", "step"),
        _random(random.random_uniform),
        _DRAW,
        doc="f32 in [0, 1), chosen by seed, step and stream.",
    ),
    Surface(
        "prim_random_normal",
        ("seed", "step"),
        _random(random.random_normal),
        _DRAW,
        doc="f32 of the standard normal distribution, chosen by seed, step and stream.",
    ),
)
