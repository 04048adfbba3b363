"""First values have the mean, the spread and the bounds that their papers give."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from library.against_torch import program

from dslc.ir.evaluate import initial_variables


def drawn(initialiser: str, *dims: int, seed: int = 0) -> Any:
    """A weight with these first values."""
    shape = ", ".join(map(str, dims))
    built = program(f"""
model M(x: f32) -> f32[{shape}] {{
    param w: f32[{shape}] ~ {initialiser}
    return x * w
}}
""")
    return initial_variables(built, seed)["w"]


@pytest.mark.parametrize(
    ("initialiser", "mean", "std", "bound"),
    [
        ("uniform[1, 3]", 2, 2 / math.sqrt(12), 3),
        ("normal", 0, 1, None),
        ("normal[2, 0.5]", 2, 0.5, None),
        ("truncated_normal", 0, 0.8796, 2),
        ("truncated_normal[std=0.02]", 0, 0.02, 0.13),
        ("truncated_normal[mean=1, std=2, low=0, high=1.5]", 0.7646, 0.4309, 1.5),
        ("constant[0.7]", 0.7, 0, 0.7),
        # The fan is 40 * 9 inwards; xavier's counts both, 360 and 50 * 9.
        ("kaiming_uniform", 0, 1 / math.sqrt(3 * 360), 1 / math.sqrt(360)),
        ("kaiming_uniform[0]", 0, math.sqrt(2 / 360), math.sqrt(6 / 360)),
        ("kaiming_normal", 0, math.sqrt(2 / 360), None),
        ("xavier_uniform", 0, math.sqrt(2 / 810), math.sqrt(6 / 810)),
        ("xavier_uniform[2]", 0, 2 * math.sqrt(2 / 810), 2 * math.sqrt(6 / 810)),
        ("xavier_normal", 0, math.sqrt(2 / 810), None),
        ("lecun_normal", 0, 1 / math.sqrt(360), None),
    ],
)
def test_distributions(initialiser: str, mean: float, std: float, bound: float | None) -> None:
    w = drawn(initialiser, 50, 40, 3, 3)
    assert w.mean() == pytest.approx(mean, abs=0.02 * std + 1e-6)
    assert w.std() == pytest.approx(std, rel=0.02, abs=1e-6)
    if bound is not None:
        assert np.abs(w).max() <= bound * (1 + 1e-6)
        assert np.abs(w).max() >= 0.97 * bound or "std=0.02" in initialiser


def test_truncated_normal_has_the_normal_distribution_between_its_bounds() -> None:
    w = np.sort(drawn("truncated_normal", 100, 200).ravel())
    below, above = (0.5 * (1 + math.erf(x / math.sqrt(2))) for x in (-2, 2))
    at = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in w])
    wanted = below + (above - below) * np.arange(len(w)) / len(w)
    assert np.abs(at - wanted).max() < 0.015


def test_identity() -> None:
    np.testing.assert_array_equal(drawn("identity", 3, 5), np.eye(3, 5))


@pytest.mark.parametrize("dims", [(20, 20), (8, 30), (30, 8), (6, 2, 5)])
def test_orthogonal(dims: tuple[int, ...]) -> None:
    w = drawn("orthogonal[2]", *dims).reshape(dims[0], -1) / 2
    product = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
    np.testing.assert_allclose(product, np.eye(len(product)), atol=1e-5)


def test_orthogonal_matrices_turn_both_ways_and_are_spread() -> None:
    """The first column of a random orthogonal matrix is uniform on the sphere."""
    drawn_ones = [drawn("orthogonal", 3, 3, seed=seed) for seed in range(60)]
    signs = [np.sign(np.linalg.det(w)) for w in drawn_ones]
    assert 15 < sum(s > 0 for s in signs) < 45
    heights = np.array([w[0, 0] for w in drawn_ones])
    assert abs(heights.mean()) < 0.25
    assert 0.4 < heights.std() < 0.75
