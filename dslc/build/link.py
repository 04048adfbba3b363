"""Object files to a shared library, by whatever links on this machine.

gcc, clang or cc from the system, else `zig cc` from the pip package `ziglang` (extra `link`).
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dslc.build.errors import BuildError

NO_LINKER = (
    "there is no linker: install gcc (apt-get install gcc) or clang, "
    "or the pip package ziglang (pip install 'dslc[link]')"
)


def find_linker() -> tuple[str, ...] | None:
    """The command that links, or None."""
    for name in ("gcc", "clang", "cc"):
        if path := shutil.which(name):
            return (path,)
    if importlib.util.find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    return None


# What the runtime and tvm_ffi look up by name; the kernels are called by address.
_EXPORTED = "{ global: __tvm_ffi_*; __TVM*; local: *; };"


def link(objects: Sequence[Path], output: Path, linker: Sequence[str] | None = None) -> None:
    """Links `objects` into the shared library `output`. BuildError without a linker, or with what
    it said."""
    command = linker or find_linker()
    if command is None:
        raise BuildError(NO_LINKER)
    script = output.with_suffix(".map")
    script.write_text(_EXPORTED)
    small = ("-Wl,--gc-sections", "-Wl,-s", f"-Wl,--version-script={script}")
    words = [*command, "-shared", *small, "-o", str(output), *map(str, objects), "-lm"]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        told = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise BuildError(f"linking with {command[0]} failed: {told}")
