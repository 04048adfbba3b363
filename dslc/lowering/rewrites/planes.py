"""Decides whether convolutions run over planes (NCHW) or over pixels (NHWC) on a CPU.

Input: a function whose images are planes, and what the pass `layout` made of it. Output: whether
the first one is quicker. It counts cycles: of each convolution, by the template it would have
(`schedules/cpu/conv/plane_choice.py`, or those of `pack.py`), and of the transposes that the
second function has. Convolutions alone between a program's inputs and outputs are quicker over
planes, mostly; networks of them are not.

Non-goals: functions with pools or gradients of convolutions, which have kernels for pixels alone.
"""

from __future__ import annotations

from typing import cast

from dslc.ir.core import Eqn, Function
from dslc.ir.dims import Dim
from dslc.lowering.rewrites.pack import Vectors
from dslc.lowering.rewrites.phases import choose_phases
from dslc.lowering.rewrites.rates import Rates
from dslc.lowering.rewrites.winograd import Convolution, choose_tile, costs
from dslc.ops.packed import is_depthwise, panel_width
from dslc.ops.scan_attrs import ScanAttrs
from dslc.ops.windows import ConvAttrs
from dslc.schedules.cpu.conv.plane_choice import choose_template
from dslc.schedules.cpu.conv.plane_tile import takes_planes
from dslc.schedules.cpu.conv.shape import ConvShape

STORED = {"f32": "float32", "f64": "float64"}  # what there are kernels for
OTHER_IMAGE_OPS = ("pool2d", "conv2d_")
# Cycles for each vector of pixels x channels: handing a result on; copying what has padding; what a
# depthwise kernel takes longer where channels are no whole vectors.
RESULT, COPY, RAGGED = 6.0, 4.0, 5.0
TURNED, SCATTERED = 0.7, 0.8  # of each element: turned in registers, or moved one by one
KERNEL = 2000  # of a transpose: to begin it
# Elements that no cache holds, and what each takes on its way; the same of CPUs without AVX-512.
FAR, TRAVELLED = 1 << 21, 1.5
NARROW_FAR, NARROW_TRAVELLED = 1 << 20, 3.0
BLOCK = 16  # channels, and pixels, that are turned together
FULL = 1.1  # cycles of a multiply-add of the register tile
MEASURED = 512  # bits of the vectors that this was measured with


def conv_shape(eqn: Eqn) -> ConvShape | None:
    """The shape of a forward convolution over planes, if all but its batch is known."""
    attrs, (x, w) = cast(ConvAttrs, eqn.attrs), eqn.inputs
    n, *known = x.type.dims
    kernel = w.type.dims
    if attrs.layout != "NCHW" or not all(isinstance(d, int) for d in (*known, *kernel)):
        return None
    channels, height, width = cast(tuple[int, ...], tuple(known))
    out, _, kh, kw = cast(tuple[int, ...], kernel)
    top, bottom, left, right = attrs.padding
    return ConvShape(
        n, height, width, channels, out, (kh, kw), attrs.stride, ((top, bottom), (left, right)),
        attrs.dilation, attrs.groups,
    )  # fmt: skip


def prefers_planes(planes: Function, pixels: Function, cpu: Vectors) -> bool:
    """Whether the function over planes is quicker than the one over pixels."""
    if not any(eqn.op.name == "conv2d" for eqn in planes.eqns):
        return False
    total = 0.0
    for eqn in planes.eqns:
        if isinstance(eqn.attrs, ScanAttrs):  # its body may have convolutions, too
            return False
        if eqn.op.name == "conv2d":
            shape, dtype = conv_shape(eqn), eqn.inputs[0].type.dtype
            if shape is None or not takes_planes(shape, STORED.get(dtype, "")):
                return False
            lanes, registers = cpu.lanes(dtype), 32 if cpu.bits == 512 else 16
            rates = cpu.rates if dtype == "f32" and not cpu.exact else None
            _, over_planes = choose_template(shape, STORED[dtype], lanes, registers, flat=True)
            total += over_planes - _over_pixels(shape, lanes, rates)
        elif any(name in eqn.op.name for name in OTHER_IMAGE_OPS):
            return False
    turned = (eqn for eqn in pixels.eqns if eqn.op.name == "transpose")
    # What is moved one by one is no quicker where vectors are narrow and cycles stand for fewer.
    narrow = cpu.bits < MEASURED
    return total < sum(_of_turning(eqn, narrow) for eqn in turned) * MEASURED / cpu.bits


def _over_pixels(shape: ConvShape, lanes: int, rates: Rates | None) -> float:
    """Cycles of a convolution with channels last; `rates`: of Winograd's way, if that is open."""
    batch = shape.batch if isinstance(shape.batch, int) else 1
    (kh, kw), (height, width) = shape.kernel, shape.out
    pixels, taps = batch * height * width, kh * kw
    inputs = -(-shape.channels // lanes)
    copied = batch * shape.height * shape.width * inputs * COPY if shape.is_padded else 0.0
    if is_depthwise(shape.out_channels, shape.group_channels, shape.kernel, shape.groups):
        masked = RAGGED if shape.channels % lanes else 0.0
        return cast(float, pixels * inputs * (FULL * taps + RESULT + masked))
    outputs, width = shape.group_out_channels, panel_width(shape.group_out_channels, lanes)
    vectors = shape.groups * -(-outputs // width) * (width // lanes)
    products = FULL * taps * shape.group_channels * shape.rows_seen
    found = None if rates is None else _by_winograd(shape, lanes, rates)
    return found or cast(float, pixels * vectors * (products + RESULT) + copied)


def _by_winograd(shape: ConvShape, lanes: int, rates: Rates) -> float | None:
    """Cycles by Winograd's way, if that is taken."""
    (kernel, across), (step, _), (before, _), (left, _) = shape.kernel, shape.stride, *shape.padding
    square = kernel == across and shape.stride == (step, step)
    if not square or shape.dilation != (1, 1) or shape.groups > 1:
        return None
    sizes = (shape.batch, *shape.out, shape.channels, shape.out_channels)
    conv = Convolution(*sizes, step, kernel)
    phases = choose_phases(conv, (before, left), lanes, True, rates) if step > 1 else None
    if phases is not None:
        return phases.cycles
    tile = choose_tile(conv, lanes, True, rates) if kernel == 3 and step <= 2 else 0
    return costs(conv, lanes, True, rates)[tile] if tile else None


def _of_turning(eqn: Eqn, narrow: bool) -> float:
    """Cycles of a transpose, of images with channels last to or from planes."""
    dims = [_known(dim) for dim in eqn.outputs[0].type.dims]
    perm: tuple[int, ...] = getattr(eqn.attrs, "perm", ())
    if len(dims) != 4 or perm[3:] == (3,):
        return 0.0
    total = dims[0] * dims[1] * dims[2] * dims[3]
    whole = 1.0
    for size in (dims[-1], dims[perm.index(3)]):
        whole *= size // BLOCK * BLOCK / max(1, size)
    far, travelled = (NARROW_FAR, NARROW_TRAVELLED) if narrow else (FAR, TRAVELLED)
    moved = travelled if total > far else 0.0
    return KERNEL + total * (whole * TURNED + (1 - whole) * SCATTERED + moved)


def _known(dim: Dim) -> int:
    return dim if isinstance(dim, int) else 1
