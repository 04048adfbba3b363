"""LSTMs: ONNX's order of gates is told from ours by weights that differ, with peepholes, and where
nodes lay them in that order."""

from __future__ import annotations

import numpy as np
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


def test_weights_whose_gates_nodes_lay_in_order() -> None:
    """PyTorch's exporter leaves that to nodes where weights are large."""
    gates = {"i": 0, "o": 3, "f": 1, "c": 2}
    cut = "".join(
        f"""
            {gate}{w} = Slice ({w}, at{place}, at{place + 1}, at0)"""
        for w in ("wx", "wh")
        for gate, place in gates.items()
    )
    model = model_of(
        f"""
        agraph (float[{STEPS}, N, {WIDTH}] x) => (float[T, D, N, H] y, float[D, N, H] h) {{{cut}
            laid = Concat <axis=0> (iwx, owx, fwx, cwx)
            laid_too = Concat <axis=0> (iwh, owh, fwh, cwh)
            w = Unsqueeze (laid, at0)
            r = Unsqueeze (laid_too, at0)
            y, h = LSTM <hidden_size={HIDDEN}> (x, w, r, b)
        }}""",
        wx=(4 * HIDDEN, WIDTH),
        wh=(4 * HIDDEN, HIDDEN),
        b=(1, 8 * HIDDEN),
        **{f"at{place}": np.array([place * HIDDEN]) for place in range(5)},
    )
    found = compare(model, normal(STEPS, BATCH, WIDTH))
    assert f"lstm[{HIDDEN}]" in found.text


def test_a_weight_that_is_read_elsewhere_too_is_not_a_layers() -> None:
    model = model_of(
        """
        agraph (float[N, 4] x) => (float[N, 8] y, float[N, 4] z) {
            head = Slice (w, at0, at1, at0)
            tail = Slice (w, at1, at2, at0)
            turned = Concat <axis=0> (tail, head)
            y = Gemm <transB=1> (x, turned)
            z = MatMul (x, tail)
        }""",
        w=(8, 4),
        **{f"at{place}": np.array([4 * place]) for place in range(3)},
    )
    found = compare(model, normal(BATCH, 4))
    assert list(found.weights) == ["w"]
