"""Training steps: results, in-place weights, checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc_runtime
from dslc_runtime import ArgumentError, Trainer, safetensors

X = np.ones((2, 4), np.float32)


@pytest.fixture
def trainer(toy_path: Path) -> Trainer:
    return Trainer(dslc_runtime.load(toy_path), seed=3)


def test_a_step_returns_loss_and_metrics(trainer: Trainer) -> None:
    """The toy's loss is sum(x) + 100 * seed + step; its metric the first weight before."""
    first, second = trainer.train_step(x=X), trainer.train_step(X)
    assert (first.loss, first.metrics) == (8 + 300, {"first": 0.0})
    assert (second.loss, second.metrics) == (8 + 301, {"first": -2.0})
    assert trainer.evaluate(x=X).loss == 8
    assert trainer.step == 2
    assert trainer.input_names == ("x",)
    assert (trainer.name, trainer.parameter_count) == ("Toy", 4)


def test_entries_of_the_model_are_the_trainers_too(trainer: Trainer) -> None:
    np.testing.assert_array_equal(trainer.forward(X), trainer(X))
    with pytest.raises(AttributeError, match="Trainer has no attribute or entry 'decode'"):
        _ = trainer.decode


def test_the_model_sees_trained_weights(trainer: Trainer) -> None:
    """`forward` reads prepared weights, which follow the others."""
    trainer.train_step(x=X)
    weight = np.arange(4, dtype=np.float32) - 2
    np.testing.assert_array_equal(trainer.weights["weight"], weight)
    np.testing.assert_array_equal(trainer(X), X * weight * 2 + 1)


def test_a_checkpoint_goes_on_where_it_was(trainer: Trainer, toy: Any, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    trainer.train_step(x=X)
    trainer.save_checkpoint(path, {"progress": '{"epoch": 1}'})
    after = trainer.train_step(x=X)
    other = Trainer(dslc_runtime.load(toy.write(tmp_path / "other.dlc")))
    assert other.load_checkpoint(path) == {"progress": '{"epoch": 1}'}
    assert (other.seed, other.step) == (3, 1)
    assert other.train_step(x=X) == after
    for name in ("weight", "moment", "total"):
        mine, theirs = (t.model.store.read(name) for t in (trainer, other))
        np.testing.assert_array_equal(mine, theirs)


def test_wrong_checkpoints_change_nothing(trainer: Trainer, tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    trainer.train_step(x=X)
    trainer.save_checkpoint(path)
    arrays, metadata = safetensors.load(path)
    before = trainer.weights["weight"].copy()
    whole = path.read_bytes()

    path.write_bytes(whole[:-1])
    with pytest.raises(ArgumentError, match="is not a whole checkpoint"):
        trainer.load_checkpoint(path)
    safetensors.save(path, arrays, {})
    with pytest.raises(ArgumentError, match="is not a checkpoint of this version"):
        trainer.load_checkpoint(path)
    safetensors.save(path, {**arrays, "moment": np.zeros(3, np.float32)}, metadata)
    with pytest.raises(ArgumentError, match="a checkpoint of another model: moment differ"):
        trainer.load_checkpoint(path)
    with pytest.raises(ArgumentError, match="cannot read"):
        trainer.load_checkpoint(tmp_path / "none")
    np.testing.assert_array_equal(trainer.weights["weight"], before)


def test_seed_and_step_may_be_given_to_the_entry(trainer: Trainer) -> None:
    entry = trainer.model.entry("train_step")
    assert float(entry(X, seed=1, step=5)[0]) == 8 + 105
    assert float(entry(X)[0]) == 8
    with pytest.raises(ArgumentError, match="seed is what the trainer itself hands over"):
        trainer.train_step(X, seed=1)


def test_a_model_without_a_training_step_says_so(toy: Any, tmp_path: Path) -> None:
    target = toy.manifest.targets[0]
    keep = [i for i, e in enumerate(toy.manifest.entries) if e.kind == "forward"]
    manifest = replace(
        toy.manifest,
        entries=tuple(toy.manifest.entries[i] for i in keep),
        targets=(replace(target, codes=tuple(target.codes[i] for i in keep)),),
    )
    model = dslc_runtime.load(toy.write(tmp_path / "toy.dlc", manifest=manifest))
    with pytest.raises(ArgumentError, match="built without its training step: dslc build --train"):
        Trainer(model)
