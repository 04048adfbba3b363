"""NaN goes through comparisons the way NumPy's does: TVM's `x != y` is false for it. Quotients and
remainders of infinities are NumPy's, too."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.native import compile_all, entry_of

from dslc.ir.builder import Builder
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.ops.constants import cast
from dslc.ops.elementwise import floordiv, maximum, minimum, mod, relu
from dslc.ops.logic import eq, ne
from dslc.ops.reduce import argmax, argmin, reduce_max, reduce_min

X = np.array([[np.nan, 1, 2, 3], [1, 2, np.nan, 0], [4, 5, 6, 7]], np.float32)
Y = np.array([[1, 1, np.nan, 1], [1, 1, 1, np.nan], [np.nan, 9, 9, 9]], np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_wins(dtype: type) -> None:
    b = Builder()
    type_ = TensorType("f32" if dtype == np.float32 else "f64", (3, 4))
    x, y = b.param("x", type_), b.param("y", type_)
    results = [maximum(b, x, y), minimum(b, x, y), relu(b, x)]
    results += [reduce_max(b, x, axes=(1,)), reduce_min(b, x, axes=(0,))]
    results += [argmax(b, x, axis=1), argmin(b, x, axis=1)]
    results += [ne(b, x, x), ne(b, x, y), eq(b, x, x), cast(b, x, dtype="bool")]
    entry = entry_of(b.function("f", results))
    compiled = compile_all([entry])
    arrays = [X.astype(dtype), Y.astype(dtype)]
    expected = evaluate(entry.function, arrays)
    for got, wanted in zip(compiled.call(entry.name, arrays, {}), expected):
        np.testing.assert_array_equal(got, wanted)


def test_quotients_and_remainders() -> None:
    numbers = np.array([0, 1, -1, 0.3, -5.5, 1e30, np.inf, -np.inf, np.nan], np.float32)
    x, y = (np.ascontiguousarray(side) for side in np.meshgrid(numbers, numbers))
    b = Builder()
    values = [b.param(name, TensorType("f32", x.shape)) for name in "xy"]
    entry = entry_of(b.function("f", [floordiv(b, *values), mod(b, *values)]))
    compiled = compile_all([entry])
    for got, wanted in zip(compiled.call(entry.name, [x, y], {}), evaluate(entry.function, [x, y])):
        np.testing.assert_array_equal(got, wanted)
