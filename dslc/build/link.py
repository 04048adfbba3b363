"""Object files to a shared library, by whatever links on this machine.

gcc, clang or cc from the system, else `zig cc` from the pip package `ziglang` (extra `link`). For
another instruction set: a cross gcc, zig, or LLVM's linker.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dslc.build.errors import BuildError
from dslc_runtime.device import Architecture, architecture

NO_LINKER = (
    "there is no linker: install gcc (apt-get install gcc) or clang, "
    "or the pip package ziglang (pip install 'dslc[link]')"
)

# What the runtime and tvm_ffi look up by name; the kernels are called by address.
_EXPORTED = "{ global: __tvm_ffi_*; __TVM*; local: *; };"


def no_linker(machine: Architecture) -> str:
    """What to install where nothing links for an instruction set."""
    if machine == architecture():
        return NO_LINKER
    package = f"gcc-{machine.replace('_', '-')}-linux-gnu"
    return (
        f"there is no linker for {machine}: install {package} (apt-get install {package}) or lld, "
        "or the pip package ziglang (pip install 'dslc[link]')"
    )


def find_linker(machine: Architecture | None = None) -> tuple[str, ...] | None:
    """The command that links for this machine or another instruction set, or None. It takes what
    gcc takes, or is `ld.lld`."""
    native = machine is None or machine == architecture()
    for name in ("gcc", "clang", "cc") if native else (f"{machine}-linux-gnu-gcc",):
        if path := shutil.which(name):
            return (path,)
    if importlib.util.find_spec("ziglang") is not None:
        zig = (sys.executable, "-m", "ziglang", "cc")
        return zig if native else (*zig, "-target", f"{machine}-linux-gnu")
    if not native and (path := shutil.which("ld.lld")):
        return (path,)
    return None


def link(objects: Sequence[Path], output: Path, machine: Architecture | None = None) -> None:
    """Links `objects` into the shared library `output`, without what nothing calls. BuildError
    without a linker, or with what it said."""
    command = find_linker(machine)
    if command is None:
        raise BuildError(no_linker(machine or architecture()))
    script = output.with_suffix(".map")
    script.write_text(_EXPORTED)
    options = ["--gc-sections", "-s", f"--version-script={script}"]
    if Path(command[0]).name != "ld.lld":
        options = [*(f"-Wl,{option}" for option in options), "-lm"]
    words = [*command, "-shared", "-o", str(output), *map(str, objects), *options]
    done = subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        told = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise BuildError(f"linking with {command[0]} failed: {told}")
