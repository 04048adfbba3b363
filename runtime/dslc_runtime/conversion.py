"""The numbers of one dtype as another: exactly, rounded, or not at all.

Floats become floats: exactly where the other dtype holds them, else rounded to the nearest.
Integers become integers that hold every number of theirs. A number that would become infinite or
another one, and any change between floats, integers and bools, is refused: a file that has the
wrong kind of numbers is the wrong file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dslc_runtime.dtypes import Array, name_of, numpy_dtype
from dslc_runtime.manifest import FLOATS, INTEGERS


class Refused(ValueError):
    """The array has no meaning in the other dtype; the text says why."""


@dataclass(frozen=True, slots=True)
class Converted:
    """An array in the dtype that was asked for; `rounded`: some of its numbers have changed."""

    array: Array
    rounded: bool = False


def convert(array: Array, dtype: str) -> Converted:
    """The array's numbers in a dtype of the language. Refused when that is no conversion."""
    held = name_of(array.dtype)
    if held == dtype:
        return Converted(array)
    if held in FLOATS and dtype in FLOATS:
        return _float(array, held, dtype)
    if held in INTEGERS and dtype in INTEGERS:
        return _integer(array, dtype)
    raise Refused(f"{held} is not read as {dtype}; convert the file if that is meant")


def _float(array: Array, held: str, dtype: str) -> Converted:
    with np.errstate(over="ignore", under="ignore"):
        new = array.astype(numpy_dtype(dtype))
    if (held in ("f16", "bf16") and dtype in ("f32", "f64")) or (held, dtype) == ("f32", "f64"):
        return Converted(new)
    lost = np.isinf(new) & np.isfinite(array)
    if lost.any():
        raise Refused(f"it has {float(array[lost][0]):.4g}, which is too big for {dtype}")
    same = (new.astype(array.dtype) == array) | np.isnan(array)
    return Converted(new, rounded=not bool(same.all()))


def _integer(array: Array, dtype: str) -> Converted:
    limits = np.iinfo(numpy_dtype(dtype))
    out = (array < limits.min) | (array > limits.max)
    if out.any():
        raise Refused(f"it has {int(array[out][0])}, which {dtype} can't hold")
    return Converted(array.astype(numpy_dtype(dtype)))
