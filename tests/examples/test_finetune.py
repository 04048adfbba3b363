"""examples/finetune in a small form: its data, and what each way of training leaves as it is."""

from __future__ import annotations

import importlib.util
import math
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc
from dslc.autodiff.train_step import add_train_step
from dslc.build.merging import merge
from dslc.ir.core import Program
from dslc.ir.evaluate import evaluate
from dslc.source import SourceFile

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "finetune"
SMALL = {"layers": 1, "heads": 2, "D": 16, "hidden": 24, "vocabulary": 60, "context": 8}


def make_data() -> Any:
    """The example's script as a module."""
    spec = importlib.util.spec_from_file_location("make_data", EXAMPLE / "make_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_file_is_of_two_parts_of_the_data() -> None:
    pytest.importorskip("tokenizers", reason="needs tokenizers: pip install '.[examples]'")
    script = make_data()
    library = Path(sysconfig.get_paths()["stdlib"])
    for modules in script.TOPICS.values():
        *earlier, last = (script.examples(part, modules, library) for part in range(3))
        assert all(len(texts) > 10 for texts in (*earlier, last))
    windows = script.TOPICS["windows"]
    assert not set(script.examples(0, windows, library)) & set(script.examples(1, windows, library))
    texts = script.examples(2, script.TOPICS["numbers"], library)
    assert "mean: Return the sample arithmetic mean of data." in texts


def products(program: Program, entry: str) -> int:
    """Matrix products of an entry."""
    (function,) = [e.function for e in program.entries if e.name == entry]
    return sum(eqn.op.name == "matmul" for eqn in function.eqns)


def test_gradients_of_what_is_frozen_are_not_computed() -> None:
    def lowered(model: str) -> Program:
        file = EXAMPLE / "classify.dl"
        return add_train_step(dslc.lower(file, model=model, train=True, set=SMALL))

    whole, head = lowered("Classify"), lowered("ClassifyHead")
    forward = products(whole, "forward")
    assert products(head, "train_step") == forward + 1  # for the gradient of the head's weight
    assert products(whole, "train_step") > 2 * forward


def batch(seed: int) -> dict[str, Any]:
    """Sequences of 3 to 8 tokens, which are label, label + 9, label + 18, ..."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 9, 32)
    tokens = label[:, None] + 9 * rng.integers(0, 5, (32, 8))
    mask = np.arange(8) < rng.integers(3, 9, (32, 1))
    return {"tokens": tokens, "mask": mask, "label": label}


@pytest.fixture(scope="module")
def encoder() -> dict[str, Any]:
    """Weights of a small encoder."""
    program = dslc.lower(ROOT / "examples" / "minilm" / "minilm.dl", set=SMALL)
    seed = [np.asarray(3, np.int64)]
    return {v.name: evaluate(v.init, seed)[0] for v in program.variables if v.init is not None}


@pytest.fixture(scope="module")
def trainer(encoder: dict[str, Any]) -> dslc.Trainer:
    """A classifier with LoRA on the encoder's weights."""
    return dslc.compile(
        EXAMPLE / "classify.dl", model="ClassifyLora", train=True, set=SMALL, threads=1,
        weights=encoder, missing=["head.*", "encode.blocks.*.attention.*.weight.*"],
    )  # fmt: skip


def test_what_is_new_learns_and_the_encoder_stays(
    encoder: dict[str, Any], trainer: dslc.Trainer
) -> None:
    report = trainer.model.report
    assert report is not None
    new = [tensor.name for tensor in report.missing]
    low = [
        f"encode.blocks.0.attention.{p}.weight.lora_{m}" for p in ("query", "value") for m in "ab"
    ]
    assert sorted(new) == [*low, "head.bias", "head.weight"]
    first = {name: trainer.weights[name].copy() for name in new}
    before = trainer.evaluate(**batch(0)).loss
    for step in range(60):
        trainer.train_step(**batch(step % 4))
    assert trainer.evaluate(**batch(0)).loss < before - 0.3
    for name, weight in first.items():
        assert np.abs(trainer.weights[name] - weight).max() > 0.001
    for name, weight in encoder.items():
        np.testing.assert_array_equal(trainer.weights[name], weight)


def test_lora_merged_is_lora(trainer: dslc.Trainer) -> None:
    """The sums in place of the encoder's matrices, in a plain classifier, give the same results."""
    weights = dict(trainer.weights)
    merged = {name: weight for name, weight in weights.items() if ".lora_" not in name}
    for name in {name.rpartition(".")[0] for name in weights.keys() - merged.keys()}:
        added = 16 / 8 * weights[f"{name}.lora_b"] @ weights[f"{name}.lora_a"]
        assert np.abs(added).max() > 0.001
        merged[name] = merged[name] + added
    file = EXAMPLE / "classify.dl"
    source = SourceFile(str(file), file.read_text())
    written, _ = merge(source, weights, "ClassifyLora", SMALL)  # what `dslc merge` writes
    assert written.keys() == merged.keys()
    for name, weight in merged.items():
        np.testing.assert_allclose(written[name], weight, atol=1e-6)
    (plain,) = dslc.lower(file, model="Classify", set=SMALL).entries
    given = {**batch(9), **written}
    (expected,) = evaluate(plain.function, [given[a.name] for a in plain.arguments])
    np.testing.assert_allclose(trainer(given["tokens"], given["mask"]), expected, atol=1e-4)


def test_lora_trains_a_small_part_of_the_real_encoder() -> None:
    program = dslc.lower(EXAMPLE / "classify.dl", model="ClassifyLora", train=True)
    sizes = {v.name: math.prod(map(int, v.type.dims)) for v in program.variables if v.trainable}
    sizes = {name: size for name, size in sizes.items() if not name.startswith("optimizer.")}
    whole = sum(math.prod(map(int, v.type.dims)) for v in program.variables if v.kind == "weight")
    assert len(sizes) == 26
    assert sum(sizes.values()) < 0.02 * whole
