"""Panels hold what the matrix holds, however it lies, and zeros where it has no columns."""

from __future__ import annotations

import numpy as np
import pytest
from harness import MACHINE, compile_body

from dslc.schedules.cpu.tiles.contract import Machine, Operand
from dslc.schedules.cpu.tiles.pack import pack_panel

# What exists of a panel of three vectors: of each a whole one, a part, nothing.
PARTS = [(3, 0), (2, 1), (1, -1), (0, 1), (0, 0)]


@pytest.mark.parametrize("bits", sorted({MACHINE.vector_bits, 128}))
@pytest.mark.parametrize("rows", [0, 2.5, 20])
@pytest.mark.parametrize("lies", ["in rows", "in columns"])
def test_panel(lies, rows, bits):
    """All parts by one kernel: their columns, and half of the time K, are known when it runs."""
    lanes = Machine(vector_bits=bits).lanes("float32")
    width, k = 3 * lanes, int(rows * lanes) + 1
    counts = [whole * lanes + left % lanes for whole, left in PARTS]
    matrices = [np.random.default_rng(n).standard_normal((k, n)).astype("f4") for n in counts]
    starts = np.cumsum([0, *(m.size for m in matrices)])
    each = k * width

    def body(source, target, known_k):
        for i, n in enumerate(counts):
            strides = (n, 1) if lies == "in rows" else (1, k)
            view = Operand(source, "float32", strides, int(starts[i]))
            columns = n if i % 2 else known_k - (k - n)
            to = Operand(target, "float32", (width, 1), i * each)
            pack_panel(view, to, known_k if i < 2 else k, columns, width, lanes)

    run = compile_body(body, ["float32"] * 2, 1, bits)
    data = [m if lies == "in rows" else m.T for m in matrices]
    found = np.full(len(counts) * each, np.nan, "f4")
    run(np.concatenate([np.ascontiguousarray(m).reshape(-1) for m in data]), found, k)
    for matrix, panel in zip(matrices, found.reshape(-1, k, width)):
        np.testing.assert_array_equal(panel[:, : matrix.shape[1]], matrix)
        assert not panel[:, matrix.shape[1] :].any()


def test_panel_of_doubles():
    lanes = MACHINE.lanes("float64")
    matrix = np.random.default_rng(0).standard_normal((lanes + 1, 2 * lanes + 3))

    def body(source, target):
        view = Operand(source, "float64", (1, lanes + 1))
        to = Operand(target, "float64", (3 * lanes, 1))
        pack_panel(view, to, lanes + 1, 2 * lanes + 3, 3 * lanes, lanes)

    found = np.full((lanes + 1) * 3 * lanes, np.nan)
    compile_body(body, ["float64"] * 2)(np.ascontiguousarray(matrix.T).reshape(-1), found)
    panel = found.reshape(lanes + 1, -1)
    np.testing.assert_array_equal(panel[:, : matrix.shape[1]], matrix)
    assert not panel[:, matrix.shape[1] :].any()
