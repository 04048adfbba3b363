"""CRC-32 of big contents at the speed of memory.

`crc32(data)` is zlib's sum. zlib reads 4 GB/s; where the library of `launcher.py` is there and the
CPU can multiply without carries, `_crc32.c` shrinks all but the end to 16 bytes first.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Callable
from functools import cache
from typing import cast

import numpy as np

from dslc_runtime import launcher

BLOCK = 256  # bytes that are folded at a time
LEAST = 1 << 16  # bytes: for fewer zlib is quick enough

# (data, size, 16 bytes) -> whether it was done
_Fold = Callable[[int, int, ctypes.Array[ctypes.c_char]], int]


def crc32(data: memoryview) -> int:
    """zlib's sum of the bytes."""
    size = len(data) // BLOCK * BLOCK
    fold = _fold() if size >= LEAST else None
    if fold is not None:
        folded = ctypes.create_string_buffer(16)
        address = np.frombuffer(data, np.uint8).ctypes.data
        if fold(address, size, folded):
            # Its sum begins with 0, which zlib knows as all bits set.
            return zlib.crc32(data[size:], zlib.crc32(folded.raw, 0xFFFFFFFF))
    return zlib.crc32(data)


@cache
def _fold() -> _Fold | None:
    fold = launcher.native("dslc_crc32_fold")
    if fold is not None:
        fold.argtypes = (ctypes.c_void_p, ctypes.c_uint64, ctypes.c_char_p)
    return cast("_Fold | None", fold)
