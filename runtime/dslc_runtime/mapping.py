"""A file's bytes without reading them: its memory is mapped, and pages come as they are touched."""

from __future__ import annotations

import contextlib
import mmap
import os
from pathlib import Path


def map_file(path: Path) -> memoryview:
    """The bytes of a file; they may be changed without changing the file. An empty file has none.
    OSError when it can't be read."""
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size == 0:
            return memoryview(b"")
        mapped = mmap.mmap(stream.fileno(), size, access=mmap.ACCESS_COPY)
    with contextlib.suppress(OSError, AttributeError):
        mapped.madvise(mmap.MADV_WILLNEED)
    return memoryview(mapped)
