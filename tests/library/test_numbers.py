"""`tensor[...]()`: the numbers of a program as a tensor, evaluated and compiled."""

from __future__ import annotations

import numpy as np

import dslc

TEXT = """
const MEAN = (0.485, 0.456, 0.406)

model M(x: f32[N, 3, H, W], i: i64[K, 2]) -> (
    f32[N, 3, H, W], f32[3, 3], i64[K, 2], f32[2, 2], i64[1, 2], u8[2], f32[2]
) {
    sobel = tensor[(1, 0, -1), (2, 0, -2), (1, 0, -1), dtype=f32]()
    size = tensor[H, 2 * W, dtype=f32]()
    same = tensor[(0.5, 0.5), (0.5, 0.5)]()
    y = x - tensor[MEAN]()[:, None, None]
    row = tensor[((1, 2),)]()
    return y, sobel, i + tensor[5, -7](), same, row, tensor[3, 255, dtype=u8](), size
}
"""


def test_numbers_of_a_program() -> None:
    x, i = np.ones((2, 3, 4, 5), np.float32), np.array([[1, 2], [3, 4], [5, 6]])
    y, sobel, moved, same, row, small, size = dslc.compile(TEXT)(x, i)
    mean = np.array([0.485, 0.456, 0.406], np.float32)
    np.testing.assert_allclose(y, x - mean[:, None, None], rtol=1e-6)
    assert sobel.tolist() == [[1, 0, -1], [2, 0, -2], [1, 0, -1]]
    assert moved.tolist() == (i + np.array([5, -7])).tolist()
    assert same.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert row.tolist() == [[1, 2]]
    assert small.tolist() == [3, 255]
    assert size.tolist() == [4, 10]
