"""Numbers of a program as constants of a kernel."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest

from dslc.lowering.kernels.scalar import ScalarKernels


@pytest.mark.parametrize(
    ("written", "meant"),
    [(-3.4028235e38, -3.4028234663852886e38), (1e39, math.inf), (0.1, 0.1)],
)
def test_a_number_at_the_end_of_f32(written: float, meant: float) -> None:
    """Its shortest text is a little more than f32's greatest number, as a double."""
    kernels = ScalarKernels({}, cast(Any, None))
    assert kernels.const(written, "f32").value == pytest.approx(meant, rel=1e-15)
