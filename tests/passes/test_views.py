"""What is computed from an image under other dims: of sequences, and of groups of channels."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from dslc.autodiff.reverse import gradient
from dslc.ir.builder import Builder
from dslc.ir.core import Function, Value
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.ir.verify import verify
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.constants import constant
from dslc.ops.conv import conv2d
from dslc.ops.elementwise import add, mul, relu, rsqrt, sub
from dslc.ops.reduce import cumsum, reduce_max
from dslc.ops.shape import concat, reshape, transpose
from dslc.ops.slicing import pad, slice_
from dslc.passes.canonicalize import canonicalize
from dslc.passes.cse import cse
from dslc.passes.layout import layout
from dslc.passes.views import views
from tests.passes.arguments import arguments

N, L = sym("N"), sym("L")


def f64(*dims: object) -> TensorType:
    return TensorType("f64", dims)  # type: ignore[arg-type]


def converted(function: Function) -> Counter[str]:
    """The ops behind this pass and `layout`; the meaning is the same."""
    after = views(function)
    verify(after, "views")
    after = cse(canonicalize(layout(canonicalize(after))))
    verify(after)
    args = arguments(function, np.random.default_rng(0), 4)
    for x, y in zip(evaluate(function, args), evaluate(after, args)):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)
    return Counter(eqn.op.name for eqn in after.eqns)


# --- lines ----------------------------------------------------------------------------------------


def conv1d(b: Builder, x: Value, w: Value, one: int = 2) -> Value:
    """A convolution of 1 of (N, C, L), as the library makes it, and its bias."""

    def lifted(value: Value) -> Value:
        made = reshape(b, value, dims=(*value.type.dims[:one], 1, *value.type.dims[one:]))
        assert isinstance(made, Value)
        return made

    y = conv2d(b, lifted(x), lifted(w))
    dims = tuple(dim for axis, dim in enumerate(y.type.dims) if axis != one)
    y = reshape(b, y, dims=dims)
    bias = constant(b, value=0.5, type=f64(dims[1]))
    made = add(b, y, broadcast(b, bias, dims=dims, axes=(1,)))
    assert isinstance(made, Value)
    return made


@pytest.mark.parametrize("one", [2, 3])
@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("relu", 0),
        ("pad", 0),
        ("interior", 0),
        ("slice", 0),
        ("concat", 0),
        ("mean", 0),
        ("mean with ones", 0),
        ("per place", 0),
        ("cumsum", 2),
        ("mask", 1),
    ],
)
def test_what_stands_between_convolutions_of_sequences_follows(
    name: str, extra: int, one: int
) -> None:
    b = Builder()
    x, w = b.param("x", f64(N, 4, L)), b.param("w", f64(4, 4, 1))
    z = conv1d(b, between(b, conv1d(b, x, w, one), name), w, one)
    after = converted(b.function("f", (z,)))
    assert after["transpose"] == 2 + extra


def between(b: Builder, y: Value, name: str) -> Value:
    """Something from (N, 4, L) to (N, 4, L')."""
    dims = y.type.dims
    match name:
        case "relu":
            made = relu(b, y)
        case "pad":
            made = pad(b, y, low=(0, 0, 2), high=(0, 0, 1), value=1.0)
        case "interior":
            made = pad(b, y, low=(0, 0, 0), high=(0, 0, 0), interior=(0, 0, 1))
        case "slice":
            made = slice_(b, y, starts=(0, 0, 1), stops=(N, 4, L - 1), steps=(1, 1, 1))
        case "concat":
            first = slice_(b, y, starts=(0, 0, 0), stops=(N, 2, L), steps=(1, 1, 1))
            made = concat(b, first, first, axis=1)
        case "mean":
            made = sub(b, y, broadcast(b, reduce_sum(b, y, axes=(2,)), dims=dims, axes=(0, 1)))
        case "mean with ones":
            total = reshape(b, reduce_sum(b, y, axes=(2,)), dims=(N, 4, 1))
            made = sub(b, y, broadcast(b, total, dims=dims, axes=(0, 1, 2)))
        case "per place":
            made = mul(b, y, broadcast(b, reduce_max(b, y, axes=(1,)), dims=dims, axes=(0, 2)))
        case "cumsum":
            made = cumsum(b, y, axis=2)  # one that does not follow
        case _:
            made = mul(b, y, b.param("mask", y.type))
    assert isinstance(made, Value)
    return made


def test_the_training_direction_of_sequences() -> None:
    b = Builder()
    x, w = b.param("x", f64(N, 4, L)), b.param("w", f64(4, 4, 1))
    y = conv1d(b, relu(b, conv1d(b, x, w)), w)
    function = b.function("f", (reduce_sum(b, mul(b, y, y), axes=(0, 1, 2)),))
    assert converted(gradient(function, 0, [1]))["transpose"] == 1  # the sequence


def test_sequences_that_come_with_channels_last_are_not_transposed() -> None:
    b = Builder()
    x, w = b.param("x", f64(N, L, 4)), b.param("w", f64(4, 4, 1))
    y = conv1d(b, transpose(b, x, perm=(0, 2, 1)), w)
    after = converted(b.function("f", (transpose(b, relu(b, y), perm=(0, 2, 1)),)))
    assert not after["transpose"]


# --- groups ---------------------------------------------------------------------------------------


def group_norm(b: Builder, x: Value, groups: int, size: int, ones: bool) -> Value:
    """As the library makes it; `ones`: of statistics that keep the dim that they are of."""
    n, channels = x.type.dims[:2]
    dims = (n, groups, size)
    y = reshape(b, x, dims=dims)
    share = constant(b, value=1 / size, type=f64(n, groups))

    def of_groups(value: Value) -> Value:
        if ones:
            value = reshape(b, value, dims=(n, groups, 1))
        made = broadcast(b, value, dims=dims, axes=(0, 1, 2) if ones else (0, 1))
        assert isinstance(made, Value)
        return made

    y = sub(b, y, of_groups(mul(b, reduce_sum(b, y, axes=(2,)), share)))
    variance = mul(b, reduce_sum(b, mul(b, y, y), axes=(2,)), share)
    small = constant(b, value=0.1, type=variance.type)
    y = mul(b, y, of_groups(rsqrt(b, add(b, variance, small))))
    y = reshape(b, y, dims=x.type.dims)
    scale = b.param("scale", f64(channels))
    made = mul(b, y, broadcast(b, scale, dims=x.type.dims, axes=(1,)))
    assert isinstance(made, Value)
    return made


def network(groups: int, ones: bool) -> Function:
    b = Builder()
    x, w = b.param("x", f64(N, 4, 5, 6)), b.param("w", f64(4, 4, 1, 1))
    y = group_norm(b, conv2d(b, x, w), groups, 120 // groups, ones)
    y = conv2d(b, relu(b, y), w)
    return b.function("f", (reduce_sum(b, mul(b, y, y), axes=(0, 1, 2, 3)), y))


@pytest.mark.parametrize("ones", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_group_norms_follow_images(groups: int, ones: bool) -> None:
    function = network(groups, ones)
    assert converted(function)["transpose"] == 2
    assert converted(gradient(function, 0, [1, 2]))["transpose"] == 2


def test_group_norms_of_sequences_follow() -> None:
    b = Builder()
    x, w = b.param("x", f64(N, 4, 7)), b.param("w", f64(4, 4, 1))
    y = conv1d(b, group_norm(b, conv1d(b, x, w), 2, 14, True), w)
    assert converted(b.function("f", (y,)))["transpose"] == 2


def test_what_differs_within_a_group_is_made_as_it_was() -> None:
    b = Builder()
    x, w = b.param("x", f64(N, 4, 5, 6)), b.param("w", f64(4, 4, 1, 1))
    y = reshape(b, conv2d(b, x, w), dims=(N, 2, 60))
    y = mul(b, y, broadcast(b, b.param("s", f64(60)), dims=(N, 2, 60), axes=(2,)))
    y = sub(b, y, broadcast(b, reduce_sum(b, y, axes=(0,)), dims=(N, 2, 60), axes=(1, 2)))
    y = add(b, y, broadcast(b, b.param("t", f64(2)), dims=(N, 2, 60), axes=(1,)))
    y = conv2d(b, reshape(b, y, dims=(N, 4, 5, 6)), w)
    assert converted(b.function("f", (y,)))["transpose"] > 2  # it doesn't follow the images


def test_without_convolutions_nothing_changes() -> None:
    b = Builder()
    x = b.param("x", f64(N, 4, 1, 4))
    function = b.function("f", (relu(b, reshape(b, x, dims=(N, 4, 4))),))
    assert views(function) is function


def test_groups_can_stay_as_they_are() -> None:
    function = network(2, False)
    after = views(function, groups=False)
    assert [e.op for e in after.eqns] == [e.op for e in function.eqns]
