"""Sums of very many terms keep f32's digits: they are added up in parts.

Added one by one, sums over leading axes are off by 1e-5.
"""

from __future__ import annotations

import numpy as np
import pytest
from lowering.native import Compiled, compile_all, entry_of

from dslc.ir.builder import Builder
from dslc.ir.core import Entry
from dslc.ir.dims import sym
from dslc.ir.types import TensorType
from dslc.ops.broadcast import reduce_sum
from dslc.ops.elementwise import mul
from dslc.ops.slicing import pad

N = sym("N")
CASES = {
    "leading": ((N, 3), (0,)),
    "image": ((N, 14, 14, 5), (0, 1, 2)),
    "wide_image": ((N, 200, 5), (0, 1)),
    "last": ((3, N), (1,)),
    "all": ((N, 37), (0, 1)),
    "image_last": ((3, N, 30), (1, 2)),
}
TERMS = 100_000


def entry(name: str) -> Entry:
    dims, axes = CASES[name]
    b = Builder()
    x = b.param("x", TensorType("f32", dims))
    return entry_of(b.function(name, [reduce_sum(b, x, axes=axes)]), name)


@pytest.fixture(scope="module")
def sums() -> Compiled:
    return compile_all([entry(name) for name in CASES])


@pytest.mark.parametrize("name", CASES)
def test_long_sums(sums: Compiled, name: str) -> None:
    dims, axes = CASES[name]
    known = int(np.prod([d for a, d in enumerate(dims) if a in axes and isinstance(d, int)]))
    shape = [d if isinstance(d, int) else TERMS // known for d in dims]
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    (total,) = sums.call(name, [x])
    np.testing.assert_allclose(total, x.sum(axis=axes, dtype=np.float64), rtol=1e-6)


def test_one_sum_of_a_padded_value_is_not_shared_out() -> None:
    b = Builder()
    x = b.param("x", TensorType("f32", (512, 384)))
    wide = pad(b, x, low=(0, 1), high=(3, 0))
    function = b.function("padded", [reduce_sum(b, mul(b, wide, wide), axes=(0, 1))])
    summed = compile_all([entry_of(function, "padded")], tasks=2, level=0)
    given = np.random.default_rng(0).random((512, 384), dtype=np.float32)
    (total,) = summed.call("padded", [given])
    np.testing.assert_allclose(total, np.square(given, dtype=np.float64).sum(), rtol=1e-6)
