"""examples/models in small form: the training step (by plain SGD, with dropout) of each, compiled,
as `evaluate` has it; in full size each has as many weights as the model it is named after.

tests/pytorch/ compares them with PyTorch.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from build.corpus import Model
from build.lockstep import Lockstep

import dslc
from dslc.build import driver, session
from dslc.build.target import Target
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.source import SourceFile

TARGET = Target("test", "cpu", "x86-64-v3", (), 256, 1)
MODELS = Path(__file__).parents[2] / "examples" / "models"

SMALL = {
    "bert": {"V": 5, "D": 16, "layers": 1, "heads": 2, "context": 9},
    "gpt2": {"V": 5, "D": 16, "layers": 1, "heads": 2, "context": 9},
    "llama": {
        "V": 5, "D": 16, "layers": 1, "heads": 4, "kv_heads": 2, "hidden": 24, "context": 9,
    },
    "vit": {"classes": 3, "size": 12, "patch": 4, "D": 16, "layers": 1, "heads": 2},
    "t5": {"V": 5, "D": 16, "layers": 1, "heads": 2, "dim": 6, "hidden": 24},
    "mamba": {"V": 5, "D": 6, "layers": 1, "S": 3, "rank": 2},
}  # fmt: skip
SIZES = ({"N": 1, "T": 2, "S": 9}, {"N": 3, "T": 7, "S": 5})


def small(name: str) -> Model:
    text = (MODELS / f"{name}.dl").read_text()
    text = re.sub(r"( +optimizer ).*\n +clip norm .*\n", r"\1sgd[lr=0.1]\n", text)
    # Forwards alone: one with its own way of attention, and one of several parts.
    entries = ("forward", "train_step") if name in ("llama", "t5") else ("train_step",)
    return Model(name, text, SIZES, SMALL[name], entries)


@pytest.mark.parametrize("name", [name for name in SMALL if name != "mamba"])
def test_attention_is_one_operation(name: str) -> None:
    """Of each layer, forwards and backwards, also where weights are dropped."""
    source = SourceFile(name, (MODELS / f"{name}.dl").read_text())
    program = session.program_of(source, settings=SMALL[name], training=True)
    step = driver.optimise(program, TARGET).entry("train_step")
    ops = Counter(eqn.op.name for eqn in step.function.eqns)
    count = 3 if name == "t5" else 1
    assert (ops["attention"], ops["attention_gradient"]) == (count, count)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_decoding_with_a_cache(name: str) -> None:
    """Of two texts that are not in step: the scores of the whole texts, at every place."""
    source = SourceFile(name, (MODELS / f"{name}.dl").read_text())
    program = session.program_of(source, settings={**SMALL[name], "layers": 2, "batch": 2})
    variables = initial_variables(program, 0)
    tokens = np.random.default_rng(0).integers(0, 5, (2, 9))
    whole = run_entry(program, "forward", variables, {"tokens": tokens})[0]["output"]
    begun = {"tokens": tokens[:, :2], "past": np.array([0, 0])}
    outputs, states = run_entry(program, "prefill", variables, begun)
    np.testing.assert_allclose(outputs["output"], whole[:, 1], rtol=1e-4, atol=1e-5)
    again = {"tokens": tokens[:, 1:3], "past": np.array([1, 1])}
    states |= run_entry(program, "prefill", {**variables, **states}, again)[1]
    for first, second in [(3, 2), (4, 3), (5, 4), (6, 5), (7, 6), (8, 7)]:
        token = np.array([[tokens[0, first]], [tokens[1, second]]])
        given = {"token": token, "past": np.array([first, second])}
        outputs, news = run_entry(program, "decode", {**variables, **states}, given)
        states |= news
        wanted = [whole[0, first], whole[1, second]]
        np.testing.assert_allclose(outputs["output"], wanted, rtol=1e-4, atol=1e-5)


def test_decoding_from_states() -> None:
    """Several tokens of two texts, then one by one: the scores of the whole texts; and again."""
    source = SourceFile("mamba", (MODELS / "mamba.dl").read_text())
    program = session.program_of(source, settings={**SMALL["mamba"], "batch": 3})
    variables = initial_variables(program, 0)
    tokens = np.random.default_rng(0).integers(0, 5, (2, 6))
    whole = run_entry(program, "forward", variables, {"tokens": tokens})[0]["output"]
    for first, stop in [(0, 2), (2, 3), (3, 6), (0, 5), (5, 6)]:
        given = {"tokens": tokens[:, first:stop], "past": np.array([first, first])}
        outputs, states = run_entry(program, "decode", variables, given)
        variables = {**variables, **states}
        np.testing.assert_allclose(outputs["output"], whole[:, stop - 1], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def compiled() -> Lockstep:
    return Lockstep([small(name) for name in SMALL], tasks=1, level=0)


@pytest.mark.parametrize("name", SMALL)
def test_compiled_as_evaluated(compiled: Lockstep, name: str) -> None:
    for sizes in SIZES:
        compiled.check(small(name), sizes)


@pytest.mark.parametrize(
    ("name", "prefix", "count"),
    [
        ("bert", "", 110_106_428),
        ("bert", "bert.", 109_482_240),  # BertModel, without what it is trained by
        ("gpt2", "", 124_439_808),
        ("llama", "", 1_100_048_384),
        ("vit", "", 86_567_656),
        ("t5", "", 60_506_624),
        ("mamba", "", 129_135_360),
        ("resnet18", "", 11_689_512),
        ("resnet50", "", 25_557_032),
        ("mobilenet", "", 3_504_872),
    ],
)
def test_full_size(name: str, prefix: str, count: int) -> None:
    """Every shape is checked, and nothing is allocated."""
    program = dslc.lower(MODELS / f"{name}.dl")
    weights = [v for v in program.variables if v.kind == "weight"]
    counted = [w for w in weights if (w.foreign or w.name).startswith(prefix)]
    assert sum(math.prod(map(int, w.type.dims)) for w in counted) == count
