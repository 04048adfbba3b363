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


def test_no_example_of_the_test_set_is_from_a_module_that_was_trained_on() -> None:
    pytest.importorskip("tokenizers", reason="needs tokenizers: pip install '.[examples]'")
    script = make_data()
    library = Path(sysconfig.get_paths()["stdlib"])
    for learned, held_out in script.TOPICS.values():
        assert not set(learned.split()) & set(held_out.split())
    texts = script.examples("statistics fractions", library)
    assert len(texts) > 40
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


def trained(model: str, weights: dict[str, Any], missing: list[str]) -> dslc.Trainer:
    """A classifier on the encoder's weights after 60 steps, in which its loss fell."""
    trainer = dslc.compile(
        EXAMPLE / "classify.dl", model=model, train=True, set=SMALL, threads=1,
        weights=weights, missing=missing,
    )  # fmt: skip
    before = trainer.evaluate(**batch(0)).loss
    for step in range(60):
        trainer.train_step(**batch(step % 4))
    assert trainer.evaluate(**batch(0)).loss < before - 0.3
    for name, weight in weights.items():
        np.testing.assert_array_equal(trainer.weights[name], weight)
    return trainer


def test_only_the_head_is_trained_on_loaded_weights(encoder: dict[str, Any]) -> None:
    trainer = trained("ClassifyHead", encoder, ["head.*"])
    report = trainer.model.report
    assert report is not None
    assert [tensor.name for tensor in report.missing] == ["head.weight", "head.bias"]
    assert trainer.weights.keys() == {*encoder, "head.weight", "head.bias"}


def test_lora_merged_is_lora(encoder: dict[str, Any]) -> None:
    """Matrices of low rank and the head learn, the encoder stays; their sum with its matrices is
    a plain classifier that gives the same results."""
    trainer = trained("ClassifyLora", encoder, ["head.*", "encode.blocks.*.attention.*.weight.*"])
    weights = dict(trainer.weights)
    low = sorted(name for name in weights if ".lora_" in name)
    assert low == [
        f"encode.blocks.0.attention.{p}.weight.lora_{m}" for p in ("query", "value") for m in "ab"
    ]
    merged = {name: weight for name, weight in weights.items() if ".lora_" not in name}
    for name in {name.rpartition(".")[0] for name in low}:
        added = 16 / 8 * weights[f"{name}.lora_b"] @ weights[f"{name}.lora_a"]
        assert np.abs(added).max() > 0.001
        merged[name] = merged[name] + added
    file = EXAMPLE / "classify.dl"
    source = SourceFile(str(file), file.read_text())
    written, _ = merge(source, weights, "ClassifyLora", SMALL)  # what `dslc merge` writes
    assert written.keys() == merged.keys()
    for name, weight in merged.items():
        np.testing.assert_allclose(written[name], weight, atol=1e-6)
    plain = dslc.compile(file, model="Classify", set=SMALL, threads=1, weights=written)
    given = batch(9)
    np.testing.assert_allclose(
        plain(given["tokens"], given["mask"]), trainer(given["tokens"], given["mask"]), atol=1e-4
    )


def test_lora_trains_a_small_part_of_the_real_encoder() -> None:
    program = dslc.lower(EXAMPLE / "classify.dl", model="ClassifyLora", train=True)
    sizes = {v.name: math.prod(map(int, v.type.dims)) for v in program.variables if v.trainable}
    sizes = {name: size for name, size in sizes.items() if not name.startswith("optimizer.")}
    whole = sum(math.prod(map(int, v.type.dims)) for v in program.variables if v.kind == "weight")
    assert len(sizes) == 26
    assert sum(sizes.values()) < 0.02 * whole
