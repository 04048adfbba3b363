"""From an ONNX model to `.dl` text and weights: `dslc import`.

Input: an `onnx.ModelProto` that `model_file.py` has found sound. Output: an `Imported`. Nodes are
walked in order; each operator's handler (one entry of a table in `operators/`) says its results in
`.dl`. An operator without a handler is replaced by its body, where ONNX defines it as a function.
All that can't be said is collected and told at once. The text is formatted, and checked by the
compiler before anybody sees it. Non-goals: optimisation; that is the compiler's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.diagnostics import CompileError, Diagnostic, InternalError, render_all
from dslc.ir.dims import Dim, sym
from dslc.ir.types import TensorType, is_float
from dslc.onnx.reading import bodies, control, file_text, folding, fusing, model_file, naming
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators import HANDLERS
from dslc.onnx.reading.problems import Fixed, MoreAssertions, Refused, UseBody, failure, problem
from dslc.onnx.reading.values import Value, dtype_of, of_array
from dslc.onnx.reading.writer import Writer, type_text
from dslc.semantics.check import check
from dslc.source import SourceFile
from dslc.syntax.format import format_source

if TYPE_CHECKING:
    import onnx
else:
    onnx = lazy("onnx")

_NO_NAMES = ("", "main_graph", "torch_jit", "torch-jit-export", "main", "graph", "onnx-graph")
_MOST_LISTED = 5
_MOST_ASSERTIONS = 30
# Why there is no such operator, and the way out.
_WHY = {
    "the size of its result depends on the data of a call: keep all elements, and a mask of which "
    "count": ("NonZero", "Compress", "Unique", "NonMaxSuppression"),
    "a model draws no random numbers: hand them in as an input": (
        "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
        "Multinomial",
    ),
    "there are no optional values or texts: leave them to the code around the model": (
        "Optional", "OptionalGetElement", "OptionalHasElement", "StringConcat", "StringNormalizer",
        "StringSplit", "RegexFullMatch", "TfIdfVectorizer", "ImageDecoder",
    ),
}  # fmt: skip
_MISFITS = (
    ArithmeticError, AttributeError, IndexError, KeyError, MemoryError, TypeError, ValueError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Imported:
    """What became of a model: the text, the weights by name, and what there is to tell."""

    text: str
    weights: dict[str, Any]
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    operators: Mapping[str, int] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """How many numbers the weights hold."""
        return sum(int(array.size) for array in self.weights.values())


def import_file(path: Path) -> Imported:
    """The model of a `.onnx` file. CompileError where it is none or can't be said in `.dl`."""
    return import_model(model_file.load(path), path.name)


def import_model(model: Any, file: str) -> Imported:
    """The model of an `onnx.ModelProto` that `model_file` has prepared; `file` is for messages."""
    fixed: dict[str, int] = {}
    careful = False
    while True:
        try:
            return _Importer(model, file, fixed, careful).run()
        except MoreAssertions:
            careful = True
        except Fixed as found:
            if found.name in fixed:
                raise InternalError(f"the dim {found.name} was fixed already") from None
            fixed[found.name] = found.size


# Quantised weights in dtypes that the language lacks, which become floats anyway.
_WIDER = {"int4": "int8", "uint4": "uint8", "int2": "int8", "uint2": "uint8", "uint16": "int32"}


class _Importer:
    def __init__(self, model: Any, file: str, fixed: Mapping[str, int], careful: bool) -> None:
        self.fixed = fixed
        self.model = model
        self.graph = model.graph
        self.file = file
        self.versions = model_file.opsets(model, file)
        self.writer = Writer(careful)
        self.dims: dict[str, Dim] = {}
        self.missing: dict[str, list[str]] = {}
        self.problems: list[Diagnostic] = []
        self.counts: Counter[str] = Counter()

    def run(self) -> Imported:
        values: dict[str, Value | None] = {}
        uses = _uses(self.graph)
        arguments = self._constants_and_inputs(values, uses)
        self.walk(self.graph.node, values, uses)
        for output in self.graph.output:
            value = values[output.name]
            if value is not None and value.items is not None:
                what = f"the output {output.name!r}"
                self._problem(Refused("it is a sequence; a model gives tensors"), what)
        self._tell_problems()
        results = [values[output.name] for output in self.graph.output]
        made = [value for value in results if value is not None]
        name = self._model_name()
        text = self._text(name, arguments, made)
        inputs = tuple(f"{value.text}: {type_text(value.type)}" for value in arguments)
        names = [output.name for output in self.graph.output]
        outputs = tuple(f"{n}: {type_text(value.type)}" for n, value in zip(names, made))
        counts, fixed = dict(self.counts), dict(self.fixed)
        return Imported(text, self.writer.weights, name, inputs, outputs, counts, fixed)

    def _text(self, name: str, arguments: Sequence[Value], results: Sequence[Value]) -> str:
        """The file in the one style. What the compiler can't prove of dims, but would take as an
        assertion, is asserted; anything else that it finds wrong is a bug of the importer."""
        heading = file_text.heading(self.model, self.file, self.versions, self.fixed)
        for _ in range(_MOST_ASSERTIONS):
            source = file_text.file_text(self.writer, self.model, name, heading, arguments, results)
            try:
                text = format_source(SourceFile("imported.dl", source))
            except CompileError as error:
                raise InternalError(f"the imported text can't be read:\n{error}") from None
            wrong = [d for d in check(SourceFile("imported.dl", text)) if d.severity == "error"]
            if not wrong:
                return text
            proposed = [line.partition("say so: assert ")[2] for d in wrong for line in d.help]
            # Of numbers alone nothing is to be asserted.
            new = {line: None for line in proposed if any(map(str.isalpha, line))}
            new = {line: None for line in new if line not in self.writer.asserts}
            if not new:
                break
            self.writer.asserts.update(new)
        if not self.writer.careful:
            raise MoreAssertions
        if any(d.code != "E0208" for d in wrong):
            model_file.check_types(self.model, self.file)
            raise InternalError(f"the imported text is wrong:\n{render_all(wrong)}")
        raise failure(
            "E0504",
            f"sizes of {self.file} do not follow from the dims of its inputs",
            [d.title for d in wrong[:_MOST_LISTED]],
            "export the model with fixed dims, or let the exporter keep them dynamic everywhere",
        )

    # --- what the graph starts from -----------------------------------------------------------

    def _constants_and_inputs(
        self, values: dict[str, Value | None], uses: Counter[str]
    ) -> list[Value]:
        constants = {tensor.name: tensor for tensor in self.graph.initializer}
        self.writer.initializers = set(constants)
        inputs = [value for value in self.graph.input if value.name not in constants]
        for value in inputs:
            self._declare_dims(value)
        arguments = []
        for value in inputs:
            argument = self._argument(value)
            values[value.name] = argument
            arguments.append(argument)
        readers: dict[str, list[Any]] = {}
        for node in self.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        for tensor in constants.values():
            try:
                array = model_file.array_of(tensor, self.file)
                wide = _WIDER.get(str(array.dtype))
                read_by = readers.get(tensor.name, [])
                if wide and {node.op_type for node in read_by} == {"DequantizeLinear"}:
                    array = array.astype(wide)
                value = of_array(array, tensor.name)
                value.shared = uses[tensor.name] > 1 and not _in_order(tensor.name, readers, uses)
                value.initializer = is_float(value.dtype) and array.size > 1
                values[tensor.name] = value
            except Refused as refused:
                self._problem(refused, f"the tensor {tensor.name!r}")
                values[tensor.name] = None
        self._tell_problems()
        return arguments

    def _declare_dims(self, value: Any) -> None:
        """The dim variables of an input; capitals are the habit of the language."""
        for dim in value.type.tensor_type.shape.dim:
            name = dim.dim_param
            if name and name not in self.dims:
                plain = naming.plain(name) or "D"
                self.dims[name] = self._variable(plain.upper())

    def _argument(self, value: Any) -> Value:
        what = f"the input {value.name!r}"
        if not value.type.HasField("tensor_type"):
            kind = value.type.WhichOneof("value") or "no type"
            raise CompileError([problem("E0503", f"{what} is no tensor ({kind})")])
        tensor = value.type.tensor_type
        if not tensor.HasField("shape"):
            help = "export the model again with the dims of its inputs"
            raise CompileError([problem("E0504", f"{what} has no shape", help=help)])
        dims = tuple(self._dim(dim, value.name, i) for i, dim in enumerate(tensor.shape.dim))
        try:
            dtype = dtype_of(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        except (Refused, KeyError) as error:
            why = error.why if isinstance(error, Refused) else "it has no dtype"
            raise CompileError([problem("E0503", f"{what}: {why}")]) from None
        name = self.writer.names.new(naming.plain(value.name), "x")
        return Value(TensorType(dtype, dims), name, hint=value.name)

    def _dim(self, dim: Any, name: str, axis: int) -> Dim:
        if dim.HasField("dim_value"):
            if dim.dim_value < 0:
                raise CompileError(
                    [problem("E0504", f"dim {axis} of the input {name!r} is {dim.dim_value}")]
                )
            return int(dim.dim_value)
        if dim.dim_param:
            return self.dims[dim.dim_param]
        letter = "N" if axis == 0 else f"D{axis}"
        return self._variable(letter)

    def _variable(self, hint: str) -> Dim:
        """A dim variable, or what it was found to be."""
        name = self.writer.names.new(hint, "D")
        return self.fixed.get(name) or sym(name)

    # --- nodes ----------------------------------------------------------------------------------

    def walk(
        self, nodes: Iterable[Any], values: dict[str, Value | None], uses: Counter[str]
    ) -> None:
        """Says each node in order; `values` gets what they make, None where that failed."""
        nodes = list(nodes)
        fused = fusing.find(nodes, values, uses)
        for proto in nodes:
            self.counts[proto.op_type] += 1
            partner = fused.get(id(proto))
            if partner is fusing.DONE:
                continue
            self._say(proto, partner, values, uses)

    def _say(
        self, proto: Any, partner: Any, values: dict[str, Value | None], uses: Counter[str]
    ) -> None:
        outputs = list((partner or proto).output)
        node = None
        try:
            if any(name and values[name] is None for name in proto.input):
                self._note_if_missing(proto)
                results: Sequence[Value | None] = [None] * len(outputs)
            else:
                node = self._node(proto, values)
                results = self._results(node, partner, values, uses)
        except Refused as refused:
            self._problem(refused, model_file.told(proto))
            results = [None] * len(outputs)
        except _MISFITS as error:  # attributes of other kinds, dims that are too few: damage
            why = f"it does not fit its operator ({type(error).__name__}: {error})"
            self._problem(Refused(why, "E0501"), model_file.told(proto))
            results = [None] * len(outputs)
        for name, value in zip(outputs, results):
            if name:
                values[name] = self._kept(name, value, uses)

    def _node(self, proto: Any, values: Mapping[str, Value | None]) -> Node:
        domain = "" if proto.domain in model_file.STANDARD else proto.domain
        version = self.versions.get(domain, 1)
        schema = None if domain else bodies.schema_of(proto.op_type, version)
        version = version if schema is None else schema.since_version
        inputs = [values[name] if name else None for name in proto.input]
        return Node(proto, version, inputs, self.file)

    def _results(
        self, node: Node, partner: Any, values: dict[str, Value | None], uses: Counter[str]
    ) -> Sequence[Value | None]:
        if partner is not None:
            return [fusing.say(self.writer, node, partner, values)]
        known = folding.folded(node)
        if known is not None:
            return known
        if node.op in control.KINDS and not node.domain:
            attempt = control.Attempt(self._mark)
            return control.said(self.writer, node, values, self._inner, attempt)
        handler = HANDLERS.get((node.domain, node.op))
        if handler is None:
            return self._expanded(node)
        try:
            result = handler(self.writer, node)
        except UseBody:
            return self._expanded(node)
        return [result] if isinstance(result, Value) else list(result)

    def _kept(self, name: str, value: Value | None, uses: Counter[str]) -> Value | None:
        if value is None:
            return None
        value.hint = value.hint or name
        if value.text and not value.text.isidentifier():
            value.hint = name
            if uses[name] > 1:
                self.writer.atom(value)
        return value

    def _inner(self, graph: Any, values: dict[str, Value | None]) -> Sequence[Value | None]:
        """The results of a graph inside of a node."""
        inner = dict(values)
        for tensor in graph.initializer:
            inner[tensor.name] = of_array(model_file.array_of(tensor, self.file), tensor.name)
        self.walk(graph.node, inner, _uses(graph))
        return [inner[output.name] for output in graph.output]

    def _mark(self) -> Callable[[], None]:
        """What brings the import back to where it is now."""
        back, problems, counts = self.writer.mark(), list(self.problems), self.counts.copy()
        missing = {kind: list(nodes) for kind, nodes in self.missing.items()}

        def undone() -> None:
            back()
            self.problems, self.missing, self.counts = problems, missing, counts

        return undone

    # --- operators that are functions -----------------------------------------------------------

    def _expanded(self, node: Node) -> Sequence[Value | None]:
        """The results of the operator's body, where ONNX defines it as a function."""
        body = bodies.body_of(node, self.versions[""])
        if body is None:
            self._note_if_missing(node.proto)
            return [None] * len(node.outputs)
        for value in node.inputs:
            if value is not None and value.text:
                self.writer.atom(value)
        values: dict[str, Value | None] = {
            name: value for name, value in zip(body.input, node.inputs) if value is not None
        }
        uses = Counter(name for inner in body.node for name in inner.input)
        uses.update(body.output)
        self.walk(bodies.nodes_of(body, node), values, uses)
        return [values.get(name) for name in body.output][: len(node.outputs)]

    # --- problems -------------------------------------------------------------------------------

    def _note_if_missing(self, proto: Any) -> None:
        domain = "" if proto.domain in model_file.STANDARD else proto.domain
        known = (domain, proto.op_type) in HANDLERS or (
            not domain and proto.op_type in control.KINDS
        )
        if not known and not bodies.has_body(proto, self.versions):
            kind = f"{domain}.{proto.op_type}" if domain else proto.op_type
            self.missing.setdefault(kind, []).append(model_file.told(proto))

    def _problem(self, refused: Refused, what: str) -> None:
        self.problems.append(problem(refused.code, f"{what} can't be imported: {refused.why}"))

    def _tell_problems(self) -> None:
        found = []
        for kind, nodes in sorted(self.missing.items()):
            more = len(nodes) - _MOST_LISTED
            notes = [*nodes[:_MOST_LISTED], *([f"and {more} more nodes"] if more > 0 else [])]
            why = next((why for why, kinds in _WHY.items() if kind in kinds), "")
            found.append(problem("E0502", f"the operator {kind} is not supported", notes, why))
        if found or self.problems:
            raise CompileError([*found, *self.problems])

    # --- the file -------------------------------------------------------------------------------

    def _model_name(self) -> str:
        given = self.graph.name if self.graph.name not in _NO_NAMES else Path(self.file).stem
        name = naming.camel(given)[:60] or "Model"
        return self.writer.names.new(name, "Model")


def _in_order(name: str, readers: dict[str, list[Any]], uses: Counter[str]) -> bool:
    """Whether all that reads a tensor are slices that one node joins: exporters lay the gates of a
    recurrent layer so, and leave it to nodes where weights are large."""
    slices = readers.get(name, [])
    if len(slices) < uses[name] or any(node.op_type != "Slice" for node in slices):
        return False
    joined = [readers.get(node.output[0], []) for node in slices]
    if any(len(nodes) != 1 or uses[node.output[0]] != 1 for node, nodes in zip(slices, joined)):
        return False
    return {nodes[0].op_type for nodes in joined} == {"Concat"} and all(
        nodes[0] is joined[0][0] for nodes in joined
    )


def _uses(graph: Any) -> Counter[str]:
    """How often each value is read; results and what a graph inside a node reads count twice."""
    uses: Counter[str] = Counter()
    for node in graph.node:
        uses.update(name for name in node.input if name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                for name, count in _uses(attribute.g).items():
                    uses[name] += count + 1
    for output in graph.output:
        uses[output.name] += 1
    return uses
