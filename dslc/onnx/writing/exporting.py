"""An entry of a program becomes an ONNX model.

Input: a Program as elaborated, the entry's name, the variables' values. Output: a `ModelProto` with
the names of the `.dl` source, and the arrays of its initialisers beside it, which are put inside or
into a file of their own when it is written. Sizes that only a call tells stay symbolic.
Non-goals: the source (`dslc/api.py`), files (`files.py`), what each op becomes
(`table.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.diagnostics import nearest_name
from dslc.ir.core import Entry, Function, Program, message_text
from dslc.ir.dims import Dim
from dslc.ir.evaluate import concrete, numpy_dtype
from dslc.ir.types import TensorType
from dslc.onnx.writing.errors import ExportError
from dslc.onnx.writing.graph import Held, Model, Scope, helper, tensor_info
from dslc.onnx.writing.recurrent import constants_inside
from dslc.onnx.writing.table import walk
from dslc.passes import pipeline

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    np = lazy("numpy")
    onnx = lazy("onnx")

# The oldest opset with all that is written, and the one that a model has if none is asked for:
# ONNX Runtime runs it since 1.14 (February 2023).
LEAST_OPSET, USUAL_OPSET = 17, 18
# What leaves a program with fewer equations and no ops but those that the language has.
PASSES = (
    *pipeline.SIMPLIFY,
    ("constants inside", pipeline.on_entries(constants_inside)),
    *pipeline.SIMPLIFY,
)
# What stands before the name of a state that a call hands in, where it hands it out again.
NEXT = "next."


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote: the files, the names of the graph's inputs and outputs, how many nodes
    it has; `report` tells what became of each weight given."""

    files: tuple[Path, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: int
    report: Any = None


@dataclass(frozen=True, slots=True)
class Written:
    """A model without its initialisers, and these by name."""

    model: onnx.ModelProto
    initialisers: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def written(
    program: Program,
    values: Mapping[str, Any],
    *,
    entry: str | None = None,
    sizes: Mapping[str, int] | None = None,
    opset: int = USUAL_OPSET,
    producer_version: str = "",
) -> Written:
    """The ONNX model of an entry: by default `forward`, or the only one there is.

    `values` are the arrays of the variables; `sizes` fix dims. A state that a call changes is an
    input, which may be left out at first, and an output `next.NAME`. ExportError.
    """
    newest = int(onnx.defs.onnx_opset_version())
    if not LEAST_OPSET <= opset <= newest:
        raise ExportError(f"the opset is {LEAST_OPSET} to {newest}, not {opset}")
    called = _entry(program, entry)
    program = pipeline.run(replace(program, entries=(called,)), PASSES)
    called = _fixed(program.entries[0], sizes or {})
    writer = _Writer(called, values, opset)
    graph = writer.graph(program.name, _told(program, called))
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_ir_version(opset),
        producer_name="dslc",
        producer_version=producer_version,
        doc_string=f"The entry {called.name} of the model {program.name}, written by dslc.",
    )
    inputs = tuple(info.name for info in graph.input)
    outputs = tuple(info.name for info in graph.output)
    read = {*outputs, *inputs}.union(*map(read_by, graph.node))
    arrays = {n: array for n, array in writer.model.initialisers.items() if n in read}
    return Written(model, arrays, inputs, outputs)


def _ir_version(opset: int) -> int:
    """The oldest version of the format that knows the opset, so that older readers read it."""
    return max(8, int(helper.find_min_ir_version_for([helper.make_opsetid("", opset)], True)))


def _entry(program: Program, name: str | None) -> Entry:
    entries = {e.name: e for e in program.entries}
    if name is None:
        name = "forward" if "forward" in entries or len(entries) != 1 else next(iter(entries))
    if name in entries:
        return entries[name]
    near = nearest_name(name, entries)
    hint = f"did you mean {near}?" if near else f"it has {', '.join(entries)}"
    raise ExportError(f"{program.name} has no entry {name}; {hint}")


def _fixed(entry: Entry, sizes: Mapping[str, int]) -> Entry:
    if not sizes:
        return entry
    return replace(entry, function=entry.function.substitute(dict[str, Dim](sizes)))


def _told(program: Program, entry: Entry) -> str:
    """What a call must keep to, which ONNX does not check."""
    lines = []
    for dim in program.dims:
        if dim.name in entry.function.symbols():
            most = f" to {dim.high}" if dim.high is not None else " or more"
            lines.append(f"{dim.name} is {dim.low}{most}.")
    for check in program.checks:
        if check.entry in (None, entry.name):
            lines.append(f"{check.left} {check.op} {check.right}: {message_text(check.message)}.")
    return "\n".join(lines)


class _Writer:
    """The entry while it is written."""

    def __init__(self, entry: Entry, values: Mapping[str, Any], opset: int) -> None:
        self.entry, self.values = entry, values
        self.model = Model(opset)

    def graph(self, name: str, doc: str) -> onnx.GraphProto:
        """The whole graph."""
        function, top = self.entry.function, self.model.top
        inputs, scope = self.arguments(function)
        top.take_inputs([Held(info.name, type) for info, type in inputs])
        results = self.output_names()
        walk(top, function, scope)
        top.stem, top.doc = "", ""
        outputs = self.outputs(function, results, scope)
        nodes = used(top.nodes, results)
        made: onnx.GraphProto = helper.make_graph(
            nodes,
            name,
            [info for info, _ in inputs],
            outputs,
            doc_string=doc or None,
            value_info=[
                tensor_info(name, top.types[name])
                for node in nodes
                for name in node.output
                if name in top.types
            ],
        )
        return made

    def arguments(self, function: Function) -> tuple[list[Any], Scope]:
        """The graph's inputs with their types, and what stands for the parameters."""
        inputs: list[Any] = []
        scope: Scope = {}
        for argument, param in zip(self.entry.arguments, function.params):
            name = self.model.fresh(argument.name)
            scope[param] = Held(name, param.type)
            if argument.role == "input" or argument.name in self.entry.updates:
                inputs.append((tensor_info(name, param.type), param.type))
            if argument.role != "input":
                self.model.initialisers[name] = self.value(argument.name, param.type)
        return inputs, scope

    def value(self, name: str, type: TensorType) -> Any:
        """The array of a variable; a state that is not given starts as zeros."""
        if name in self.values:
            return self.values[name]
        return np.zeros(concrete(type, {}), numpy_dtype(type.dtype))

    def output_names(self) -> list[str]:
        """Names of the results, which nothing else of the graph gets."""
        named = [*self.entry.outputs, *(f"{NEXT}{name}" for name in self.entry.updates)]
        return [self.model.fresh(name) for name in named]

    def outputs(self, function: Function, names: Sequence[str], scope: Scope) -> list[Any]:
        """The graph's outputs: each is the result of a node that has its name."""
        top = self.model.top
        held = [top.full(scope[value], value.type.dims) for value in function.results]
        made = {output for node in top.nodes for output in node.output}
        renamed: dict[str, str] = {}
        for name, source in zip(names, held):
            if source not in made or source in renamed:
                source = top.node("Identity", source)
            renamed[source] = name
        rename(top.nodes, renamed)
        return [tensor_info(name, value.type) for name, value in zip(names, function.results)]


def used(nodes: Sequence[onnx.NodeProto], results: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that results depend on, in their order."""
    wanted, kept = set(results), []
    for node in reversed(nodes):
        if wanted.isdisjoint(node.output):
            continue
        kept.append(node)
        wanted.update(read_by(node))
    return kept[::-1]


def read_by(node: onnx.NodeProto) -> set[str]:
    """Names of what a node reads, and the nodes of its bodies."""
    names = set(node.input)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            names.update(value.name for value in attribute.g.output)
            names.update(name for inner in attribute.g.node for name in read_by(inner))
    return names


def rename(nodes: Sequence[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Gives tensors other names, in the bodies of loops, too."""
    for node in nodes:
        for names_of in (node.input, node.output):
            for position, name in enumerate(names_of):
                if name in names:
                    names_of[position] = names[name]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                rename(attribute.g.node, names)
                for info in attribute.g.output:
                    info.name = names.get(info.name, info.name)
