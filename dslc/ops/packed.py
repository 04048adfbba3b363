"""Convolutions and matrix products with weights packed for the CPU's vector registers; made by the
lowering alone.

Images are NHWC. The packed weights hold panels of `width` output channels side by side,

    [panels, KH, KW, C / groups, width],    zeros beyond the last channel of a group,

groups one after the other. A `depthwise` convolution (groups = channels = output channels) has
panels across its groups: [ceil(C / width), KH, KW, 1, width]. `spread` puts zeros between the
image's pixels (the gradient of a stride), and padding may be negative (cropping).

The right side of a product is packed as [ceil(N / width), K, width].

Those of a product may be bf16 beside f32 on the left: they are widened as they are read.

Of bf16, for CPUs that have dot-product instructions, both sides hold pairs of neighbouring channels
in a last axis of 2 (see `pairs.py`): images [N, H, W, C / 2, 2], weights [.., C / 2, width, 2]. The
result is f32 then.

Non-goals: packing (ordinary equations do it, see `lowering/rewrites/pack.py`), gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.dims import Dim, sym
from dslc.ir.op import (
    Attrs,
    Expr,
    Index,
    Kernels,
    NoFacet,
    Op,
    Operand,
    Reader,
    Sample,
    TypeRuleError,
)
from dslc.ir.types import FLOATS, DType, TensorType
from dslc.ops.linalg import accumulator
from dslc.ops.pairs import flat, is_paired, unpaired

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class PackedConvAttrs(Attrs):
    """`padding` is (top, bottom, left, right); the pairs are (height, width)."""

    channels: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[Dim, Dim, Dim, Dim] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    spread: tuple[int, int] = (1, 1)
    groups: int = 1
    depthwise: bool = False


# Rows and columns of a kernel that the depthwise templates are written out for.
LARGEST_DEPTHWISE = 32


def is_depthwise(out: int, per_group: int, kernel: tuple[int, int], groups: int) -> bool:
    """Whether weights of such a convolution are packed for the depthwise templates."""
    small = max(kernel) <= LARGEST_DEPTHWISE
    return groups == out and per_group == 1 and groups > 1 and small


def panel_width(columns: int, lanes: int) -> int:
    """Columns of a panel for that many (of a group): two vectors, one if they are few."""
    return lanes if columns <= lanes else 2 * lanes


def packed_dims(
    out: int, per_group: int, kernel: tuple[int, int], groups: int, width: int, depthwise: bool
) -> tuple[int, int, int, int, int]:
    """Dims of the packed weights."""
    if depthwise:
        return (-(-out // width), *kernel, 1, width)
    return (groups * -(-(out // groups) // width), *kernel, per_group, width)


def out_size(attrs: PackedConvAttrs, axis: int, size: Dim, kernel: int) -> Dim:
    """Pixels of the result along an axis, 0 or 1, of an image of `size` pixels."""
    low, high = attrs.padding[2 * axis : 2 * axis + 2]
    extent = (kernel - 1) * attrs.dilation[axis] + 1
    room = (size - 1) * attrs.spread[axis] + 1 + low + high - extent
    return room // attrs.stride[axis] + 1


def _type(attrs: PackedConvAttrs, x: TensorType, w: TensorType) -> TensorType:
    paired = is_paired(x) and is_paired(w) and not attrs.depthwise
    if (x.rank, w.rank) != (4 + paired, 5 + paired) or not (paired or _is_plain(x, w)):
        raise TypeRuleError(f"cannot convolve {x} with packed weights {w}")
    n, height, width, channels = x.dims[:4]
    _, kh, kw, per_group, lanes = w.dims[:5]
    if not all(isinstance(d, int) for d in w.dims) or per_group * attrs.groups != channels:
        raise TypeRuleError(f"packed weights {w} don't fit {x}")
    kernel = (cast(int, kh), cast(int, kw))
    expected = packed_dims(
        attrs.channels, cast(int, per_group), kernel, attrs.groups, cast(int, lanes),
        attrs.depthwise,
    )  # fmt: skip
    if w.dims[:5] != expected:
        raise TypeRuleError(f"packed weights {w} should have dims {expected}")
    out = (out_size(attrs, 0, height, kernel[0]), out_size(attrs, 1, width, kernel[1]))
    return TensorType("f32" if paired else x.dtype, (n, *out, attrs.channels))


def _is_plain(x: TensorType, w: TensorType) -> bool:
    return x.dtype == w.dtype and x.dtype in FLOATS


def _unpacked(attrs: PackedConvAttrs, w: Any) -> Any:
    """The weights as [groups, out per group, C / groups, KH, KW]."""
    panels, kh, kw, per_group, width = w.shape
    count = 1 if attrs.depthwise else attrs.groups
    shape = (count, panels // count, kh, kw, per_group, width)
    moved = w.reshape(shape).transpose(0, 1, 5, 4, 2, 3)
    flat = moved.reshape(count, panels // count * width, per_group, kh, kw)
    kept = flat[:, : attrs.channels // count]
    return kept.reshape(attrs.groups, attrs.channels // attrs.groups, per_group, kh, kw)


def _spread_and_padded(attrs: PackedConvAttrs, x: Any) -> Any:
    """The image with zeros between its pixels and around it, or cropped."""
    n, height, width, channels = x.shape
    down, across = attrs.spread
    size = ((height - 1) * down + 1, (width - 1) * across + 1)
    spread = np.zeros((n, *size, channels), x.dtype)
    spread[:, ::down, ::across] = x
    low_high = cast(tuple[int, ...], attrs.padding)
    spread = np.pad(
        spread, ((0, 0), *((max(low_high[i], 0), max(low_high[i + 1], 0)) for i in (0, 2)), (0, 0))
    )
    top, bottom, left, right = (max(-p, 0) for p in low_high)
    return spread[:, top : spread.shape[1] - bottom, left : spread.shape[2] - right]


def _reference(attrs: PackedConvAttrs, x: Any, w: Any) -> Any:
    paired = w.ndim == 6
    if paired:
        x, w = flat(x), unpaired(w)
    wide = np.float32 if x.dtype.itemsize == 2 else x.dtype  # what halves are summed in
    weight, image = _unpacked(attrs, w.astype(wide)), _spread_and_padded(attrs, x.astype(wide))
    groups, out, per_group, kh, kw = weight.shape
    sizes = [out_size(attrs, i, x.shape[1 + i], (kh, kw)[i]) for i in (0, 1)]
    oh, ow = (cast(int, size) for size in sizes)
    image = image.reshape(*image.shape[:3], groups, per_group)
    result = np.zeros((x.shape[0], oh, ow, groups, out), wide)
    (sh, sw), (dh, dw) = attrs.stride, attrs.dilation
    for i in range(kh):
        for j in range(kw):
            rows = slice(i * dh, i * dh + (oh - 1) * sh + 1, sh)
            columns = slice(j * dw, j * dw + (ow - 1) * sw + 1, sw)
            seen = image[:, rows, columns]
            result += np.einsum("nhwgc,goc->nhwgo", seen, weight[..., i, j])
    result = result.reshape(x.shape[0], oh, ow, attrs.channels)
    return result if paired else result.astype(x.dtype)


def _compute(
    k: Kernels, attrs: PackedConvAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    x, w = operands
    dtype, wide = x.type.dtype, accumulator(x.type.dtype)
    panels, kh, kw, per_group, width = w.type.dims[:5]
    sides = w.type.dims[5:]
    group_out = attrs.channels // attrs.groups

    def place(at: Expr, tap: Expr, axis: int) -> tuple[Expr, Expr]:
        """The pixel that position `tap` sees for the result at `at`, and whether it is one."""
        scaled = k.binary("mul", at, k.dim(attrs.stride[axis]), "index")
        step = k.binary("mul", tap, k.dim(attrs.dilation[axis]), "index")
        seen = k.binary("add", scaled, step, "index")
        seen = k.binary("sub", seen, k.dim(attrs.padding[2 * axis]), "index")
        spread = k.dim(attrs.spread[axis])
        pixel = k.binary("floordiv", seen, spread, "index")
        rest = k.binary("mod", seen, spread, "index")
        inside = k.compare("eq", rest, k.dim(0), "index")
        above = k.compare("ge", pixel, k.dim(0), "index")
        below = k.compare("lt", pixel, k.dim(x.type.dims[1 + axis]), "index")
        return pixel, k.binary("and", k.binary("and", inside, above, "bool"), below, "bool")

    def read(index: Index) -> Expr:
        n, row, column, o = index
        group = k.binary("floordiv", o, k.dim(group_out), "index")
        within = o if attrs.depthwise else k.binary("mod", o, k.dim(group_out), "index")
        panel = k.binary("floordiv", within, k.dim(width), "index")
        if not attrs.depthwise:
            each = k.dim(panels // attrs.groups)
            panel = k.binary("add", panel, k.binary("mul", group, each, "index"), "index")
        lane = k.binary("mod", within, k.dim(width), "index")
        first = k.binary("mul", group, k.dim(per_group), "index")

        def product(r: Index) -> Expr:
            i, j, c, *side = r
            (h, inside_h), (v, inside_w) = place(row, i, 0), place(column, j, 1)
            inside = k.binary("and", inside_h, inside_w, "bool")
            channel = k.binary("add", first, c, "index")
            seen = k.guarded(inside, lambda: x((n, h, v, channel, *side)), k.const(0, dtype))
            weight = w((panel, i, j, c, lane, *side))
            return k.binary("mul", k.cast(seen, dtype, wide), k.cast(weight, dtype, wide), wide)

        total = k.reduce("sum", (kh, kw, per_group, *sides), product, wide)
        return k.cast(total, wide, outputs[0].dtype)

    return read


def _sample(
    image: tuple[Dim, ...], weight: tuple[int, ...], dtype: DType = "f32", **attrs: Any
) -> Sample:
    return Sample(
        (TensorType(dtype, image), TensorType(dtype, weight)),
        PackedConvAttrs(**attrs),
        rtol=2e-5,
        why="sums of up to 36 products, in another order",
    )


conv2d_packed = Op(
    "conv2d_packed",
    attrs=PackedConvAttrs,
    type_rule=_type,
    reference=_reference,
    gradient=NoFacet("the lowering makes it, after gradients are taken"),
    compute=_compute,
    samples=(
        _sample((2, 5, 6, 3), (1, 3, 3, 3, 8), channels=4, padding=(1, 1, 1, 1)),
        _sample((1, 7, 7, 2), (3, 3, 2, 2, 8), channels=20, stride=(2, 3), padding=(1, 0, 2, 1)),
        _sample((1, 6, 5, 4), (2, 2, 2, 2, 8), channels=6, groups=2),
        _sample((1, 4, 3, 2), (1, 3, 3, 2, 8), channels=3, spread=(2, 2), padding=(2, 3, -1, 2)),
        _sample(
            (2, 5, 5, 9), (2, 3, 3, 1, 8), channels=9, groups=9, depthwise=True,
            padding=(1, 1, 1, 1),
        ),
        _sample((sym("N"), 5, 5, 3), (1, 3, 3, 3, 8), channels=8),
        _sample((0, 5, 5, 3), (1, 3, 3, 3, 8), channels=8),
        _sample((2, 5, 6, 3), (1, 3, 3, 3, 8), "f16", channels=4, padding=(1, 1, 1, 1)),
        _sample((2, 5, 6, 2, 2), (1, 3, 3, 2, 16, 2), "bf16", channels=4, padding=(1, 1, 1, 1)),
        _sample((1, 6, 5, 4, 2), (2, 2, 2, 2, 16, 2), "bf16", channels=6, groups=2),
    ),
)  # fmt: skip

# --- products -------------------------------------------------------------------------------------


KEPT: tuple[DType, ...] = ("bf16", "i8")  # what weights may be beside a left side of f32


@dataclass(frozen=True, slots=True)
class PackedMatmulAttrs(Attrs):
    """`columns` of the result; the panels may hold more."""

    columns: int


def _matmul_type(attrs: PackedMatmulAttrs, a: TensorType, w: TensorType) -> TensorType:
    paired = is_paired(a) and is_paired(w)
    kept = a.dtype == "f32" and w.dtype in KEPT
    plain = kept or (_is_plain(a, w) and a.dtype in ("f32", "f64"))
    fits = (a.rank, w.rank) == (2 + paired, 3 + paired) and (paired or plain)
    if not fits or a.dims[1] != w.dims[1]:
        raise TypeRuleError(f"cannot multiply {a} and packed weights {w}")
    width = w.dims[2]
    if not isinstance(width, int) or w.dims[0] != -(-attrs.columns // width):
        raise TypeRuleError(f"packed weights {w} do not have {attrs.columns} columns")
    return TensorType("f32" if paired else a.dtype, (a.dims[0], attrs.columns))


def _matmul_reference(attrs: PackedMatmulAttrs, a: Any, w: Any) -> Any:
    if w.ndim == 4:
        a, w = flat(a), unpaired(w)
    panels, inner, width = w.shape
    w = w.astype(a.dtype)
    return a @ w.transpose(1, 0, 2).reshape(inner, panels * width)[:, : attrs.columns]


def _matmul_compute(
    k: Kernels, attrs: PackedMatmulAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    a, w = operands
    dtype, wide, width = a.type.dtype, accumulator(a.type.dtype), k.dim(w.type.dims[2])

    def read(index: Index) -> Expr:
        row, column = index
        panel = k.binary("floordiv", column, width, "index")
        lane = k.binary("mod", column, width, "index")

        def product(r: Index) -> Expr:
            inner, *side = r
            x, y = a((row, inner, *side)), w((panel, inner, lane, *side))
            return k.binary("mul", k.cast(x, dtype, wide), k.cast(y, w.type.dtype, wide), wide)

        return k.reduce("sum", a.type.dims[1:], product, wide)

    return read


def _matmul_sample(
    rows: Dim, inner: int, panels: int, columns: int, width: int = 8, *sides: int,
    kept: DType = "f32",
) -> Sample:  # fmt: skip
    dtype: DType = "bf16" if sides else "f32"
    weight = TensorType("bf16" if sides else kept, (panels, inner, width, *sides))
    return Sample(
        (TensorType(dtype, (rows, inner, *sides)), weight),
        PackedMatmulAttrs(columns),
        rtol=1e-5,
        why="sums of up to 33 products, in another order",
    )


matmul_packed = Op(
    "matmul_packed",
    attrs=PackedMatmulAttrs,
    type_rule=_matmul_type,
    reference=_matmul_reference,
    gradient=NoFacet("the lowering makes it, after gradients are taken"),
    compute=_matmul_compute,
    samples=(
        _matmul_sample(3, 5, 1, 8),
        _matmul_sample(1, 33, 2, 21, 16),
        _matmul_sample(sym("N"), 7, 3, 17),
        _matmul_sample(sym("N"), 7, 2, 21, 16, 2),
        _matmul_sample(3, 9, 2, 21, 16, kept="bf16"),
        _matmul_sample(3, 9, 2, 21, 16, kept="i8"),
    ),
)

OPS: tuple[Op, ...] = (conv2d_packed, matmul_packed)
