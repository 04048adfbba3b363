"""The language's dtypes and NumPy's. `bf16` needs the package ml_dtypes, at first use."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Tensor(Protocol):
    """Of another library, on memory that DLPack tells of."""

    def __dlpack__(self, *args: Any, **options: Any) -> Any: ...


DType = np.dtype[Any]

ITEMSIZE = {
    "f64": 8, "f32": 4, "f16": 2, "bf16": 2,
    "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1,
}  # fmt: skip

_NUMPY = {
    "f64": "float64", "f32": "float32", "f16": "float16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "bool",
}  # fmt: skip
_NAMES = {np.dtype(name): short for short, name in _NUMPY.items()}


class MissingDType(Exception):
    """The dtype needs a package that is not installed; the text names it."""


@cache
def numpy_dtype(name: str) -> DType:
    """The NumPy dtype of `f32`, `bf16`, ... MissingDType for bf16 without ml_dtypes."""
    if name != "bf16":
        return np.dtype(_NUMPY[name])
    try:
        bfloat16: DType = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
        return bfloat16
    except ImportError:
        raise MissingDType(
            "bf16 arrays need the package ml_dtypes: pip install ml_dtypes"
        ) from None


def name_of(dtype: DType) -> str:
    """`f32` for float32, and NumPy's own words for what the language doesn't have."""
    if dtype in _NAMES:  # first: NumPy takes long to make a name, and a network has many weights
        return _NAMES[dtype]
    if dtype.name == "bfloat16":
        return "bf16"
    return f"{dtype.name} (of the other byte order)" if not dtype.isnative else dtype.name


def described(array: Array) -> str:
    """The array's type: `f32[2, 3]`."""
    return show_type(name_of(array.dtype), array.shape)


def show_type(dtype: str, dims: Sequence[int]) -> str:
    """`f32[2, 3]`."""
    return f"{dtype}[{', '.join(map(str, dims))}]"
