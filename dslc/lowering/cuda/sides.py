"""The sides of contractions: where the element of a line and a step lies.

Input: a contraction's equation and how its dims and operands are written. Output: a `Contraction`:
its sides, its sizes, and the index of a result by batch, row and column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from dslc._frozen import dataclass
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, Poly, product
from dslc.ir.op import Expr, Index
from dslc.lowering.kernels.buffers import STORED
from dslc.lowering.kernels.kernel import declare
from dslc.lowering.kernels.tasks import Task
from dslc.ops.linalg import MatmulAttrs
from dslc.ops.packed import PackedConvAttrs
from dslc.ops.windows import ConvWeightGradientAttrs
from dslc.schedules.cuda.product import (
    Half,
    Side,
    Size,
    add,
    all_of,
    at_least,
    below,
    divide,
    times,
)

# Elements that a thread reads at once.
_WIDEST = {"float32": 4, "float64": 2, "uint16": 4, "float16": 4}


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a contraction as a product of sides."""

    batch: Dim
    rows: Dim
    columns: Dim
    steps: Dim

    @property
    def dims(self) -> tuple[Dim, ...]:
        return (self.batch, self.rows, self.columns, self.steps)


@dataclass(frozen=True, slots=True)
class Contraction:
    """`index(batch, row, column)` is the index of that result."""

    left: Side
    right: Side
    index: Callable[[Expr, Expr, Expr], tuple[Size, ...]]


def shape_of(eqn: Eqn) -> Shape:
    """What a contraction is as a product."""
    dims = eqn.outputs[0].type.dims
    match eqn.attrs:
        case MatmulAttrs(transpose_a):
            inner = eqn.inputs[0].type.dims[-2 if transpose_a else -1]
            return Shape(product(dims[:-2]), dims[-2], dims[-1], inner)
        case PackedConvAttrs(channels=channels, groups=groups):
            steps = product(eqn.inputs[1].type.dims[1:4])
            return Shape(groups, product(dims[:3]), channels // groups, steps)
    attrs = cast(ConvWeightGradientAttrs, eqn.attrs)
    out, pixels = cast(int, dims[0]) // attrs.groups, product(eqn.inputs[1].type.dims[:3])
    return Shape(attrs.groups, out, product(dims[1:]), pixels)


def sides_of(task: Task, eqn: Eqn) -> Contraction:
    size = Sizes(task)
    if isinstance(eqn.attrs, MatmulAttrs):
        return _matmul(size, eqn, eqn.attrs)
    if isinstance(eqn.attrs, PackedConvAttrs):
        return _convolution(size, eqn, eqn.attrs)
    return _weight_gradient(size, eqn, cast(ConvWeightGradientAttrs, eqn.attrs))


@dataclass(frozen=True, slots=True)
class Sizes:
    """Dims and buffers as templates take them."""

    task: Task

    def __call__(self, dim: Dim) -> Size:
        return self.task.k.dim(dim) if isinstance(dim, Poly) else dim

    def buffer(self, value: Value) -> tuple[Any, str]:
        """The flat buffer of a side, of halves as bits, and what is stored there."""
        buffer, dtype = self.task.graph.memory[value].buffer, STORED[value.type.dtype]
        if dtype != "float16":
            return buffer, dtype
        return declare(self.task.k, buffer.data, value.type.size, "uint16"), dtype


def vector(value: Value, *pitches: Dim) -> int:
    """Neighbours that can be read at once: all distances between rows of them are multiples."""
    widest = _WIDEST[STORED[value.type.dtype]]
    return widest if all(isinstance(p, int) and p % widest == 0 for p in pitches) else 1


# --- matrix products ------------------------------------------------------------------------------


def _matmul(size: Sizes, eqn: Eqn, attrs: MatmulAttrs) -> Contraction:
    a, b = eqn.inputs
    *batch, rows, columns = eqn.outputs[0].type.dims

    def index(number: Expr, row: Expr, column: Expr) -> tuple[Size, ...]:
        return (*_split(number, list(map(size, batch))), row, column)

    return Contraction(
        _matrix(size, a, rows, attrs.transpose_a),
        _matrix(size, b, columns, not attrs.transpose_b),
        index,
    )


def _matrix(size: Sizes, value: Value, lines: Dim, turned: bool) -> Side:
    """A matrix whose rows are lines, or, if `turned`, whose columns are."""
    each, pitch = size(product(value.type.dims[-2:])), size(value.type.dims[-1])

    def line(batch: Expr, number: Expr) -> Half:
        return (add(times(batch, each), number if turned else times(number, pitch)),)

    def step(number: Expr) -> Half:
        return (times(number, pitch) if turned else number,)

    return Side(
        *size.buffer(value), size(lines), "line" if turned else "step",
        vector(value, value.type.dims[-1]), line, step, lambda x, y: add(x[0], y[0]),
    )  # fmt: skip


def _split(number: Expr, dims: list[Size]) -> Index:
    """An index from its number in row-major order."""
    index: list[Expr] = []
    for dim in reversed(dims[1:]):
        number, rest = divide(number, dim)
        index.append(rest)
    return (number, *reversed(index)) if dims else ()


# --- convolutions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Image:
    """Pixels of an NHWC image as a kernel's position sees them. A place is (start of the image and
    channel, row, column): `at` adds those of a line and a step."""

    height: Size
    width: Size
    channels: Size
    spread: tuple[int, int] = (1, 1)

    def offset(self, x: Half, y: Half) -> Expr:
        row, column = (add(x[i], y[i]) for i in (1, 2))
        row, column = (self._pixel(p, s) for p, s in zip((row, column), self.spread))
        start = add(x[0], y[0])
        return add(start, times(add(times(row, self.width), column), self.channels))

    @staticmethod
    def _pixel(place: Size, spread: int) -> Size:
        return place if spread == 1 else divide(place, spread)[0]

    def inside(self, x: Half, y: Half) -> Expr:
        asked = []
        for i, size, spread in zip((1, 2), (self.height, self.width), self.spread):
            place = add(x[i], y[i])
            end = size if spread == 1 else add(times(add(size, -1), spread), 1)
            asked += [at_least(place, 0), below(place, end)]
            if spread > 1:
                asked.append(below(divide(place, spread)[1], 1))
        return all_of(asked)


def _convolution(size: Sizes, eqn: Eqn, attrs: PackedConvAttrs) -> Contraction:
    x, w = eqn.inputs
    n, out_height, out_width, _ = eqn.outputs[0].type.dims
    count, pixels = attrs.channels // attrs.groups, [size(n), size(out_height), size(out_width)]

    def index(group: Expr, row: Expr, column: Expr) -> tuple[Size, ...]:
        return (*_split(row, pixels), add(times(group, count), column))

    return Contraction(_pixels(size, x, w, attrs, pixels), _panel(size, w, count), index)


def _pixels(size: Sizes, x: Value, w: Value, attrs: PackedConvAttrs, pixels: list[Size]) -> Side:
    """The image by pixel of the result, and by kernel position and channel."""
    _, kh, kw, per_group, _ = cast(tuple[int, ...], w.type.dims)
    _, height, width, channels = map(size, x.type.dims)
    top, _, left, _ = map(size, attrs.padding)
    image = _Image(height, width, channels, attrs.spread)
    lines, wide = times(times(*pixels[:2]), pixels[2]), vector(x, x.type.dims[3], per_group)
    plain = (kh, kw, attrs.stride, attrs.spread, *attrs.padding)
    if plain == (1, 1, (1, 1), (1, 1), 0, 0, 0, 0):
        return Side(
            *size.buffer(x), lines, "step", wide,
            lambda group, line: (add(times(line, channels), times(group, per_group)),),
            lambda step: (step,), lambda a, b: add(a[0], b[0]),
        )  # fmt: skip

    def line(group: Expr, number: Expr) -> Half:
        n, row, column = _split(number, pixels)
        start = add(times(n, times(times(height, width), channels)), times(group, per_group))
        return (
            start,
            add(times(row, attrs.stride[0]), times(top, -1)),
            add(times(column, attrs.stride[1]), times(left, -1)),
        )

    def step(number: Expr) -> Half:
        row, column, channel = _split(number, [kh, kw, per_group])
        return channel, times(row, attrs.dilation[0]), times(column, attrs.dilation[1])

    return Side(*size.buffer(x), lines, "step", wide, line, step, image.offset, image.inside)


def _panel(size: Sizes, w: Value, count: int) -> Side:
    """Packed weights by output channel of a group, and by kernel position and channel."""
    width = cast(int, w.type.dims[-1])
    each, panels = cast(int, product(w.type.dims[1:])), -(-count // width)

    def line(group: Expr, number: Expr) -> Half:
        panel, lane = (0, number) if panels == 1 else divide(number, width)
        return (add(times(add(times(group, panels), panel), each), lane),)

    return Side(
        *size.buffer(w), count, "line", vector(w, width, count), line,
        lambda step: (times(step, width),), lambda x, y: add(x[0], y[0]),
    )  # fmt: skip


def _weight_gradient(size: Sizes, eqn: Eqn, attrs: ConvWeightGradientAttrs) -> Contraction:
    x, g = eqn.inputs
    out, per_group, kh, kw = cast(tuple[int, ...], eqn.outputs[0].type.dims)
    count = out // attrs.groups

    def index(group: Expr, row: Expr, column: Expr) -> tuple[Size, ...]:
        tap_row, tap_column, channel = _split(column, [kh, kw, per_group])
        return add(times(group, count), row), channel, tap_row, tap_column

    left = Side(
        *size.buffer(g), count, "line", vector(g, out, count),
        lambda group, line: (add(times(group, count), line),),
        lambda step: (times(step, out),), lambda a, b: add(a[0], b[0]),
    )  # fmt: skip
    return Contraction(left, _taps(size, x, g, attrs, (kh, kw, per_group)), index)


def _taps(
    size: Sizes, x: Value, g: Value, attrs: ConvWeightGradientAttrs, taps: tuple[int, int, int]
) -> Side:
    """The image by kernel position and channel, and by pixel of the result."""
    _, height, width, channels = map(size, x.type.dims)
    image, pixels = _Image(height, width, channels), [size(d) for d in g.type.dims[:3]]
    top, _, left, _ = attrs.padding

    def line(group: Expr, number: Expr) -> Half:
        row, column, channel = _split(number, list(taps))
        return (
            add(channel, times(group, taps[2])),
            add(times(row, attrs.dilation[0]), -top),
            add(times(column, attrs.dilation[1]), -left),
        )

    def step(number: Expr) -> Half:
        n, row, column = _split(number, pixels)
        start = times(n, times(times(height, width), channels))
        return start, times(row, attrs.stride[0]), times(column, attrs.stride[1])

    return Side(
        *size.buffer(x), taps[0] * taps[1] * taps[2], "line", vector(x, x.type.dims[3], taps[2]),
        line, step, image.offset, image.inside,
    )  # fmt: skip
