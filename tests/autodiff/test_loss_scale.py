"""The scaled loss of f16: the same training, updates that are skipped, and the scale's own rule."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dslc.autodiff import loss_scale
from dslc.autodiff.train_step import add_train_step
from dslc.build import session
from dslc.ir.core import Program
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.ir.text import parse_program, print_program
from dslc.ir.verify import verify_program
from dslc.ops import BY_NAME
from dslc.passes.precision import Precision, with_precision
from dslc.source import SourceFile

NET = """
model Net(x: f32[N, 4]) -> f32[N, 2] {
    return x |> fc1: dense[6] |> tanh |> fc2: dense[2]
}
train Net {
    input target: f32[N, 2]
    loss mse(output, target)
    optimizer adam[lr=step_decay[0.01, every=2, factor=0.5]]
}
"""


def program_of(more: str = "") -> Program:
    text = NET.replace("    loss", f"{more}    loss")
    return session.program_of(SourceFile("net.dl", text), training=True)


def scaled(program: Program) -> Program:
    assert program.training is not None
    return replace(program, training=replace(program.training, scaled=True))


class Run:
    """A training by `evaluate`; a step may be given numbers that overflow."""

    def __init__(self, program: Program) -> None:
        self.program = add_train_step(program)
        verify_program(self.program)
        self.variables = initial_variables(self.program, 0)
        self.count = 0

    def step(self, overflow: bool = False, batch: int | None = None) -> None:
        """The next step; its batch is drawn by its number, or by `batch`."""
        rng = np.random.default_rng(self.count if batch is None else batch)
        inputs = {
            "x": rng.normal(size=(3, 4)).astype("f4"),
            "target": rng.normal(size=(3, 2)).astype("f4"),
            "seed": np.asarray(0, "i8"),
            "step": np.asarray(self.count, "i8"),
        }
        if overflow:
            inputs["target"] *= np.float32(1e38)
        _, updates = run_entry(self.program, "train_step", self.variables, inputs)
        self.count += 1
        self.variables |= updates

    @property
    def states(self) -> tuple[int, ...]:
        return tuple(int(self.variables[name]) for name in loss_scale.STATES)

    def weights(self) -> dict[str, Any]:
        own = set(loss_scale.STATES)
        return {name: value for name, value in self.variables.items() if name not in own}


def same(a: dict[str, Any], b: dict[str, Any], rtol: float) -> None:
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(value, b[name], rtol=rtol, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("more", ["", "    accumulate 2\n    clip norm 0.1\n    ema 0.9\n"])
def test_a_power_of_two_changes_nothing(more: str) -> None:
    plain, ours = Run(program_of(more)), Run(scaled(program_of(more)))
    for _ in range(4):
        plain.step()
        ours.step()
    same(ours.weights(), plain.weights(), rtol=1e-5)
    assert ours.states == (0, 2 if more else 4, 0)


def test_a_step_that_overflows_is_as_if_it_had_not_been() -> None:
    """But for the scale, which is halved; schedules do not count it."""
    plain, ours = Run(program_of()), Run(scaled(program_of()))
    ours.step()
    before = ours.weights()
    ours.step(overflow=True)
    same(ours.weights(), before, rtol=0)
    assert ours.states == (-1, 0, 1)
    ours.step()
    assert ours.states == (-1, 1, 1)
    plain.step()
    plain.step(batch=2)
    same(ours.weights(), plain.weights(), rtol=1e-5)


def test_one_bad_batch_spoils_the_update_that_it_is_part_of() -> None:
    ours = Run(scaled(program_of("    accumulate 2\n")))
    before = ours.weights()
    ours.step(overflow=True)
    assert ours.states == (0, 0, 0)  # not due yet
    ours.step()
    same(ours.weights(), before, rtol=0)  # sums are zeros again, too
    assert ours.states == (-1, 0, 1)
    ours.step()
    ours.step()
    assert ours.states == (-1, 1, 1)


def test_the_scale_doubles_after_many_good_updates() -> None:
    ours = Run(scaled(program_of()))
    ours.variables[loss_scale.GOOD] = np.asarray(loss_scale.INTERVAL - 1, "i8")
    ours.step()
    assert ours.states == (1, 0, 0)


def test_f16_is_scaled_and_bf16_is_not() -> None:
    """f16 would lose gradients of this size without a scale."""
    program = program_of()
    assert program.training is not None
    cases: tuple[tuple[Precision, bool], ...] = (("f16", True), ("bf16", False))
    for precision, wanted in cases:
        narrow = with_precision(program, precision)
        assert narrow.training is not None
        assert narrow.training.scaled is wanted
        again = parse_program(print_program(narrow), BY_NAME)
        assert again.training is not None
        assert again.training.scaled is wanted


def test_small_gradients_survive() -> None:
    text = NET.replace("loss mse(output, target)", "loss 1e-7 * mse(output, target)")
    program = session.program_of(SourceFile("net.dl", text.replace(ADAM, SGD)), training=True)
    runs = [Run(p) for p in (program, with_precision(program, "f16"))]
    narrow = with_precision(program, "f16")
    assert narrow.training is not None
    runs.append(Run(replace(narrow, training=replace(narrow.training, scaled=False))))
    first = runs[0].variables["fc1.weight"]
    for run in runs:
        run.step()
    wide, ours, lost = (run.variables["fc1.weight"] - first for run in runs)
    scale = float(np.abs(wide).max())
    np.testing.assert_allclose(ours, wide, atol=0.02 * scale)
    assert float(np.abs(lost - wide).max()) > 0.1 * scale


ADAM, SGD = "adam[lr=step_decay[0.01, every=2, factor=0.5]]", "sgd[lr=1e5]"
