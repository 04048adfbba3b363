"""Convolutions with strides are the same sums by phases, and go that way where it is quicker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dslc.build import driver, session
from dslc.build.target import Target
from dslc.ir.builder import Builder
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.lowering.rewrites.pack import Vectors, pack
from dslc.lowering.rewrites.phases import Phases, choose_phases, phased_image, phased_weights
from dslc.lowering.rewrites.winograd import Convolution, transformed
from dslc.ops.conv import conv2d
from dslc.ops.windows import ConvAttrs
from dslc.ops.winograd import WinogradAttrs, conv2d_winograd
from dslc.source import SourceFile

TARGET = Target("test", "cpu", "x86-64-v3", (), 256, 1)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding", "tile"),
    [
        ((17, 14), 7, 2, (3, 2, 3, 1), 3),
        ((12, 13), 5, 2, (2, 2, 0, 1), 4),
        ((29, 20), 11, 4, (2, 2, 5, 0), 2),
        ((7, 9), 7, 2, (0, 0, 0, 0), 3),
        ((20, 21), 8, 3, (0, 0, 1, 1), 4),  # the last pixels are seen by no result
    ],
)
def test_the_sums_are_the_same(
    size: tuple[int, int], kernel: int, stride: int, padding: tuple[int, int, int, int], tile: int
) -> None:
    cpu, b = Vectors(256), Builder()
    top, bottom, left, right = padding
    down, across = (
        (n + low + high - kernel) // stride + 1
        for n, low, high in zip(size, (top, left), (bottom, right))
    )
    p = Phases(kernel, stride, (top, left), (down, across), tile)
    x = b.param("x", TensorType("f32", (2, *size, 3)))
    w = b.param("w", TensorType("f32", (5, 3, kernel, kernel)))
    plain = b.emit(conv2d, (x, w), ConvAttrs((stride, stride), padding, layout="NHWC"))[0]
    attrs = WinogradAttrs(5, tile, (0, p.spare(0), 0, p.spare(1)), kernel=p.taps)
    weights = transformed(b, pack(b, phased_weights(b, w, p), 1, cpu), tile)
    fast = b.emit(conv2d_winograd, (phased_image(b, x, p), weights), attrs)[0]
    function = b.function("f", [plain, fast])
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.type.dims).astype("float32") for v in (x, w)]
    wanted, found = evaluate(function, arrays)
    np.testing.assert_allclose(found, wanted, atol=5e-4)


@pytest.mark.parametrize(
    ("conv", "taken"),
    [
        (Convolution(1, 112, 112, 3, 64, 2, 7), True),
        (Convolution(sym("N"), 112, 112, 3, 64, 2, 7), True),
        (Convolution(1, 55, 55, 3, 64, 4, 11), True),
        (Convolution(1, 112, 112, 3, 64, 2, 3), False),  # its kernel of 2x2 has no such way
        (Convolution(1, 112, 112, 1, 64, 2, 7), False),
        (Convolution(1, 2, 2, 3, 8, 2, 7), False),
        (Convolution(1, sym("H"), 112, 3, 64, 2, 7), False),
        (Convolution(0, 112, 112, 3, 64, 2, 7), False),
    ],
)
def test_the_quickest_way_is_chosen(conv: Convolution, taken: bool) -> None:
    assert (choose_phases(conv, (3, 3), 16, fixed=True) is not None) == taken


def test_exact_refuses_it() -> None:
    net = """
    model Net(x: f32[N, 3, 64, 64]) -> f32[N, 32, 32, 32] {
        y = x |> first: conv2d[32, kernel=7, stride=2, padding=3] |> relu
        return y |> second: conv2d[32, kernel=3, padding=1]
    }
    """
    program = session.program_of(SourceFile("net", net))

    def taken(target: Target) -> bool:
        return "first" in driver.layers_of(driver.optimise(program, target), conv2d_winograd)

    assert taken(TARGET)
    assert not taken(replace(TARGET, exact=True))
