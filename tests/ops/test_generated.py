"""The facets agree over generated shapes and attributes, dims 0 and 1 and odd sizes included."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.facets import check_compute, check_gradient, check_type

from dslc.ir.op import NoFacet, Op, Sample, TypeRuleError
from dslc.ir.types import TensorType
from dslc.ops import conv, elementwise, linalg, pool, reduce
from dslc.ops.broadcast import BroadcastAttrs, ReduceAttrs, broadcast, reduce_sum
from dslc.ops.linalg import MatmulAttrs
from dslc.ops.shape import (
    ConcatAttrs,
    ReshapeAttrs,
    TransposeAttrs,
    concat,
    reshape,
    transpose,
)
from dslc.ops.slicing import PadAttrs, SliceAttrs, pad, slice_
from dslc.ops.windows import (
    AveragePoolAttrs,
    AveragePoolGradientAttrs,
    ConvAttrs,
    ConvInputGradientAttrs,
    ConvWeightGradientAttrs,
    PoolAttrs,
    image_dims,
)

Draw = Callable[..., object]

SIZE = st.integers(0, 5)
SHAPE = st.lists(SIZE, max_size=3).map(tuple)
quick = settings(max_examples=30, derandomize=True, database=None)


def f32(*dims: int) -> TensorType:
    return TensorType("f32", dims)


def agree(op: Op, sample: Sample) -> None:
    """Type, compute and gradient against the reference."""
    rng = np.random.default_rng(3)
    check_type(op, sample, rng)
    check_compute(op, sample, rng)
    if not isinstance(op.gradient, NoFacet):
        check_gradient(op, sample, rng)


SMOOTH = [
    op
    for op in elementwise.OPS
    if op.name not in ("mod", "floordiv", "abs", "sign", "relu", "floor", "ceil", "round")
]


@quick
@given(st.sampled_from(SMOOTH), SHAPE)
def test_elementwise(op: Op, dims: tuple[int, ...]) -> None:
    first = op.samples[0]
    inputs = (f32(*dims),) * len(first.inputs)
    agree(op, Sample(inputs, low=max(first.low, 0.3), high=first.high, rtol=1e-5))


@st.composite
def broadcasts(draw: st.DrawFn) -> Sample:
    dims = draw(st.lists(SIZE, max_size=4))
    axes = [a for a in range(len(dims)) if draw(st.booleans())]
    source = [1 if draw(st.booleans()) else dims[a] for a in axes]
    return Sample((f32(*source),), BroadcastAttrs(tuple(dims), tuple(axes)))


@quick
@given(broadcasts())
def test_broadcast(sample: Sample) -> None:
    agree(broadcast, sample)


@st.composite
def reductions(draw: st.DrawFn) -> tuple[Op, Sample]:
    names = ["sum", "max", "min", "prod"]
    op = {"sum": reduce_sum, **{o.name[7:]: o for o in reduce.OPS}}[draw(st.sampled_from(names))]
    dims = draw(st.lists(SIZE, min_size=1, max_size=4))
    axes = [a for a in range(len(dims)) if draw(st.booleans())] or [0]
    if op in (reduce.reduce_max, reduce.reduce_min):
        dims = [max(d, 1) for d in dims]
    return op, Sample((f32(*dims),), ReduceAttrs(tuple(axes)), low=0.5, high=1.5, rtol=1e-4)


@quick
@given(reductions())
def test_reductions(case: tuple[Op, Sample]) -> None:
    agree(*case)


@quick
@given(st.lists(SIZE, max_size=2), SIZE, SIZE, SIZE, st.booleans(), st.booleans())
def test_matmul(batch: list[int], m: int, k: int, n: int, ta: bool, tb: bool) -> None:
    a = f32(*batch, k, m) if ta else f32(*batch, m, k)
    b = f32(*batch, n, k) if tb else f32(*batch, k, n)
    agree(linalg.matmul, Sample((a, b), MatmulAttrs(ta, tb), rtol=1e-5))


@st.composite
def reshapes(draw: st.DrawFn) -> Sample:
    factors = draw(st.lists(st.sampled_from([0, 1, 2, 3, 2, 5]), max_size=4))

    def merged() -> tuple[int, ...]:
        dims = [1]
        for factor in factors:
            if draw(st.booleans()):
                dims.append(1)
            dims[-1] *= factor
        return tuple(dims)

    return Sample((f32(*merged()),), ReshapeAttrs(merged()))


@quick
@given(reshapes())
def test_reshape(sample: Sample) -> None:
    agree(reshape, sample)


@quick
@given(SHAPE.flatmap(lambda dims: st.tuples(st.just(dims), st.permutations(range(len(dims))))))
def test_transpose(case: tuple[tuple[int, ...], list[int]]) -> None:
    dims, perm = case
    agree(transpose, Sample((f32(*dims),), TransposeAttrs(tuple(perm))))


@st.composite
def slices(draw: st.DrawFn) -> Sample:
    dims = draw(st.lists(st.integers(0, 7), max_size=3))
    starts, stops, steps = [], [], []
    for size in dims:
        low = draw(st.integers(0, size))
        high = draw(st.integers(low, size))
        step = draw(st.sampled_from([1, 1, 2, 3]))
        if draw(st.booleans()):
            low, high, step = high - 1, low - 1, -step
        starts.append(low)
        stops.append(high)
        steps.append(step)
    return Sample((f32(*dims),), SliceAttrs(tuple(starts), tuple(stops), tuple(steps)))


@quick
@given(slices())
def test_slice(sample: Sample) -> None:
    agree(slice_, sample)


@st.composite
def paddings(draw: st.DrawFn) -> Sample:
    dims = draw(st.lists(st.integers(0, 4), max_size=3))
    low, high, interior = (
        tuple(draw(st.integers(0, 2)) for _ in dims) for _ in ("low", "high", "interior")
    )
    # No elements with interior padding: the place that is missing comes off the end.
    high = tuple(h + i if d == 0 else h for h, i, d in zip(high, interior, dims))
    return Sample((f32(*dims),), PadAttrs(low, high, -1.5, interior))


@quick
@given(paddings())
def test_pad(sample: Sample) -> None:
    agree(pad, sample)


@quick
@given(st.lists(SIZE, min_size=1, max_size=4), SIZE, st.booleans())
def test_concat(sizes: list[int], other: int, last: bool) -> None:
    inputs = tuple(f32(other, size) if last else f32(size, other) for size in sizes)
    agree(concat, Sample(inputs, ConcatAttrs(int(last))))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[TensorType, TensorType, ConvAttrs]:
    small = st.integers(1, 2)
    groups = draw(small)
    layout = draw(st.sampled_from(["NCHW", "NHWC"]))
    n, c, h, w = draw(st.integers(0, 2)), groups * draw(small), *draw(
        st.tuples(st.integers(1, 5), st.integers(1, 5))
    )  # fmt: skip
    weight = f32(groups * draw(small), c // groups, draw(st.integers(1, 3)), draw(small))
    attrs = ConvAttrs(
        stride=(draw(small), draw(st.integers(1, 3))),
        padding=tuple(draw(st.integers(0, 2)) for _ in range(4)),  # type: ignore[arg-type]
        dilation=(draw(small), draw(small)),
        groups=groups,
        layout=layout,
    )
    return (f32(n, c, h, w) if layout == "NCHW" else f32(n, h, w, c)), weight, attrs


@quick
@given(convolutions())
def test_convolutions(case: tuple[TensorType, TensorType, ConvAttrs]) -> None:
    x, w, attrs = case
    try:
        (y,) = conv.conv2d.infer(attrs, (x, w))
    except TypeRuleError:
        return  # the window does not fit
    base = {name: getattr(attrs, name) for name in ConvAttrs.__slots__}
    size = image_dims(x, attrs.layout)[2:]
    agree(conv.conv2d, Sample((x, w), attrs, rtol=1e-4))
    to_input = ConvInputGradientAttrs(**base, size=size)
    agree(conv.conv2d_input_gradient, Sample((y, w), to_input, rtol=1e-4))
    to_weight = ConvWeightGradientAttrs(**base, kernel=w.dims[2:])  # type: ignore[arg-type]
    agree(conv.conv2d_weight_gradient, Sample((x, y), to_weight, rtol=1e-4))


@st.composite
def pools(draw: st.DrawFn) -> tuple[TensorType, PoolAttrs]:
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.integers(0, kernel[i // 2] // 2)) for i in range(4))
    layout = draw(st.sampled_from(["NCHW", "NHWC"]))
    n, c = draw(st.integers(0, 2)), draw(st.integers(1, 2))
    h, w = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    x = f32(n, c, h, w) if layout == "NCHW" else f32(n, h, w, c)
    return x, PoolAttrs(kernel, stride, padding, layout)  # type: ignore[arg-type]


@quick
@given(pools(), st.booleans())
def test_pools(case: tuple[TensorType, PoolAttrs], include: bool) -> None:
    x, attrs = case
    try:
        (y,) = pool.max_pool2d.infer(attrs, (x,))
    except TypeRuleError:
        return  # the window does not fit
    base = {name: getattr(attrs, name) for name in PoolAttrs.__slots__}
    agree(pool.max_pool2d, Sample((x,), attrs))
    agree(pool.max_pool2d_gradient, Sample((x, y, y), attrs, rtol=1e-5))
    agree(pool.avg_pool2d, Sample((x,), AveragePoolAttrs(**base, count_include_pad=include)))
    size = image_dims(x, attrs.layout)[2:]
    back = AveragePoolGradientAttrs(**base, count_include_pad=include, size=size)
    agree(pool.avg_pool2d_gradient, Sample((y,), back, rtol=1e-5))
