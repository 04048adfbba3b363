"""Host functions of many steps, which call others that do some of them each."""

from __future__ import annotations

import numpy as np
import pytest

import dslc
from dslc.lowering.host.entry import MOST_STEPS

LAYERS = MOST_STEPS + 8
SOURCE = f"""
layer turned(x: f32[N, D]) -> f32[N, D] {{
    param w: f32[D, D] = 0
    return x @ w
}}

model M(x: f32[N, 3], y: f32[N, 3]) -> f32[N, 3] {{
    for i in 0..{LAYERS} {{ x = (x |> turns: turned) + y }}
    return x
}}
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_they_do_all_steps_in_their_order(threads: int) -> None:
    turn = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    weights = {f"turns.{i}.w": turn for i in range(LAYERS)}
    model = dslc.compile(SOURCE, weights=weights, threads=threads)
    x, y = np.arange(12, dtype=np.float32).reshape(2, 2, 3)
    wanted = x
    for _ in range(LAYERS):
        wanted = wanted @ turn + y
    np.testing.assert_array_equal(model(x, y), wanted)
    times = model.entries["forward"].times(x, y)
    assert len(times) >= LAYERS
    assert all(step.seconds > 0 for step in times)
