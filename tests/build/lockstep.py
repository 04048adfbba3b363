"""Runs compiled models beside `evaluate`, call by call, and tells where they part.

Models are compiled as a build does it (passes, weights packed, the training step joined), but many
into one module, in this process; `evaluate` runs the programs as they were elaborated. After each
call all outputs and all updated variables are compared, and both sides go on with their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from dslc.autodiff.train_step import add_train_step
from dslc.build import driver, session
from dslc.build.target import Target
from dslc.ir.core import Entry, Program
from dslc.ir.dims import Dim, free_symbols, substitute
from dslc.ir.evaluate import initial_variables, numpy_dtype, run_entry
from dslc.ir.types import DType, TensorType, is_float
from dslc.source import SourceFile
from tests.build.corpus import Model
from tests.lowering.native import Compiled, compile_all

Arrays = dict[str, Any]

STEPS = 2
# Sums in another order and polynomials of a few ulps; per dtype, relative to the largest element.
TOLERANCE: Mapping[DType, float] = {"f64": 1e-11, "f32": 5e-5, "f16": 4e-3, "bf16": 3e-2}


class Lockstep:
    """Both sides of some models, compiled for `tasks` parallel tasks."""

    def __init__(
        self, models: Sequence[Model], tasks: int, bits: int = 256, level: int = 0
    ) -> None:
        self.programs: dict[str, Program] = {}
        self.optimised: dict[str, Program] = {}
        target = Target("test", "cpu", "x86-64-v3", (), bits, tasks)
        entries: list[Entry] = []
        for model in models:
            program = session.program_of(
                SourceFile(f"{model.name}.dl", model.source),
                settings=model.settings,
                training=model.trains,
            )
            optimised = driver.optimise(program, target)
            if model.trains:
                program = add_train_step(program)
            self.programs[model.name], self.optimised[model.name] = program, optimised
            entries += [
                replace(e, name=f"{model.name}_{e.name}")
                for e in optimised.entries
                if not model.entries or e.name in (*model.entries, driver.PREPARE)
            ]
        self.compiled: Compiled = compile_all(entries, tasks, bits, level)

    def check(self, model: Model, sizes: Mapping[str, int]) -> None:
        """Calls every entry of the model, the training step a few times."""
        program = self.programs[model.name]
        expected = initial_variables(program, seed=1)
        found = dict(expected)
        rng = np.random.default_rng(0)
        for call in calls(program):
            if model.entries and call not in model.entries:
                continue
            where = f"{call} of {model.name} at {dict(sizes)}"
            inputs = draw(program.entry(call), sizes, rng)
            outputs, updates = run_entry(program, call, expected, inputs)
            ours, news = self.run(model, call, found, inputs)
            compare({**outputs, **updates}, {**ours, **news}, where)
            expected |= updates
            found |= news

    def run(
        self, model: Model, call: str, variables: Mapping[str, Any], inputs: Mapping[str, Any]
    ) -> tuple[Arrays, Arrays]:
        """Compiled `run_entry`."""
        known: Arrays = {**variables, **inputs}
        entry = self.optimised[model.name].entry(call)
        if any(argument.role == "prepared" for argument in entry.arguments):
            known |= self._call(model, driver.PREPARE, known)
        results = self._call(model, call, known)
        updates = {name: results.pop(f"next {name}") for name in entry.updates}
        return results, updates

    def _call(self, model: Model, name: str, known: Mapping[str, Any]) -> Arrays:
        entry = self.optimised[model.name].entry(name)
        arrays = [known[argument.name] for argument in entry.arguments]
        results = self.compiled.call(f"{model.name}_{name}", arrays)
        return dict(zip((*entry.outputs, *(f"next {n}" for n in entry.updates)), results))


def calls(program: Program) -> Iterator[str]:
    """Which entries to call, in order: training first, so that the rest sees trained weights."""
    names = [entry.name for entry in program.entries]
    if "train_step" in names:
        yield from ["train_step"] * STEPS
    # Twice: the second call sees what the first one left in the states.
    yield from [name for name in names if name != "train_step"] * 2


def draw(entry: Entry, sizes: Mapping[str, int], rng: np.random.Generator) -> Arrays:
    """An entry's inputs, of dims that `sizes` gives."""
    env: dict[str, Dim] = dict(sizes)
    typed = [
        (argument.name, param.type)
        for argument, param in zip(entry.arguments, entry.function.params)
        if argument.role == "input"
    ]
    free = {symbol for _, type in typed for dim in type.dims for symbol in free_symbols(dim)}
    env |= dict.fromkeys(free - env.keys(), 2)
    return {name: random_array(type, env, rng) for name, type in typed}


def random_array(type: TensorType, env: Mapping[str, Dim], rng: np.random.Generator) -> Any:
    """Normal floats, integers of 0..2."""
    shape = [substitute(dim, env) for dim in type.dims]
    if is_float(type.dtype):
        return np.asarray(rng.normal(size=shape)).astype(numpy_dtype(type.dtype))  # type: ignore[arg-type]
    high = 2 if type.dtype == "bool" else 3
    return np.asarray(rng.integers(0, high, shape)).astype(numpy_dtype(type.dtype))  # type: ignore[arg-type]


def compare(expected: Mapping[str, Any], found: Mapping[str, Any], where: str) -> None:
    """Both hold the same names, and under them what agrees to the dtype's tolerance."""
    assert list(found) == list(expected), where
    for name, wanted in expected.items():
        same_array(wanted, found[name], f"{name} after {where}")


def same_array(wanted: Any, given: Any, where: str) -> None:
    assert (given.dtype, given.shape) == (wanted.dtype, wanted.shape), where
    kind = {"float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}
    if wanted.dtype.name not in kind:
        np.testing.assert_array_equal(given, wanted, where)
        return
    tolerance = TOLERANCE[kind[wanted.dtype.name]]  # type: ignore[index]
    wide = np.asarray(wanted, np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    largest = float(finite.max()) if finite.size else 0.0
    np.testing.assert_allclose(
        np.asarray(given, np.float64), wide, rtol=tolerance, atol=tolerance * max(largest, 1e-3),
        err_msg=where,
    )  # fmt: skip
