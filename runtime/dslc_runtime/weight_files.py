"""Files of weights: one `.safetensors` file, or several that a `.safetensors.index.json` names.

Input: a path. Output: arrays by name, views of the mapped files. Files that only Python's pickle
could read (PyTorch's `.pt`, `.pth`, `.bin`) are never read: unpickling runs what they say.
Non-goals: fitting them to a model (`loading.py`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dslc_runtime import safetensors
from dslc_runtime.arrays import UNMASK, array_of, given_kind
from dslc_runtime.dtypes import Array
from dslc_runtime.errors import ArgumentError
from dslc_runtime.numbers import shown
from dslc_runtime.safetensors import SafetensorsError

INDEX_SUFFIX = ".index.json"
_PICKLED = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
_CONVERT = (
    "convert it once where PyTorch is: "
    "safetensors.torch.save_file(torch.load(path, weights_only=True), new_path)"
)


def given_weights(given: object) -> tuple[Mapping[str, Array], str]:
    """Arrays by name, and what messages call them: those given, or those of the file at a path.
    ArgumentError when they are neither."""
    if isinstance(given, str | os.PathLike):
        return read_weights(Path(os.fspath(given))), os.fspath(given)
    if not isinstance(given, Mapping):
        raise ArgumentError(f"weights must be a file or arrays by name, not {shown(given)}")
    return {_named(name): _array(name, value) for name, value in given.items()}, "what was given"


def _named(name: object) -> str:
    if not isinstance(name, str):
        raise ArgumentError(f"weights must be arrays by name, and {shown(name)} is no name")
    return name


def _array(name: str, value: Any) -> Array:
    """The array, or what a tensor of PyTorch, JAX or the like holds."""
    if isinstance(value, np.ma.MaskedArray):
        raise ArgumentError(f"the weight {name} is a masked array: {UNMASK}")
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, np.generic):  # what NumPy makes of arithmetic with arrays without dims
        return np.asarray(value)
    if not hasattr(value, "__dlpack__"):
        told = f"the weight {name} must be a NumPy array or a tensor"
        raise ArgumentError(f"{told}, but {given_kind(value)} was given")
    try:
        return array_of(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ArgumentError(f"the weight {name} can't be read: {reason}") from None


def read_weights(path: Path) -> Mapping[str, Array]:
    """The arrays of a `.safetensors` file or of an index of several. ArgumentError when it can't be
    read."""
    if path.name.endswith(INDEX_SUFFIX):
        return _read_index(path)
    try:
        arrays, _ = safetensors.load(path)
    except OSError as error:
        raise ArgumentError(f"cannot read {path}: {error.strerror or error}") from None
    except SafetensorsError as error:
        raise ArgumentError(_not_safetensors(path, str(error))) from None
    return arrays


def _not_safetensors(path: Path, reason: str) -> str:
    with path.open("rb") as stream:
        begin = stream.read(4)
    zipped = begin.startswith(b"PK\x03\x04")
    if path.suffix == ".dlc":
        return f"{path} is a built model, which has its weights; this takes a .safetensors file"
    if path.suffix == ".npz" and zipped:
        return f"{path} is NumPy's .npz; in Python, load_weights(dict(np.load(path))) takes it"
    if path.suffix in _PICKLED and (zipped or begin[:1] == b"\x80"):
        return (
            f"{path} is a pickle, which is not read: unpickling runs whatever code the file holds; "
            f"{_CONVERT}"
        )
    return f"{path} is not a whole .safetensors file: {reason}"


def _read_index(path: Path) -> Mapping[str, Array]:
    try:
        index = json.loads(path.read_bytes())
        places = index["weight_map"]
        named = {str(name): str(file) for name, file in places.items()}
    except OSError as error:
        raise ArgumentError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise ArgumentError(f"{path} is no index of .safetensors files: {_INDEX_FORM}") from None
    arrays: dict[str, Array] = {}
    for file in dict.fromkeys(named.values()):
        if Path(file).name != file or file in (".", ".."):
            raise ArgumentError(f"{path} names the file {file!r}, which does not stand beside it")
        held = read_weights(path.with_name(file))
        wanted = [name for name, place in named.items() if place == file]
        for name in wanted:
            if name not in held:
                raise ArgumentError(f"{path} says that {file} has {name!r}, which it has not")
        odd = sorted(held.keys() - set(wanted))
        if odd:
            raise ArgumentError(f"{file} has {odd[0]!r}, of which {path} says nothing there")
        arrays.update({name: held[name] for name in wanted})
    return arrays


_INDEX_FORM = 'it is JSON with "weight_map", which says of each tensor in which file it stands'
