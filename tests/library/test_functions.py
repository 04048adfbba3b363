"""Activations and functions along an axis give what PyTorch's give, gradients included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from library.against_torch import check, gradients, numbers, program, torch

from dslc.ir.evaluate import evaluate, run_entry

F = torch.nn.functional

pytestmark = pytest.mark.torch

FUNCTIONS: list[tuple[str, Callable[[Any], Any]]] = [
    ("clamp[-0.5, 1]", lambda x: x.clamp(-0.5, 1)),
    ("clamp[low=0.5]", lambda x: x.clamp(min=0.5)),
    ("clamp[high=0]", lambda x: x.clamp(max=0)),
    ("relu", F.relu),
    ("relu6", F.relu6),
    ("hardtanh", F.hardtanh),
    ("hardtanh[-0.5, 2]", lambda x: F.hardtanh(x, -0.5, 2)),
    ("leaky_relu", F.leaky_relu),
    ("leaky_relu[0.3]", lambda x: F.leaky_relu(x, 0.3)),
    ("elu", F.elu),
    ("elu[0.5]", lambda x: F.elu(x, 0.5)),
    ("celu", F.celu),
    ("celu[0.5]", lambda x: F.celu(x, 0.5)),
    ("selu", F.selu),
    ("gelu", F.gelu),
    ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
    ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
    ("silu", F.silu),
    ("mish", F.mish),
    ("softplus", F.softplus),
    ("softplus[2]", lambda x: F.softplus(x, 2)),
    ("softsign", F.softsign),
    ("log_sigmoid", F.logsigmoid),
    ("hardsigmoid", F.hardsigmoid),
    ("hardswish", F.hardswish),
    ("tanhshrink", F.tanhshrink),
    ("hardshrink", F.hardshrink),
    ("softshrink", F.softshrink),
    ("softshrink[1]", lambda x: F.softshrink(x, 1)),
    ("threshold[0.5, 2]", lambda x: F.threshold(x, 0.5, 2)),
    ("sigmoid", torch.sigmoid),
    ("tanh", torch.tanh),
    ("glu", F.glu),
    ("glu[axis=1]", lambda x: F.glu(x, 1)),
    ("geglu", lambda x: x[..., :4] * F.gelu(x[..., 4:])),
    ("reglu", lambda x: x[..., :4] * F.relu(x[..., 4:])),
    ("swiglu", lambda x: F.silu(x[..., :4]) * x[..., 4:]),
    ("softmax", lambda x: x.softmax(-1)),
    ("softmax[axis=1]", lambda x: x.softmax(1)),
    ("softmin", lambda x: F.softmin(x, -1)),
    ("log_softmax", lambda x: x.log_softmax(-1)),
    ("logsumexp", lambda x: x.logsumexp(-1)),
    ("logsumexp[axis=1]", lambda x: x.logsumexp(1)),
    ("cumprod", lambda x: x.cumprod(-1)),
    ("where(x > 0.5, 0, x) |> cumprod[axis=1]", lambda x: torch.where(x > 0.5, 0, x).cumprod(1)),
    ("where(x < 2, x, -INF) |> softmax", lambda x: x.masked_fill(x >= 2, -math.inf).softmax(-1)),
    ("normalize", lambda x: F.normalize(x, dim=-1)),
    ("normalize[axis=1]", lambda x: F.normalize(x, dim=1)),
    ("x |> put[axis=2](x[:, :, 0:2], 3)", lambda x: x.slice_scatter(x[:, :, :2], 2, 3, 5)),
    ("(0.3 * x) |> clamp[-0.9, 0.9] |> erfinv", lambda x: (0.3 * x).clamp(-0.9, 0.9).erfinv()),
]


INDICES: list[tuple[str, Callable[..., Any]]] = [
    ("x[:, i, j]", lambda x, i, j, k: x[:, i, j]),
    ("x[:, k, j]", lambda x, i, j, k: x[:, k, j]),
    ("x[i, :, j]", lambda x, i, j, k: x[i, :, j]),
    ("x[:, i, None, :, j]", lambda x, i, j, k: x[:, i, None, :, j]),
    ("x[:, 0, :, j]", lambda x, i, j, k: x[:, 0, :, j]),
    ("x[:, 0, k, j]", lambda x, i, j, k: x[:, 0, k, j]),
    ("x[:, i, :, -1]", lambda x, i, j, k: x[:, i, :, -1]),
    ("x[..., None, 1:]", lambda x, i, j, k: x[..., None, 1:]),
    ("x[:, None, ..., None]", lambda x, i, j, k: x[:, None, ..., None]),
    ("x[:, j, None]", lambda x, i, j, k: x[:, j, None]),
]


KINKS = [-3, -1, -0.5, 0, 0.5, 1, 3, 6]  # where the sides of a function meet


@pytest.mark.parametrize(
    ("call", "oracle"),
    [
        ("clamp[-1, 3](x)", lambda x: x.clamp(-1, 3)),
        ("threshold[0.5, 2](x)", lambda x: F.threshold(x, 0.5, 2)),
        *(
            (f"{name}(x)", getattr(F, name))
            for name in ("elu", "celu", "hardshrink", "softshrink", "relu6", "hardtanh")
        ),
        ("hardsigmoid(x)", F.hardsigmoid),
        ("hardswish(x)", F.hardswish),
        ("leaky_relu(x)", F.leaky_relu),
        ("softplus(x)", F.softplus),
        ("abs(x)", torch.abs),
    ],
)
def test_functions_at_kinks(call: str, oracle: Callable[..., Any]) -> None:
    """No gradient is halved where both sides meet; NaN stays NaN."""
    check(call, {"x": np.array(KINKS, np.float32)}, oracle)
    check(call, {"x": np.full(3, np.nan, np.float32)}, oracle, differentiable=False)


@pytest.mark.parametrize(("index", "oracle"), INDICES, ids=[index for index, _ in INDICES])
def test_indices_by_tensors_and_new_dims(index: str, oracle: Callable[..., Any]) -> None:
    i, j, k = np.array([0, -1, 2, 1]), np.array([2, 0, -3, 2]), np.array([[1], [-2]])
    check(index, {"x": numbers(3, 3, 4, 5), "i": i, "j": j, "k": k}, oracle)


@pytest.mark.parametrize(("function", "oracle"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
def test_functions(function: str, oracle: Callable[[Any], Any]) -> None:
    call = function if "|>" in function else f"x |> {function}"
    check(call, {"x": 2 * numbers(5, 6, 8)}, oracle)


@pytest.mark.parametrize(
    "function", ["softplus", "mish", "log_sigmoid", "logsumexp", "log_softmax"]
)
def test_great_numbers_do_not_overflow(function: str) -> None:
    x = np.array([[-1e4, -100, 0, 100, 1e4]], np.float32)
    oracles = {**dict(FUNCTIONS), "logsumexp": lambda x: x.logsumexp(-1)}
    check(f"x |> {function}", {"x": x}, oracles[function])


@pytest.mark.parametrize(
    ("call", "oracle"),
    [
        ("normalize(x)", lambda x, _: F.normalize(x, dim=-1)),
        ("normalize[eps=0.5](x)", lambda x, _: F.normalize(x, dim=-1, eps=0.5)),
        ("cosine_similarity(x, y)", F.cosine_similarity),
        ("cosine_similarity(y, x)", lambda x, y: F.cosine_similarity(y, x)),
    ],
)
def test_directions_of_nothing(call: str, oracle: Callable[..., Any]) -> None:
    """A vector of zeros has a finite gradient, although that of its length is infinite."""
    x = numbers(3, 8)
    x[1] = 0
    x[2] *= 1e-3
    check(call, {"x": x, "y": numbers(3, 8, seed=1)}, oracle)


@pytest.mark.filterwarnings("ignore:(invalid|divide).*:RuntimeWarning")
def test_logsumexp_of_infinities() -> None:
    """Of nothing but -inf it is -inf, and has no gradient (PyTorch's is NaN)."""
    inf = np.inf
    x = np.array([[-inf, -inf], [-inf, 1], [inf, 1], [-inf, inf], [np.nan, 1]], np.float32)
    built = program("model M(x: f32[N, 2]) -> f32[N] { return logsumexp(x) }")
    found = run_entry(built, "forward", {}, {"x": x})[0]["output"]
    np.testing.assert_allclose(found, torch.tensor(x).logsumexp(-1).numpy())
    _, moved = evaluate(gradients(built.entry("forward")), [x[:2], np.ones(2, np.float32)])
    np.testing.assert_array_equal(moved, [[0, 0], [0, 1]])


def test_erfinv_to_both_ends() -> None:
    x = np.array([*np.linspace(-1, 1, 41), 0.9999, -0.99999, 0.999999, np.nan, 2], np.float32)
    built = program("model M(x: f32[N]) -> f32[N] { return erfinv(x) }")
    found = run_entry(built, "forward", {}, {"x": x})[0]["output"]
    np.testing.assert_allclose(found, torch.tensor(x).erfinv().numpy(), rtol=5e-6)


def test_pi() -> None:
    built = program("model M(x: f32[N]) -> f32[N] { return cos(2 * PI * x) }")
    found = run_entry(built, "forward", {}, {"x": np.array([0.25, 0.5, 1], np.float32)})
    np.testing.assert_allclose(found[0]["output"], [0, -1, 1], atol=1e-6)


SEGMENTS = np.array([2, 0, 2, 5, 0, 2])


@pytest.mark.parametrize("function", ["segment_mean[7, axis=1]", "segment_softmax[7, axis=1]"])
def test_by_segments(function: str) -> None:
    """Some segments are empty."""
    at = torch.from_numpy(SEGMENTS).view(1, -1, 1).expand(2, -1, 3)

    def oracle(x: Any) -> Any:
        if "mean" in function:
            return x.new_zeros(2, 7, 3).scatter_reduce(1, at, x, "mean", include_self=False)
        sums = x.new_zeros(2, 7, 3).scatter_add(1, at, x.exp())
        return x.exp() / sums.gather(1, at)

    given = f"{function}(x, s)"
    check(
        given, {"x": numbers(2, 6, 3), "s": SEGMENTS}, lambda x, s: oracle(x),
        imports=f"from std.segments import {function.partition('[')[0]}",
    )  # fmt: skip


def test_clamp_of_integers_and_by_dims() -> None:
    text = """model M(x: f32[N, 4], i: i64[K], u: u8[K]) -> (f32[K, 4], u8[K], f32[N, 4]) {
    y[a, b]: f32[N, 4] = x[clamp[0, N - 1](a + 1), b] else 0
    return x[clamp[high=N - 1](clamp[low=0](i))], clamp[3, 200](u), clamp[high=N](x) + y
}"""
    x = numbers(3, 4, scale=4.0)
    i, u = np.array([-9, 1, 2, 7]), np.array([0, 3, 200, 255], np.uint8)
    (function,) = (entry.function for entry in program(text).entries)
    rows, cut, edge = evaluate(function, [x, i, u])
    np.testing.assert_array_equal(rows, x[i.clip(0, 2)])
    assert cut.tolist() == [3, 3, 200, 200]
    np.testing.assert_allclose(edge, x.clip(None, 3) + x[[1, 2, 2]])


def test_a_direction_of_nothing_in_f16() -> None:
    """The square of eps may be too small for the dtype."""
    built = program("model M(x: f16[N, 4]) -> f16[N, 4] { return normalize[eps=1e-4](x) }")
    x = np.array([[0, 0, 0, 0], [3, 0, 4, 0]], np.float16)
    found = run_entry(built, "forward", {}, {"x": x})[0]["output"]
    np.testing.assert_allclose(found, [[0, 0, 0, 0], [0.6, 0, 0.8, 0]], rtol=1e-3)
