"""What a training step of bf16 keeps of activations where registers hold matrices."""

from __future__ import annotations

import numpy as np
import pytest

from dslc.autodiff.train_step import add_train_step
from dslc.build import session
from dslc.ir.core import Entry, Program
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.ir.verify import verify_program
from dslc.lowering.grouping.group import group
from dslc.lowering.rewrites.halves import halves
from dslc.passes import pipeline
from dslc.passes.precision import with_precision
from dslc.source import SourceFile

SOURCE = """
model M(x: f32[64, 48]) -> f32[64, 8] {
    h = x |> a: dense[96] |> ACT
    return h |> b: dense[8]
}

train M {
    loss mean(output * output)
    optimizer sgd[lr=1.0]
}
"""


def stepped(act: str, matrices: bool) -> Program:
    """The training step as kernels are made of it."""
    source = SourceFile("m.dl", SOURCE.replace("ACT", act))
    program = pipeline.run(session.program_of(source, training=True), pipeline.BEFORE_GRADIENTS)
    program = add_train_step(with_precision(program, "bf16"))
    program = pipeline.run(program, pipeline.before_lowering())
    rounded = pipeline.each_entry(lambda entry: halves(entry, dots=True, matrices=matrices))
    program = pipeline.run(program, (("halves", rounded), *pipeline.AFTER_PACKING))
    verify_program(program)
    return program


def step_of(program: Program) -> Entry:
    return next(entry for entry in program.entries if entry.name == "train_step")


@pytest.mark.parametrize("act", ["gelu", "silu", "tanh"])
def test_no_activation_waits_in_32_bits(act: str) -> None:
    """What is made of the first layer's sums, and stored, has 16 bits, and is stored by the product
    itself; the loss is the same, and gradients are but for the rounding."""
    plain, kept = stepped(act, False), stepped(act, True)
    stored = []
    for program in (plain, kept):
        groups = group(step_of(program).function).groups
        first = next(each for each in groups if each.anchor is not None)
        stored.append([value.type.dtype for value in first.outputs])
    assert "f32" in stored[0]
    assert stored[1] == ["bf16", "bf16"]  # what the next product reads, and what is kept
    x = np.random.default_rng(0).normal(size=(64, 48)).astype("f4")
    inputs = {"x": x, "step": np.asarray(0, "i8"), "seed": np.asarray(0, "i8")}
    results = []
    for program in (plain, kept):
        variables = initial_variables(program, 0)
        given = {a.name: inputs[a.name] for a in step_of(program).arguments if a.name in inputs}
        outputs, updates = run_entry(program, "train_step", variables, given)
        changes = {name: updates[name] - variables[name] for name in updates}
        results.append((outputs, changes))
    (losses, exact), (same, rounded) = results
    np.testing.assert_equal(losses, same)
    for name, change in exact.items():
        scale = float(np.abs(change).max())
        np.testing.assert_allclose(rounded[name], change, atol=1e-2 * scale, err_msg=name)
