"""Named tensors in a `.safetensors` file: bytes become views without a copy, and arrays a file.

Input of `parse`: the file's bytes (a mapping of it). Output: an array per name that reads from
those bytes. `encode` is the way back; it orders tensors so that most data, and all of it that is
big, stands at multiples of 64 bytes, without the holes that the format forbids.
Non-goals: dtypes that the language doesn't have.
Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dslc_runtime.atomic import replacing
from dslc_runtime.dtypes import ITEMSIZE, Array, MissingDType, name_of, numpy_dtype
from dslc_runtime.mapping import map_file

ALIGNMENT = 64
MAX_HEADER = 100_000_000  # the format's own limit

_CODES = {
    "F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16", "I64": "i64",
    "I32": "i32", "I16": "i16", "I8": "i8", "U8": "u8", "BOOL": "bool",
}  # fmt: skip
_CODE_OF = {name: code for code, name in _CODES.items()}


class SafetensorsError(ValueError):
    """The bytes are no safetensors file; the text says why."""


def parse(data: memoryview) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays over `data` by name, and the metadata. SafetensorsError when malformed."""
    if len(data) < 8:
        raise SafetensorsError("it is too short")
    length = int.from_bytes(data[:8], "little")
    if length > min(MAX_HEADER, len(data) - 8):
        raise SafetensorsError("its header does not fit its length")
    try:
        header = json.loads(bytes(data[8 : 8 + length]))
    except (ValueError, RecursionError):
        raise SafetensorsError("its header is not JSON") from None
    if not isinstance(header, dict):
        raise SafetensorsError("its header is not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise SafetensorsError("its metadata is not a table of texts")
    body = data[8 + length :]
    arrays, spans = {}, []
    for name, entry in header.items():
        arrays[name], span = _tensor(name, entry, body)
        spans.append(span)
    _check_no_holes(spans, len(body))
    return arrays, metadata


def _tensor(name: str, entry: object, body: memoryview) -> tuple[Array, tuple[int, int]]:
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [int(start), int(end)]}:
            pass
        case _:
            raise SafetensorsError(f"the entry of {name!r} is malformed")
    if code not in _CODES:
        raise SafetensorsError(f"{name!r} has the dtype {code}, which is not supported")
    if any(type(d) is not int or d < 0 for d in shape):
        raise SafetensorsError(f"the shape of {name!r} is malformed")
    count = math.prod(shape)
    size = count * ITEMSIZE[_CODES[code]]
    if not 0 <= start <= end <= len(body) or end - start != size:
        raise SafetensorsError(f"the data of {name!r} does not fit its shape or the file")
    try:
        dtype = numpy_dtype(_CODES[code])
    except MissingDType as error:
        raise SafetensorsError(str(error)) from None
    if size == 0:
        return np.empty(shape, dtype), (start, end)
    return np.frombuffer(body, dtype, count, start).reshape(shape), (start, end)


def _check_no_holes(spans: list[tuple[int, int]], size: int) -> None:
    position = 0
    for start, end in sorted(spans):
        if start != position:
            raise SafetensorsError("its tensors overlap or leave holes")
        position = end
    if position != size:
        raise SafetensorsError("it has bytes that belong to no tensor")


def encode(arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """The parts of a file, to be written one after the other (the data is not copied)."""
    ordered = sorted(arrays, key=lambda name: _order(name, arrays[name]))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    parts: list[bytes | memoryview] = []
    position = 0
    for name in ordered:
        array = np.ascontiguousarray(arrays[name])
        header[name] = {
            "dtype": _CODE_OF[name_of(array.dtype)],
            "shape": list(arrays[name].shape),
            "data_offsets": [position, position + array.nbytes],
        }
        position += array.nbytes
        parts.append(array.reshape(-1).view(np.uint8).data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    return [len(text).to_bytes(8, "little") + text, *parts]


def _order(name: str, array: Array) -> tuple[bool, int, int, str]:
    """Whole multiples of 64 bytes first: all of them and the first odd one are then aligned. The
    other odd ones follow by itemsize, so that each is at least a multiple of its own."""
    odd = array.nbytes % ALIGNMENT != 0
    return odd, -array.dtype.itemsize if odd else 0, -array.nbytes if odd else 0, name


def save(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Writes the file whole or not at all. OSError when the disk is full."""
    with replacing(path) as stream:
        for part in encode(arrays, metadata):
            stream.write(part)


def load(path: Path) -> tuple[dict[str, Array], dict[str, str]]:
    """Arrays over the mapped file, and metadata. OSError, SafetensorsError."""
    return parse(map_file(path))
