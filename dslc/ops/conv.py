"""2-d convolution and its two adjoints.

Weights are always (O, C / groups, KH, KW), PyTorch's order; images are (N, C, H, W) or, with
`layout="NHWC"`, (N, H, W, C). A convolution is linear in the image and in the weight, so the
adjoint with respect to each is linear too, and the three ops are each other's gradients:

    y = conv2d(x, w)    dx = conv2d_input_gradient(g, w)    dw = conv2d_weight_gradient(x, g)

As in the field, this is cross-correlation: the kernel is not flipped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from dslc._lazy import lazy
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import Op, Sample, TypeRuleError
from dslc.ir.types import TensorType
from dslc.ops.conv_kernels import conv2d_compute, input_gradient_compute, weight_gradient_compute
from dslc.ops.windows import (
    ConvAttrs,
    ConvInputGradientAttrs,
    ConvWeightGradientAttrs,
    Layout,
    conv_size,
    every,
    from_nchw,
    image_dims,
    image_type,
    to_nchw,
)

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


def kernel_size(w: TensorType) -> tuple[int, int]:
    """(height, width) of a weight; TypeRuleError when they are not constant."""
    kh, kw = w.dims[2:]
    if not isinstance(kh, int) or not isinstance(kw, int):
        raise TypeRuleError(f"the kernel of a convolution needs constant height and width: {w}")
    return kh, kw


def _same_float(what: str, a: TensorType, b: TensorType) -> None:
    if a.dtype != b.dtype or a.dtype not in ("f64", "f32", "f16", "bf16"):
        raise TypeRuleError(
            f"cannot {what} {a} with {b}",
            notes=[
                f"the dtypes differ ({a.dtype} and {b.dtype})"
                if a.dtype != b.dtype
                else f"a convolution takes floats, not {a.dtype}"
            ],
            help="cast[f32](...)",
            inputs=(0, 1),
            code="E0204",
        )
    for type in (a, b):
        if type.rank != 4:
            raise TypeRuleError(
                f"cannot {what} {a} with {b}",
                notes=[f"four dims are needed, {type} has {type.rank}"],
                inputs=(0 if type is a else 1,),
                code="E0205",
            )


def _check_attrs(attrs: ConvAttrs) -> None:
    if min(attrs.stride) < 1 or min(attrs.dilation) < 1 or min(attrs.padding) < 0:
        raise TypeRuleError(
            f"stride {attrs.stride} and dilation {attrs.dilation} must be at least 1, "
            f"padding {attrs.padding} at least 0",
            code="E0207",
        )
    if attrs.groups < 1:
        raise TypeRuleError(f"groups must be at least 1, not {attrs.groups}", code="E0207")


def _conv2d_type(attrs: ConvAttrs, x: TensorType, w: TensorType) -> TensorType:
    _same_float("convolve", x, w)
    _check_attrs(attrs)
    n, c, h, width = image_dims(x, attrs.layout)
    out, per_group = w.dims[:2]
    if per_group * attrs.groups != c:
        groups = f" in {attrs.groups} groups" if attrs.groups != 1 else ""
        raise TypeRuleError(
            f"cannot convolve {x} with {w}",
            notes=[
                f"the image has {c} channels, the weight takes {per_group * attrs.groups}{groups}"
            ],
            inputs=(0, 1),
        )
    if isinstance(out, int) and out % attrs.groups:
        raise TypeRuleError(
            f"cannot convolve {x} with {w}",
            notes=[f"{out} output channels can't be split into {attrs.groups} groups"],
            inputs=(1,),
        )
    kernel = kernel_size(w)
    oh, ow = conv_size(attrs, h, width, kernel)
    if any(isinstance(size, int) and size < 1 for size in (oh, ow)):
        raise TypeRuleError(
            f"cannot convolve {x} with {w}",
            notes=[f"a window of {kernel[0]}x{kernel[1]} doesn't fit into {h}x{width}"],
            help=_channels_last(x) or "add padding, or use a smaller kernel",
            inputs=(0,),
        )
    return image_type(x, attrs.layout, n, out, oh, ow)


def _channels_last(x: TensorType) -> str | None:
    """The repair of an image whose channels stand behind its height and width."""
    colours = x.dims[-1] in (1, 3, 4) and x.dims[1] not in (1, 3, 4)
    return "channels stand in front: transpose[0, 3, 1, 2] puts them there" if colours else None


def _input_gradient_type(attrs: ConvInputGradientAttrs, g: TensorType, w: TensorType) -> TensorType:
    _same_float("convolve", g, w)
    _check_attrs(attrs)
    n, _, _, _ = image_dims(g, attrs.layout)
    result = image_type(g, attrs.layout, n, w.dims[1] * attrs.groups, *attrs.size)
    _agree(attrs, result, w, g)
    return result


def _weight_gradient_type(
    attrs: ConvWeightGradientAttrs, x: TensorType, g: TensorType
) -> TensorType:
    _same_float("convolve", x, g)
    _check_attrs(attrs)
    _, c, _, _ = image_dims(x, attrs.layout)
    _, out, _, _ = image_dims(g, attrs.layout)
    result = x.with_dims((out, c // attrs.groups, *attrs.kernel))
    _agree(attrs, x, result, g)
    return TensorType("f32", result.dims) if attrs.wide else result


def _agree(attrs: ConvAttrs, x: TensorType, w: TensorType, g: TensorType) -> None:
    """The forward convolution of `x` and `w` must have the type of the cotangent `g`."""
    plain = ConvAttrs(attrs.stride, attrs.padding, attrs.dilation, attrs.groups, attrs.layout)
    expected = _conv2d_type(plain, x, w)
    if expected != g:
        raise TypeRuleError(f"a convolution of {x} with {w} gives {expected}, not {g}")


def _pad(attrs: ConvAttrs, x: Any) -> Any:
    top, bottom, left, right = attrs.padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _window(attrs: ConvAttrs, x: Any, i: int, j: int, oh: int, ow: int) -> Any:
    """What kernel element (i, j) sees in a padded NCHW image: (N, C, OH, OW), a view."""
    top, left = i * attrs.dilation[0], j * attrs.dilation[1]
    return x[:, :, every(attrs.stride[0], top, oh), every(attrs.stride[1], left, ow)]


def _wide(x: Any) -> Any:
    """f16 and bf16 are summed in f32."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 else x


def _grouped(x: Any, groups: int) -> Any:
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w)


def _conv2d_reference(attrs: ConvAttrs, x: Any, w: Any) -> Any:
    image, weight = _pad(attrs, _wide(to_nchw(attrs, x))), _wide(w)
    out, per_group, kh, kw = w.shape
    _, _, height, width = to_nchw(attrs, x).shape
    sizes = conv_size(attrs, height, width, (kh, kw))
    oh, ow = (cast(int, size) for size in sizes)
    groups = attrs.groups
    result = np.zeros((x.shape[0], groups, out // groups, oh, ow), image.dtype)
    weight = weight.reshape(groups, out // groups, per_group, kh, kw)
    for i in range(kh):
        for j in range(kw):
            seen = _grouped(_window(attrs, image, i, j, oh, ow), groups)
            result += np.einsum("ngchw,goc->ngohw", seen, weight[..., i, j])
    return from_nchw(attrs, result.reshape(x.shape[0], out, oh, ow)).astype(x.dtype)


def _input_gradient_reference(attrs: ConvInputGradientAttrs, g: Any, w: Any) -> Any:
    cotangent, weight = _wide(to_nchw(attrs, g)), _wide(w)
    n, out, oh, ow = cotangent.shape
    per_group, kh, kw = w.shape[1:]
    groups = attrs.groups
    h, width = (cast(int, size) for size in attrs.size)
    top, bottom, left, right = attrs.padding
    padded = np.zeros(
        (n, groups * per_group, h + top + bottom, width + left + right), cotangent.dtype
    )
    weight = weight.reshape(groups, out // groups, per_group, kh, kw)
    for i in range(kh):
        for j in range(kw):
            part = np.einsum("ngohw,goc->ngchw", _grouped(cotangent, groups), weight[..., i, j])
            view = _window(attrs, padded, i, j, oh, ow)
            view += part.reshape(view.shape)
    return from_nchw(attrs, padded[:, :, top : top + h, left : left + width]).astype(g.dtype)


def _weight_gradient_reference(attrs: ConvWeightGradientAttrs, x: Any, g: Any) -> Any:
    image, cotangent = _pad(attrs, _wide(to_nchw(attrs, x))), _wide(to_nchw(attrs, g))
    _, out, oh, ow = cotangent.shape
    groups, (kh, kw) = attrs.groups, attrs.kernel
    per_group = image.shape[1] // groups
    result = np.zeros((groups, out // groups, per_group, kh, kw), image.dtype)
    for i in range(kh):
        for j in range(kw):
            seen = _grouped(_window(attrs, image, i, j, oh, ow), groups)
            result[..., i, j] = np.einsum("ngohw,ngchw->goc", _grouped(cotangent, groups), seen)
    result = result.reshape(out, per_group, kh, kw)
    return result.astype(np.float32 if attrs.wide else x.dtype)


def _base(attrs: ConvAttrs) -> dict[str, Any]:
    return {
        "stride": attrs.stride,
        "padding": attrs.padding,
        "dilation": attrs.dilation,
        "groups": attrs.groups,
        "layout": attrs.layout,
    }


def _size(attrs: ConvAttrs, x: Value) -> tuple[Dim, Dim]:
    return image_dims(x.type, attrs.layout)[2:]


def _conv2d_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (g,), (x, w) = cotangents, eqn.inputs
    attrs = cast(ConvAttrs, eqn.attrs)
    if g is None:
        return None, None
    return (
        conv2d_input_gradient(b, g, w, size=_size(attrs, x), **_base(attrs)),
        conv2d_weight_gradient(b, x, g, kernel=kernel_size(w.type), **_base(attrs)),
    )


def _input_gradient_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (d,), (g, w) = cotangents, eqn.inputs
    attrs = cast(ConvInputGradientAttrs, eqn.attrs)
    if d is None:
        return None, None
    return (
        conv2d(b, d, w, **_base(attrs)),
        conv2d_weight_gradient(b, d, g, kernel=kernel_size(w.type), **_base(attrs)),
    )


def _weight_gradient_gradient(
    b: Builder, eqn: Eqn, cotangents: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    (d,), (x, g) = cotangents, eqn.inputs
    attrs = cast(ConvWeightGradientAttrs, eqn.attrs)
    if d is None:
        return None, None
    return (
        conv2d_input_gradient(b, g, d, size=_size(attrs, x), **_base(attrs)),
        conv2d(b, x, d, **_base(attrs)),
    )


def _f32(*dims: Dim) -> TensorType:
    return TensorType("f32", dims)


_WHY = "sums of up to 36 products, in another order"

# (image NCHW, weight, attributes): the three ops are sampled over the same cases.
_CASES: tuple[tuple[tuple[Dim, ...], tuple[int, ...], dict[str, Any]], ...] = (
    ((2, 3, 5, 6), (4, 3, 3, 3), {"padding": (1, 1, 1, 1)}),
    ((1, 2, 7, 7), (3, 2, 3, 2), {"stride": (2, 3), "padding": (1, 0, 2, 1)}),
    ((1, 4, 6, 5), (6, 2, 2, 2), {"groups": 2}),
    ((2, 3, 5, 5), (3, 1, 3, 3), {"groups": 3, "padding": (1, 1, 1, 1)}),
    ((1, 1, 7, 8), (2, 1, 2, 3), {"dilation": (2, 2), "padding": (0, 1, 1, 0)}),
    ((2, 3, 1, 1), (5, 3, 1, 1), {}),
    ((0, 2, 4, 4), (3, 2, 3, 3), {}),
    ((sym("N"), 2, sym("N") + 4, 5), (3, 2, 3, 3), {"stride": (2, 1), "padding": (1, 1, 0, 0)}),
)


def _permuted(dims: tuple[Dim, ...], layout: Layout) -> TensorType:
    n, c, h, w = dims
    return _f32(n, c, h, w) if layout == "NCHW" else _f32(n, h, w, c)


def _samples(kind: str) -> tuple[Sample, ...]:
    out = []
    layouts: tuple[Layout, ...] = ("NCHW", "NHWC")
    for layout in layouts:
        for image, weight, extra in _CASES:
            attrs = ConvAttrs(layout=layout, **extra)
            x, w = _permuted(image, layout), _f32(*weight)
            g = _conv2d_type(attrs, x, w)
            sample = {
                "conv2d": Sample((x, w), attrs, rtol=2e-5, why=_WHY),
                "input": Sample(
                    (g, w),
                    ConvInputGradientAttrs(**_base(attrs), size=image[2:]),  # type: ignore[arg-type]
                    rtol=2e-5,
                    why=_WHY,
                ),
                "weight": Sample(
                    (x, g),
                    ConvWeightGradientAttrs(**_base(attrs), kernel=weight[2:]),  # type: ignore[arg-type]
                    rtol=2e-5,
                    why=_WHY,
                ),
            }[kind]
            out.append(sample)
    return tuple(out)


conv2d = Op(
    "conv2d",
    attrs=ConvAttrs,
    type_rule=_conv2d_type,
    reference=_conv2d_reference,
    gradient=_conv2d_gradient,
    compute=conv2d_compute,
    samples=_samples("conv2d"),
)

conv2d_input_gradient = Op(
    "conv2d_input_gradient",
    attrs=ConvInputGradientAttrs,
    type_rule=_input_gradient_type,
    reference=_input_gradient_reference,
    gradient=_input_gradient_gradient,
    compute=input_gradient_compute,
    samples=_samples("input"),
)

conv2d_weight_gradient = Op(
    "conv2d_weight_gradient",
    attrs=ConvWeightGradientAttrs,
    type_rule=_weight_gradient_type,
    reference=_weight_gradient_reference,
    gradient=_weight_gradient_gradient,
    compute=weight_gradient_compute,
    samples=_samples("weight"),
)

OPS: tuple[Op, ...] = (conv2d, conv2d_input_gradient, conv2d_weight_gradient)
