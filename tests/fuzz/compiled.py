"""What holds for every network: compiled, it gives what `evaluate` gives.

Input: the text of a model that says in its first line how to compile it (`networks.Options`).
Output: an `Outcome`; `Broken` where numbers differ by more than rounding explains. How much that
is, is asked of the network itself: what its results differ by when all that it computes is off by
its last bits (`rounding.py`). Memory that kernels are given ends where none is, so that one that
reads or writes too far ends the process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from dslc.autodiff.train_step import add_train_step
from dslc.build import driver, session
from dslc.build.target import Target
from dslc.diagnostics import CompileError
from dslc.ir.core import Entry, Program
from dslc.ir.dims import Dim, substitute
from dslc.ir.evaluate import evaluate, initial_variables, run_entry
from dslc.ir.types import DType
from dslc.lowering.kernels import stream, tasks
from dslc.lowering.program import layout_of
from dslc.lowering.recompute import TooLittleMemory, within
from dslc.lowering.rewrites import planes, strassen, winograd
from dslc.passes import stages
from dslc.schedules.cpu.tiles import contract, machine
from dslc.schedules.cpu.tiles.contract import Machine
from dslc.source import SourceFile
from tests.build.lockstep import TOLERANCE, calls, draw
from tests.fuzz.networks import Options
from tests.fuzz.properties import Broken, Outcome
from tests.fuzz.rounding import LAST_BITS, moved, rounded
from tests.lowering.native import Compiled, compile_all

Arrays = dict[str, Any]
Calls = list[tuple[str, Arrays]]  # the name of an entry, and its results and updates

SHORT: Mapping[str, DType] = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16",
}  # fmt: skip
HUGE = 2.0**14  # of f16: sums on the way to it may be infinite
SEEDS = 4  # of last bits; few numbers of 8 bits often come out the same
WORSE = 30  # times what last bits make: Winograd's way is less precise
# What decides that something is worth it, and what always is.
EAGER: Mapping[str, Sequence[tuple[Any, str, Any]]] = {
    "tasks": (
        (tasks, "PARALLEL_OPERATIONS", 1), (tasks, "REPEATED_OPERATIONS", 1),
        (machine, "PARALLEL_WORK", 1), (machine, "REPEATED_WORK", 1),
        (contract, "PARALLEL_WORK", 1),
        (contract, "PART_WORK", 1),
    ),
    "strassen": ((strassen, "WORTH", 1e9), (strassen, "ROWS", 0)),
    "winograd": (
        (winograd, "INTO", dict.fromkeys(winograd.INTO, 0)),
        (winograd, "BACK", dict.fromkeys(winograd.BACK, 0)),
        (winograd, "FEWEST_TILES", 1), (winograd, "TRANSFORMED", 0),
    ),
    "stream": ((stream, "STREAMED_BYTES", 0),),
    "planes": ((planes, "FULL", 1e6),),
    "stages": ((stages, "LONG", 256), (stages, "PARTS", 3)),
}  # fmt: skip


def examine(text: str) -> Outcome:
    """Whether the model that the text holds gives the right numbers."""
    options = Options.of(text)
    began = time.process_time()
    try:
        program = session.program_of(SourceFile("fuzz.dl", text), training="\ntrain " in text)
    except CompileError:
        return Outcome(True, False, 0, time.process_time() - began)
    with eager(options.eager):
        optimised, compiled = build(program, options)
    meant = program
    if options.precision != "f32":
        meant = driver.for_gradients(program, options.precision)
    if meant.training is not None:
        meant = add_train_step(meant)
    for sizes in options.sizes:
        given = Inputs(meant, sizes)

        def run(name: str, arrays: list[Any]) -> Sequence[Any]:
            return compiled.call(name, arrays, before=options.before)

        halves = options.precision == "f16" or "cast[f16]" in text
        same(reference(given), run_optimised(optimised, run, given), given, optimised, halves)
    return Outcome(True, True, 1, time.process_time() - began)


@contextmanager
def eager(names: Sequence[str]) -> Iterator[None]:
    """Small kernels are made like big ones."""
    patches = [patch.object(*each) for name in names for each in EAGER[name]]
    for each in patches:
        each.start()
    try:
        yield
    finally:
        for each in patches:
            each.stop()


def build(program: Program, options: Options) -> tuple[Program, Compiled]:
    """The optimised program and its entries' code."""
    target = Target(
        "fuzz", "cpu", "x86-64-v3", (), options.bits, options.tasks, exact=options.exact
    )
    optimised = driver.optimise(program, target, precision=options.precision)
    machine = Machine(options.bits, options.tasks, exact=options.exact)
    entries = [fitted(entry, machine, options) for entry in optimised.entries]
    compiled = compile_all(
        entries, options.tasks, options.bits, options.level, exact=options.exact,
        apart=options.apart,
    )  # fmt: skip
    return replace(optimised, entries=tuple(entries)), compiled


def fitted(entry: Entry, machine: Machine, options: Options) -> Entry:
    """The entry in so much of its memory as the options say, if it can be done in so little."""
    if options.memory == 100:
        return entry

    def lay_out(entry: Entry) -> Any:
        return layout_of(entry, machine)

    sizes: dict[str, Dim] = {**options.sizes[0]}
    size = substitute(lay_out(entry).plan.size, sizes)
    try:
        return within(entry, int(size) * options.memory // 100, lay_out, options.sizes[0])
    except TooLittleMemory:
        return entry


# --- both sides -----------------------------------------------------------------------------------


class Inputs:
    """First values of variables, and what each call is given; the same each time."""

    def __init__(self, program: Program, sizes: Mapping[str, int]) -> None:
        self.program, self.sizes = program, sizes
        self.variables = initial_variables(program, seed=1)
        rng = np.random.default_rng(0)
        self.calls = [(call, draw(program.entry(call), sizes, rng)) for call in calls(program)]

    def off(self, seed: int) -> Inputs:
        """The same, each number off by its last bits."""
        made = Inputs(self.program, self.sizes)
        rng = np.random.default_rng(seed)

        def change(arrays: Arrays) -> Arrays:
            return {name: moved(array, rng) for name, array in arrays.items()}

        made.variables = change(self.variables)
        made.calls = [(call, change(arrays)) for call, arrays in self.calls]
        return made


def reference(given: Inputs) -> Calls:
    variables, made = dict(given.variables), []
    for call, inputs in given.calls:
        outputs, updates = run_entry(given.program, call, variables, inputs)
        variables |= updates
        made.append((call, {**outputs, **{f"next {n}": v for n, v in updates.items()}}))
    return made


def reference_off(given: Inputs, seed: int) -> Calls:
    """The same, with numbers that are off by their last bits all the way."""
    with rounded(seed):
        return reference(given.off(seed))


def optimised_off(optimised: Program, given: Inputs, seed: int) -> Calls:
    """The same of the optimised program: what cancels exactly as it was written does not always in
    another form of it."""

    def run(name: str, arrays: list[Any]) -> Sequence[Any]:
        return evaluate(optimised.entry(name).function, arrays)

    with rounded(seed):
        return run_optimised(optimised, run, given.off(seed))


def run_optimised(
    optimised: Program, run: Callable[[str, list[Any]], Sequence[Any]], given: Inputs
) -> Calls:
    """What an optimised program gives whose entries `run` calls."""
    variables, made = dict(given.variables), []

    def call(name: str, known: Mapping[str, Any]) -> Arrays:
        entry = optimised.entry(name)
        arrays = [known[argument.name] for argument in entry.arguments]
        names = (*entry.outputs, *(f"next {n}" for n in entry.updates))
        return dict(zip(names, run(name, arrays)))

    for name, inputs in given.calls:
        known = {**variables, **inputs}
        if any(argument.role == "prepared" for argument in optimised.entry(name).arguments):
            known |= call(driver.PREPARE, known)
        results = call(name, known)
        variables |= {n.removeprefix("next "): v for n, v in results.items() if "next " in n}
        made.append((name, results))
    return made


# --- comparing ------------------------------------------------------------------------------------


def same(expected: Calls, found: Calls, given: Inputs, optimised: Program, halves: bool) -> None:
    """`Broken` unless all results agree, each as closely as can be asked of it. `halves`: whether
    anything is computed in f16."""
    off: list[Calls] = []
    for number, ((call, wanted), (_, ours)) in enumerate(zip(expected, found, strict=True)):
        for name, array in wanted.items():
            where = f"{name} of {call}"
            if halves and largest(array) > HUGE:
                return
            if (ours[name].dtype, ours[name].shape) != (array.dtype, array.shape):
                raise Broken(f"{where} is {ours[name].dtype}{list(ours[name].shape)}")
            if array.dtype.name not in LAST_BITS:
                if not np.array_equal(ours[name], array):
                    raise Broken(f"{where} differs")
                continue
            error = distance(array, ours[name])
            if error <= TOLERANCE[SHORT[array.dtype.name]] * max(scale(name, wanted), 1e-3):
                continue
            off = off or [
                *(reference_off(given, seed) for seed in range(SEEDS)),
                *(optimised_off(optimised, given, seed) for seed in range(SEEDS)),
            ]
            explained = max(distance(array, each[number][1][name]) for each in off)
            if not error <= WORSE * explained:
                raise Broken(
                    f"{where} differs by {error:.2g} of {largest(array):.2g} at "
                    f"{dict(given.sizes)}; rounding makes {explained:.2g}"
                )


def scale(name: str, wanted: Arrays) -> float:
    """The largest number that a result is measured by. A gradient that cancels exactly in one order
    of its sums does not in another, so that a moment is measured by those of all weights."""
    if not name.startswith("next optimizer."):
        return largest(wanted[name])
    kind = name.rpartition(".")[2]
    return max(largest(wanted[each]) for each in wanted if each.endswith(f".{kind}"))


def largest(array: Any) -> float:
    wide = np.asarray(array, np.float64)
    finite = np.abs(wide[np.isfinite(wide)])
    return float(finite.max()) if finite.size else 0.0


def distance(array: Any, other: Any) -> float:
    """The greatest difference; infinite where one is no number and the other is."""
    a, b = np.asarray(array, np.float64), np.asarray(other, np.float64)
    both = np.isfinite(a) & np.isfinite(b)
    alike = both | (a == b) | (np.isnan(a) & np.isnan(b))
    if not alike.all():
        return float("inf")
    return float(np.abs(a[both] - b[both]).max()) if both.any() else 0.0
