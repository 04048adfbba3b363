"""Which right sides of products are packed when a model is loaded."""

from __future__ import annotations

import numpy as np
import pytest

from dslc.build import driver, session
from dslc.build.target import cpu_target
from dslc.ir.evaluate import run_entry
from dslc.source import SourceFile

TEXT = """
model M(x: f32[N, 20]) -> f32[N, 40] {
    param w: f32[20, 40] ~ normal
    param a: f32[20, 2] ~ normal
    param b: f32[2, 40] ~ normal
    return x @ (RIGHT)
}
"""


@pytest.mark.parametrize(
    ("right", "packed"),
    [("w", True), ("w + a @ b", True), ("w * 2.0", True), ("w * mean(x)", False)],
)
def test_what_is_made_of_weights_alone_is_packed(right: str, packed: bool) -> None:
    program = session.program_of(SourceFile("m.dl", TEXT.replace("RIGHT", right)))
    target = cpu_target("x86-64-v3", threads=1)
    optimised = driver.optimise(program, target)
    names = [eqn.op.name for eqn in optimised.entry("forward").function.eqns]
    assert ("matmul_packed" in names, "matmul" in names) == (packed, not packed)
    built = driver.build_here(program, target)
    model = session.load_built(built, None, 0)
    x = np.random.default_rng(0).normal(size=(3, 20)).astype("f4")
    expected = run_entry(program, "forward", dict(model.weights), {"x": x})[0]["output"]
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-4)
