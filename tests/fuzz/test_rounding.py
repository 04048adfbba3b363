"""How closely the fuzzing compares."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from dslc.build import session
from dslc.source import SourceFile
from tests.fuzz.compiled import Inputs, examine, reference, same
from tests.fuzz.networks import HEAD
from tests.fuzz.properties import Broken

MIXED = """
model M(x: f64[N, 60]) -> f64[N, 60] {
    return cast[f64](cast[f32](x) |> dense[60]) * 2.0
}
"""
# The gradient of the bias is a sum of normalised numbers: rounding is all that is left of it.
CANCELS = """
model M(x: f32[N, 16]) -> f32[N, 16] {
    return x |> dense[16] |> batch_norm[]
}

train M {
    loss mean(output * output)
    optimizer sgd[lr=0.05, momentum=0.9]
}
"""


@pytest.mark.parametrize("text", [MIXED, CANCELS])
def test_what_rounding_explains_is_no_mistake(text: str) -> None:
    options = {"tasks": 1, "bits": 512, "sizes": [{"N": 3}]}
    assert examine(f"{HEAD}{json.dumps(options)}\n{text}").models == 1


@pytest.mark.parametrize("error", [1e-3, np.nan])
@pytest.mark.parametrize("text", [MIXED, CANCELS.partition("\ntrain")[0]])
def test_what_it_does_not_is_one(text: str, error: float) -> None:
    program = session.program_of(SourceFile("model.dl", text))
    given = Inputs(program, {"N": 3})
    expected = reference(given)

    def spoiled(array: Any) -> Any:
        changed = array.copy()
        changed[1, 2] += error
        return changed

    found = [(name, {n: spoiled(a) if n == "output" else a for n, a in arrays.items()})
             for name, arrays in expected]  # fmt: skip
    same(expected, expected, given, program, halves=False)
    with pytest.raises(Broken, match=r"output of forward differs"):
        same(expected, found, given, program, halves=False)
