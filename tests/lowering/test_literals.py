"""Numbers of a program as constants of a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

import dslc
from dslc.lowering.kernels.scalar import ScalarKernels


@pytest.mark.parametrize(
    ("written", "meant"),
    [(-3.4028235e38, -3.4028234663852886e38), (1e39, math.inf), (0.1, 0.1)],
)
def test_a_number_at_the_end_of_f32(written: float, meant: float) -> None:
    """Its shortest text is a little more than f32's greatest number, as a double."""
    kernels = ScalarKernels({}, cast(Any, None))
    assert kernels.const(written, "f32").value == pytest.approx(meant, rel=1e-15)


UNSIGNED: dict[str, Callable[[Any], Any]] = {
    "-x": lambda x: -x,
    "relu(x)": lambda x: x,
    "clamp[0, 5](x)": lambda x: np.minimum(x, 5),
    "where(x < 0, 1, x)": lambda x: x,
    "where(0 <= x, x, 1)": lambda x: x,
    "7 // x": lambda x: np.where(x, 7 // np.maximum(x, 1), 0),
    "x // 7 * 7 + x % 7": lambda x: x,
}


@pytest.mark.parametrize("written", UNSIGNED)
def test_numbers_that_are_never_negative(written: str) -> None:
    """TVM's analysis fails on comparisons of them with 0, and on constants below 0."""
    model = dslc.compile(f"model M(x: u8[N]) -> u8[N] {{ return {written} }}")
    x = np.array([0, 1, 7, 200, 255], np.uint8)
    np.testing.assert_array_equal(model(x), UNSIGNED[written](x))
