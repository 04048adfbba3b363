"""Runs a compiled training step over data: epochs, validation, checkpoints, resumption.

Input: a model with `train_step`, a `Dataset`, a `Plan` and a folder. Output: the history of every
epoch, and in the folder `checkpoint.safetensors` (all that is needed to go on),
`weights.safetensors`, `history.json`, and where the training keeps averages of the weights (`ema`),
which are what validation measures, `ema.safetensors`. A run that was stopped and resumed ends with
bitwise the weights of one that was not: the order of examples depends on seed and epoch alone,
dropout on seed and step alone.
Non-goals: printing and plotting; progress is told through `on_event`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, field
from pathlib import Path
from typing import Any, Protocol

from dslc._frozen import dataclass
from dslc.training.data import Array, Dataset, batches, epoch_order
from dslc_runtime import safetensors
from dslc_runtime.safetensors import SafetensorsError

CHECKPOINT = "checkpoint.safetensors"


class StepResult(Protocol):
    @property
    def loss(self) -> float: ...
    @property
    def metrics(self) -> Mapping[str, float]: ...


class Trainable(Protocol):
    """What the loop needs of a model (see `dslc_runtime.Trainer`)."""

    def train_step(self, **inputs: Array) -> StepResult: ...
    def evaluate(self, **inputs: Array) -> StepResult: ...
    def save_checkpoint(self, path: Path, metadata: Mapping[str, str]) -> None: ...
    def load_checkpoint(self, path: Path) -> Mapping[str, str]: ...
    def save_weights(self, path: Path) -> None: ...
    @property
    def has_averages(self) -> bool: ...
    def save_averages(self, path: Path) -> None: ...


class ResumeError(Exception):
    """The checkpoint doesn't belong to this run; the text says how."""


@dataclass(frozen=True, slots=True)
class Plan:
    """epochs: how often all examples are seen; batch: examples per step."""

    epochs: int
    batch: int
    seed: int = 0


@dataclass(slots=True)
class Averages:
    """Means over examples of loss and metrics, weighted by batch size."""

    examples: int = 0
    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, result: StepResult, examples: int) -> None:
        self.examples += examples
        self.loss += result.loss * examples
        for name, value in result.metrics.items():
            self.metrics[name] = self.metrics.get(name, 0.0) + value * examples

    def means(self) -> dict[str, float]:
        values = {"loss": self.loss, **self.metrics}
        return {name: value / max(self.examples, 1) for name, value in values.items()}


@dataclass(slots=True)
class Progress:
    """How far a run is: the next batch, what this epoch has summed up, what the others gave."""

    epoch: int = 0
    batch: int = 0
    averages: Averages = field(default_factory=Averages)
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self, plan: Plan, examples: int) -> str:
        return json.dumps({"plan": asdict(plan), "examples": examples, **asdict(self)})

    @staticmethod
    def from_json(text: str) -> tuple[Progress, Mapping[str, Any]]:
        data = json.loads(text)
        progress = Progress(
            data["epoch"],
            data["batch"],
            Averages(**data["averages"]),
            data["losses"],
            data["history"],
        )
        return progress, data


@dataclass(frozen=True, slots=True)
class StepDone:
    epoch: int
    batch: int
    batches: int
    means: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class EpochDone:
    epoch: int
    record: Mapping[str, Any]


Event = StepDone | EpochDone


@dataclass(frozen=True, slots=True)
class Outcome:
    """`losses` has one number per step; `history` one record per epoch."""

    history: list[dict[str, Any]]
    losses: list[float]
    interrupted: bool
    seconds: float


class Diverged(Exception):
    """The loss is no longer a number."""


def fit(
    model: Trainable,
    data: Dataset,
    plan: Plan,
    folder: Path,
    *,
    validation: Dataset | None = None,
    resume: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Trains until `plan.epochs` are done or `stop()` is true after a step.

    Writes a checkpoint at the end of each epoch and when stopped. Raises ResumeError when `resume`
    finds no fitting checkpoint, Diverged when the loss becomes NaN or infinite (the last
    checkpoint stays).
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / CHECKPOINT
    progress = _resume(model, checkpoint, plan, data.count) if resume else Progress()
    steps = math.ceil(data.count / plan.batch)
    started = time.perf_counter()

    def write_history() -> None:
        _write_text(folder / "history.json", json.dumps(progress.history, indent=1) + "\n")

    def save() -> None:
        model.save_checkpoint(checkpoint, {"progress": progress.to_json(plan, data.count)})
        write_history()

    interrupted = False
    while progress.epoch < plan.epochs and not interrupted:
        interrupted = _run_epoch(model, data, plan, progress, steps, on_event, stop)
        if not interrupted:
            _finish_epoch(model, plan, progress, validation, on_event)
        save()
    # One that was killed before it wrote its history, and has nothing left to do, has an old one.
    write_history()
    model.save_weights(folder / "weights.safetensors")
    if model.has_averages:
        model.save_averages(folder / "ema.safetensors")
    return Outcome(progress.history, progress.losses, interrupted, time.perf_counter() - started)


def saved_plan(folder: Path) -> Plan:
    """How the run went that wrote the folder's checkpoint. ResumeError where there is none, or one
    that no run wrote."""
    path = folder / CHECKPOINT
    try:
        _, metadata = safetensors.load(path)
    except FileNotFoundError:
        raise ResumeError(f"there is no checkpoint to resume from: {path}") from None
    except (OSError, SafetensorsError) as error:
        raise ResumeError(f"{path} is not a whole checkpoint: {error}") from None
    own = {name.removeprefix("user."): text for name, text in metadata.items()}
    return Plan(**_progress(own, path)[1]["plan"])


def evaluate(model: Trainable, data: Dataset, batch: int) -> dict[str, float]:
    """Means of loss and metrics over all examples."""
    averages = Averages()
    for rows in batches(data.count, batch):
        averages.add(model.evaluate(**data.batch(rows)), len(rows))
    return averages.means()


def _run_epoch(
    model: Trainable,
    data: Dataset,
    plan: Plan,
    progress: Progress,
    steps: int,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
) -> bool:
    """The rest of one epoch; true when it was stopped before its end."""
    order = epoch_order(data.count, plan.seed, progress.epoch)
    for number, rows in enumerate(batches(data.count, plan.batch, order)):
        if number < progress.batch:
            continue
        result = model.train_step(**data.batch(rows))
        if not math.isfinite(result.loss):
            raise Diverged(
                f"the loss became {result.loss} in epoch {progress.epoch + 1}, "
                f"step {number + 1} of {steps}"
            )
        progress.averages.add(result, len(rows))
        progress.losses.append(result.loss)
        progress.batch = number + 1
        on_event(StepDone(progress.epoch, number + 1, steps, progress.averages.means()))
        if stop() and progress.batch < steps:
            return True
    return False


def _finish_epoch(
    model: Trainable,
    plan: Plan,
    progress: Progress,
    validation: Dataset | None,
    on_event: Callable[[Event], None],
) -> None:
    record: dict[str, Any] = {"epoch": progress.epoch + 1, **progress.averages.means()}
    if validation is not None:
        means = evaluate(model, validation, plan.batch)
        record.update({f"val_{name}": value for name, value in means.items()})
    progress.history.append(record)
    on_event(EpochDone(progress.epoch, record))
    progress.epoch, progress.batch, progress.averages = progress.epoch + 1, 0, Averages()


def _resume(model: Trainable, checkpoint: Path, plan: Plan, examples: int) -> Progress:
    if not checkpoint.exists():
        raise ResumeError(f"there is no checkpoint to resume from: {checkpoint}")
    progress, saved = _progress(model.load_checkpoint(checkpoint), checkpoint)
    now = {"seed": plan.seed, "batch": plan.batch, "examples": examples}
    before = {
        "seed": saved["plan"]["seed"],
        "batch": saved["plan"]["batch"],
        "examples": saved["examples"],
    }
    for name, value in before.items():
        if now[name] != value:
            raise ResumeError(
                f"the checkpoint was written with {name} {value}, this run has {now[name]}; "
                f"a resumed run must have the same"
            )
    return progress


def _progress(metadata: Mapping[str, str], path: Path) -> tuple[Progress, Mapping[str, Any]]:
    if "progress" not in metadata:
        raise ResumeError(f"{path} says nothing of the training it came from")
    return Progress.from_json(metadata["progress"])


def _write_text(path: Path, text: str) -> None:
    """Writes beside the file and renames, so that an interrupted write leaves the old one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
