"""tvm_ffi as this package uses it: imported without PyTorch, libraries loaded from memory.

Output: `tvm_ffi`, and `load_library`, which turns the bytes of a shared object into a module. The
module's parallel loops run on our launcher: it is registered before the library is opened.
"""

from __future__ import annotations

import importlib
import itertools
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from dslc_runtime import launcher


def _import_tvm_ffi() -> Any:
    """tvm_ffi imports PyTorch where it is installed (a workaround for Windows), which takes
    seconds that most programs don't need; PyTorch can still be imported later."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        return importlib.import_module("tvm_ffi")
    finally:
        if hidden:
            del sys.modules["torch"]


tvm_ffi = _import_tvm_ffi()

_serial = itertools.count(1)


def load_library(image: bytes | memoryview, name: str) -> Any:
    """A `tvm_ffi.Module` of a shared object's bytes; OSError or RuntimeError when it won't open.

    Nothing is written to disk where the system has memfd; else a private file that is removed at
    once. `name` is for error messages and profilers.
    """
    launcher.install(tvm_ffi.LIB)
    try:
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        return _load_from_folder(image, name)
    with open(descriptor, "wb") as stream:
        stream.write(image)
        stream.flush()
        return _open(_unique_path(descriptor))


def _unique_path(descriptor: int) -> str:
    """dlopen takes a path that it has seen for the library that it opened then, though descriptors
    are reused. So each path is spelt differently: a serial number, in `/` and `./`."""
    spelling = "".join("./" if bit == "1" else "/" for bit in f"{next(_serial):b}")
    return f"/proc/self/fd/{spelling}{descriptor}"


def _load_from_folder(image: bytes | memoryview, name: str) -> Any:
    with tempfile.TemporaryDirectory(prefix="dslc-") as folder:
        path = Path(folder) / f"{name}.so"
        path.write_bytes(image)
        return _open(str(path))


def _open(path: str) -> Any:
    return tvm_ffi.get_global_func("ffi.Module.load_from_file.so")(path, "so")
