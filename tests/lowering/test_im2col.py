"""Convolutions of few pixels by large weights are products of rows where that is quicker."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import Dim, sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.lowering.rewrites.im2col import is_product_of_rows, panels_of_rows, rows
from dslc.lowering.rewrites.pack import Vectors, pack
from dslc.lowering.rewrites.rates import ONE, TWO
from dslc.ops.packed import PackedConvAttrs, conv2d_packed

LAYER = PackedConvAttrs(512, padding=(1, 1, 1, 1))


@pytest.mark.parametrize(
    ("size", "kernel", "attrs"),
    [
        ((7, 5), (3, 3), PackedConvAttrs(37, padding=(1, 1, 1, 1))),
        ((9, 8), (3, 2), PackedConvAttrs(37, (2, 3), (0, 2, 1, 0), dilation=(1, 2))),
        ((4, 4), (4, 4), PackedConvAttrs(5, padding=(0, 0, 0, 0))),
        ((3, 3), (5, 5), PackedConvAttrs(16, (1, 2), (2, 2, 2, 2))),
    ],
)
def test_the_sums_are_the_same(
    size: tuple[int, int], kernel: tuple[int, int], attrs: PackedConvAttrs
) -> None:
    cpu, b = Vectors(256), Builder()
    x = b.param("x", TensorType("f32", (2, *size, 6)))
    w = b.param("w", TensorType("f32", (attrs.channels, 6, *kernel)))
    panels = pack(b, w, 1, cpu)
    plain = b.emit(conv2d_packed, (x, panels), attrs)[0]
    sides = rows(b, x, w, attrs), panels_of_rows(b, panels)
    product = b.emit(conv2d_packed, sides, PackedConvAttrs(attrs.channels))[0]
    assert product.type == plain.type
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(v.type.dims).astype("f4") for v in (x, w)]
    wanted, found = evaluate(b.function("f", [plain, product]), arrays)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def sides(batch: Dim = 1, size: int = 7, channels: int = 512) -> tuple[Value, Value]:
    b = Builder()
    x = b.param("x", TensorType("f32", (batch, size, size, channels)))
    return x, b.param("w", TensorType("f32", (512, channels, 3, 3)))


def test_few_pixels_and_large_weights_are_rows() -> None:
    assert is_product_of_rows(*sides(), LAYER, TWO)
    assert is_product_of_rows(*sides(size=15), replace(LAYER, stride=(2, 2)), TWO)


@pytest.mark.parametrize(
    ("given", "attrs"),
    [
        (sides(size=14), LAYER),  # many pixels
        (sides(batch=3), LAYER),
        (sides(batch=sym("N")), LAYER),
        (sides(batch=0), LAYER),
        (sides(channels=64), LAYER),  # small weights
        (sides(), replace(LAYER, padding=(-1, 1, 1, 1))),
        (sides(), replace(LAYER, padding=(1, sym("P"), 1, 1))),
        (sides(), replace(LAYER, spread=(2, 2))),
    ],
)
def test_others_are_not(given: tuple[Value, Value], attrs: PackedConvAttrs) -> None:
    assert not is_product_of_rows(*given, attrs, TWO)


def test_it_was_measured_on_some_cpus_alone() -> None:
    assert not is_product_of_rows(*sides(), LAYER, ONE)
