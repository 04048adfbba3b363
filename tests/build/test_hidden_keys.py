"""Keys that are hidden by the least number of f32, as masks of pretrained models have it."""

from __future__ import annotations

import numpy as np

import dslc

SOURCE = """
model M(q: f32[2, 3, T, 16], k: f32[2, 3, T, 16], m: bool[2, 1, 1, T]) -> f32[2, 3, T, 16] {
    s = where(broadcast_to[2, 3, T, T](m), -3.4028235e38, q @ k.T)
    return softmax(s) @ k
}
"""


ADDED = """
model M(q: f32[2, 3, T, 16], k: f32[2, 3, T, 16], m: f32[2, 1, 1, T]) -> f32[2, 3, T, 16] {
    return softmax(q @ k.T + (1 - m) * -3.4028235e38) @ k
}
"""
GIVEN = ADDED.replace("(1 - m) * -3.4028235e38", "m")


def test_the_least_number_hides_keys_and_where_all_are_hidden_none_is() -> None:
    q, k = np.random.default_rng(0).normal(size=(2, 2, 3, 9, 16)).astype(np.float32)
    mask = np.zeros((2, 1, 1, 9), bool)
    mask[0, ..., 4:] = mask[1] = True
    scores = np.where(mask, np.finfo(np.float32).min, q @ k.swapaxes(-1, -2))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = weights / weights.sum(-1, keepdims=True) @ k
    least = np.where(mask, np.finfo(np.float32).min, np.float32(0))
    for source, given in (
        (SOURCE, mask),
        (ADDED, np.float32(1) - mask.astype(np.float32)),
        (GIVEN, least),
    ):
        found = dslc.compile(source, threads=1)(q, k, given)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
