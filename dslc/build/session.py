"""From a source file to an artifact, or to a model in this process.

Input: source, targets, settings, weights. Output: a `.dlc` file, or a `dslc_runtime.Model` or
`Trainer`. This is what the command line and the Python functions call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dslc.build import describe
from dslc.build.draws import DRAWS
from dslc.build.driver import Built, Dump, build_here, build_program
from dslc.build.given import Weights, fitted
from dslc.build.link import find_linker
from dslc.build.special import Sizes
from dslc.build.target import Target
from dslc.diagnostics import CompileError
from dslc.ir.core import AVERAGE, Program, Variable
from dslc.ir.evaluate import evaluate
from dslc.passes.precision import PRECISIONS, Precision
from dslc.semantics.elaborate import Setting, elaborate
from dslc.source import SourceFile
from dslc_runtime import ArgumentError, Model
from dslc_runtime._ffi import load_library
from dslc_runtime.artifact import write_artifact
from dslc_runtime.cuda import open_device
from dslc_runtime.dtypes import Array
from dslc_runtime.report import LoadReport


def program_of(
    source: SourceFile,
    model: str | None = None,
    settings: Mapping[str, Setting] | None = None,
    *,
    training: bool = False,
) -> Program:
    """The elaborated program; CompileError with every diagnostic when it has errors."""
    program, found = elaborate(source, model, settings, training)
    errors = [d for d in found if d.severity == "error"]
    if program is None or errors:
        raise CompileError(errors or found)
    return program


def build_source(
    source: SourceFile,
    targets: Sequence[Target],
    *,
    model: str | None = None,
    settings: Mapping[str, Setting] | None = None,
    training: bool = False,
    dump: Dump | None = None,
    here: bool = False,
    sizes: Sizes | None = None,
    weights: Weights | None = None,
    missing: Sequence[str] = (),
    precision: str = "f32",
) -> Built:
    """Compiles a source file; `here`: for this process alone, so that on a CPU no linker is needed;
    `sizes`: of dynamic dims that get code of their own; `weights` that don't fit are refused before
    anything is compiled (see `given.py`); `precision`: what contractions are computed in.
    CompileError, BuildError, ArgumentError, DeviceError."""
    checked = check_precision(precision, training, targets)
    if here and targets[0].kind == "cuda":
        open_device()  # without a GPU there is no need to compile for one
    program = program_of(source, model, settings, training=training)
    if dump is not None:
        dump("elaborate", program)
    if weights is not None:
        fitted(program, weights, missing)
    digest = hashlib.sha256(source.text.encode()).hexdigest()
    if here and targets[0].kind == "cpu" and find_linker() is None:
        return build_here(program, targets[0], digest, dump, sizes, checked)
    return build_program(program, targets, digest, dump, sizes, checked)


def check_precision(name: str, training: bool, targets: Sequence[Target]) -> Precision:
    """ArgumentError unless it is one that a program can be computed in, for these targets."""
    for known in PRECISIONS:
        if name == known and name.endswith("-weights"):
            _check_kept(name, training, targets)
        if name == known:
            return known
    raise ArgumentError(f"there is no precision {name!r}; there are {', '.join(PRECISIONS)}")


def _check_kept(name: str, training: bool, targets: Sequence[Target]) -> None:
    """ArgumentError unless weights may be kept in fewer bits."""
    if training:
        raise ArgumentError(
            f"{name} is for models that are not trained: steps change weights by less than "
            f"{name.split('-')[0]} can tell; for products in bf16 there is the precision bf16"
        )
    if any(target.kind != "cpu" for target in targets):
        raise ArgumentError(f"{name} is for CPUs; on a GPU there is the precision bf16")


def first_values(
    program: Program, weights: Weights | None, missing: Sequence[str], seed: int
) -> tuple[dict[str, Array], LoadReport | None]:
    """The variables' values, those given and the others from their initialisers; and the report of
    those given. Averages start as their weights. States that start as zeros are left to the
    runtime. ArgumentError."""
    needed = describe.needed_variables(program)
    found = None if weights is None else fitted(program, weights, missing)
    given = found.values if found is not None else {}
    values: dict[str, Array] = {}
    key = np.asarray(seed, np.int64)
    for name, variable in needed.items():
        if name in given:
            values[name] = given[name]
        elif variable.init is not None and not _starts_as_zeros(variable):
            value = evaluate(variable.init, [key], meanings=DRAWS)[0]
            if variable.kind == "weight" or value.any():
                values[name] = value
    for name in (name for name, variable in needed.items() if variable.kind == "average"):
        values[name] = values[name.removeprefix(AVERAGE)]
    return values, None if found is None else found.report


def _starts_as_zeros(variable: Variable) -> bool:
    """Whether an optimiser state is 0 at first, without making it."""
    if variable.kind != "optimizer" or variable.init is None:
        return False
    numbers = [getattr(eqn.attrs, "value", 0) for eqn in variable.init.eqns]
    spread = {"constant", "broadcast"}
    return not any(numbers) and all(eqn.op.name in spread for eqn in variable.init.eqns)


def write(
    built: Built,
    path: Path,
    source: SourceFile,
    weights: Weights | None,
    seed: int,
    missing: Sequence[str] = (),
) -> LoadReport | None:
    """Writes the artifact, whole or not at all, and tells what became of the weights given.
    ArgumentError, ArtifactError."""
    values, report = first_values(built.program, weights, missing, seed)
    name = Path(source.path).name if source.path else "model.dl"
    write_artifact(path, built.manifest, built.libraries, values, {name: source.text})
    return report


def load_built(
    built: Built,
    weights: Weights | None,
    seed: int,
    threads: int | None = None,
    missing: Sequence[str] = (),
) -> Model:
    """The compiled model in this process."""
    (target,) = built.manifest.targets
    module = built.module
    if module is None:
        module = load_library(built.libraries[target.file], built.manifest.model)
    values, report = first_values(built.program, weights, missing, seed)
    model = Model.from_parts(built.manifest, module, values, threads=threads)
    model.report = report
    return model
