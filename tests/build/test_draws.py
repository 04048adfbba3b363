"""First weights are drawn by machine code: the numbers of the reference meanings, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from dslc.build.draws import DRAWS
from dslc.ops.random import CHUNK, RandomAttrs, random_normal, random_uniform, units
from dslc_runtime import launcher, philox


@pytest.mark.parametrize("op", [random_uniform, random_normal], ids=lambda op: op.name)
@pytest.mark.parametrize("count", [0, 1, 31, 33, CHUNK + 5])
@pytest.mark.parametrize(("seed", "stream", "step"), [(0, 0, 0), (-1, 7, 3), (2**40 + 5, 2**31, 1)])
def test_the_numbers_are_those_of_the_reference(
    op: object, count: int, seed: int, stream: int, step: int
) -> None:
    attrs = RandomAttrs((count,), stream)
    drawn = DRAWS[op](attrs, np.int64(seed), np.int64(step))
    np.testing.assert_array_equal(drawn, op.reference(attrs, np.int64(seed), np.int64(step)))


def test_counters_go_beyond_32_bits() -> None:
    numbers = philox.units(1, 2, 3, 2**34 - 8, 64)
    if numbers is None:
        pytest.skip("no C compiler")
    np.testing.assert_array_equal(numbers, units(1, 2, 3, 2**34 - 8, 64))


def test_without_the_library_numpy_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    attrs, zero = RandomAttrs((9,), 1), np.int64(0)
    monkeypatch.setattr(launcher, "library", lambda: None)
    philox._fill.cache_clear()
    drawn = DRAWS[random_uniform](attrs, zero, zero)
    philox._fill.cache_clear()
    np.testing.assert_array_equal(drawn, random_uniform.reference(attrs, zero, zero))
