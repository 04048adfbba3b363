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


def link(objects: Sequence[Path], output: Path, linker: Sequence[str] | None = None) -> None:
    """Links `objects` into the shared library `output`. BuildError without a linker, or with what
    it said."""
    command = linker or find_linker()
    if command is None:
        raise BuildError(NO_LINKER)
    words = [*command, "-shared", "-o", str(output), *map(str, objects), "-lm"]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        told = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise BuildError(f"linking with {command[0]} failed: {told}")
