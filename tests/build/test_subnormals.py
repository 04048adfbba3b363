"""Training takes numbers below the smallest normal one for 0; other calls don't."""

from __future__ import annotations

import numpy as np
import pytest

import dslc

SOURCE = """
model Scaled(x: f32[N, 4096]) -> f32[N, 4096] {
    param weight: f32[4096] = 1
    return x * weight
}

train Scaled {
    loss sum(output)
    optimizer adam[lr=0.001]
}
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_averages_of_gradients_that_are_almost_0(threads: int) -> None:
    trainer = dslc.compile(SOURCE, train=True, threads=threads)
    x = np.full((1, 4096), 1e-37, np.float32)
    trainer.train_step(x=x)  # a gradient of x, and an average of x / 10
    assert not trainer.model.store.read("optimizer.weight.exp_avg").any()
    trainer.load_weights({"weight": np.full(4096, 0.05, np.float32)})
    np.testing.assert_allclose(trainer.forward(x), 5e-39, rtol=1e-3)
