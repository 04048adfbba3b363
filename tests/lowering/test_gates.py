"""Products whose columns are gates are cut where nothing needs them whole, and mean the same."""

from __future__ import annotations

import numpy as np
import pytest

from dslc.ir.core import Function
from dslc.ir.evaluate import evaluate
from dslc.ir.text import parse_functions
from dslc.lowering.rewrites.gates import divide
from dslc.ops import BY_NAME

LANES = {"f32": 8, "f64": 4}


def body(width: int, more: str = "", result: str = "%c", dtype: str = "f32") -> Function:
    """Two gates of `width` columns; the weights come last."""
    rows, whole = f"{dtype}[N, {width}]", f"{dtype}[N, {2 * width}]"
    cut = "slice[starts=(0, {0}), stops=(N, {1}), steps=(1, 1)](%z)"
    low, high = cut.format(0, width), cut.format(width, 2 * width)
    text = f"""
func body(
  %x: {whole}, %h: {dtype}[N, 5], %b: {dtype}[{2 * width}], %w: {dtype}[{2 * width}, 5],
) -> ({rows}, {whole if more else rows}) {{
  %m: {whole} = matmul[transpose_b=true](%h, %w)
  %t: {whole} = broadcast[dims=(N, {2 * width}), axes=(1,)](%b)
  %y: {whole} = add(%m, %t)
  %z: {whole} = add(%x, %y)
  %i: {rows} = {low}
  %f: {rows} = {high}
  %s: {rows} = tanh(%f)
  %c: {rows} = mul(%i, %s)
  {more}
  return %c, {result}
}}
"""
    return parse_functions(text, BY_NAME)[0]


def divided(function: Function) -> Function:
    return divide(function, {function.params[-1]}, LANES)


def names(function: Function) -> list[str]:
    return [eqn.op.name for eqn in function.eqns]


@pytest.mark.parametrize(("width", "dtype"), [(8, "f32"), (15, "f32"), (7, "f64")])
def test_gates_are_parts_of_one_product(width: int, dtype: str) -> None:
    before = body(width, dtype=dtype)
    after = divided(before)
    assert "matmul_parts" in names(after)
    assert "matmul" not in names(after)
    # What each row has is taken apart before it is repeated.
    sizes = [e.inputs[0].type.rank for e in after.eqns if e.op.name == "slice"]
    assert sorted(sizes) == [1, 1, 2, 2]
    random, env = np.random.default_rng(0), {"N": 3}
    kept = np.float32 if dtype == "f32" else np.float64
    inputs = [
        random.standard_normal([env.get(str(d), d) for d in p.type.dims]).astype(kept)
        for p in before.params
    ]
    for got, want in zip(evaluate(after, inputs, env), evaluate(before, inputs, env)):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        body(9),  # nearly half of the lanes would be empty
        body(8, "%again: f32[N, 16] = exp(%z)", "%again"),  # needed whole
        body(8, "%q: f32[N, 16] = reshape[dims=(N, 16)](%z)", "%q"),
    ],
)
def test_others_stay_whole(function: Function) -> None:
    assert divided(function) is function


def test_weights_that_change_stay_as_they_are() -> None:
    function = body(8)
    assert divide(function, set(), LANES) is function
