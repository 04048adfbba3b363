"""Sums that are convolutions, of one or two dims, in any order of their factors and dims.

    sum[c, ky, kx](w[o, c, ky, kx] * (x[n, c, 2 * i + ky - 1, 2 * j + kx - 1] else 0))

Input: a reduction and the two reads that it sums products of. Output: the `conv2d` that computes
it, with transposes and reshapes around where the dims stand otherwise; None if it is none. Indices
play the roles of batch (kept, of x), channels (summed, of both), outputs (kept, of w), groups
(kept, of both), places (kept, of x, beside a kernel index) and kernel indices. Several may share a
role.
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc._frozen import dataclass
from dslc.ir.core import Value
from dslc.ir.dims import Dim, product
from dslc.ir.types import is_float
from dslc.ops.windows import window_count
from dslc.semantics.formulas.affine import affine
from dslc.semantics.formulas.formula import Index, Read, Reduction
from dslc.semantics.formulas.lowering import Cell, Lowering


@dataclass(frozen=True, slots=True)
class _Place:
    """An axis of the image: `stride * out + dilation * kernel + offset`; a dilation below 0 walks
    the kernel backwards."""

    axis: int
    out: Index
    kernel: Index
    stride: int
    dilation: int
    offset: int


@dataclass(frozen=True, slots=True)
class _Window:
    """How a convolution walks one axis: what is cut off the image's ends, and put around it."""

    start: int
    stop: Dim
    low: int
    high: int


def as_convolution(lowering: Lowering, reduction: Reduction, x: Read, w: Read) -> Cell | None:
    """`sum(x * w)` as a convolution of the image x with the weight w."""
    if x.outside not in (None, 0) or not is_float(x.source.type.dtype) or w.guarded:
        return None
    weight = [_alone(lowering, w, axis) for axis in range(len(w.positions))]
    image = [_alone(lowering, x, axis) for axis in range(len(x.positions))]
    places = [
        _place(lowering, reduction, x, axis) for axis, index in enumerate(image) if index is None
    ]
    if not 1 <= len(places) <= 2:
        return None
    found = [place for place in places if place is not None]
    named = [index for index in weight if index is not None]
    if len(found) < len(places) or len(named) < len(weight):
        return None
    roles = _roles(reduction, [index for index in image if index is not None], named, found)
    if roles is None or any(axis in x.guarded for axis, index in enumerate(image) if index):
        return None
    windows = [_window(lowering, x, place) for place in found]
    fitting = [window for window in windows if window is not None]
    if len(fitting) < len(windows):
        return None
    return _build(lowering, x, w, image, named, found, fitting, roles)


@dataclass(frozen=True, slots=True)
class _Roles:
    batch: tuple[Index, ...]
    groups: tuple[Index, ...]
    channels: tuple[Index, ...]
    outputs: tuple[Index, ...]


def _alone(lowering: Lowering, read: Read, axis: int) -> Index | None:
    """The index that walks the whole axis alone."""
    found = affine(lowering.symbols, read.positions[axis])
    if found is None or found[0] != 0 or list(found[1].values()) != [1]:
        return None
    (index,) = found[1]
    same = lowering.ctx.prover.equal(index.size, read.source.type.dims[axis])
    return index if same is True else None


def _place(lowering: Lowering, reduction: Reduction, read: Read, axis: int) -> _Place | None:
    found = affine(lowering.symbols, read.positions[axis])
    if found is None or len(found[1]) != 2 or not isinstance(found[0], int):
        return None
    a, b = found[1].items()
    out, kernel = (a, b) if b[0] in reduction.indices else (b, a)
    stride, dilation = out[1], kernel[1]
    if not isinstance(stride, int) or not isinstance(dilation, int) or stride < 1 or not dilation:
        return None
    return _Place(axis, out[0], kernel[0], stride, dilation, found[0])


def _roles(
    reduction: Reduction, image: list[Index], weight: list[Index], places: Sequence[_Place]
) -> _Roles | None:
    summed = reduction.indices
    kernels = [place.kernel for place in places]
    outs = [place.out for place in places]
    once = [*image, *kernels, *outs]
    if len(set(once)) < len(once) or len(set(weight)) < len(weight):
        return None
    if any(k not in weight or k not in summed or not isinstance(k.size, int) for k in kernels):
        return None
    if any(out in weight or out in summed for out in outs):
        return None
    shared = [index for index in image if index in weight]
    roles = _Roles(
        tuple(index for index in image if index not in weight),
        tuple(index for index in shared if index not in summed),
        tuple(index for index in shared if index in summed),
        tuple(index for index in weight if index not in image and index not in kernels),
    )
    if any(index in summed for index in (*roles.batch, *roles.outputs)):
        return None
    if set(summed) != {*roles.channels, *kernels}:
        return None
    if not (roles.groups or roles.channels or roles.outputs):
        return None  # a filter of one signal is no work for a kernel of many channels
    if not isinstance(product(index.size for index in roles.groups), int):
        return None
    return roles


def _window(lowering: Lowering, x: Read, place: _Place) -> _Window | None:
    """Cuts and padding with which the convolution gives as many places as the index has values."""
    size, count = x.source.type.dims[place.axis], place.out.size
    kernel, dilation = place.kernel.size, abs(place.dilation)
    if not isinstance(kernel, int) or kernel < 1 or count == 0:
        return None
    reach = (kernel - 1) * dilation
    first = place.offset - (reach if place.dilation < 0 else 0)
    low, start = max(-first, 0), max(first, 0)
    left = size - start
    needed = place.stride * (count - 1) + reach + 1 - low - left
    # What the last window leaves unseen is cut off, too.
    stop = size + needed if isinstance(needed, int) and needed < 0 else size
    if start != 0 or stop != size:
        prover = lowering.ctx.prover
        if prover.compare(start, "<=", stop) is not True:
            return None  # windows may stand outside of the image as a whole
    if stop != size:
        return _Window(start, stop, low, 0)
    tried = [needed] if isinstance(needed, int) else range(reach + place.stride)
    for high in tried:
        made = window_count(left, kernel, place.stride, low, high, dilation)
        if lowering.ctx.prover.equal(made, count) is True:
            guarded = place.axis in x.guarded
            return _Window(start, size, low, high) if guarded or low == high == 0 else None
    return None


def _build(
    lowering: Lowering,
    x: Read,
    w: Read,
    image: Sequence[Index | None],
    weight: Sequence[Index],
    places: Sequence[_Place],
    windows: Sequence[_Window],
    roles: _Roles,
) -> Cell:
    around = (roles.batch, roles.groups, roles.channels)
    order = [image.index(index) for role in around for index in role]
    cut = _cut(lowering, x.source, places, windows)
    moved = lowering.transposed(cut, [*order, *(place.axis for place in places)])
    spatial = moved.type.dims[len(order) :]
    batch, groups, channels = (product(i.size for i in role) for role in around)
    ones = (1,) * (2 - len(places))
    pixels = lowering.reshaped(moved, (batch, groups * channels, *ones, *spatial))
    kernels = [place.kernel for place in places]
    order = [weight.index(i) for i in (*roles.groups, *roles.outputs, *roles.channels, *kernels)]
    filters = lowering.transposed(_turned(lowering, w.source, weight, places), order)
    outputs = product(i.size for i in roles.outputs)
    sizes = tuple(kernel.size for kernel in kernels)
    filters = lowering.reshaped(filters, (groups * outputs, channels, *ones, *sizes))
    padding = [(0, 0)] * len(ones) + [(window.low, window.high) for window in windows]
    result = lowering.emit(
        "conv2d",
        (pixels, filters),
        stride=(*ones, *(place.stride for place in places)),
        padding=tuple(side for pair in padding for side in pair),
        dilation=(*ones, *(abs(place.dilation) for place in places)),
        groups=groups,
    )
    outs = tuple(place.out for place in places)
    sizes = tuple(out.size for out in outs)
    result = lowering.relabelled(result, (*result.type.dims[:2], *ones, *sizes))
    axes = (*roles.batch, *roles.groups, *roles.outputs, *outs)
    return Cell(lowering.reshaped(result, tuple(axis.size for axis in axes)), axes)


def _cut(
    lowering: Lowering, image: Value, places: Sequence[_Place], windows: Sequence[_Window]
) -> Value:
    """The image without the ends that no window sees."""
    dims = image.type.dims
    starts: list[Dim] = [0] * len(dims)
    stops: list[Dim] = list(dims)
    for place, window in zip(places, windows):
        starts[place.axis], stops[place.axis] = window.start, window.stop
    if not any(starts) and tuple(stops) == dims:
        return image
    steps = (1,) * len(dims)
    return lowering.emit("slice", (image,), starts=tuple(starts), stops=tuple(stops), steps=steps)


def _turned(
    lowering: Lowering, weight: Value, axes: Sequence[Index], places: Sequence[_Place]
) -> Value:
    """The weight with the kernels reversed that are walked backwards."""
    back = [axes.index(place.kernel) for place in places if place.dilation < 0]
    if not back:
        return weight
    dims = weight.type.dims
    return lowering.emit(
        "slice",
        (weight,),
        starts=tuple(dim - 1 if axis in back else 0 for axis, dim in enumerate(dims)),
        stops=tuple(-1 if axis in back else dim for axis, dim in enumerate(dims)),
        steps=tuple(-1 if axis in back else 1 for axis in range(len(dims))),
    )
