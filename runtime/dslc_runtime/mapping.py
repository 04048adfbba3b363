"""A file's bytes without reading them: its memory is mapped, and pages come as they are touched,
and go where nothing needs them any more."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path

import numpy as np

from dslc_runtime.dtypes import Array


class _MappedFile(mmap.mmap):
    """Not other memory of that kind, which no file has."""


def map_file(path: Path) -> memoryview:
    """The bytes of a file; they may be changed without changing the file. An empty file has none.
    OSError when it can't be read."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            return memoryview(b"")
        mapped = _MappedFile(stream.fileno(), size, access=mmap.ACCESS_COPY)
    with contextlib.suppress(OSError, AttributeError):
        mapped.madvise(mmap.MADV_WILLNEED)
    return memoryview(mapped)


def let_go(array: Array) -> None:
    """Gives the pages of an array back to the system, if they are a mapped file's. Nobody may have
    written to it: it is read from the file again when something asks for it."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    if isinstance(owner, memoryview):
        owner = owner.obj
    if not isinstance(owner, _MappedFile):
        return
    begin = array.ctypes.data - np.frombuffer(owner, np.uint8).ctypes.data
    first = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (begin + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        with contextlib.suppress(OSError, AttributeError):  # a system that can't
            owner.madvise(mmap.MADV_DONTNEED, first, length)
