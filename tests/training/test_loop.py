"""The loop around a training step, with a model of three lines in place of a compiled one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from dslc.training.data import Array, DataError, Dataset, from_arrays, load
from dslc.training.loop import Diverged, Plan, ResumeError, StepDone, evaluate, fit


@dataclass(frozen=True)
class Result:
    loss: float
    metrics: Mapping[str, float]


class Mean:
    """Learns the mean of x by gradient descent; its whole state is one number."""

    def __init__(self) -> None:
        self.weight = 10.0

    def train_step(self, **inputs: Array) -> Result:
        error = float(np.mean(self.weight - inputs["x"]))
        self.weight -= 0.1 * error
        return Result(error**2, {"error": error})

    def evaluate(self, **inputs: Array) -> Result:
        error = float(np.mean(self.weight - inputs["x"]))
        return Result(error**2, {"error": error})

    def save_checkpoint(self, path: Path, metadata: Mapping[str, str]) -> None:
        path.write_text(json.dumps({"weight": self.weight, **metadata}))

    def load_checkpoint(self, path: Path) -> Mapping[str, str]:
        data = json.loads(path.read_text())
        self.weight = data.pop("weight")
        return dict(data)

    has_averages = False

    def save_averages(self, path: Path) -> None:
        raise NotImplementedError

    def save_weights(self, path: Path) -> None:
        path.write_text(repr(self.weight))


@pytest.fixture
def data() -> Dataset:
    return from_arrays({"x": np.random.default_rng(0).normal(3.0, 0.01, size=50)}, "test")


def test_it_learns_and_records_each_epoch(data: Dataset, tmp_path: Path) -> None:
    model = Mean()
    outcome = fit(model, data, Plan(epochs=20, batch=16), tmp_path, validation=data)
    assert [record["epoch"] for record in outcome.history] == list(range(1, 21))
    assert outcome.history[-1]["val_loss"] < 0.01 < outcome.history[0]["val_loss"]
    assert len(outcome.losses) == 20 * 4
    assert json.loads((tmp_path / "history.json").read_text()) == outcome.history


@pytest.mark.parametrize("stop_after", [1, 3, 4, 5, 11])
def test_stopped_and_resumed_equals_uninterrupted(
    data: Dataset, tmp_path: Path, stop_after: int
) -> None:
    whole = Mean()
    expected = fit(whole, data, Plan(4, 16, seed=7), tmp_path / "whole")
    seen: list[object] = []
    part = Mean()
    first = fit(
        part,
        data,
        Plan(4, 16, seed=7),
        tmp_path / "part",
        on_event=lambda e: seen.append(e) if isinstance(e, StepDone) else None,
        stop=lambda: len(seen) >= stop_after,
    )
    assert first.interrupted
    fresh = Mean()
    second = fit(fresh, data, Plan(4, 16, seed=7), tmp_path / "part", resume=True)
    assert fresh.weight == whole.weight
    assert second.losses == expected.losses
    assert second.history == expected.history


def test_an_old_history_is_mended_though_nothing_is_left_to_do(
    data: Dataset, tmp_path: Path
) -> None:
    outcome = fit(Mean(), data, Plan(3, 16), tmp_path)
    (tmp_path / "history.json").write_text("[]")
    fit(Mean(), data, Plan(3, 16), tmp_path, resume=True)
    assert json.loads((tmp_path / "history.json").read_text()) == outcome.history


def test_another_seed_gives_another_order(data: Dataset, tmp_path: Path) -> None:
    a = fit(Mean(), data, Plan(1, 16, seed=1), tmp_path / "a")
    b = fit(Mean(), data, Plan(1, 16, seed=2), tmp_path / "b")
    assert a.losses != b.losses


@pytest.mark.parametrize("plan", [Plan(4, 8), Plan(4, 16, seed=1)])
def test_resume_refuses_another_run(data: Dataset, tmp_path: Path, plan: Plan) -> None:
    fit(Mean(), data, Plan(1, 16), tmp_path)
    with pytest.raises(ResumeError, match="a resumed run must have the same"):
        fit(Mean(), data, plan, tmp_path, resume=True)


def test_resume_without_checkpoint(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no checkpoint"):
        fit(Mean(), data, Plan(1, 16), tmp_path, resume=True)


def test_a_loss_that_is_not_a_number_stops(data: Dataset, tmp_path: Path) -> None:
    model = Mean()
    model.weight = float("nan")
    with pytest.raises(Diverged, match="the loss became nan in epoch 1, step 1 of 4"):
        fit(model, data, Plan(1, 16), tmp_path)


def test_evaluate_weighs_the_last_small_batch_rightly() -> None:
    model = Mean()
    model.weight = 0.0
    data = from_arrays({"x": np.arange(5.0)}, "test")
    assert evaluate(model, data, 4)["error"] == pytest.approx(-2.0)


def test_arrays_of_different_lengths() -> None:
    with pytest.raises(DataError, match="'a' has 3, 'b' has 4"):
        from_arrays({"a": np.zeros(3), "b": np.zeros(4)}, "x.npz")


def test_missing_arrays_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.zeros(3))
    with pytest.raises(DataError, match="no array 'label'; it holds 'image'"):
        load(tmp_path / "x.npz", ("image", "label"))


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 broken"])
def test_a_broken_file_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is no \.npz file"):
        load(path, ("image",))


def test_pickled_arrays_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", image=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="not a readable"):
        load(tmp_path / "x.npz", ("image",))
