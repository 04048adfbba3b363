"""Whole models, compiled, against `evaluate` on the programs as they were elaborated.

Outputs, trained weights, states and optimiser states, for several sizes of the dynamic dims; with
one task, and with two where every kernel runs in parallel however small it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from build.corpus import CORPUS, Model
from build.lockstep import Lockstep, draw

import dslc
from dslc.build import session
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.lowering.kernels import tasks
from dslc.schedules.cpu.tiles import contract, machine
from dslc.source import SourceFile

MODELS = {model.name: model for model in CORPUS}
PARALLEL = (
    "conv_strided", "conv_dilated_groups", "depthwise", "pools", "pieces", "rolling", "functions",
    "statics", "momentum_clip",
)  # fmt: skip
DIGITS = Path(__file__).parents[2] / "examples" / "digits" / "digits.dl"


@pytest.fixture(scope="module")
def serial() -> Lockstep:
    return Lockstep(CORPUS, tasks=1, level=0)  # LLVM would take a minute for more


@pytest.fixture(scope="module")
def parallel() -> Iterator[Lockstep]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "PARALLEL_OPERATIONS", 1)
        for module in (contract, machine):
            patch.setattr(module, "PARALLEL_WORK", 1)
        patch.setattr(contract, "PART_WORK", 1)
        yield Lockstep([MODELS[name] for name in PARALLEL], tasks=2, level=0)


@pytest.mark.parametrize("name", MODELS)
def test_one_task(serial: Lockstep, name: str) -> None:
    for sizes in MODELS[name].sizes:
        serial.check(MODELS[name], sizes)


@pytest.mark.parametrize("name", PARALLEL)
def test_two_tasks(parallel: Lockstep, name: str) -> None:
    """The last size is the largest; the first has fewer items than some loops have tasks."""
    model = MODELS[name]
    for sizes in {id(s): s for s in (model.sizes[0], model.sizes[-1])}.values():
        parallel.check(model, sizes)


@pytest.mark.parametrize("name", ["pieces", "logic", "statics"])
def test_through_the_driver(name: str) -> None:
    model: Model = MODELS[name]
    built = dslc.compile(model.source, seed=4)
    program = session.program_of(SourceFile("model.dl", model.source))
    for sizes in model.sizes:
        inputs = draw(program.entry("forward"), sizes, np.random.default_rng(1))
        outputs, _ = run_entry(program, "forward", initial_variables(program, 4), inputs)
        found = built(**inputs)
        found = found if isinstance(found, tuple) else (found,)
        for wanted, given in zip(outputs.values(), found, strict=True):
            np.testing.assert_allclose(given, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 5, 64])
def test_the_digits_example_trains_in_lockstep(digits: Lockstep, batch: int) -> None:
    digits.check(DIGITS_MODEL, {"N": batch})


# Without normalisation: over a single example rounding alone makes its gradients. With SGD: AdamW
# divides by gradients, also by those that are little more than rounding.
DIGITS_MODEL = Model(
    "digits",
    DIGITS.read_text()
    .replace(" |> norm1: batch_norm[]", "")
    .replace(" |> norm2: batch_norm[]", "")
    .replace(
        "adamw[lr=cosine[0.003, warmup=23, total=690], weight_decay=0.01]",
        "sgd[lr=0.05, momentum=0.9]",
    ),
    settings={"width": 8, "hidden": 20},
)


@pytest.fixture(scope="module")
def digits() -> Lockstep:
    return Lockstep([DIGITS_MODEL], tasks=1)
