"""Chains of values that are each used several times are compiled in a blink."""

from __future__ import annotations

import time

import numpy as np

from dslc.build import driver, session
from dslc.build.target import Target
from dslc.ir.evaluate import run_entry
from dslc.source import SourceFile
from tests.lowering.native import compile_all

# Each of 16 elements is read at a place that was chosen twice, and compared with the one before.
POOL = """
model M(x: f32[N, 1, 16, 15]) -> f32[N, 1, 8, 8] {
    return x |> adaptive_max_pool2d[8]
}
"""


def test_extrema_of_elements_at_chosen_places() -> None:
    program = session.program_of(SourceFile("pool.dl", POOL))
    target = Target("test", "cpu", "x86-64-v3", (), 256, 1)
    optimised = driver.optimise(program, target).entry("forward")
    began = time.process_time()
    compiled = compile_all([optimised], level=0)
    # The work is TVM's, where no calls are counted: 0.06 s, and 8 s where it is written out.
    assert time.process_time() - began < 3
    x = np.random.default_rng(0).normal(size=(2, 1, 16, 15)).astype(np.float32)
    wanted, _ = run_entry(program, "forward", {}, {"x": x})
    np.testing.assert_array_equal(compiled.call("forward", [x])[0], wanted["output"])
