"""Quantised ONNX models: weights of few bits, and what is rounded to them between floats."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from imports import compare, model_of, normal


def test_weights_of_eight_bits_come_in_as_floats() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 19]>
    net (float[N, 4] x) => (float[N, 3] y)
    {
      w = DequantizeLinear(stored, scale, zero)
      y = MatMul(x, w)
    }
    """
    stored = np.arange(12, dtype=np.int8).reshape(4, 3)
    model = model_of(text, stored=stored, scale=np.float32(0.5), zero=np.int8(2))
    found = compare(model, normal(2, 4))
    assert [array.dtype for array in found.weights.values()] == [np.float32]


def test_what_is_rounded_to_eight_bits_between_floats() -> None:
    text = """
    <ir_version: 9, opset_import: ["" : 19]>
    net (float[N, 4] x) => (float[N, 4] y, float[N, 4] z)
    {
      a = QuantizeLinear(x, s, zero)
      y = DequantizeLinear(a, s, zero)
      b = QuantizeLinear<axis = 1>(x, each, zeros)
      z = DequantizeLinear<axis = 1>(b, each, zeros)
    }
    """
    model = model_of(
        text, s=np.float32(0.01), zero=np.uint8(100), each=np.float32([0.25, 0.5, 1, 2]),
        zeros=np.int8([0, 1, -2, 3]),
    )  # fmt: skip
    compare(model, 3 * normal(50, 4))


def test_weights_of_four_bits_come_in_by_blocks() -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    net (float[N, 4] x) => (float[N, 2] y)
    {
      w = DequantizeLinear<axis = 0, block_size = 2>(stored, scale, zero)
      y = MatMul(x, w)
    }
    """
    stored = np.arange(-4, 4).reshape(4, 2).astype(ml_dtypes.int4)
    zero = np.ones((2, 2)).astype(ml_dtypes.int4)
    scale = np.float32([[0.5, 1], [2, 0.25]])
    compare(model_of(text, stored=stored, scale=scale, zero=zero), normal(3, 4))
