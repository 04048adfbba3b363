"""LSTMs with peepholes: ONNX's order of their gates is told from ours by weights that differ."""

from __future__ import annotations

import pytest
from imports import compare, model_of, normal

STEPS, BATCH, WIDTH, HIDDEN = 5, 3, 2, 4


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_peepholes_of_each_direction(direction: str) -> None:
    ways = 2 if direction == "bidirectional" else 1
    model = model_of(
        f"""
        agraph (float[{STEPS}, N, {WIDTH}] x) => (float[T, D, N, H] y, float[D, N, H] h) {{
            y, h = LSTM <hidden_size={HIDDEN}, direction="{direction}"> (x, w, r, b, , , , p)
        }}""",
        w=(ways, 4 * HIDDEN, WIDTH),
        r=(ways, 4 * HIDDEN, HIDDEN),
        b=(ways, 8 * HIDDEN),
        p=(ways, 3 * HIDDEN),
    )
    found = compare(model, normal(STEPS, BATCH, WIDTH))
    assert "peephole=true" in found.text
