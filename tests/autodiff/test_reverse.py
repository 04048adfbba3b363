from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dslc.autodiff.reverse import gradient
from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Function, Value
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.op import NoFacet
from dslc.ir.types import TensorType
from dslc.ir.verify import verify
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.constants import constant, stop_gradient
from dslc.ops.conv import conv2d
from dslc.ops.elementwise import add, exp, log, mul, relu, sub, tanh
from dslc.ops.linalg import matmul
from dslc.ops.logic import gt, select
from dslc.ops.pool import max_pool2d
from dslc.ops.random import random_uniform
from dslc.ops.reduce import argmax, reduce_max
from dslc.ops.shape import reshape

Array = np.ndarray
N = sym("N")


def f64(*dims: object) -> TensorType:
    return TensorType("f64", dims)  # type: ignore[arg-type]


def total(b: Builder, x: Value) -> Value:
    return reduce_sum(b, x, axes=tuple(range(x.type.rank)))


def numeric(function: Function, args: list[Array], position: int, of: int = 0) -> Array:
    """The gradient by central differences."""
    step = 1e-6
    grad = np.zeros_like(args[position])
    for index in np.ndindex(grad.shape):
        ends = []
        for sign in (1, -1):
            moved = [a.copy() for a in args]
            moved[position][index] += sign * step
            ends.append(evaluate(function, moved)[of])
        grad[index] = (ends[0] - ends[1]) / (2 * step)
    return grad


def check(function: Function, args: list[Array], wrt: list[int], of: int = 0) -> Function:
    extended = gradient(function, of, wrt)
    verify(extended)
    found = evaluate(extended, args)[len(function.results) :]
    assert len(found) == len(wrt)
    for position, grad in zip(wrt, found):
        expected = numeric(function, args, position, of)
        np.testing.assert_allclose(grad, expected, rtol=1e-6, atol=1e-8)
    return extended


def normal(*shape: int) -> Array:
    return np.random.default_rng(sum(shape)).normal(size=shape)


def mlp() -> Function:
    """Softmax cross entropy of a layer and tanh; the dim N is dynamic."""
    b = Builder()
    x, w, bias = b.param("x", f64(N, 4)), b.param("w", f64(3, 4)), b.param("bias", f64(3))
    onehot = b.param("onehot", f64(N, 3))
    y = tanh(b, add(b, matmul(b, x, w, transpose_b=True), spread(b, bias, (N, 3), (1,))))
    top = spread(b, reduce_max(b, y, axes=(1,)), (N, 3), (0,))
    shifted = sub(b, y, stop_gradient(b, top))
    norm = log(b, reduce_sum(b, exp(b, shifted), axes=(1,)))
    logp = sub(b, shifted, spread(b, norm, (N, 3), (0,)))
    return b.function("loss", (total(b, mul(b, logp, onehot)), y))


def spread(b: Builder, x: Value, dims: tuple[object, ...], axes: tuple[int, ...]) -> Value:
    return broadcast(b, x, dims=dims, axes=axes)


def mlp_args() -> list[Array]:
    return [normal(5, 4), normal(3, 4), normal(3), np.eye(3)[[0, 2, 1, 1, 0]]]


def test_a_composed_function() -> None:
    extended = check(mlp(), mlp_args(), [0, 1, 2])
    assert [r.type for r in extended.results[2:]] == [f64(N, 4), f64(3, 4), f64(3)]


def test_a_convolution_net() -> None:
    b = Builder()
    x, w = b.param("x", f64(2, 2, 5, 5)), b.param("w", f64(3, 2, 3, 3))
    y = max_pool2d(b, conv2d(b, x, w, padding=(1, 1, 1, 1)), kernel=(2, 2), stride=(2, 2))
    v = b.param("v", f64(12, 2))
    out = matmul(b, reshape(b, relu(b, y), dims=(2, 12)), v)
    check(b.function("net", (total(b, mul(b, out, out)),)), [normal(2, 2, 5, 5), normal(3, 2, 3, 3),
        normal(12, 2)], [0, 1, 2])  # fmt: skip


def test_values_used_twice_add_up() -> None:
    b = Builder()
    x = b.param("x", f64(3))
    y = mul(b, x, x)
    check(b.function("f", (total(b, add(b, mul(b, y, x), y)),)), [normal(3)], [0])


def test_second_derivatives() -> None:
    b = Builder()
    x = b.param("x", f64(3))
    first = gradient(b.function("f", (total(b, mul(b, x, tanh(b, x))),)), 0, [0])
    again = Builder.over(first)
    for eqn in first.eqns:
        again.keep(eqn)
    function = again.function("g", (total(again, mul(again, *[first.results[1]] * 2)),))
    check(function, [normal(3)], [0])


def test_dropout_uses_the_same_mask_both_ways() -> None:
    b = Builder()
    x = b.param("x", TensorType("f32", (4, 5)))
    seed, step = b.param("seed", TensorType("i64")), b.param("step", TensorType("i64"))
    noise = random_uniform(b, seed, step, dims=(4, 5), stream=3)
    keep = gt(b, noise, constant(b, value=0.5, type=noise.type))
    dropped = select(b, keep, x, constant(b, value=0.0, type=x.type))
    function = gradient(b.function("f", (total(b, mul(b, dropped, dropped)), dropped)), 0, [0])
    args = [normal(4, 5).astype(np.float32), np.int64(7), np.int64(2)]
    _, out, grad = evaluate(function, [np.asarray(a) for a in args])
    np.testing.assert_array_equal(grad, 2 * out)
    assert 0 < np.count_nonzero(out) < 20


def test_what_does_not_matter_has_gradient_zero() -> None:
    b = Builder()
    x, _, hidden = b.param("x", f64(2)), b.param("u", f64(3)), b.param("h", f64(2))
    top = argmax(b, x, axis=0)
    loss = total(b, mul(b, x, stop_gradient(b, hidden)))
    function = gradient(b.function("f", (loss, top)), 0, [1, 2, 0])
    *_, du, dh, dx = evaluate(function, [normal(2), normal(3), np.ones(2)])
    np.testing.assert_array_equal(du, np.zeros(3))
    np.testing.assert_array_equal(dh, np.zeros(2))
    np.testing.assert_array_equal(dx, np.ones(2))


def test_only_what_is_asked_for_is_computed() -> None:
    def products(wrt: list[int]) -> int:
        function = gradient(mlp(), 0, wrt)
        return sum(eqn.op is matmul for eqn in function.eqns)

    assert [products(wrt) for wrt in ([], [2], [1], [0, 1])] == [1, 1, 2, 3]


def test_no_targets_change_nothing() -> None:
    function = mlp()
    assert [e.op for e in gradient(function, 0, []).eqns] == [e.op for e in function.eqns]


def test_the_result_must_be_a_scalar() -> None:
    with pytest.raises(InternalError, match="the gradient of"):
        gradient(mlp(), 1, [0])


def test_an_op_without_gradient() -> None:
    b = Builder()
    x = b.param("x", f64(2))
    opaque = replace(tanh, name="opaque", gradient=NoFacet("it is opaque"))
    with pytest.raises(InternalError, match=r"no gradient through .* = opaque.* it is opaque"):
        gradient(b.function("f", (total(b, opaque(b, x)),)), 0, [0])
