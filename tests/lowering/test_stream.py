"""Results too large for the caches: that they are stored past them, and are what they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowering.native import aligned, compile_all, entry_of, handed

from dslc.ir.builder import Builder
from dslc.ir.core import Function
from dslc.ir.types import TensorType
from dslc.lowering.program import lower_entry
from dslc.ops import BY_NAME as OPS
from dslc.schedules.cpu.tiles.contract import Machine

PAST = "dslc_store_past"


def squares(rows: int, columns: int) -> Function:
    """A loop that asks for no position."""
    b = Builder()
    x = b.param("x", TensorType("f32", (rows, columns)))
    return b.function("squares", [OPS["mul"](b, x, x)])


def shares(rows: int, columns: int) -> Function:
    """Each element as a part of the sum of its row."""
    b = Builder()
    x = b.param("x", TensorType("f32", (rows, columns)))
    total = OPS["reduce_sum"](b, x, axes=(1,))
    along = OPS["broadcast"](b, total, dims=x.type.dims, axes=(0,))
    return b.function("shares", [OPS["div"](b, x, along)])


def place(x: Any, shift: int) -> Any:
    """A copy that starts `shift` bytes behind a multiple of 64."""
    copy = aligned(x.nbytes + 64)[shift:][: x.nbytes].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


@pytest.mark.parametrize("tasks", [1, 2])
def test_results_wherever_they_lie(tasks: int) -> None:
    """Rows of whole vectors, and others; results that are aligned, and others."""
    random = np.random.default_rng(0)
    for rows, columns in ((3073, 1024), (2049, 1541)):
        x = random.uniform(1, 2, (rows, columns)).astype(np.float32)
        made = {"squares": squares(rows, columns), "shares": shares(rows, columns)}
        compiled = compile_all([entry_of(f, n) for n, f in made.items()], tasks, bits=512, level=0)
        expected = {"squares": x * x, "shares": x / x.sum(1, keepdims=True, dtype=np.float64)}
        for name, result in expected.items():
            assert PAST in str(compiled.lowered[name].module)
            for shift in (0, 4):
                out = place(np.full_like(x, 77), shift)
                arguments = handed(compiled.entries[name], [x], [out])
                compiled.executable[name](*arguments, aligned(0))
                np.testing.assert_allclose(out, result, rtol=1e-6)


@pytest.mark.parametrize("make", [squares, shares])
def test_small_results_stay_in_the_caches(make: Any) -> None:
    lowered = lower_entry(entry_of(make(512, 1024)), Machine())
    assert PAST not in str(lowered.module)
