"""Which convolutions go by Winograd's way, with what weights, and that --exact refuses it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from dslc.build import driver, session
from dslc.build.target import Target
from dslc.ir.builder import Builder
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.lowering.rewrites.rates import TWO
from dslc.lowering.rewrites.winograd import Convolution, choose_tile, transformed
from dslc.ops.winograd import WAYS, conv2d_winograd
from dslc.source import SourceFile

TARGET = Target("test", "cpu", "x86-64-v3", (), 256, 1)
NET = """
model Net(x: f32[N, 32, 28, 28]) -> f32[N, 32, 14, 14] {
    y = x |> first: conv2d[32, kernel=3, padding=1] |> relu
    return y |> second: conv2d[32, kernel=3, stride=2, padding=1]
}

train Net {
    loss mean(output * output)
    optimizer sgd[lr=0.1]
}
"""


@pytest.mark.parametrize(
    ("conv", "tile"),
    [
        (Convolution(1, 56, 56, 64, 64), 4),
        (Convolution(1, 14, 14, 256, 256), 4),
        (Convolution(1, 7, 7, 512, 512), 2),  # 4x4 tiles would have twice the weights to read
        (Convolution(sym("N"), 28, 28, 128, 128), 4),
        (Convolution(1, 56, 56, 3, 64), 0),
        (Convolution(1, 2, 2, 64, 64), 0),
        (Convolution(1, 1, 1, 64, 64), 0),
        (Convolution(1, sym("H"), 56, 64, 64), 0),
        (Convolution(0, 56, 56, 64, 64), 0),
        (Convolution(1, 28, 28, 128, 128, 2), 4),
        (Convolution(1, 14, 14, 256, 256, 2), 2),
    ],
)
def test_the_quickest_way_is_chosen(conv: Convolution, tile: int) -> None:
    assert choose_tile(conv, 16, fixed=True) == tile


@pytest.mark.parametrize(
    ("conv", "tile"),
    [
        (Convolution(1, 28, 28, 128, 128), 4),
        (Convolution(1, 14, 14, 256, 256), 2),  # 4x4 tiles wait for their weights
        (Convolution(8, 14, 14, 256, 256), 4),
        (Convolution(1, 28, 28, 128, 128, 2), 2),  # several blocks would read those of 4x4 tiles
        (Convolution(8, 7, 7, 512, 512, 2), 2),
        (Convolution(1, 7, 7, 512, 512, 2), 0),
    ],
)
def test_with_two_vectors_in_a_cycle_weights_count_more(conv: Convolution, tile: int) -> None:
    assert choose_tile(conv, 16, True, TWO) == tile


def test_weights_that_change_have_to_be_worth_transforming() -> None:
    small, big = Convolution(1, 4, 4, 64, 64), Convolution(64, 16, 16, 64, 64)
    assert choose_tile(small, 16, fixed=False) == 0
    assert choose_tile(big, 16, fixed=False) == 4


@pytest.mark.parametrize(("kernel", "stride", "tile"), WAYS)
def test_weights_are_transformed_as_the_matrix_says(kernel: int, stride: int, tile: int) -> None:
    b = Builder()
    packed = b.param("packed", TensorType("f32", (2, kernel, kernel, 5, 8)))
    function = b.function("f", [transformed(b, packed, tile, stride)])
    w = np.random.default_rng(0).standard_normal((2, kernel, kernel, 5, 8)).astype("float32")
    g = np.array(WAYS[kernel, stride, tile].g)
    wanted = np.einsum("pi,qj,nijcl->npqcl", g, g, w)
    np.testing.assert_allclose(evaluate(function, [w])[0], wanted, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_exact_refuses_it(training: bool) -> None:
    program = session.program_of(SourceFile("net", NET), training=training)
    entry = "train_step" if training else "forward"

    def names(target: Target) -> Counter[str]:
        made = driver.optimise(program, target)
        assert ("first" in driver.layers_of(made, conv2d_winograd)) == (not target.exact)
        return Counter(eqn.op.name for eqn in made.entry(entry).function.eqns)

    assert names(TARGET)["conv2d_winograd"] >= 1
    assert names(replace(TARGET, exact=True))["conv2d_winograd"] == 0


def test_pixels_of_one_vector_are_stored_as_they_lie() -> None:
    """LLVM unrolls loops over 16 channels; of the pixels around them it must make no lanes."""
    text = """
model Net(x: f32[1, 16, 128, 128]) -> f32[1, 16, 128, 128] {
    return x |> conv: conv2d[16, kernel=3, padding=1] |> relu
}
"""
    target = Target("test", "cpu", "znver4", (), 512, 1)
    optimised = driver.optimise(session.program_of(SourceFile("net", text)), target)
    code = driver.run_job(driver.make_job(optimised, target, Path(), "asm")).text
    assert "vfmadd" in code
    assert "vscatter" not in code
