"""Transposes across the last axis are turned in blocks, at every size and width of vectors."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.native import compile_all, entry_of

from dslc.ir.builder import Builder
from dslc.ir.core import Function
from dslc.ir.dims import Dim, sym
from dslc.ir.types import DType, TensorType
from dslc.lowering.grouping.group import group
from dslc.lowering.kernels.turns import is_turn
from dslc.ops import BY_NAME as OPS

N = sym("N")


def turned(dims: tuple[Dim, ...], perm: tuple[int, ...], dtype: DType = "f32") -> Function:
    b = Builder()
    return b.function("f", [OPS["transpose"](b, b.param("x", TensorType(dtype, dims)), perm=perm)])


FUNCTIONS = {
    "matrix": turned((40, 53), (1, 0)),
    "batched": turned((3, 16, 5, 32), (2, 3, 0, 1)),
    "unknown": turned((N, 2, N), (2, 1, 0)),
    "kernels": turned((2, 32, 7, 3, 3), (0, 3, 4, 2, 1)),  # 63 rows, whose order changes too
    "unknown rows": turned((1, N, N, 6), (0, 3, 2, 1)),  # N and 6 are rows of the result
    "single": turned((48, 21, 1, 1), (2, 3, 1, 0)),
    "unknown kernels": turned((N, 17, N, 2), (3, 2, 0, 1)),
    "integers": turned((17, 64), (1, 0), "i32"),
}


def padded(rows: int, inner: int, width: int) -> Function:
    """A matrix [rows, inner], given flat, as panels of `width` of its rows, as weights are
    packed."""
    b = Builder()
    panels = -(-rows // width)
    flat = b.param("x", TensorType("f32", (rows * inner,)))
    x = OPS["reshape"](b, flat, dims=(rows, inner))
    whole = OPS["pad"](b, x, low=(0, 0), high=(panels * width - rows, 0))
    cut = OPS["reshape"](b, whole, dims=(panels, width, inner))
    return b.function("f", [OPS["transpose"](b, cut, perm=(0, 2, 1))])


PADDED = {
    f"padded_{n}_{k}_{width}": (padded(n, k, width), n, k, width)
    for n, k, width in ((100, 37, 32), (33, 16, 32), (17, 50, 16), (79, 64, 40), (1, 21, 32))
}


def is_in_blocks(function: Function) -> bool:
    (only,) = group(function).groups
    return is_turn(only)


def test_which_are_turned():
    assert all(is_in_blocks(function) for function in FUNCTIONS.values())
    assert all(is_in_blocks(function) for function, *_ in PADDED.values())
    assert not is_in_blocks(turned((4, 6, 32), (1, 0, 2)))  # rows stay as they are
    assert not is_in_blocks(turned((), ()))
    assert not is_in_blocks(turned((400, 6), (1, 0)))  # no block
    assert not is_in_blocks(turned((40, 53, 1), (2, 0, 1)))  # the same elements in the same order
    assert not is_in_blocks(turned((40, 40), (1, 0), "f64"))


@pytest.mark.parametrize(("bits", "tasks"), [(256, 1), (128, 2), (512, 2)])
def test_they_are_transposes(bits, tasks):
    entries = [entry_of(function, name) for name, function in FUNCTIONS.items()]
    compiled = compile_all(entries, tasks, bits, level=0)
    for name, function in FUNCTIONS.items():
        for size in (3, 16, 45):
            dims = [size if d == N else d for d in function.params[0].type.dims]
            dtype = "i4" if name == "integers" else "f4"
            x = np.arange(np.prod(dims)).reshape(dims).astype(dtype)
            (found,) = compiled.call(name, [x])
            np.testing.assert_array_equal(found, x.transpose(function.eqns[0].attrs.perm))


@pytest.mark.parametrize(("bits", "tasks"), [(512, 1), (128, 2)])
def test_zeros_are_put_behind_padded_rows(bits, tasks):
    entries = [entry_of(function, name) for name, (function, *_) in PADDED.items()]
    compiled = compile_all(entries, tasks, bits, level=0)
    for name, (_, rows, inner, width) in PADDED.items():
        x = np.random.default_rng(0).standard_normal((rows, inner)).astype(np.float32)
        (found,) = compiled.call(name, [x.ravel()])
        whole = np.zeros((-(-rows // width) * width, inner), np.float32)
        whole[:rows] = x
        expected = whole.reshape(-1, width, inner).transpose(0, 2, 1)
        np.testing.assert_array_equal(found, expected)
