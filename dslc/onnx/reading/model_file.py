"""From a `.onnx` file to a model that is whole: parsed, checked, its functions put in.

Nothing in the file is trusted. Truncated or damaged bytes, tensors whose data do not fit their
dims, data outside of the model's folder, names given twice, nodes out of order and functions that
call themselves each end in one `CompileError` (E0501), never in a traceback. Non-goals: what
the operators mean (`operators/`).
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.onnx.reading.problems import failure

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    np = lazy("numpy")
    onnx = lazy("onnx")

OLDEST_OPSET = 6
STANDARD = ("", "ai.onnx")
_MOST_FUNCTIONS = 10_000
_MOST_NODES = 200_000
_MOST_GRAPHS = 50


def load(path: Path) -> Any:
    """The `onnx.ModelProto` of a file. CompileError where it is none; OSError as `open` has it."""
    data = path.read_bytes()
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except Exception:  # protobuf's errors have no common class that it promises
        raise _broken(path.name, "its bytes are no protobuf message") from None
    _read_outside(model, path.parent, path.name)
    return prepared(model, path.name)


def prepared(model: Any, name: str) -> Any:
    """The model with its own functions put in, once everything about it is known to be sound."""
    if not model.HasField("graph") or not model.graph.ByteSize():
        raise _broken(name, "it holds no graph")
    heads = (model.producer_name, model.producer_version, model.doc_string, model.domain)
    heads += tuple(entry.domain for entry in model.opset_import)
    heads += tuple(text for f in model.functions for text in (f.name, f.domain, f.overload))
    if not all(isinstance(text, str) for text in heads):
        raise _broken(name, "a name in it is no UTF-8 text")
    _check_texts(model.graph, name)
    versions = opsets(model, name)
    if versions[""] < OLDEST_OPSET:
        raise failure(
            "E0501",
            f"{name} is of opset {versions['']}; the oldest that is read is {OLDEST_OPSET}",
            help="onnx.version_converter.convert_version(model, 13) makes a newer one",
        )
    if versions[""] > onnx.defs.onnx_opset_version():
        newest = (
            f"the installed onnx {onnx.__version__} knows up to {onnx.defs.onnx_opset_version()}"
        )
        raise failure("E0501", f"{name} is of opset {versions['']}; {newest}")
    model = _with_functions_inside(model, name)
    check_graph(model.graph, set(), name)
    return model


def opsets(model: Any, name: str) -> dict[str, int]:
    """The version of each domain; the standard one is ""."""
    found = {"": 0}
    for entry in model.opset_import:
        domain = "" if entry.domain in STANDARD else entry.domain
        found[domain] = max(found.get(domain, 0), entry.version)
    if not found[""]:
        if any(node.domain in STANDARD for node in model.graph.node):
            raise _broken(name, "it does not say which opset it is of")
        found[""] = onnx.defs.onnx_opset_version()
    return found


def _broken(name: str, why: str) -> Exception:
    return failure("E0501", f"{name} is no sound ONNX model: {why}")


# --- functions of the model -----------------------------------------------------------------------


def _with_functions_inside(model: Any, name: str) -> Any:
    """Calls of the model's own functions replaced by their bodies."""
    if not model.functions:
        return model
    _check_functions(model, name)
    import onnx.inliner

    try:
        return onnx.inliner.inline_local_functions(model)
    except Exception as error:  # whatever the C++ code finds wrong
        raise _broken(name, f"its functions can't be put in ({error})") from None


def _check_functions(model: Any, name: str) -> None:
    """No function calls itself, and what they come to is bounded: a small file may double much."""
    table = {(f.domain, f.name, f.overload): f for f in model.functions}
    sizes: dict[Any, int] = {}

    def size(key: Any, above: tuple[Any, ...]) -> int:
        if key in above or len(above) > 100:
            raise _broken(name, f"its function {key[1]} calls itself")
        if key not in sizes:
            sizes[key] = total(table[key].node, (*above, key))
        return sizes[key]

    def total(nodes: Any, above: tuple[Any, ...]) -> int:
        count = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            count += size(key, above) if key in table else 1
            if count > _MOST_NODES:
                raise _broken(name, f"its functions come to more than {_MOST_NODES} nodes")
        return count

    if len(table) > _MOST_FUNCTIONS or len(table) != len(model.functions):
        raise _broken(name, "it has too many functions, or two of one name")
    total(model.graph.node, ())


# --- the graph ------------------------------------------------------------------------------------


def check_graph(graph: Any, outer: set[str], name: str) -> None:
    """Each name is made once, before it is read (which also rules out circles)."""
    known = set(outer)
    for tensor in graph.initializer:
        known.add(_new(tensor.name, known - outer, name))
    if graph.sparse_initializer:
        raise _broken(name, "it has sparse initializers, which are not read")
    constants = {tensor.name for tensor in graph.initializer}
    inputs: set[str] = set()
    for value in graph.input:
        inputs.add(_new(value.name, inputs, name))
    known |= inputs
    made = inputs | constants
    if len(graph.node) > _MOST_NODES:
        raise _broken(name, f"it has more than {_MOST_NODES} nodes")
    for node in graph.node:
        for source in node.input:
            if source and source not in known:
                why = f"{told(node)} reads {source!r}, which nothing before it makes"
                raise _broken(name, why)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                check_graph(attribute.g, known, name)
        for output in node.output:
            if output:
                made.add(_new(output, made, name))
                known.add(output)
    for value in graph.output:
        if value.name not in known:
            raise _broken(name, f"nothing makes its output {value.name!r}")


def _check_texts(graph: Any, name: str, depth: int = 0) -> None:
    """Names are texts: protobuf hands out bytes where they are no UTF-8."""
    if depth > _MOST_GRAPHS:
        raise _broken(name, f"its graphs nest more than {_MOST_GRAPHS} deep")
    texts = [graph.name, graph.doc_string, *(tensor.name for tensor in graph.initializer)]
    for value in (*graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        texts += [value.name, *(dim.dim_param for dim in dims if dim.dim_param)]
    for node in graph.node:
        texts += [node.op_type, node.domain, node.name, *node.input, *node.output]
        for attribute in node.attribute:
            texts += [attribute.name, attribute.ref_attr_name]
            if attribute.HasField("g"):
                _check_texts(attribute.g, name, depth + 1)
    if not all(isinstance(text, str) for text in texts):
        raise _broken(name, "a name in it is no UTF-8 text")


def check_types(model: Any, name: str) -> None:
    """CompileError where ONNX's own checker finds that nodes and types do not fit."""
    import onnx.checker

    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # ValidationError, InferenceError, ValueError of too large models
        raise _broken(name, str(error).strip().split("\n")[0]) from None


def _new(value: str, made: set[str], name: str) -> str:
    if not value:
        raise _broken(name, "a value has no name")
    if value in made:
        raise _broken(name, f"two values are called {value!r}")
    return value


def told(node: Any) -> str:
    """A node as messages call it."""
    kind = f"{node.domain}.{node.op_type}" if node.domain not in STANDARD else node.op_type
    outputs = ", ".join(repr(output) for output in node.output if output) or "no output"
    named = f" {node.name!r}" if node.name else ""
    return f"the node{named} ({kind}, which makes {outputs})"


# --- tensors --------------------------------------------------------------------------------------


def array_of(tensor: Any, name: str) -> Any:
    """The NumPy array of a `TensorProto`. CompileError where data and dims do not fit."""
    if any(dim < 0 for dim in tensor.dims):
        raise _broken(name, f"the tensor {tensor.name!r} has a negative dim")
    count = math.prod(tensor.dims)
    stored = len(tensor.raw_data) + tensor.ByteSize()
    # Every element takes at least half a byte of the file: a huge dim can't make a huge array.
    if count > 2 * stored + 64:
        raise _broken(name, f"the tensor {tensor.name!r} has more elements than data")
    try:
        array = onnx.numpy_helper.to_array(tensor)
    except Exception as error:  # of many classes: ValueError, TypeError, KeyError, protobuf's
        raise _broken(name, f"the tensor {tensor.name!r} can't be read ({error})") from None
    return np.asarray(array)


def _read_outside(model: Any, folder: Path, name: str) -> None:
    """Data that lie in other files of the model's folder, read into the model."""
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _read_tensor(tensor, folder, name)


def _tensors(graph: Any, depth: int = 0) -> Any:
    if depth > _MOST_GRAPHS:
        return
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("g"):
                yield from _tensors(attribute.g, depth + 1)


def _read_tensor(tensor: Any, folder: Path, name: str) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    place = entries.get("location", "")
    if not isinstance(place, str) or "\0" in place or not isinstance(tensor.name, str):
        raise _broken(name, "the name of a file of its data is no text")
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, place))
    what = f"the data of {tensor.name!r} in {place!r}"
    if not place or os.path.isabs(place) or os.path.commonpath([root, path]) != root:
        raise failure("E0501", f"{name}: {what} lie outside of the model's folder")
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", -1))
    except ValueError:
        raise failure("E0501", f"{name}: the place of {what} is no number") from None
    if not os.path.isfile(path):
        help = "copy it to the folder of the .onnx file, under this name"
        raise failure("E0501", f"{name}: there is no file for {what}", help=help)
    size = os.path.getsize(path)
    if length < 0:
        length = size - offset
    if offset < 0 or length < 0 or offset + length > size:
        raise failure("E0501", f"{name}: {what} end behind the end of that file")
    with open(path, "rb") as file:
        file.seek(offset)
        tensor.raw_data = file.read(length)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]
