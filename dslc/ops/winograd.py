"""Winograd's way to convolve with small kernels: for the CPU; made by the lowering alone.

F(m, r) makes m x m results from (m + r - 1) x (m + r - 1) pixels d by as many products, where the
sum over a kernel of r x r needs r r m m (Lavin and Gray 2016, arXiv:1509.09308):

    y = A ((G w G') * (B d B')) A'

The product in the middle is element by element, over m + r - 1 frequencies each way; it is what is
summed over channels. What it costs is precision: F(2, 3) is as good as the plain sum, F(4, 3) and
F(3, 4) up to ten times less precise, since their numbers grow on the way. `docs/design/0024` has
the bounds.

With a stride of 2 a kernel of 3 falls apart, along each axis: two of its weights see every other
pixel, F(m, 2) with m + 1 frequencies; the third sees the others, m of them, all with one weight.

Images are NHWC, the transformed weights lie in panels like those of `packed.py`; m + r - 1 is m + 2
with a stride of 2, too:

    [panels, m + r - 1, m + r - 1, C, width],    zeros beyond the last channel.

Where they change with each call, they are given as they lie, [O, C, r, r], or `turned`: those of
the convolution that this is the adjoint of, [C, O, r, r], and each kernel the other way round. The
kernel transforms them, then.

Non-goals: when it pays (`lowering/rewrites/winograd.py`), how it runs
(`schedules/cpu/conv/winograd.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
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
from dslc.ir.types import DType, TensorType

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True)
class Way:
    """Along one axis: `g`, `b` and `a` take weights, pixels, and products back; `weights`: the row
    of `g` that each frequency is multiplied by."""

    g: Matrix
    b: Matrix
    a: Matrix
    weights: tuple[int, ...]

    @property
    def frequencies(self) -> int:
        return len(self.b)

    @property
    def pixels(self) -> int:
        """That a tile sees."""
        return len(self.b[0])


def _plain(g: Matrix, b: Matrix, a: Matrix) -> Way:
    return Way(g, b, a, tuple(range(len(b))))


def _strided(g: Matrix, b: Matrix, a: Matrix) -> Way:
    """By a stride of 2, from F(m, 2): the first and the last weight see every other pixel, as if
    there were no others. The one in the middle sees these, and stays as it is."""
    m = len(a)
    outer, inner = range(0, 2 * m + 1, 2), range(1, 2 * m, 2)

    def unit(size: int, at: int) -> tuple[float, ...]:
        return tuple(float(i == at) for i in range(size))

    def apart(row: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(row[outer.index(i)] if i in outer else 0 for i in range(2 * m + 1))

    weights = (*((first, 0, last) for first, last in g), (0, 1, 0))
    pixels = (*map(apart, b), *(unit(2 * m + 1, at) for at in inner))
    results = tuple((*row, *unit(m, i)) for i, row in enumerate(a))
    return Way(weights, pixels, results, (*range(m + 1), *[m + 1] * m))


# What is made of six pixels, for the points 0, 1, -1, 2, -2 and infinity.
SIX_PIXELS: Matrix = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)

# By the size of the kernel, the stride, and how many results a tile has along one side.
WAYS: Mapping[tuple[int, int, int], Way] = {
    (3, 1, 2): _plain(
        ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        ((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    (3, 1, 4): _plain(
        (
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        SIX_PIXELS,
        ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
    (3, 2, 2): _strided(
        ((1, 0), (1, 1), (0, 1)),
        ((1, -1, 0), (0, 1, 0), (0, -1, 1)),
        ((1, 1, 0), (0, 1, 1)),
    ),
    (3, 2, 4): _strided(
        ((1 / 2, 0), (-1 / 2, -1 / 2), (-1 / 6, 1 / 6), (1 / 6, 1 / 3), (0, 1)),
        ((2, -1, -2, 1, 0), (0, -2, -1, 1, 0), (0, 2, -3, 1, 0), (0, -1, 0, 1, 0),
         (0, 2, -1, -2, 1)),
        ((1, 1, 1, 1, 0), (0, 1, -1, 2, 0), (0, 1, 1, 4, 0), (0, 1, -1, 8, 1)),
    ),
    (4, 1, 3): _plain(
        (
            (1 / 4, 0, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6, 1 / 6),
            (1 / 24, 1 / 12, 1 / 6, 1 / 3),
            (1 / 24, -1 / 12, 1 / 6, -1 / 3),
            (0, 0, 0, 1),
        ),
        SIX_PIXELS,
        ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 1)),
    ),
}  # fmt: skip


def tiles(kernel: int, stride: int) -> tuple[int, ...]:
    """The sizes that a tile may have, m."""
    return tuple(m for taps, step, m in WAYS if (taps, step) == (kernel, stride))


@dataclass(frozen=True, slots=True)
class WinogradAttrs(Attrs):
    """`channels` of the result, `tile` is m, `padding` is (top, bottom, left, right), `stride` and
    `kernel` those of both axes; `turned` are weights as they lie, if they are."""

    channels: int
    tile: int
    padding: tuple[Dim, Dim, Dim, Dim] = (0, 0, 0, 0)
    stride: int = 1
    kernel: int = 3
    turned: bool = False

    @property
    def way(self) -> Way:
        return WAYS[self.kernel, self.stride, self.tile]


def _type(attrs: WinogradAttrs, x: TensorType, w: TensorType) -> TensorType:
    if (
        x.rank != 4
        or w.rank not in (4, 5)
        or {x.dtype, w.dtype} != {"f32"}
        or ((attrs.kernel, attrs.stride, attrs.tile) not in WAYS)
    ):
        raise TypeRuleError(f"cannot convolve {x} with transformed weights {w}")
    n, height, width, channels = x.dims
    top, bottom, left, right = attrs.padding
    a, lanes, taps = len(attrs.way.g), w.dims[-1], attrs.kernel
    if not isinstance(lanes, int):
        raise TypeRuleError(f"transformed weights need known dims: {w}")
    expected: tuple[Dim, ...] = (-(-attrs.channels // lanes), a, a, channels, lanes)
    if w.rank == 4:
        sides = (channels, attrs.channels) if attrs.turned else (attrs.channels, channels)
        expected = (*sides, taps, taps)
    if w.dims != expected:
        raise TypeRuleError(f"transformed weights {w} should have dims {expected}")
    down, across = (
        (size - attrs.kernel) // attrs.stride + 1
        for size in (height + top + bottom, width + left + right)
    )
    return x.with_dims((n, down, across, attrs.channels))


def _reference(attrs: WinogradAttrs, x: Any, w: Any) -> Any:
    m, step, way = attrs.tile, attrs.stride, attrs.way
    top, bottom, left, right = cast(tuple[int, ...], attrs.padding)
    n, height, width, channels = x.shape
    oh, ow = (
        (size - attrs.kernel) // step + 1 for size in (height + top + bottom, width + left + right)
    )
    if w.ndim == 4:
        g = np.array(way.g, x.dtype)
        plain = w.swapaxes(0, 1)[:, :, ::-1, ::-1] if attrs.turned else w
        weight = np.einsum("pi,qj,ocij->pqco", g, g, plain)
    else:
        panels, a, _, _, lanes = w.shape
        weight = w.transpose(1, 2, 3, 0, 4).reshape(a, a, channels, panels * lanes)
    weight = weight[list(way.weights)][:, list(way.weights)]
    back, into = np.array(way.a, x.dtype), np.array(way.b, x.dtype)
    # Cropped or padded, and by whole tiles.
    spare = (-(-oh // m) * m - oh, -(-ow // m) * m - ow)
    sides = ((0, 0), (top, bottom + step * spare[0]), (left, right + step * spare[1]), (0, 0))
    image = np.pad(x, [(max(0, low), max(0, high)) for low, high in sides])
    image = image[:, max(0, -top) :, max(0, -left) :]
    result = np.zeros((n, oh + spare[0], ow + spare[1], weight.shape[3]), x.dtype)
    for i in range(0, oh, m):
        for j in range(0, ow, m):
            rows = slice(i * step, i * step + way.pixels)
            columns = slice(j * step, j * step + way.pixels)
            seen = np.einsum("pr,qs,nrsc->npqc", into, into, image[:, rows, columns])
            products = np.einsum("npqc,pqco->npqo", seen, weight)
            made = np.einsum("ip,jq,npqo->nijo", back, back, products)
            result[:, i : i + m, j : j + m] = made
    return result[:, :oh, :ow, : attrs.channels]


def _entry(k: Kernels, dtype: DType, matrix: Matrix, row: Expr, column: Expr) -> Expr:
    """An element of a matrix of numbers."""
    of_row = [k.compare("eq", row, k.dim(i), "index") for i in range(len(matrix))]
    of_column = [k.compare("eq", column, k.dim(j), "index") for j in range(len(matrix[0]))]
    found = k.const(0, dtype)
    for here, numbers in zip(of_row, matrix):
        in_row = k.const(0, dtype)
        for there, number in zip(of_column, numbers):
            if number:
                in_row = k.select(there, k.const(number, dtype), in_row)
        found = k.select(here, in_row, found)
    return found


def _compute(
    k: Kernels, attrs: WinogradAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    """The whole sum over frequencies, pixels and channels; its template has a better way."""
    (x, w), m, way = operands, attrs.tile, attrs.way
    channels, width, taps = x.type.dims[3], w.type.dims[-1], attrs.kernel
    dtype, plain = x.type.dtype, w.type.rank == 4

    entry = partial(_entry, k, dtype)

    def number(frequency: Expr) -> Expr:
        """That of the weights which a frequency is multiplied by."""
        last = k.dim(way.weights[-1])
        return k.select(k.compare("lt", frequency, last, "index"), frequency, last)

    def side(at: Expr, frequency: Expr, step: Expr, axis: int) -> tuple[Expr, Expr, Expr]:
        """Along one axis: the factor of a pixel, which it is, and whether there is one."""
        within = k.binary("mod", at, k.dim(m), "index")
        first = k.binary("mul", k.binary("sub", at, within, "index"), k.dim(attrs.stride), "index")
        pixel = k.binary("add", first, step, "index")
        pixel = k.binary("sub", pixel, k.dim(attrs.padding[2 * axis]), "index")
        above = k.compare("ge", pixel, k.dim(0), "index")
        below = k.compare("lt", pixel, k.dim(x.type.dims[1 + axis]), "index")
        factors = entry(way.a, within, frequency), entry(way.b, frequency, step)
        return k.binary("mul", *factors, dtype), pixel, k.binary("and", above, below, "bool")

    def weight_at(p: Expr, q: Expr, c: Expr, o: Expr, tap: Index) -> Expr:
        """Of frequency (p, q); of weights as they lie what one of them adds to it."""
        if not plain:
            panel = k.binary("floordiv", o, k.dim(width), "index")
            return w((panel, p, q, c, k.binary("mod", o, k.dim(width), "index")))
        places = tap
        if attrs.turned:
            places = tuple(k.binary("sub", k.dim(taps - 1), at, "index") for at in tap)
        value = w((c, o, *places) if attrs.turned else (o, c, *places))
        factor = k.binary("mul", entry(way.g, p, tap[0]), entry(way.g, q, tap[1]), dtype)
        return k.binary("mul", factor, value, dtype)

    def read(index: Index) -> Expr:
        n, row, column, o = index

        def product(r: Index) -> Expr:
            p, q, i, j, c, *tap = r
            (down, h, inside_h), (across, v, inside_v) = side(row, p, i, 0), side(column, q, j, 1)
            inside = k.binary("and", inside_h, inside_v, "bool")
            seen = k.guarded(inside, lambda: x((n, h, v, c)), k.const(0, dtype))
            of_p, of_q = number(p), number(q)
            weight = k.binary("mul", weight_at(of_p, of_q, c, o, tuple(tap)), seen, dtype)
            return k.binary("mul", k.binary("mul", down, across, dtype), weight, dtype)

        sizes = (way.frequencies, way.frequencies, way.pixels, way.pixels, channels)
        return k.reduce("sum", (*sizes, taps, taps) if plain else sizes, product, dtype)

    return read


def _sample(
    image: tuple[Dim, ...], panels: int, channels: int, tile: int, *padding: int, width: int = 8,
    stride: int = 1, kernel: int = 3, plain: bool = False, turned: bool = False,
) -> Sample:  # fmt: skip
    a = len(WAYS[kernel, stride, tile].g)
    weight = TensorType("f32", (panels, a, a, image[3], width))
    if plain:
        sides = (image[3], channels) if turned else (channels, image[3])
        weight = TensorType("f32", (*sides, kernel, kernel))
    top, bottom, left, right = padding or (1, 1, 1, 1)
    return Sample(
        (TensorType("f32", image), weight),
        WinogradAttrs(channels, tile, (top, bottom, left, right), stride, kernel, turned),
        rtol=2e-5 if tile == 2 else 2e-4,
        why="sums of numbers that grow on the way",
    )


conv2d_winograd = Op(
    "conv2d_winograd",
    attrs=WinogradAttrs,
    type_rule=_type,
    reference=_reference,
    gradient=NoFacet("the lowering makes it, after gradients are taken"),
    compute=_compute,
    samples=(
        # Small: read element by element, the sum has (m + 2)^4 terms for each channel.
        _sample((1, 3, 4, 2), 1, 2, 2),
        _sample((1, 2, 4, 1), 1, 2, 4, 0, 1, 1, 2, width=16),
        _sample((1, 5, 2, 1), 2, 9, 2, -1, 0, 2, 1),
        _sample((sym("N"), 2, 3, 1), 1, 2, 2),
        _sample((0, 5, 5, 3), 1, 8, 4),
        _sample((1, 4, 3, 1), 1, 1, 2, 0, 1, 1, 2, stride=2),
        _sample((1, 2, 1, 1), 1, 1, 4, width=16, stride=2),
        _sample((1, 4, 1, 1), 1, 2, 3, 2, 1, 1, 2, kernel=4),
        _sample((1, 2, 3, 2), 1, 3, 2, plain=True),
        _sample((1, 3, 2, 2), 1, 3, 2, plain=True, turned=True),
        _sample((sym("N"), 1, 2, 1), 1, 2, 2, stride=2, plain=True, turned=True),
    ),
)

OPS: tuple[Op, ...] = (conv2d_winograd,)
