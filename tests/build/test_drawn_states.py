"""`state ~ f`: drawn by the seed as a weight is, kept from call to call, and never trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import dslc

FOURIER = """
model Fourier(x: f32[N, 3]) -> f32[N, 2] {
    state frequencies: f32[3, 400] ~ normal[1, 10]
    state walked: f32[2] ~ uniform[3, 4]
    walked <- walked + 1
    param w: f32[800, 2] ~ normal[0, 0.1]
    y = x @ frequencies
    return concat[axis=-1](sin(y), cos(y)) @ w + 0 * walked
}

train Fourier {
    input target: f32[N, 2]
    loss mse(output, target)
    optimizer adamw[lr=0.1]
}
"""


def test_drawn_kept_and_not_trained(tmp_path: Path) -> None:
    first, same, other = (dslc.compile(FOURIER, train=True, seed=seed) for seed in (1, 1, 2))
    drawn = np.array(first.weights["frequencies"])
    assert abs(drawn.mean() - 1) < 1.5
    assert abs(drawn.std() - 10) < 1
    np.testing.assert_array_equal(drawn, same.weights["frequencies"])
    assert (drawn != other.weights["frequencies"]).mean() > 0.99
    walked = np.array(first.weights["walked"])
    assert (walked >= 3).all()
    assert (walked <= 4).all()

    x = np.ones((4, 3), np.float32)
    weight = np.array(first.weights["w"])
    first.train_step(x, np.zeros((4, 2), np.float32))
    np.testing.assert_array_equal(first.weights["frequencies"], drawn)
    np.testing.assert_allclose(first.weights["walked"], walked + 1, rtol=1e-6)
    assert (first.weights["w"] != weight).any()

    first.save_weights(tmp_path / "w.safetensors")
    other.load_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(other.weights["frequencies"], drawn)
    y = x @ drawn
    wanted = np.concatenate([np.sin(y), np.cos(y)], -1) @ first.weights["w"]
    np.testing.assert_allclose(other(x), wanted, rtol=1e-3, atol=1e-3)
