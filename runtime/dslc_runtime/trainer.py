"""A compiled training step around a model: steps, evaluation, checkpoints.

Input: a `Model` with an entry of kind `train_step`, named arrays per step. Output: losses and
metrics; weights, states and optimiser states change in place. The seed and the number of the step
are handed to the compiled code, so a run that goes on from a checkpoint draws the same random
numbers as one that never stopped. Non-goals: epochs, batches, progress.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dslc_runtime import safetensors
from dslc_runtime.device_call import on_host
from dslc_runtime.dtypes import Array, described, numpy_dtype, show_type
from dslc_runtime.entry import Entry
from dslc_runtime.errors import ArgumentError
from dslc_runtime.manifest import AVERAGE
from dslc_runtime.numbers import seed_of
from dslc_runtime.report import LoadReport
from dslc_runtime.safetensors import SafetensorsError
from dslc_runtime.session import Model, Weights
from dslc_runtime.signature import Signature

CHECKPOINT = "dslc checkpoint 1"


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step measured on its batch: the loss, and metrics by name."""

    loss: float
    metrics: Mapping[str, float]


class Trainer:
    """`train_step(image=x, label=y)` takes one step; `evaluate(...)` only measures. Other entries
    of the model are attributes (`trainer.decode(...)`)."""

    def __init__(self, model: Model, seed: int = 0) -> None:
        self.model = model
        self.seed = seed_of(seed)
        self.step = 0
        self._train = _only(model, "train_step")
        self._evaluate = _only(model, "evaluate")

    @property
    def name(self) -> str:
        """The model's name in its source."""
        return self.model.name

    @property
    def parameter_count(self) -> int:
        """Number of weights' elements."""
        return self.model.parameter_count

    @property
    def weights(self) -> Weights:
        """Weights and states by name, as they are now."""
        return self.model.weights

    @property
    def averages(self) -> dict[str, Array]:
        """Weights and states by name; of those that `ema` keeps averages of, the averages.
        ArgumentError when it keeps none."""
        with self.model.lock:
            store = self.model.store
            means = [v.name for v in self.model.manifest.variables if v.kind == "average"]
            if not means:
                raise ArgumentError(
                    f"the training of {self.name} keeps no averages: it has no `ema`"
                )
            own = {name.removeprefix(AVERAGE): store.read(name) for name in means}
            return {**self.weights, **own}

    @property
    def has_averages(self) -> bool:
        """Whether the training keeps averages of the weights (`ema`)."""
        return any(v.kind == "average" for v in self.model.manifest.variables)

    @property
    def signature(self) -> Signature:
        """Of the training step."""
        return self._train.signature

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the training step that the caller gives."""
        return tuple(t.name for t in self.signature.inputs)

    def train_step(self, /, *args: Any, **inputs: Any) -> StepResult:
        """One step of the optimiser; weights change in place. Raises ArgumentError."""
        result = self._run(self._train, args, inputs)
        self.step += 1
        return result

    def evaluate(self, /, *args: Any, **inputs: Any) -> StepResult:
        """Loss and metrics as in inference, by the averages of the weights where `ema` keeps some;
        changes nothing. Raises ArgumentError."""
        return self._run(self._evaluate, args, inputs)

    def __call__(self, /, *args: Any, **named: Any) -> Any:
        """The model's own result, with the weights as they are now."""
        return self.model(*args, **named)

    def __getattr__(self, name: str) -> Entry:
        model = self.__dict__.get("model")
        if model is None or name not in model.entries:
            raise AttributeError(f"{type(self).__name__} has no attribute or entry {name!r}")
        found: Entry = model.entries[name]
        return found

    def __repr__(self) -> str:
        return f"<trainer of {self.name}{self.signature} on {self.model.target.name}>"

    def load_weights(
        self,
        weights: str | os.PathLike[str] | Mapping[str, Array],
        *,
        missing: Sequence[str] = (),
    ) -> LoadReport:
        """See `Model.load_weights`; optimiser states stay."""
        return self.model.load_weights(weights, missing=missing)

    def save_weights(self, path: str | os.PathLike[str]) -> None:
        """See `Model.save_weights`."""
        self.model.save_weights(path)

    def save_averages(self, path: str | os.PathLike[str]) -> None:
        """Writes `averages` to a `.safetensors` file that loads as weights, whole or not at all.
        ArgumentError when there are none, OSError."""
        safetensors.save(Path(path), self.averages, {"model": self.name})

    def save_checkpoint(
        self, path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Writes all that is needed to go on, and `metadata`, to a `.safetensors` file, whole or
        not at all. OSError."""
        told = {"checkpoint": CHECKPOINT, "model": self.name}
        told |= {"seed": str(self.seed), "step": str(self.step)}
        told |= {f"user.{name}": text for name, text in (metadata or {}).items()}
        with self.model.lock:
            store = self.model.store
            arrays = {v.name: store.read(v.name) for v in self.model.manifest.variables}
            safetensors.save(Path(path), arrays, told)

    def load_checkpoint(self, path: str | os.PathLike[str]) -> Mapping[str, str]:
        """Goes back to a checkpoint; returns its metadata. ArgumentError when it is damaged or of
        another model; nothing has changed then."""
        try:
            arrays, told = safetensors.load(Path(path))
        except OSError as error:
            raise ArgumentError(f"cannot read {path}: {error.strerror or error}") from None
        except SafetensorsError as error:
            raise ArgumentError(f"{path} is not a whole checkpoint: {error}") from None
        seed, step = told.get("seed", ""), told.get("step", "")
        if told.get("checkpoint") != CHECKPOINT or not step.isdecimal() or not _is_int(seed):
            raise ArgumentError(f"{path} is not a checkpoint of this version of dslc_runtime")
        self._check(arrays, path)
        with self.model.lock:
            self.model.store = self.model.store.replaced(arrays)
            self.seed, self.step = int(seed), int(step)
        return {k.removeprefix("user."): v for k, v in told.items() if k.startswith("user.")}

    def _check(self, arrays: Mapping[str, Array], path: str | os.PathLike[str]) -> None:
        needed = {v.name: show_type(v.dtype, v.dims) for v in self.model.manifest.variables}
        held = {name: described(array) for name, array in arrays.items()}
        odd = sorted(n for n in needed.keys() | held.keys() if needed.get(n) != held.get(n))
        if odd:
            told = ", ".join(odd[:5]) + (", ..." if len(odd) > 5 else "")
            raise ArgumentError(f"{path} is a checkpoint of another model: {told} differ")

    def _run(self, entry: Entry, args: tuple[Any, ...], inputs: Mapping[str, Any]) -> StepResult:
        supplied = {"seed": self.seed, "step": self.step}
        own = {t.name: supplied[t.supplied] for t in entry.info.inputs if t.supplied != "caller"}
        for name in own.keys() & inputs.keys():
            raise ArgumentError(f"{name} is what the trainer itself hands over: leave it out")
        results = entry(*args, **inputs, **own)
        values = results if isinstance(results, tuple) else (results,)
        dtypes = [numpy_dtype(output.dtype) for output in entry.info.outputs]
        device = self.model.device
        numbers = [float(on_host(device, value, d)) for value, d in zip(values, dtypes)]
        names = [output.name for output in entry.info.outputs]
        return StepResult(numbers[0], dict(zip(names[1:], numbers[1:])))


def _only(model: Model, kind: str) -> Entry:
    for entry in model.entries.values():
        if entry.info.kind == kind:
            return entry
    raise ArgumentError(f"{model.name} was built without its training step: dslc build --train")


def _is_int(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
