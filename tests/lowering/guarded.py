"""Arrays that end where no memory is: a kernel that reads or writes behind its operands dies of it.

Input: arrays, and the blocks of an arena. Output: the same in memory with pages beside it that
nothing may touch.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import numpy as np

from dslc.ir.dims import Dim
from dslc.lowering.memory import plan as memory
from dslc.lowering.memory.arena import Block, align

PAGE = mmap.PAGESIZE
_NO_ACCESS = 0
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def guarded_empty(shape: tuple[int, ...], dtype: Any, before: bool = False) -> Any:
    """An array with its last byte, or with `before` its first one, next to memory that nothing may
    touch."""
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    pages = max(1, -(-nbytes // PAGE))
    memory = mmap.mmap(-1, (pages + 1) * PAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    forbid(address if before else address + pages * PAGE, PAGE)
    return np.ndarray(shape, dtype, memory, PAGE if before else pages * PAGE - nbytes)


def guarded(array: Any, before: bool = False) -> Any:
    """A copy of the array in such memory."""
    copy = guarded_empty(array.shape, array.dtype, before)
    copy[...] = array
    return copy


def forbid(address: int, size: int) -> None:
    """Makes whole pages unreadable until they are unmapped."""
    if _libc.mprotect(address, size, _NO_ACCESS) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


class Apart:
    """While entered, each block of an arena has pages to itself, the last of which is to be a hole;
    `holes`: where those of the function that was laid out last begin (in the regions of scans
    there are none)."""

    def __init__(self) -> None:
        self.holes: list[Dim] = []
        self._patch = patch.object(memory, "lay_out", self.lay_out)

    def __enter__(self) -> Apart:
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()

    def lay_out(self, blocks: Sequence[Block]) -> Dim:
        """Sets the offset of every block, so that it ends where a hole begins; the total size."""
        total: Dim = 0
        self.holes = []
        for block in blocks:
            pages = (block.size + (PAGE - 1)) // PAGE * PAGE
            block.offset = total if block.region else total + pages - align(block.size)
            total = total + pages
            self.holes.append(total)
            total = total + PAGE
        return total
