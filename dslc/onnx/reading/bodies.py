"""Operators that ONNX defines by others: the nodes of such a body, ready to be walked.

Input: a node that has no handler. Output: its `FunctionProto`, and copies of the body's nodes with
the call's attributes put in. The onnx package has the bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.types import DType
from dslc.onnx.reading.model_file import STANDARD
from dslc.onnx.reading.nodes import Node

if TYPE_CHECKING:
    import onnx
else:
    onnx = lazy("onnx")

_ELEMENTS: dict[DType, str] = {
    "f64": "DOUBLE", "f32": "FLOAT", "f16": "FLOAT16", "bf16": "BFLOAT16", "i64": "INT64",
    "i32": "INT32", "i16": "INT16", "i8": "INT8", "u8": "UINT8", "bool": "BOOL",
}  # fmt: skip


def schema_of(op: str, version: int) -> Any:
    """What the onnx package says of an operator of the standard domain; None if nothing."""
    try:
        return onnx.defs.get_schema(op, version)
    except onnx.defs.SchemaError:
        return None


def has_body(proto: Any, versions: Mapping[str, int]) -> bool:
    """Whether ONNX defines the operator of a node by others."""
    schema = schema_of(proto.op_type, versions.get("", 1)) if proto.domain in STANDARD else None
    return bool(schema and (schema.has_function or schema.has_context_dependent_function))


def body_of(node: Node, version: int) -> Any:
    """The `FunctionProto` of a node's operator; None where ONNX does not define it by others."""
    schema = schema_of(node.op, version)
    if node.domain or schema is None:
        return None
    if schema.has_function:
        return schema.function_body
    if not schema.has_context_dependent_function:
        return None
    types = [b"" if value is None else _type(value.dtype, value.dims) for value in node.inputs]
    try:
        data = schema.get_context_dependent_function(node.proto.SerializeToString(), types)
    except Exception:  # whatever the C++ code finds missing
        return None
    body = onnx.FunctionProto.FromString(data)
    return body if body.node else None


def _type(dtype: DType, dims: Any) -> bytes:
    shape = [dim if isinstance(dim, int) else str(dim) for dim in dims]
    element = getattr(onnx.TensorProto, _ELEMENTS[dtype])
    return bytes(onnx.helper.make_tensor_type_proto(element, shape).SerializeToString())


def nodes_of(body: Any, call: Node) -> Iterator[Any]:
    """The body's nodes with the call's attributes; inputs that the call leaves out are left out."""
    given = {attribute.name: attribute for attribute in call.proto.attribute}
    for default in body.attribute_proto:
        given.setdefault(default.name, default)
    schema = schema_of(call.op, call.version)
    for name, attribute in schema.attributes.items() if schema else ():
        if attribute.default_value.name:
            given.setdefault(name, attribute.default_value)
    left_out = set(body.input[len(call.inputs) :])
    left_out |= {name for name, value in zip(body.input, call.inputs) if value is None}
    for proto in body.node:
        node = onnx.NodeProto()
        node.CopyFrom(proto)
        node.name = call.proto.name
        del node.attribute[:]
        for attribute in proto.attribute:
            source = given.get(attribute.ref_attr_name) if attribute.ref_attr_name else attribute
            if source is not None:
                copy = node.attribute.add()
                copy.CopyFrom(source)
                copy.name = attribute.name
        for index, name in enumerate(node.input):
            if name in left_out:
                node.input[index] = ""
        yield node
