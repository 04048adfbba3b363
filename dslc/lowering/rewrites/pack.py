"""Replaces convolutions by those that the CPU's templates run, with weights packed into panels.

    conv2d(x, w)                  becomes   conv2d_packed(x, pack(w))
    conv2d_input_gradient(g, w)   becomes   conv2d_packed(g, pack(w turned round))
    either, of 3x3 kernels        becomes   conv2d_winograd(.., transformed(pack(w))), where it pays
    either, of few pixels         becomes   a product of rows (im2col.py), where it pays
    conv2d(x, w), few channels    becomes   the same of phases (phases.py), where it pays
    conv2d(x, w), bf16, odd ones  becomes   the same of more of them, by registers of matrices
    conv2d(x, w), of 1x1 kernels  becomes   conv2d_strassen(x, summed(pack(w))), where it pays
    matmul(x, w)                  becomes   matmul_strassen(x, summed(pack(w))), where all do by w
    matmul(h, w) in a loop        becomes   matmul_packed(h, pack(w)), if w is the same each time;
                                            matmul_parts, if what it gives is taken apart (gates.py)
    matmul(x, w)                  becomes   matmul_packed(x, pack(w)), if w never changes; what w
                                            was widened from is packed, where x is f32

`pack` is a chain of reshape, pad and transpose: in an inference entry it depends on weights alone,
so `hoist` moves it to `prepare`, which runs once at load; out of a loop `scans` moves it. bf16 is
packed by pairs where the CPU has dot products of it (`dots`). Input and output: an Entry whose
convolutions are NHWC; others, and dtypes that no template takes, stay as they are.

Non-goals: TVM (this runs in the user's process), the gradient of weights (it needs no packing).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Eqn, Function, Value, with_body
from dslc.ir.dims import Dim
from dslc.ir.op import Attrs, Op
from dslc.ir.rewrite import Context, Rule, made_of, rewrite
from dslc.ir.types import ITEMSIZE, DType
from dslc.lowering.rewrites.gates import divide
from dslc.lowering.rewrites.halves import pairs_along
from dslc.lowering.rewrites.im2col import is_product_of_rows, panels_of_rows, rows
from dslc.lowering.rewrites.phases import Phases, choose_phases, phased_image, phased_weights
from dslc.lowering.rewrites.rates import ONE, Rates
from dslc.lowering.rewrites.strassen import Product, pays, summed
from dslc.lowering.rewrites.winograd import Convolution, choose_tile, transformed
from dslc.ops.constants import cast as cast_op
from dslc.ops.conv import conv2d, conv2d_input_gradient
from dslc.ops.linalg import MatmulAttrs, matmul
from dslc.ops.packed import (
    KEPT,
    PackedConvAttrs,
    PackedMatmulAttrs,
    conv2d_packed,
    is_depthwise,
    matmul_packed,
    panel_width,
)
from dslc.ops.scan_attrs import ScanAttrs
from dslc.ops.shape import reshape, transpose
from dslc.ops.slicing import pad, slice_
from dslc.ops.strassen import StrassenAttrs, conv2d_strassen, matmul_strassen
from dslc.ops.windows import ConvAttrs, ConvInputGradientAttrs
from dslc.ops.winograd import WinogradAttrs, conv2d_winograd

Pair = tuple[int, int]
COPIED = 64  # output channels from which a copy of the image takes little beside the product
MOST_SPREAD = 4  # pixels of a spread image for one of them that isn't 0
SHORT = 8  # pixels of a row that fill half of a register of rows
WHOLE = 4  # channels of bf16 of which there is a multiple
LONG = 8  # vectors in a column that is worth a sum over lanes


@dataclass(frozen=True, slots=True)
class Vectors:
    """A CPU's vector registers, whether it has dot products of bf16, and whether sums have to be
    `exact`: no Winograd, no Strassen; how fast it does what they are made of; whether registers
    hold `matrices` of bf16."""

    bits: int
    dots: bool = False
    exact: bool = False
    rates: Rates = ONE
    matrices: bool = False

    def takes(self, dtype: DType) -> bool:
        """Whether there are kernels for the dtype."""
        return dtype in ("f32", "f64") or (dtype == "bf16" and self.dots)

    @property
    def by_rows(self) -> bool:
        """Whether 1x1 convolutions run as products of pixels (`kernels/convolutions.py`)."""
        return self.bits < 512 or self.rates.rows > 0

    def sums(self, dtype: DType, channels: int) -> bool:
        """Whether there are kernels that sum over so many channels: bf16 goes by pairs."""
        return dtype != "bf16" or channels % 2 == 0

    def lanes(self, dtype: DType) -> int:
        """Sums in a register."""
        return self.bits // 8 // (4 if dtype in KEPT else ITEMSIZE[dtype])


def pack_weights(
    entry: Entry, cpu: Vectors, fixed: Container[str], quick: Container[str] = ()
) -> Entry:
    """The entry for a CPU; `fixed`: variables that no entry changes; `quick`: those of them whose
    products go by Strassen's way."""
    function = entry.function
    weights = {
        param
        for param, argument in zip(function.params, entry.arguments)
        if argument.role in ("weight", "state") and argument.name in fixed
    }
    names = {param: a.name for param, a in zip(function.params, entry.arguments)}
    unchanging = made_of(weights, function)  # what `hoist` will take out

    def rule(eqn: Eqn, b: Builder, context: Context) -> Value | None:
        if eqn.op is conv2d:
            return _forward(eqn, b, cpu, bool(weights))
        if eqn.op is conv2d_input_gradient:
            return _to_input(eqn, b, cpu, bool(weights))
        if eqn.op is matmul:
            weight = eqn.inputs[1]
            if names.get(_moved_from(weight, context), "") in quick:
                return _product_of_sums(eqn, b, cpu)
            if unchanging.get(weight):
                return _product(eqn, b, cpu, _narrow(weight, context))
        return None

    rules: list[Rule] = [rule]
    return replace(entry, function=pack_in_loops(rewrite(function, rules), cpu))


def _moved_from(value: Value, context: Context) -> Value:
    """What the value is a cast, a part or another order of."""
    moves = (cast_op, reshape, transpose, slice_)
    while (eqn := context.producer(value)) is not None and eqn.op in moves:
        (value,) = eqn.inputs
    return value


def _narrow(value: Value, context: Context) -> Value:
    """What of fewer bits the f32 is, if that is what it was widened from; else the value."""
    eqn = context.producer(value)
    widened = eqn is not None and eqn.op is cast_op and eqn.inputs[0].type.dtype in KEPT
    return eqn.inputs[0] if eqn is not None and widened else value


def pack_in_loops(function: Function, cpu: Vectors) -> Function:
    """The function with the weights of products in loops packed: each step would do it again."""
    eqns: list[Eqn] = []
    for eqn in function.eqns:
        if isinstance(eqn.attrs, ScanAttrs):
            body = pack_in_loops(eqn.attrs.body, cpu)
            fixed = set(body.params[eqn.attrs.elements + eqn.attrs.carries :])
            lanes = {"f32": cpu.lanes("f32"), "f64": cpu.lanes("f64")}
            divided = divide(body, fixed, lanes, few=cpu.bits < 512)
            eqn = with_body(eqn, rewrite(divided, [_product_rule(fixed, cpu)]))
        eqns.append(eqn)
    return Function(function.name, function.params, tuple(eqns), function.results)


def _product_rule(fixed: set[Value], cpu: Vectors) -> Rule:
    def product(eqn: Eqn, b: Builder, context: Context) -> Value | None:
        if eqn.op is not matmul or eqn.inputs[1] not in fixed:
            return None
        return _product(eqn, b, cpu, eqn.inputs[1])

    return product


def _product(eqn: Eqn, b: Builder, cpu: Vectors, kept: Value) -> Value | None:
    """The product with its right side, or what of 16 bits that is, packed."""
    (x, w), attrs = eqn.inputs, cast(MatmulAttrs, eqn.attrs)
    plain = w.type.rank == 2 and w.type.is_static and cpu.takes(w.type.dtype)
    if attrs.transpose_a or not plain or 0 in w.type.dims:
        return None
    columns = cast(int, eqn.outputs[0].type.dims[1])
    # One column lies in memory as one row does.
    if (attrs.transpose_b or columns == 1) and _is_narrow(w, columns, cpu):
        return None
    packed = pack_matrix(b, kept, attrs.transpose_b, cpu)
    return _summed(b, matmul_packed, x, packed, PackedMatmulAttrs(columns))


def _product_of_sums(eqn: Eqn, b: Builder, cpu: Vectors) -> Value:
    """The product by Strassen's way."""
    (x, w), attrs = eqn.inputs, cast(MatmulAttrs, eqn.attrs)
    sums = summed(b, pack_matrix(b, w, attrs.transpose_b, cpu))
    return cast(Value, matmul_strassen(b, x, sums))


def _is_narrow(w: Value, columns: int, cpu: Vectors) -> bool:
    """Whether a panel of [N, K] would hold fewer columns than a vector, each of them long enough to
    be multiplied as it lies: a single one would waste all lanes but one."""
    inner = cast(int, w.type.size) // columns
    lanes = cpu.lanes(w.type.dtype)
    return columns < lanes * cpu.rates.narrow and inner >= (1 if columns == 1 else LONG) * lanes


def _summed(b: Builder, op: Op, x: Value, packed: Value, attrs: Attrs) -> Value:
    """What `op` makes of its operands, the second packed; of bf16 by pairs."""
    if x.type.dtype != "bf16":
        return b.emit(op, (x, packed), attrs)[0]
    pairs = pairs_along(b, x, last=True), pairs_along(b, packed, last=False)
    return cast(Value, cast_op(b, b.emit(op, pairs, attrs)[0], dtype="bf16"))


def pack_matrix(b: Builder, w: Value, transposed: bool, cpu: Vectors) -> Value:
    """The panels of a right side [K, N], or [N, K] if `transposed`."""
    columns = cast(int, w.type.dims[0 if transposed else 1])
    width = panel_width(columns, cpu.lanes(w.type.dtype))
    panels = -(-columns // width)
    missing = panels * width - columns
    if missing:
        high = (missing, 0) if transposed else (0, missing)
        w = cast(Value, pad(b, w, low=(0, 0), high=high))
    if transposed:
        apart = reshape(b, w, dims=(panels, width, w.type.dims[1]))
        return cast(Value, transpose(b, apart, perm=(0, 2, 1)))
    apart = reshape(b, w, dims=(w.type.dims[0], panels, width))
    return cast(Value, transpose(b, apart, perm=(1, 0, 2)))


def _packable(eqn: Eqn, cpu: Vectors) -> bool:
    attrs, weight = cast(ConvAttrs, eqn.attrs), eqn.inputs[1].type
    known = all(isinstance(d, int) for d in weight.dims)
    return known and attrs.layout == "NHWC" and cpu.takes(weight.dtype)


def _forward(eqn: Eqn, b: Builder, cpu: Vectors, fixed: bool) -> Value | None:
    attrs, (x, w) = cast(ConvAttrs, eqn.attrs), eqn.inputs
    if not _packable(eqn, cpu):
        return None
    made = PackedConvAttrs(
        cast(int, w.type.dims[0]), attrs.stride, attrs.padding, attrs.dilation,
        groups=attrs.groups, depthwise=_is_depthwise(w, attrs.groups),
    )  # fmt: skip
    if not cpu.sums(w.type.dtype, cast(int, w.type.dims[1])):
        return _of_more_channels(b, x, w, made, cpu)
    return _convolved(b, x, w, made, cpu, fixed, w)


def _convolved(
    b: Builder, x: Value, w: Value, attrs: PackedConvAttrs, cpu: Vectors, fixed: bool, stored: Value
) -> Value:
    """The convolution with its weights packed, by Winograd's way or Strassen's where that is
    quicker. `stored` are the weights, or what they are of turned round."""
    if _skips_pixels(x, w, attrs, cpu):
        down, across = attrs.stride
        x = cast(
            Value, slice_(b, x, starts=(0,) * 4, stops=x.type.dims, steps=(1, down, across, 1))
        )
        attrs = replace(attrs, stride=(1, 1))
    if is_product_of_rows(x, w, attrs, cpu.rates):
        packed = panels_of_rows(b, pack(b, w, 1, cpu))
        return b.emit(
            conv2d_packed, (rows(b, x, w, attrs), packed), PackedConvAttrs(attrs.channels)
        )[0]
    if fixed and _by_strassen(x, w, attrs, cpu):
        sums = summed(b, pack(b, w, 1, cpu))
        return b.emit(conv2d_strassen, (x, sums), StrassenAttrs(attrs.stride))[0]
    if (phases := _phases(x, w, attrs, cpu, fixed)) is not None:
        weights = pack(b, phased_weights(b, w, phases), 1, cpu)
        by_phase = WinogradAttrs(
            attrs.channels, phases.tile, (0, phases.spare(0), 0, phases.spare(1)),
            kernel=phases.taps,
        )  # fmt: skip
        sides = phased_image(b, x, phases), transformed(b, weights, phases.tile)
        return b.emit(conv2d_winograd, sides, by_phase)[0]
    if (tile := _tile(x, w, attrs, cpu, fixed)) == 0:
        packed = pack(b, w, attrs.groups, cpu, aliases=_aliases(x, attrs, cpu))
        return _summed(b, conv2d_packed, x, packed, attrs)
    step = attrs.stride[0]
    if not fixed:  # the kernel does it, since what is transformed takes up to four times the room
        as_stored = WinogradAttrs(
            attrs.channels, tile, attrs.padding, step, turned=stored is not w
        )  # fmt: skip
        return b.emit(conv2d_winograd, (x, stored), as_stored)[0]
    made = WinogradAttrs(attrs.channels, tile, attrs.padding, step)
    return b.emit(conv2d_winograd, (x, transformed(b, pack(b, w, 1, cpu), tile, step)), made)[0]


def _of_more_channels(
    b: Builder, x: Value, w: Value, attrs: PackedConvAttrs, cpu: Vectors
) -> Value | None:
    """The convolution of bf16 of an odd number of channels, others of zeros behind them; with a
    stride, without it, of phases. Registers of matrices are quick enough for that."""
    if not cpu.matrices or attrs.groups != 1:
        return None
    missing = -cast(int, w.type.dims[1]) % WHOLE
    w = cast(Value, pad(b, w, low=(0,) * 4, high=(0, missing, 0, 0)))
    planes = transpose(b, x, perm=(0, 3, 1, 2))
    planes = pad(b, planes, low=(0,) * 4, high=(0, missing, 0, 0))
    x = cast(Value, transpose(b, planes, perm=(0, 2, 3, 1)))
    square = _strided_square(x, w, attrs)
    if square is not None:
        (step, kernel), before, size = square
        phases = Phases(kernel, step, before, size, 1)
        x, w = phased_image(b, x, phases), phased_weights(b, w, phases)
        attrs = PackedConvAttrs(attrs.channels)
    return _summed(b, conv2d_packed, x, pack(b, w, 1, cpu), attrs)


def _skips_pixels(x: Value, w: Value, attrs: PackedConvAttrs, cpu: Vectors) -> bool:
    """Whether it is a product once the pixels that count lie side by side, and that is worth a
    copy."""
    plain = PackedConvAttrs(attrs.channels, stride=attrs.stride)
    if not cpu.by_rows or attrs != plain or attrs.stride == (1, 1) or w.type.dims[2:] != (1, 1):
        return False
    if w.type.dtype == "bf16" and cpu.matrices:  # pixels that lie apart fill their rows, too
        width = x.type.dims[2]
        return isinstance(width, int) and (width - 1) // attrs.stride[1] < SHORT
    return attrs.channels >= COPIED


def _by_strassen(x: Value, w: Value, attrs: PackedConvAttrs, cpu: Vectors) -> bool:
    """Whether the convolution is a product that is quicker by Strassen's way. A batch that is known
    only at each call counts as one image."""
    plain = PackedConvAttrs(attrs.channels, stride=attrs.stride)
    channels, kernel = x.type.dims[-1], w.type.dims[2:]
    if cpu.exact or x.type.dtype != "f32" or attrs != plain or kernel != (1, 1):
        return False
    n, height, width, _ = x.type.dims
    down, across = ((size - 1) // step + 1 for size, step in zip((height, width), attrs.stride))
    rows = (n if isinstance(n, int) else 1) * down * across
    lanes = cpu.lanes("f32")
    given = Product(rows, cast(int, channels), attrs.channels)
    return pays(given, lanes, panel_width(attrs.channels, lanes), cpu.rates)


def _aliases(x: Value, attrs: PackedConvAttrs, cpu: Vectors) -> bool:
    """Whether the pixels of a tile lie in the same few lines of the L1 cache: it has 8 of them for
    addresses that are a multiple of 4 KB apart, and tall tiles have more pixels."""
    channels = x.type.dims[-1]
    if cpu.bits != 512 or x.type.dtype != "f32" or attrs.spread != (1, 1) or attrs.groups != 1:
        return False
    return isinstance(channels, int) and channels * attrs.stride[1] * 4 % 4096 == 0


def _phases(x: Value, w: Value, attrs: PackedConvAttrs, cpu: Vectors, fixed: bool) -> Phases | None:
    """The phases that the convolution is to be one of, by Winograd's way."""
    if cpu.exact or x.type.dtype != "f32":
        return None
    square = _strided_square(x, w, attrs)
    if square is None:
        return None
    (step, kernel), before, size = square
    n, *_, channels = x.type.dims
    given = Convolution(n, *size, cast(int, channels), attrs.channels, step, kernel)
    return choose_phases(given, before, cpu.lanes("f32"), fixed, cpu.rates)


def _strided_square(x: Value, w: Value, attrs: PackedConvAttrs) -> tuple[Pair, Pair, Pair] | None:
    """Stride and kernel of a convolution of squares with a stride, of an image of known size; the
    zeros above and on the left, and the size of the result."""
    step = attrs.stride[0]
    plain = PackedConvAttrs(attrs.channels, (step, step), attrs.padding)
    _, *known = x.type.dims
    kernel = cast(tuple[int, ...], w.type.dims[2:])
    if attrs != plain or kernel[0] != kernel[1] or step == 1:
        return None
    if not all(isinstance(d, int) for d in (*known, *attrs.padding)):
        return None
    height, width, _ = cast(tuple[int, ...], tuple(known))
    top, bottom, left, right = cast(tuple[int, ...], attrs.padding)
    if min(top, left) < 0:
        return None
    down, across = height + top + bottom, width + left + right
    size = (down - kernel[0]) // step + 1, (across - kernel[0]) // step + 1
    return (step, kernel[0]), (top, left), size


def _tile(x: Value, w: Value, attrs: PackedConvAttrs, cpu: Vectors, fixed: bool) -> int:
    """The size of Winograd's tiles; 0 for the plain sum."""
    step = attrs.stride[0]
    plain = PackedConvAttrs(attrs.channels, (step, step), attrs.padding)
    channels, kernel = x.type.dims[-1], w.type.dims[2:]
    if cpu.exact or x.type.dtype != "f32" or attrs != plain or kernel != (3, 3) or step > 2:
        return 0
    if not isinstance(channels, int) or not all(isinstance(p, int) for p in attrs.padding):
        return 0
    n, height, width, _ = x.type.dims
    top, bottom, left, right = attrs.padding
    down, across = (height + top + bottom - 3) // step + 1, (width + left + right - 3) // step + 1
    conv = Convolution(n, down, across, channels, attrs.channels, step)
    return choose_tile(conv, cpu.lanes("f32"), fixed, cpu.rates)


def _to_input(eqn: Eqn, b: Builder, cpu: Vectors, fixed: bool) -> Value | None:
    """The gradient as a convolution of the cotangent, spread by the stride."""
    if not _packable(eqn, cpu):
        return None
    attrs, (g, w) = cast(ConvInputGradientAttrs, eqn.attrs), eqn.inputs
    out, per_group, kh, kw = cast(tuple[int, ...], w.type.dims)
    if not cpu.sums(w.type.dtype, out // attrs.groups):
        return None
    if w.type.dtype == "bf16" and cpu.matrices and attrs.stride[0] * attrs.stride[1] > MOST_SPREAD:
        return None  # f32 is quicker than to multiply so many zeros
    turned = turned_round(b, w, attrs.groups)
    top, left = attrs.padding[0], attrs.padding[2]
    padding: list[Dim] = []
    for axis, low in ((0, top), (1, left)):
        reach = ((kh, kw)[axis] - 1) * attrs.dilation[axis]
        seen = (g.type.dims[1 + axis] - 1) * attrs.stride[axis] + 1
        padding += [reach - low, attrs.size[axis] - seen + low]
    above, below, before, behind = padding
    made = PackedConvAttrs(
        per_group * attrs.groups, padding=(above, below, before, behind),
        dilation=attrs.dilation, spread=attrs.stride, groups=attrs.groups,
        depthwise=_is_depthwise(turned, attrs.groups),
    )  # fmt: skip
    return _convolved(b, g, turned, made, cpu, fixed, w)


def turned_round(b: Builder, w: Value, groups: int) -> Value:
    """Weights of the adjoint: kernel positions reversed, channels in and out swapped by group."""
    out, per_group, kh, kw = cast(tuple[int, ...], w.type.dims)
    value = slice_(
        b, w, starts=(0, 0, kh - 1, kw - 1), stops=(out, per_group, -1, -1), steps=(1, 1, -1, -1)
    )
    value = reshape(b, value, dims=(groups, out // groups, per_group, kh, kw))
    value = transpose(b, value, perm=(0, 2, 1, 3, 4))
    return cast(Value, reshape(b, value, dims=(groups * per_group, out // groups, kh, kw)))


def _is_depthwise(w: Value, groups: int) -> bool:
    """Whether OIHW weights are for the depthwise template."""
    out, per_group, kh, kw = cast(tuple[int, ...], w.type.dims)
    return is_depthwise(out, per_group, (kh, kw), groups)


def pack(b: Builder, w: Value, groups: int, cpu: Vectors, aliases: bool = False) -> Value:
    """The panels of OIHW weights; `aliases`: for tiles that are low and wide."""
    out, per_group, kh, kw = cast(tuple[int, ...], w.type.dims)
    lanes, depthwise = cpu.lanes(w.type.dtype), _is_depthwise(w, groups)
    count = 1 if depthwise else groups
    width = lanes if depthwise else panel_width(out // groups, lanes)
    width = 4 * lanes if aliases and out >= 4 * lanes else width
    panels = -(-(out // count) // width)
    missing = panels * width - out // count
    value = reshape(b, w, dims=(count, out // count, per_group, kh, kw))
    if missing:
        value = pad(b, value, low=(0,) * 5, high=(0, missing, 0, 0, 0))
    value = reshape(b, value, dims=(count, panels, width, per_group, kh, kw))
    value = transpose(b, value, perm=(0, 1, 4, 5, 3, 2))
    return cast(Value, reshape(b, value, dims=(count * panels, kh, kw, per_group, width)))
