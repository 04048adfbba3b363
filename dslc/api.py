"""The Python functions: parse, check, lower, compile.

A source is a path, a string that holds a line break or a brace (which is source text), a
`SourceFile`, or a tree that `parse` gave.

>>> program = dslc.parse("fn twice(x: f32[N]) -> f32[N] {\\n    return x + x\\n}")
>>> program.decls[0].name.name, dslc.check(program)
('twice', [])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

from dslc.build import merging, session
from dslc.build.given import Weights
from dslc.build.special import check_sizes, sizes_of
from dslc.build.target import parse_targets, with_memory
from dslc.diagnostics import CompileError, Diagnostic
from dslc.ir.core import Program
from dslc.onnx.writing import exporting, files
from dslc.onnx.writing.exporting import Exported
from dslc.semantics import check as checking
from dslc.semantics.elaborate import Setting
from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax import parser as parsing
from dslc_runtime import Model, Trainer
from dslc_runtime.numbers import seed_of

Source = str | Path | SourceFile | ast.File


def source_file(source: Source) -> SourceFile:
    """The source as a file with a name for messages; OSError when it can't be read."""
    if isinstance(source, ast.File):
        return source.source
    if isinstance(source, SourceFile):
        return source
    if isinstance(source, str) and ("\n" in source or "{" in source):
        return SourceFile("<text>", source)
    path = Path(source)
    return SourceFile(str(path), path.read_text(encoding="utf-8"))


def parse(source: Source) -> ast.File:
    """The syntax tree (`dslc.syntax.ast`), each node with its place.

    Names and shapes are not looked at: `check` does that. Raises CompileError when the text does
    not follow the grammar, OSError when the file can't be read.
    """
    tree, found = parsing.parse(source_file(source))
    if found:
        raise CompileError(found)
    return tree


def check(source: Source) -> list[Diagnostic]:
    """Every error and warning of a program, imported files included; empty when it is right.

    Nothing is raised for a wrong program: each `Diagnostic` has a code, a title, labels with their
    places, notes and help. OSError when the file can't be read.
    """
    return list(checking.check(source_file(source)))


def lower(
    source: Source,
    *,
    model: str | None = None,
    train: bool = False,
    set: Mapping[str, Setting] | None = None,
) -> Program:
    """The program's IR, not yet optimised: a `dslc.ir.core.Program`.

    model: which one, where the file holds several. train: the `train` block too. set: the model's
    static parameters by name. Raises CompileError when the program has errors.
    """
    return session.program_of(source_file(source), model, set, training=train)


def merge(
    source: Source,
    weights: Weights,
    *,
    model: str | None = None,
    set: Mapping[str, Setting] | None = None,
) -> dict[str, Any]:
    """The arrays of the plain model, by name: what `lora` layers and `adapt` lines make of weights
    has the weights' names, and weights of their own are left out.

    weights: a `.safetensors` file or arrays by name, of the model with its adapters. Nothing is
    compiled. Raises CompileError (the program is wrong, or reads a weight in two ways),
    ArgumentError (the weights are wrong, or there is nothing to merge).
    """
    return merging.merge(source_file(source), weights, model, set)[0]


def export_onnx(
    source: Source,
    output: str | Path,
    *,
    weights: Weights | None = None,
    model: str | None = None,
    set: Mapping[str, Setting] | None = None,
    entry: str | None = None,
    dims: Mapping[str, int] | None = None,
    missing: Sequence[str] = (),
    seed: int = 0,
    opset: int | None = None,
) -> Exported:
    """Writes a model as ONNX to the file `output`, whole or not at all; what was written.

    weights, missing, seed: the numbers, as for `compile`. model: which one, where the file holds
    several. set: the model's static parameters by name. entry: which one, where the model has
    several and none is `forward`. dims: sizes of dynamic dims, which are fixed; the others stay
    symbolic. opset: ONNX's version of its operators, by default 18.

    Inputs, outputs and weights have the names that they have in the source. A state that a call
    changes is an input, which may be left out at the first call, and an output `next.NAME`. A model
    of 2 GiB or more keeps its weights in `output` with `.data` behind it. Nothing is compiled.

    Raises CompileError (the program is wrong), ArgumentError (the weights or dims are), ExportError
    (there is no such entry or opset), OSError (the file can't be written).
    """
    from importlib.metadata import version

    file = source_file(source)
    program = session.program_of(file, model, set)
    sizes = dict(dims or {})
    check_sizes(program, sizes_of({name: (size,) for name, size in sizes.items()}))
    values, report = session.first_values(program, weights, missing, seed)
    made = exporting.written(
        program,
        values,
        entry=entry,
        sizes=sizes,
        opset=exporting.USUAL_OPSET if opset is None else opset,
        producer_version=version("dslc"),
    )
    written = files.save(made, Path(output))
    return Exported(written, made.inputs, made.outputs, len(made.model.graph.node), report)


def import_onnx(path: str | Path) -> tuple[str, dict[str, Any]]:
    """An ONNX model as `.dl` source text and its weights, arrays by name.

    `compile(text, weights=weights)` takes both. Dims that have a name in the model stay dynamic.
    Raises CompileError where the file is no ONNX model or can't be said in `.dl` (each operator
    that is not supported is named, with its nodes), OSError where it can't be read.
    """
    from dslc.onnx.reading.importing import import_file

    imported = import_file(Path(path))
    return imported.text, imported.weights


@overload
def compile(
    source: Source,
    *,
    target: str = ...,
    model: str | None = ...,
    train: Literal[False] = ...,
    set: Mapping[str, Setting] | None = ...,
    dims: Mapping[str, int | Sequence[int]] | None = ...,
    precision: str = ...,
    exact: bool = ...,
    memory: int | str | None = ...,
    weights: Weights | None = ...,
    missing: Sequence[str] = ...,
    seed: int = ...,
    threads: int | None = ...,
) -> Model: ...
@overload
def compile(
    source: Source,
    *,
    target: str = ...,
    model: str | None = ...,
    train: Literal[True],
    set: Mapping[str, Setting] | None = ...,
    dims: Mapping[str, int | Sequence[int]] | None = ...,
    precision: str = ...,
    exact: bool = ...,
    memory: int | str | None = ...,
    weights: Weights | None = ...,
    missing: Sequence[str] = ...,
    seed: int = ...,
    threads: int | None = ...,
) -> Trainer: ...
def compile(
    source: Source,
    *,
    target: str = "cpu",
    model: str | None = None,
    train: bool = False,
    set: Mapping[str, Setting] | None = None,
    dims: Mapping[str, int | Sequence[int]] | None = None,
    precision: str = "f32",
    exact: bool = False,
    memory: int | str | None = None,
    weights: Weights | None = None,
    missing: Sequence[str] = (),
    seed: int = 0,
    threads: int | None = None,
) -> Any:
    """Compiles a model for this process: a `Model`, or a `Trainer` with `train=True`.

    target: "cpu" or "cuda". model: which one, where the file holds several. set: the model's static
    parameters by name. dims: sizes of dynamic dims that get code of their own, beside the code for
    any size: `{"N": 32}`, `{"N": (1, 32)}`; of several dims, each combination. precision: "f32",
    "bf16" or "f16": what products, convolutions and attention are computed in; weights and what a
    call takes and gives keep their types; "bf16-weights" and "int8-weights" compute in f32, but
    keep the weights of products in 16 or 8 bits. exact: sums of convolutions and products as they
    are written; without, convolutions with 3x3 kernels may be done by Winograd's way where that is
    quicker, which is up to ten times less precise, and those with 1x1 kernels and products by
    weights by Strassen's. memory: the most bytes that values between kernels may take (or
    "200MiB"), where each dim has the largest of its sizes in `dims`: what does not fit is computed
    again. weights: a `.safetensors` file (or the `.safetensors.index.json` of several) or arrays by
    name; without them the initialisers' values, drawn from `seed`. missing: patterns of weights
    that may be missing in `weights` and start as without them, such as `["head.*"]`; the model's
    `report` tells of each weight. With `train`, dropout and the like draw from `seed` too. threads:
    of its calls; by default all CPUs that this process may use.

    Raises CompileError (the program is wrong), ArgumentError (the weights or dims are), BuildError
    or DeviceError (the machine lacks something).
    """
    file = source_file(source)
    seed = seed_of(seed)
    sizes = sizes_of(dims)
    targets = parse_targets(target, None, None, threads, exact)
    targets = with_memory(targets, memory, sizes)
    built = session.build_source(
        file,
        targets,
        model=model,
        settings=set,
        training=train,
        here=True,
        sizes=sizes,
        precision=precision,
        weights=weights,
        missing=missing,
    )
    loaded = session.load_built(built, weights, seed, threads, missing)
    return Trainer(loaded, seed) if train else loaded
