"""What formulas of index notation compute, and their gradients: each against NumPy, and against
finite differences. And which ops they become."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from dslc.autodiff.reverse import gradient
from dslc.build import session
from dslc.ir.builder import Builder
from dslc.ir.core import Function
from dslc.ir.dims import substitute
from dslc.ir.evaluate import evaluate, numpy_dtype
from dslc.ir.text import print_function
from dslc.ir.types import is_float
from dslc.ops.broadcast import reduce_sum
from dslc.ops.elementwise import mul
from dslc.passes.pipeline import OPTIMISE, run
from dslc.source import SourceFile

Array = Any
SIZES = {"N": 2, "T": 5, "D": 3, "H": 4, "W": 3}


@dataclass(frozen=True)
class Case:
    """`y[...] = ...` over the arguments, and the same by NumPy."""

    name: str
    arguments: str
    result: str
    formula: str
    meaning: Callable[..., Array]
    integers: tuple[int, int] = (0, 3)


def windows(x: Array, count: int, first: int = 0, step: int = 1) -> Array:
    """x[..., step * t + first + k] along the last axis, 0 outside; the last axis is k."""
    size = x.shape[-1]
    at = step * np.arange(size // step)[:, None] + first + np.arange(count)
    inside = (at >= 0) & (at < size)
    return np.where(inside, x[..., np.clip(at, 0, size - 1)], 0)


CASES = (
    Case("matmul", "x: f64[N, D], w: f64[4, D]", "f64[N, 4]",
         "y[n, o] = sum[k](w[o, k] * x[n, k])", lambda x, w: x @ w.T),
    Case("batched", "x: f64[N, T, D], w: f64[N, D, T]", "f64[N, T, T]",
         "y[n, i, j] = sum[d](x[n, i, d] * w[n, d, j]) / 2", lambda x, w: x @ w / 2),
    Case("vector", "x: f64[N, D], w: f64[D]", "f64[N]",
         "y[n] = sum[k](x[n, k] * w[k])", lambda x, w: x @ w),
    Case("two inner", "x: f64[N, D, T], w: f64[T, 4, D]", "f64[4, N]",
         "y[o, n] = sum[d, t](2 * x[n, d, t] * w[t, o, d])",
         lambda x, w: 2 * np.einsum("ndt,tod->on", x, w)),
    Case("bilinear", "a: f64[N, T], b: f64[N, D], w: f64[4, T, D]", "f64[N, 4]",
         "y[n, o] = sum[i, j](a[n, i] * w[o, i, j] * b[n, j])",
         lambda a, b, w: np.einsum("ni,oij,nj->no", a, w, b)),
    Case("own sums", "a: f64[N], b: f64[D]", "f64[5]",
         "y[t]: f64[5] = sum[i, j](a[i] * b[j])",
         lambda a, b: np.full(5, a.sum() * b.sum())),
    Case("outer", "x: f64[N], w: f64[D]", "f64[D, N]",
         "y[d, n] = x[n] * w[d]", lambda x, w: np.outer(w, x)),
    Case("conv2d", "x: f64[N, D, H, W], w: f64[2, D, 3, 3]", "f64[N, 2, H, W]",
         "y[n, o, i, j]: f64[N, 2, H, W] = sum[c, ky, kx](w[o, c, ky, kx] * "
         "(x[n, c, i + ky - 1, j + kx - 1] else 0))",
         lambda x, w: np.einsum("ocyx,nciyjx->noij", w, windows(
             windows(x, 3, -1).transpose(0, 1, 3, 4, 2), 3, -1).transpose(0, 1, 4, 5, 2, 3))),
    Case("conv1d with a step", "x: f64[N, 7, D], w: f64[3, D, 2]", "f64[N, 3, 2]",
         "y[n, t, o]: f64[N, 3, 2] = sum[k, c](x[n, 2 * t + k, c] * w[k, c, o])",
         lambda x, w: np.stack([np.einsum("nkc,kco->no", x[:, 2 * t : 2 * t + 3], w)
                                for t in range(3)], 1)),
    Case("flipped kernel", "x: f64[N, D, T], w: f64[D, 3]", "f64[N, D, T]",
         "y[n, c, t]: f64[N, D, T] = sum[k](w[c, k] * (x[n, c, t + 1 - k] else 0))",
         lambda x, w: np.einsum("ck,nctk->nct", w[:, ::-1], windows(x, 3, -1))),
    Case("local attention", "q: f64[N, T, D], key: f64[N, T, D]", "f64[N, T, 3]",
         "y[n, i, d]: f64[N, T, 3] = sum[k](q[n, i, k] * (key[n, i + d - 1, k] else 0))",
         lambda q, key: np.einsum("nik,nkid->nid", q, windows(key.transpose(0, 2, 1), 3, -1))),
    Case("max pool", "x: f64[N, 2 * H, 3]", "f64[N, H, 3]",
         "y[n, i, c]: f64[N, H, 3] = max[k in 0..2](x[n, 2 * i + k, c])",
         lambda x: x.reshape(x.shape[0], -1, 2, 3).max(2)),
    Case("overlapping windows", "x: f64[N, 2 * H]", "f64[N, H]",
         "y[n, i]: f64[N, H] = prod[k in -1..2](x[n, 2 * i + k] else 1.5)",
         lambda x: windows(x - 1.5, 3, -1, 2).__add__(1.5).prod(-1)),
    Case("toeplitz", "x: f64[T in 1..99, D], w: f64[2 * T - 1]", "f64[T, D]",
         "y[i, d]: f64[T, D] = sum[j](w[i - j + T - 1] * x[j, d])",
         lambda x, w: np.array([[w[i - j + 4] for j in range(5)] for i in range(5)]) @ x),
    Case("distances of positions", "x: f64[T]", "f64[T, T]",
         "y[i, j]: f64[T, T] = x[abs(i - j)] else 0",
         lambda x: x[np.abs(np.subtract.outer(np.arange(5), np.arange(5)))]),
    Case("a choice of positions", "x: f64[N, T], w: f64[3]", "f64[N, T]",
         "y[n, t]: f64[N, T] = sum[k](w[k] * (x[n, where(t + k < T, t + k, T - 1)] else 0))",
         lambda x, w: sum(w[k] * x[:, np.minimum(np.arange(5) + k, 4)] for k in range(3))),
    Case("reversed", "x: f64[N, T]", "f64[N, T]",
         "y[n, t]: f64[N, T] = x[n, T - 1 - t] - x[n, t]", lambda x: x[:, ::-1] - x),
    Case("diagonal", "x: f64[T, N, T]", "f64[N, T]", "y[n, t] = x[t, n, t]",
         lambda x: np.einsum("tnt->nt", x)),
    Case("trace", "x: f64[T, T]", "f64[1]", "y[o]: f64[1] = sum[i](x[i, i])",
         lambda x: np.array([np.trace(x)])),
    Case("mask", "x: f64[T, T]", "f64[T, T]", "y[i, j] = where(i >= j, x[i, j], -1)",
         lambda x: np.where(np.tri(5, dtype=bool), x, -1)),
    Case("strided slice", "x: f64[N, 7]", "f64[N, 3]",
         "y[n, t]: f64[N, 3] = x[n, 2 * t + 1]", lambda x: x[:, 1:7:2]),
    Case("fixed places", "x: f64[N, T in 2..9, D in 1..9]", "f64[N]",
         "y[n] = x[n, 1, 0] * x[n, 0, D - 1]",
         lambda x: x[:, 1, 0] * x[:, 0, -1]),
    Case("pixel shuffle", "x: f64[N, 8, H, W]", "f64[N, 2, 2 * H, 2 * W]",
         "y[n, c, i, j]: f64[N, 2, 2 * H, 2 * W] = "
         "x[n, 4 * c + 2 * (i % 2) + j % 2, i // 2, j // 2]",
         lambda x: x.reshape(2, 2, 2, 2, 4, 3).transpose(0, 1, 4, 2, 5, 3).reshape(2, 2, 8, 6)),
    Case("quotients and remainders", "x: f64[T, 2], w: f64[3, N], v: f64[6]", "f64[2 * T, N]",
         "y[i, n]: f64[2 * T, N] = x[i // 2, i % 2] * sum[k in 0..6](w[k // 2, n] * v[k])",
         lambda x, w, v: np.outer(x.ravel(), v.reshape(3, 2).sum(1) @ w)),
    Case("softmax", "x: f64[N, D]", "f64[N, D]",
         "y[n, d] = exp(x[n, d]) / sum[e](exp(x[n, e]))",
         lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    Case("functions", "x: f64[N, D], s: f64", "f64[N, D]",
         "y[n, d] = leaky_relu[0.1](x[n, d]) * s + softplus(x[n, d] ** 2)",
         lambda x, s: np.where(x > 0, x, 0.1 * x) * s + np.log1p(np.exp(x**2))),
    Case("mean of products", "x: f64[N, D], w: f64[D, T]", "f64[N, T]",
         "y[n, t] = mean[d](x[n, d] * w[d, t])", lambda x, w: x @ w / 3),
    Case("mean", "x: f64[N, T in 1..9, D]", "f64[D]",
         "y[d] = mean[n, t](x[n, t, d]) * min[n](x[n, 0, d])",
         lambda x: x.mean((0, 1)) * x[:, 0].min(0)),
    Case("index as a number", "x: f64[T]", "f64[T]",
         "y[t] = x[t] * cast[f64](T - 1 - t) / 2", lambda x: x * np.arange(4, -1, -1) / 2),
    Case("gather", "x: f64[4, D], at: i64[N, T]", "f64[N, T, D]",
         "y[n, t, d] = x[at[n, t] + 1, d] else -1",
         lambda x, at: np.where((at < 3)[..., None], x[np.minimum(at + 1, 3)], -1)),
    Case("gather and sum", "x: f64[N, T], at: i64[N, D]", "f64[N]",
         "y[n] = sum[d](x[n, at[n, d]] else 0)",
         lambda x, at: np.take_along_axis(x, at, 1).sum(1)),
    Case("computed default", "x: f64[N, T]", "f64[N, T]",
         "y[n, t]: f64[N, T] = x[n, t - 2] else 2 * x[n, t]",
         lambda x: np.concatenate([2 * x[:, :2], x[:, :-2]], 1)),
    Case("no step but a default", "x: f64[D]", "f64[5]", "y[t]: f64[5] = x[t] else 7",
         lambda x: np.array([*x, 7, 7])),
    Case("counts", "x: i64[N, T]", "i64[N]", "y[n] = sum[t](x[n, t] > 1) + max[t](x[n, t] * t)",
         lambda x: (x > 1).sum(1) + (x * np.arange(5)).max(1)),
)  # fmt: skip


def forward(arguments: str, result: str, lines: str, optimise: bool = False) -> Function:
    source = f"model M({arguments}) -> {result} {{\n    {lines}\n    return y\n}}\n"
    program = session.program_of(SourceFile("formula.dl", source))
    return (run(program, OPTIMISE) if optimise else program).entry("forward").function


def draw(function: Function, integers: tuple[int, int]) -> list[Array]:
    rng = np.random.default_rng(3)
    out = []
    for param in function.params:
        shape = [int(substitute(dim, dict(SIZES))) for dim in param.type.dims]  # type: ignore[call-overload]
        if is_float(param.type.dtype):
            out.append(np.asarray(rng.normal(size=shape), numpy_dtype(param.type.dtype)))
        else:
            out.append(np.asarray(rng.integers(*integers, endpoint=True, size=shape)))
    return out


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_value(case: Case) -> None:
    function = forward(case.arguments, case.result, case.formula)
    inputs = draw(function, case.integers)
    wanted = case.meaning(*inputs)
    (found,) = evaluate(function, inputs)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)
    optimised = forward(case.arguments, case.result, case.formula, optimise=True)
    np.testing.assert_allclose(evaluate(optimised, inputs)[0], wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.result.startswith("f")], ids=lambda case: case.name
)
def test_gradient(case: Case) -> None:
    function = forward(case.arguments, case.result, case.formula)
    floats = [i for i, p in enumerate(function.params) if is_float(p.type.dtype)]
    b = Builder.over(function)
    for eqn in function.eqns:
        b.keep(eqn)
    (y,) = function.results
    direction = b.param("direction", y.type)
    loss = reduce_sum(b, mul(b, y, direction), axes=tuple(range(y.type.rank)))
    extended = gradient(b.function("loss", (loss,)), 0, floats)
    inputs = draw(function, case.integers)
    weights = np.random.default_rng(4).normal(size=evaluate(function, inputs)[0].shape)
    _, *found = evaluate(extended, [*inputs, weights])
    for grad, position in zip(found, floats, strict=True):
        wanted = np.zeros_like(inputs[position])
        for index in np.ndindex(wanted.shape):
            ends = []
            for step in (1e-6, -1e-6):
                moved = [np.array(x) for x in inputs]
                moved[position][index] += step
                ends.append((evaluate(function, moved)[0] * weights).sum())
            wanted[index] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(grad, wanted, rtol=1e-6, atol=1e-7)


# --- which ops formulas become ------------------------------------------------------------------


def renamed(function: Function) -> str:
    """The text of a function, whatever its values are called."""
    names: dict[str, str] = {}
    return re.sub(
        r"%[\w.]+", lambda m: names.setdefault(m[0], f"%{len(names)}"), print_function(function)
    )


SAME = (
    ("x: f32[N, 5], w: f32[5, 7]", "f32[N, 7]",
     "y[n, o] = sum[k](x[n, k] * w[k, o])", "y = x @ w"),
    ("x: f32[N, 5], w: f32[7, 5]", "f32[N, 7]",
     "y[n, o] = sum[k](w[o, k] * x[n, k])", "y = x @ w.T"),
    ("x: f32[N, T, 5], w: f32[7, 5]", "f32[N, T, 7]",
     "y[n, t, o] = sum[k](x[n, t, k] * w[o, k])", "y = x @ w.T"),
    ("q: f32[B, H, T, 5], k: f32[B, H, T, 5]", "f32[B, H, T, T]",
     "y[b, h, i, j] = sum[d](q[b, h, i, d] * k[b, h, j, d])", "y = q @ k.T"),
    ("x: f32[N, 5], w: f32[5]", "f32[N]", "y[n] = sum[k](x[n, k] * w[k])", "y = x @ w"),
    ("x: f32[N, C, H, W], w: f32[4, C, 3, 3]", "f32[N, 4, H, W]",
     "y[n, o, i, j]: f32[N, 4, H, W] = sum[c, ky, kx]("
     "w[o, c, ky, kx] * (x[n, c, i + ky - 1, j + kx - 1] else 0))",
     "y = prim_conv2d[padding=1](x, w)"),
    ("x: f32[N, 6, 9, 8], w: f32[4, 6, 3, 2]", "f32[N, 4, 5, 8]",
     "y[n, o, i, j]: f32[N, 4, 5, 8] = sum[ky, c, kx]("
     "(x[n, c, 2 * i + ky - 1, 2 * kx + j - 1] else 0) * w[o, c, ky, kx])",
     "y = prim_conv2d[stride=(2, 1), dilation=(1, 2), padding=1](x, w)"),
    ("x: f32[N, 4, 9, 8], w: f32[4, 3, 3]", "f32[N, 4, 7, 6]",
     "y[n, c, i, j]: f32[N, 4, 7, 6] = sum[ky, kx](x[n, c, i + ky, j + kx] * w[c, ky, kx])",
     "y = prim_conv2d[groups=4](x, reshape[4, 1, 3, 3](w))"),
    ("x: f32[N, H, W, 6], w: f32[3, 3, 6, 4]", "f32[N, H, W, 4]",
     "y[n, i, j, o]: f32[N, H, W, 4] = sum[ky, kx, c]("
     "w[ky, kx, c, o] * (x[n, i + ky - 1, j + kx - 1, c] else 0))",
     "y = transpose[0, 2, 3, 1](prim_conv2d[padding=1]("
     "transpose[0, 3, 1, 2](x), transpose[3, 2, 0, 1](w)))"),
    ("x: f32[N, 8, H, 3]", "f32[N, 2, 2 * H, 6]",
     "y[n, c, i, j]: f32[N, 2, 2 * H, 6] = x[n, 4 * c + 2 * (i % 2) + j % 2, i // 2, j // 2]",
     "y = reshape[N, 2, 2 * H, 6](transpose[0, 1, 4, 2, 5, 3](reshape[N, 2, 2, 2, H, 3](x)))"),
    ("x: f32[N, C, 2 * H, 6]", "f32[N, C, H, 3]",
     "y[n, c, i, j]: f32[N, C, H, 3] = max[a in 0..2, b in 0..2](x[n, c, 2 * i + a, 2 * j + b])",
     "y = max[axis=(3, 5)](reshape[N, C, H, 2, 3, 2](x))"),
    ("x: f32[N, C, 8, 8], w: f32[5, C, 4, 4]", "f32[N, 2, 2, 5]",
     "y[n, i, j, o]: f32[N, 2, 2, 5] = sum[c, a, b](x[n, c, 4 * i + a, 4 * j + b] * w[o, c, a, b])",
     "y = transpose[0, 2, 3, 1](prim_conv2d[stride=4](x, w))"),
    ("x: f32[N, H, W in 2..99]", "f32[N, W - 2, H]",
     "y[n, j, i]: f32[N, W - 2, H] = exp(x[n, i, j + 1])",
     "y = transpose[0, 2, 1](exp(x[:, :, 1:-1]))"),
)  # fmt: skip


@pytest.mark.parametrize(("arguments", "result", "formula", "call"), SAME, ids=lambda s: s[:20])
def test_a_known_op_is_that_op(arguments: str, result: str, formula: str, call: str) -> None:
    by_index = forward(arguments, result, formula, optimise=True)
    by_call = forward(arguments, result, call, optimise=True)
    assert renamed(by_index) == renamed(by_call)


BEYOND = (
    ("x: f64[D, T], w: f64[2, D, 3]", "f64[2, T]", "[o, i]: f64[2, T]", "i + k + 1"),
    ("x: f64[D, T], w: f64[2, D, 3]", "f64[2, T]", "[o, i]: f64[2, T]", "i - 2 * k - 3"),
    ("x: f64[D, 4], w: f64[2, D, 3]", "f64[2, 5]", "[o, i]: f64[2, 5]", "i + k + 9"),
    ("x: f64[D, 4], w: f64[2, D, 3]", "f64[2, 2]", "[o, i]: f64[2, 2]", "i + k - 9"),
)


@pytest.mark.parametrize(("arguments", "result", "left", "place"), BEYOND)
def test_windows_may_stand_outside_of_an_image(
    arguments: str, result: str, left: str, place: str
) -> None:
    """Also where the image is shorter than what the first window leaves out."""
    line = f"y{left} = sum[c, k](w[o, c, k] * (x[c, {place}] else 0))"
    made = forward(arguments, result, line)
    rng = np.random.default_rng(0)
    for size in (0, 1, 2, 6):
        x, w = rng.normal(size=(3, 4 if "4" in arguments else size)), rng.normal(size=(2, 3, 3))
        (found,) = evaluate(made, [x, w])
        expected = np.zeros(found.shape)
        for i, k in np.ndindex(found.shape[1], 3):
            at = eval(place, {"i": i, "k": k})
            if 0 <= at < x.shape[1]:
                expected[:, i] += w[:, :, k] @ x[:, at]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_what_is_scaled_inside_of_a_sum_does_not_overflow() -> None:
    arguments, result = "q: f16[N, 64], k: f16[N, 64]", "f16[N, N]"
    inputs = [np.full((2, 64), 60, np.float16)] * 2
    for line in ("sum[d](q[i, d] * k[j, d] * 0.125)", "mean[d](q[i, d] * k[j, d])"):
        (found,) = evaluate(forward(arguments, result, f"y[i, j] = {line}"), inputs)
        assert np.isfinite(found).all()
