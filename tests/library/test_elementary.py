"""Functions of elements are PyTorch's, gradients included, and NumPy's over wide ranges, both by
their reference meanings and compiled."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from library.against_torch import check, numbers, program, torch

import dslc
from dslc.ir.evaluate import run_entry

pytestmark = pytest.mark.torch

Array = Any
gammaln = np.vectorize(math.lgamma, otypes=[np.float64])

# What each gives in f64.
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "tan": np.tan, "sinh": np.sinh,
    "cosh": np.cosh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
    "exp2": np.exp2, "log2": np.log2, "log10": np.log10, "trunc": np.trunc, "sinc": np.sinc,
    "erfc": np.vectorize(math.erfc, otypes=[np.float64]), "frac": lambda x: x - np.trunc(x),
    "logit": lambda x: np.log(x) - np.log1p(-x), "heaviside": lambda x: np.heaviside(x, 0),
}  # fmt: skip
PAIRS: dict[str, Callable[[Array, Array], Array]] = {
    "atan2": np.arctan2, "hypot": np.hypot, "logaddexp": np.logaddexp, "fmod": np.fmod,
    "xlogy": lambda x, y: x * np.log(np.where((x == 0) & (y == y), 1, y)),
}  # fmt: skip


def model(names: Any, arguments: str, given: str) -> str:
    results = ", ".join("f32[N]" for _ in names)
    calls = ", ".join(f"{name}({given})" for name in names)
    return f"model M({arguments}) -> ({results}) {{ return {calls} }}"


def both(text: str, inputs: dict[str, Array]) -> list[tuple[Array, ...]]:
    """What the reference meanings give, and what is compiled."""
    evaluated = run_entry(program(text), "forward", {}, inputs)[0]
    compiled = dslc.compile(text)(**inputs)
    return [tuple(evaluated.values()), compiled]


def wide(seed: int = 0) -> Array:
    random = np.random.default_rng(seed)
    near = [random.uniform(-s, s, 2000) for s in (1e-6, 0.1, 1, 4, 100)]
    beside = 1 + random.uniform(-1, 1, 2000) * 10.0 ** random.uniform(-6, 0, 2000)
    far = random.standard_normal(2000) * 10.0 ** random.uniform(-30, 14, 2000)
    return np.concatenate([*near, beside, far]).astype(np.float32)


SPECIAL = np.float32([0, -0.0, 1, -1, 0.5, 2, 3e38, -3e38, np.inf, -np.inf, np.nan, 1e-30])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_functions_over_wide_ranges() -> None:
    x = np.concatenate([wide(), SPECIAL])
    for results in both(model(FUNCTIONS, "x: f32[N]", "x"), {"x": x}):
        for (name, exact), found in zip(FUNCTIONS.items(), results, strict=True):
            wanted = exact(x.astype(np.float64)).astype(np.float32)
            # A multiple of PI is rounded before sin is taken of it; f32 knows angles to 6e-8.
            atol = 3e-7 if name == "sinc" else 2e-38
            keep = np.abs(x) < (1e15 if name == "tan" else 1e4 if name == "sinc" else np.inf)
            np.testing.assert_allclose(
                found[keep], wanted[keep], rtol=2e-6, atol=atol, err_msg=name
            )


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_functions_of_two_over_wide_ranges() -> None:
    x = np.concatenate([wide(1), np.repeat(SPECIAL, len(SPECIAL))])
    y = np.concatenate([np.random.default_rng(2).permutation(wide(2)), np.tile(SPECIAL, 12)])
    for results in both(model(PAIRS, "x: f32[N], y: f32[N]", "x, y"), {"x": x, "y": y}):
        for (name, exact), found in zip(PAIRS.items(), results, strict=True):
            wanted = exact(x.astype(np.float64), y.astype(np.float64)).astype(np.float32)
            keep = ~(
                (x == 0) & np.signbit(x) | (y == 0) & np.signbit(y)
            )  # atan2 of -0 is that of 0
            # Where a logarithm and what is added to it cancel, f32's digits of both remain.
            atol = 1e-7 if name == "logaddexp" else 2e-38
            np.testing.assert_allclose(
                found[keep], wanted[keep], rtol=2e-6, atol=atol, err_msg=name
            )


@pytest.mark.parametrize(
    ("call", "oracle"),
    [
        *(
            (f"{name}(0.3 * x)", lambda x, name=name: getattr(torch, name)(0.3 * x))
            for name in ("asin", "acos", "atan", "tan", "sinh", "cosh", "asinh", "atanh", "sinc")
        ),
        ("acosh(1.1 + x * x)", lambda x: (1.1 + x * x).acosh()),
        ("exp2(x)", torch.exp2),
        ("erfc(x)", torch.erfc),
        ("trunc(9 * x)", lambda x: (9 * x).trunc()),
        ("frac(9 * x)", lambda x: (9 * x).frac()),
        ("log2(abs(x))", lambda x: x.abs().log2()),
        ("log10(abs(x))", lambda x: x.abs().log10()),
        ("logit(0.5 + 0.2 * x)", lambda x: (0.5 + 0.2 * x).logit()),
        ("logit[0.3](0.5 + 0.2 * x)", lambda x: (0.5 + 0.2 * x).logit(0.3)),
        ("heaviside[0.5](x)", lambda x: torch.heaviside(x.detach(), torch.tensor(0.5)) + 0 * x),
        ("lgamma(4 * abs(x) + 0.01)", lambda x: (4 * x.abs() + 0.01).lgamma()),
        ("digamma(4 * abs(x) + 0.01)", lambda x: (4 * x.abs() + 0.01).digamma()),
        (
            "nan_to_num(stop_gradient(x / 0)) + 0 * x",
            lambda x: (x.detach() / 0).nan_to_num() + 0 * x,
        ),
        (
            "nan_to_num[2.0, 3.0, -4](stop_gradient(x / 0)) + 0 * x",
            lambda x: (x.detach() / 0).nan_to_num(2, 3, -4) + 0 * x,
        ),
        ("where(isnan(x) or isinf(x), 1, x)", lambda x: x),
        ("where(isfinite(x), x, 1)", lambda x: x),
    ],
)
def test_gradients(call: str, oracle: Callable[..., Any]) -> None:
    with np.errstate(all="ignore"):
        check(call, {"x": numbers(5, 7)}, oracle)


@pytest.mark.parametrize(
    ("call", "oracle"),
    [
        ("atan2(x, y)", torch.atan2),
        ("hypot(x, y)", torch.hypot),
        ("logaddexp(x, y)", torch.logaddexp),
        ("xlogy(x, abs(y))", lambda x, y: torch.xlogy(x, y.abs())),
        ("fmod(3 * x, abs(y) + 1)", lambda x, y: torch.fmod(3 * x, y.detach().abs() + 1) + 0 * y),
        ("lerp(x, y, 0.3)", lambda x, y: torch.lerp(x, y.expand(5, 7), 0.3)),
        ("lerp(x, y, sigmoid(x))", lambda x, y: torch.lerp(x, y.expand(5, 7), x.sigmoid())),
        ("hypot(x, 3) + 0 * y", lambda x, y: torch.hypot(x, torch.tensor(3.0)) + 0 * y),
    ],
)
def test_gradients_of_two(call: str, oracle: Callable[..., Any]) -> None:
    """The second is broadcast, or a number."""
    constant = ("y",) if "fmod" in call else ()
    check(call, {"x": numbers(5, 7), "y": numbers(7, seed=1)}, oracle, constant=constant)


def test_gradients_where_both_meet() -> None:
    x = np.float32([0, 1, -2, 3])
    check("logaddexp(x, y)", {"x": x, "y": x}, torch.logaddexp)
    check("hypot(x, y)", {"x": x[1:], "y": x[1:]}, torch.hypot)


def test_gamma_functions_compiled() -> None:
    x = np.concatenate([np.geomspace(1e-3, 1e4, 5000), np.arange(1, 30)]).astype(np.float32)
    torch_x = torch.tensor(x, dtype=torch.float64)
    for logs, slopes in both(model(["lgamma", "digamma"], "x: f32[N]", "x"), {"x": x}):
        np.testing.assert_allclose(logs, gammaln(x.astype(np.float64)), rtol=1e-6, atol=3e-6)
        np.testing.assert_allclose(slopes, torch_x.digamma().numpy(), rtol=2e-6, atol=1e-6)


def test_angles_of_points_in_f64() -> None:
    y, x = np.random.default_rng(0).standard_normal((2, 100))
    y[:4], x[:4] = (1, -1, 0, 0), (0, 0, 1, -1)
    found = dslc.compile("model M(y: f64[N], x: f64[N]) -> f64[N] { return atan2(y, x) }")(y, x)
    np.testing.assert_allclose(found, np.arctan2(y, x), rtol=1e-14, atol=0)
