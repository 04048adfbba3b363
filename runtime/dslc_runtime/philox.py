"""Random numbers by machine code: Philox4x32-10, which NumPy takes ten times as long for.

`units(...)` fills an array, where the library of `launcher.py` is there. What the numbers are is
defined by the compiler (`dslc/ops/random.py`); these are the same, bit by bit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import cast

import numpy as np

from dslc_runtime import launcher
from dslc_runtime.dtypes import Array

# (numbers, key, stream, step, first block, blocks)
_Fill = Callable[[int, int, int, int, int, int], None]


def units(key: int, stream: int, step: int, first: int, count: int) -> Array | None:
    """`count` numbers in [0, 1), f32, from the counter `first` on, both multiples of four; None
    without the library."""
    fill = _fill()
    if fill is None:
        return None
    numbers = np.empty(count, np.float32)
    fill(numbers.ctypes.data, key, stream, step, first // 4, count // 4)
    return numbers


@cache
def _fill() -> _Fill | None:
    fill = launcher.native("dslc_philox_units")
    if fill is not None:
        u32, u64 = ctypes.c_uint32, ctypes.c_uint64
        fill.argtypes, fill.restype = (ctypes.c_void_p, u64, u32, u32, u64, u64), None
    return cast("_Fill | None", fill)
