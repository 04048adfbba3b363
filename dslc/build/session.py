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
from dslc.build.driver import Built, Dump, build_here, build_program
from dslc.build.link import find_linker
from dslc.build.special import Sizes
from dslc.build.target import Target
from dslc.diagnostics import CompileError
from dslc.ir.core import Program
from dslc.ir.evaluate import evaluate
from dslc.semantics.elaborate import Setting, elaborate
from dslc.source import SourceFile
from dslc_runtime import Model
from dslc_runtime._ffi import load_library
from dslc_runtime.artifact import write_artifact
from dslc_runtime.dtypes import Array
from dslc_runtime.loading import Fitted, fit
from dslc_runtime.session import read_weights

Weights = str | Path | Mapping[str, Array]


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
) -> Built:
    """Compiles a source file; `here`: for this process alone, so that on a CPU no linker is needed;
    `sizes`: of dynamic dims that get code of their own; `weights` that don't fit are refused before
    anything is compiled. CompileError, BuildError, ArgumentError."""
    program = program_of(source, model, settings, training=training)
    if dump is not None:
        dump("elaborate", program)
    _given(program, weights)
    digest = hashlib.sha256(source.text.encode()).hexdigest()
    if here and targets[0].kind == "cpu" and find_linker() is None:
        return build_here(program, targets[0], digest, dump, sizes)
    return build_program(program, targets, digest, dump, sizes)


def _first_values(
    program: Program, weights: Weights | None, seed: int
) -> tuple[dict[str, Array], tuple[str, ...]]:
    """The variables' values, those given and the others from their initialisers; and notes on what
    was converted.

    `weights` must hold every weight; states may be left out. ArgumentError lists what is missing,
    extra, or of another type. Optimiser states that start as zeros are left to the runtime.
    """
    needed = describe.needed_variables(program)
    fitted = _given(program, weights)
    given = fitted.values
    values: dict[str, Array] = {}
    for name, variable in needed.items():
        if name in given:
            values[name] = given[name]
        elif variable.init is not None and variable.kind != "optimizer":
            values[name] = evaluate(variable.init, [np.asarray(seed, np.int64)])[0]
    return values, fitted.notes


def _given(program: Program, weights: Weights | None) -> Fitted:
    if weights is None:
        return Fitted({}, ())
    where = "what was given"
    if not isinstance(weights, Mapping):
        where, weights = str(weights), read_weights(Path(weights))
    kept = [v for v in program.variables if v.kind in ("weight", "state")]
    infos = describe.variable_infos(kept)
    return fit(program.name, infos, program.ignored, weights, where)


def write(
    built: Built, path: Path, source: SourceFile, weights: Weights | None, seed: int
) -> tuple[str, ...]:
    """Writes the artifact, whole or not at all, and returns notes on converted weights.
    ArgumentError, ArtifactError."""
    values, notes = _first_values(built.program, weights, seed)
    name = Path(source.path).name if source.path else "model.dl"
    write_artifact(path, built.manifest, built.libraries, values, {name: source.text})
    return notes


def load_built(
    built: Built, weights: Weights | None, seed: int, threads: int | None = None
) -> Model:
    """The compiled model in this process."""
    (target,) = built.manifest.targets
    module = built.module
    if module is None:
        module = load_library(built.libraries[target.file], built.manifest.model)
    values, notes = _first_values(built.program, weights, seed)
    model = Model.from_parts(built.manifest, module, values, threads=threads)
    model.notes = notes
    return model
