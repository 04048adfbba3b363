"""An ONNX model in a file, whole or not at all; its arrays beside it where they are too many.

A protobuf message holds less than 2 GiB. A model that would be larger keeps its arrays in
`NAME.data` next to it, each at a place that a page of memory begins at, so that they can be mapped.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from dslc._lazy import lazy
from dslc.ir.types import DType
from dslc.onnx.writing.exporting import Written
from dslc.onnx.writing.graph import element_type
from dslc_runtime.atomic import replacing

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    np = lazy("numpy")
    onnx = lazy("onnx")

# Of all arrays together; the rest of a model is far below what remains to 2 GiB.
MOST_INSIDE = 2**31 - 2**27
PAGE = 4096
# Arrays below that stay in the model: a loop's bounds and a reshape's sizes are read from there.
SMALL = 1024

_DTYPE: dict[str, DType] = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64",
    "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "bool",
}  # fmt: skip


def inlined(made: Written) -> onnx.ModelProto:
    """The model with its arrays inside."""
    model = onnx.ModelProto()
    model.CopyFrom(made.model)
    for name, array in made.initialisers.items():
        _tensor(model, name, array).raw_data = _bytes(array)
    return model


def save(made: Written, path: Path) -> tuple[Path, ...]:
    """Writes the model to `path`, and to `path` with `.data` behind it what has no room inside;
    the files written. They have another name until they are whole. OSError."""
    total = sum(array.nbytes for array in made.initialisers.values())
    if total <= MOST_INSIDE:
        with replacing(path) as file:
            file.write(inlined(made).SerializeToString())
        return (path,)
    data = path.with_name(f"{path.name}.data")
    with replacing(path) as file:
        with replacing(data) as arrays:
            model = _outside(made, arrays, data.name)
        file.write(model.SerializeToString())
    return path, data


def _outside(made: Written, file: BinaryIO, location: str) -> onnx.ModelProto:
    """The model with the places of its arrays, which are written to `file`."""
    model = onnx.ModelProto()
    model.CopyFrom(made.model)
    for name, array in made.initialisers.items():
        tensor = _tensor(model, name, array)
        if array.nbytes < SMALL:
            tensor.raw_data = _bytes(array)
            continue
        file.write(b"\0" * (-file.tell() % PAGE))
        told = {"location": location, "offset": file.tell(), "length": array.nbytes}
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in told.items():
            tensor.external_data.add(key=key, value=str(value))
        plain: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        file.write(plain)  # without a copy
    return model


def _tensor(model: onnx.ModelProto, name: str, array: Any) -> onnx.TensorProto:
    """A new initialiser, without its numbers."""
    tensor: onnx.TensorProto = model.graph.initializer.add()
    tensor.name = name
    tensor.data_type = element_type(_DTYPE[array.dtype.name])
    tensor.dims.extend(array.shape)
    return tensor


def _bytes(array: Any) -> bytes:
    """In the order of rows, least byte first, as the machines that dslc runs on keep it."""
    return bytes(np.ascontiguousarray(array).tobytes())
