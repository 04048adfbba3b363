"""One generic layer, written once, at five shapes in one model: ranks, sizes and names differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from library.against_torch import numbers, program, torch

import dslc
from dslc.ir.evaluate import initial_variables, run_entry

F = torch.nn.functional

pytestmark = pytest.mark.torch

TEXT = """
layer refine[units, act: fn = gelu](x: float[*S, I]) -> float[*S, units] {
    y = x |> norm: layer_norm |> first: dense[units] |> act |> second: dense[units]
    return if I == units { x + y } else { y }
}

model M(a: f32[N, 3], b: f32[N, 5, 4], c: f32[N, T, 8], d: f32[2, 3, N, 6], e: f32[7]) -> (
    f32[N, 4], f32[N, 5, 4], f32[N, T, 2], f32[2, 3, N, 8], f32[7]
) {
    shared = refine[4]
    at_b, at_c = b |> shared, c |> narrow: refine[2, act=tanh]
    return a |> refine[4], at_b, at_c, d |> refine[8], e |> last: refine[7, act=relu]
}
"""
SHAPES = {"a": (3, 3), "b": (3, 5, 4), "c": (3, 6, 8), "d": (2, 3, 3, 6), "e": (7,)}
USES = {
    "refine": ("a", F.gelu),
    "shared": ("b", F.gelu),
    "narrow": ("c", torch.tanh),
    "refine_2": ("d", F.gelu),
    "last": ("e", F.relu),
}


def expected(weights: dict[str, Any], instance: str, x: Any, act: Any) -> Any:
    w = {
        name.removeprefix(f"{instance}."): torch.tensor(value)
        for name, value in weights.items()
        if name.startswith(f"{instance}.")
    }
    y = F.layer_norm(x, x.shape[-1:], w["norm.weight"], w["norm.bias"])
    y = act(F.linear(y, w["first.weight"], w["first.bias"]))
    y = F.linear(y, w["second.weight"], w["second.bias"])
    return (x + y if x.shape == y.shape else y).numpy()


def test_five_shapes() -> None:
    built = program(TEXT)
    weights = initial_variables(built, 0)
    assert {name.split(".")[0] for name in weights} == set(USES)
    inputs = {name: numbers(*dims, seed=i) for i, (name, dims) in enumerate(SHAPES.items())}
    evaluated = list(run_entry(built, "forward", weights, inputs)[0].values())
    compiled = dslc.compile(TEXT, weights=weights)(**inputs)
    for position, name in enumerate(SHAPES):
        instance = next(i for i, (at, _) in USES.items() if at == name)
        wanted = expected(weights, instance, torch.tensor(inputs[name]), USES[instance][1])
        np.testing.assert_allclose(evaluated[position], wanted, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(compiled[position], wanted, rtol=1e-4, atol=1e-5)
