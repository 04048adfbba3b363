"""The order of `argsort`, `sort` and `top_k`: ties, NaN, both directions, long rows, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowering.native import compile_all, entry_of
from ops.cases import function_of, reference
from ops.plain_kernels import run

from dslc.autodiff.reverse import gradient
from dslc.build import session
from dslc.ir.builder import Builder
from dslc.ir.core import Function
from dslc.ir.evaluate import evaluate
from dslc.ir.op import Sample
from dslc.ir.types import DType, TensorType
from dslc.ops.broadcast import reduce_sum
from dslc.ops.elementwise import mul
from dslc.ops.ranking import ArgsortAttrs, argsort
from dslc.source import SourceFile

NAN = float("nan")
HARD = [3.0, NAN, -0.0, 1.0, 0.0, float("inf"), 1.0, NAN, float("-inf")]


@pytest.mark.parametrize(
    ("descending", "wanted"),
    [(False, [8, 2, 4, 3, 6, 0, 5, 1, 7]), (True, [1, 7, 5, 0, 3, 6, 2, 4, 8])],
)
def test_equals_keep_their_order_and_nan_is_greatest(descending: bool, wanted: list[int]) -> None:
    sample = Sample((TensorType("f32", (9,)),), ArgsortAttrs(0, 9, descending))
    inputs = [np.array(HARD, np.float32)]
    np.testing.assert_array_equal(reference(argsort, sample, inputs)[0], wanted)
    np.testing.assert_array_equal(run(argsort, sample, inputs)[0], wanted)


def _row(dtype: DType, size: int) -> Any:
    rng = np.random.default_rng(size)
    x = rng.integers(-9, 9, (3, size)) if dtype == "i32" else rng.normal(size=(3, size)).round(1)
    x = x.astype(np.int32 if dtype == "i32" else np.float32)
    if dtype == "f32":
        x[:, 1:-1:7] = np.nan
    return x


def test_long_rows_compiled() -> None:
    """Rows full of ties and NaN, whole and the first few, of sizes around powers of two."""
    cases = [
        (dtype, size, count, descending)
        for dtype in ("f32", "i32")
        for size in (2, 3, 1023)
        for count in {min(size, 5), size}
        for descending in (False, True)
    ]
    entries, inputs = [], []
    for number, (dtype, size, count, descending) in enumerate(cases):
        type = TensorType(dtype, (3, size))  # type: ignore[arg-type]
        sample = Sample((type,), ArgsortAttrs(1, count, descending))
        entries.append(entry_of(function_of(argsort, sample), f"case_{number}"))
        inputs.append([_row(dtype, size)])  # type: ignore[arg-type]
    compiled = compile_all(entries)
    for entry, arrays in zip(entries, inputs):
        (found,) = compiled.call(entry.name, arrays)
        np.testing.assert_array_equal(found, evaluate(entry.function, arrays)[0])


PROGRAM = """
model M(x: f64[N, 7, 2], y: f64[N, T in 3..9]) -> (
    f64[N, 7, 2], f64[N, T], f64[N, 3], i64[N, 3], f64[N, 2], i64[N, T]
) {
    best, at = top_k[3](y)
    worst, _ = top_k[2, largest=false, axis=1](y)
    return sort[axis=1](x), sort[descending=true](y), best, at, worst, argsort(y)
}
"""


def _program() -> Function:
    return session.program_of(SourceFile("m.dl", PROGRAM)).entry("forward").function


def test_the_functions_of_the_language() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(2, 7, 2)), rng.normal(size=(2, 5))
    up, down, best, at, worst, order = evaluate(_program(), [x, y])
    np.testing.assert_array_equal(up, np.sort(x, 1))
    np.testing.assert_array_equal(down, -np.sort(-y, 1))
    np.testing.assert_array_equal(best, down[:, :3])
    np.testing.assert_array_equal(at, np.argsort(-y, 1)[:, :3])
    np.testing.assert_array_equal(worst, np.sort(y, 1)[:, :2])
    np.testing.assert_array_equal(order, np.argsort(y, 1))


@pytest.mark.parametrize(("result", "param"), [(0, 0), (1, 1), (2, 1), (4, 1)])
def test_cotangents_go_where_the_values_came_from(result: int, param: int) -> None:
    function = _program()
    b = Builder.over(function)
    for eqn in function.eqns:
        b.keep(eqn)
    y = function.results[result]
    direction = b.param("direction", y.type)
    loss = reduce_sum(b, mul(b, y, direction), axes=tuple(range(y.type.rank)))
    rng = np.random.default_rng(2)
    inputs = [rng.normal(size=(2, 7, 2)), rng.normal(size=(2, 5))]
    weights = rng.normal(size=evaluate(function, inputs)[result].shape)
    extended = gradient(b.function("loss", (loss,)), 0, [param])
    _, found = evaluate(extended, [*inputs, weights])
    wanted = np.zeros_like(inputs[param])
    for index in np.ndindex(wanted.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = [np.array(x) for x in inputs]
            moved[param][index] += step
            ends.append((evaluate(function, moved)[result] * weights).sum())
        wanted[index] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-8)
