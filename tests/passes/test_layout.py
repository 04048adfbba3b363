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
from dslc.ops.linalg import matmul
from dslc.ops.pool import avg_pool2d, max_pool2d
from dslc.ops.reduce import cumsum
from dslc.ops.shape import concat, reshape, transpose
from dslc.ops.slicing import pad, slice_
from dslc.passes.canonicalize import canonicalize
from dslc.passes.cse import cse
from dslc.passes.layout import layout
from tests.passes.arguments import arguments

N = sym("N")


def f64(*dims: object) -> TensorType:
    return TensorType("f64", dims)  # type: ignore[arg-type]


def converted(function: Function) -> Function:
    """After the pass and what cleans up after it; the meaning is the same."""
    after = layout(function)
    verify(after, "layout")
    after = cse(canonicalize(after))
    verify(after)
    assert not any(getattr(eqn.attrs, "layout", "") == "NCHW" for eqn in after.eqns)
    args = arguments(function, np.random.default_rng(0), 2)
    for x, y in zip(evaluate(function, args), evaluate(after, args)):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-11)
    return after


def count(function: Function) -> Counter[str]:
    return Counter(eqn.op.name for eqn in function.eqns)


def normalized(b: Builder, x: Value, scale: Value) -> Value:
    """Batch norm without the shift: mean and variance over images and places."""
    dims = x.type.dims
    size = constant(b, value=1 / 50, type=f64(dims[1]))
    mean = mul(b, reduce_sum(b, x, axes=(0, 2, 3)), size)
    centred = sub(b, x, broadcast(b, mean, dims=dims, axes=(1,)))
    variance = mul(b, reduce_sum(b, mul(b, centred, centred), axes=(0, 2, 3)), size)
    factor = mul(b, scale, rsqrt(b, add(b, variance, constant(b, value=0.1, type=variance.type))))
    return mul(b, centred, broadcast(b, factor, dims=dims, axes=(1,)))


def network() -> Function:
    b = Builder()
    x = b.param("x", f64(N, 3, 8, 8))
    w1, bias, scale = b.param("w1", f64(4, 3, 3, 3)), b.param("b", f64(4)), b.param("s", f64(4))
    w2, w3 = b.param("w2", f64(6, 4, 3, 3)), b.param("w3", f64(54, 2))
    y = conv2d(b, x, w1, padding=(1, 1, 1, 1))
    y = relu(b, add(b, y, broadcast(b, bias, dims=y.type.dims, axes=(1,))))
    y = max_pool2d(b, normalized(b, y, scale), kernel=(2, 2), stride=(2, 2))
    y = conv2d(b, y, w2, padding=(1, 1, 1, 1), stride=(1, 1))
    y = avg_pool2d(b, relu(b, y), kernel=(2, 2), stride=(1, 1))
    out = matmul(b, reshape(b, y, dims=(N, 54)), w3)
    return b.function("net", (reduce_sum(b, mul(b, out, out), axes=(0, 1)), out))


def test_transposes_remain_only_at_the_ends() -> None:
    after = converted(network())
    assert count(after)["transpose"] == 2  # the image, and before the reshape


def test_the_training_direction() -> None:
    after = converted(gradient(network(), 0, [1, 2, 3, 4, 5]))
    assert count(after)["transpose"] == 3  # and the cotangent of the reshape


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
        ("row sums", 0),
        ("per pixel", 0),
        ("stretched", 0),
        ("cumsum", 2),
        ("mask", 1),
    ],
)
def test_what_stands_between_follows(name: str, extra: int) -> None:
    b = Builder()
    x, w = b.param("x", f64(N, 3, 5, 6)), b.param("w", f64(3, 3, 1, 1))
    y = conv2d(b, x, w)
    z = conv2d(b, between(b, y, name), w)
    after = converted(b.function("f", (z,)))
    assert count(after)["transpose"] == 2 + extra


def between(b: Builder, y: Value, name: str) -> Value:
    """Something from [N, 3, H, W] to [N, 3, H', W']."""
    dims = y.type.dims
    zeros = (0, 0, 0, 0)
    match name:
        case "relu":
            made = relu(b, y)
        case "pad":
            made = pad(b, y, low=(0, 0, 1, 2), high=(0, 0, 3, 4), value=1.0)
        case "interior":
            made = pad(b, y, low=zeros, high=zeros, interior=(0, 0, 1, 2))
        case "slice":
            made = slice_(b, y, starts=(0, 0, 1, 5), stops=(N, 3, 4, -1), steps=(1, 1, 2, -1))
        case "concat":
            y = slice_(b, y, starts=(0, 1, 0, 0), stops=(N, 3, 5, 6), steps=(1, 1, 1, 1))
            one = slice_(b, y, starts=(0, 1, 0, 0), stops=(N, 2, 5, 6), steps=(1, 1, 1, 1))
            made = concat(b, y, one, axis=1)
        case "mean":
            made = broadcast(b, reduce_sum(b, y, axes=(2, 3)), dims=dims, axes=(0, 1))
        case "mean with ones":
            total = reshape(b, reduce_sum(b, y, axes=(2, 3)), dims=(N, 3, 1, 1))
            made = sub(b, y, broadcast(b, total, dims=dims, axes=(0, 1, 2, 3)))
        case "row sums":
            made = sub(b, y, broadcast(b, reduce_sum(b, y, axes=(3,)), dims=dims, axes=(0, 1, 2)))
        case "per pixel":
            made = mul(b, y, broadcast(b, reduce_sum(b, y, axes=(1,)), dims=dims, axes=(0, 2, 3)))
        case "stretched":
            first = slice_(b, y, starts=zeros, stops=(N, 3, 5, 1), steps=(1, 1, 1, 1))
            made = mul(b, y, broadcast(b, first, dims=dims, axes=(0, 1, 2, 3)))
        case "cumsum":
            made = cumsum(b, y, axis=1)  # one that does not follow
        case _:
            made = mul(b, y, b.param("mask", y.type))
    assert isinstance(made, Value)
    return made


def test_without_convolutions_nothing_changes() -> None:
    b = Builder()
    x = b.param("x", f64(N, 3, 4, 4))
    function = b.function("f", (max_pool2d(b, x, kernel=(2, 2), stride=(2, 2)),))
    assert layout(function) is function


def test_the_users_own_transposes_cancel() -> None:
    """An image that comes as NHWC needs no transpose at all."""
    b = Builder()
    x, w = b.param("x", f64(N, 5, 6, 3)), b.param("w", f64(4, 3, 1, 1))
    y = conv2d(b, transpose(b, x, perm=(0, 3, 1, 2)), w)
    after = converted(b.function("f", (transpose(b, y, perm=(0, 2, 3, 1)),)))
    assert count(after) == {"conv2d": 1}
