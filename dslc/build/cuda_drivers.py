"""Lets TVM build CUDA kernels on a machine with or without a GPU.

TVM compiles CUDA source only where its CUDA runtime library has loaded, which needs the driver
(libcuda.so.1) and the CUDA runtime (libcudart.so.13) in the process before `import tvm`. Where a
real driver is installed it is loaded; elsewhere two stand-ins are compiled from `standin/*.c` into
a private folder, loaded, and the folder is removed. Stand-ins must not meet code that runs on a
GPU, so this is for build processes, which end after the build.

Input: nothing. Output: a process that can build. Non-goals: running (dslc_runtime.device).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import run

from dslc.build.cuda_toolchain import find_library
from dslc.build.errors import BuildError
from dslc.build.scratch import scratch_folder
from dslc.diagnostics import InternalError

_DRIVER, _RUNTIME = "libcuda.so.1", "libcudart.so.13"


def load_drivers(compiler: Sequence[str]) -> bool:
    """Loads what TVM's CUDA library needs; to be called before `tvm` is imported.

    `compiler` is the command of a C compiler, used for the stand-ins. Returns whether the driver
    is a real one. BuildError when a real driver has no CUDA runtime beside it.
    """
    if "tvm" in sys.modules:
        raise InternalError("load_drivers() must come before `import tvm`")
    if not _loads(_DRIVER):
        _load_standins(compiler)
        return False
    runtime = find_library(_RUNTIME)
    if not _loads(_RUNTIME if runtime is None else str(runtime)):
        raise BuildError(
            f"building for CUDA beside an NVIDIA driver needs {_RUNTIME}: install the packages of "
            "the extra (pip install 'dslc[cuda]') or CUDA toolkit 13"
        )
    return True


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _load_standins(compiler: Sequence[str]) -> None:
    sources = Path(__file__).parent / "standin"
    with scratch_folder("standin") as folder:
        for name, source, script in (
            (_DRIVER, "cuda.c", None),
            (_RUNTIME, "cudart.c", "cudart.map"),
        ):
            out = folder / name
            versions = [] if script is None else [f"-Wl,--version-script={sources / script}"]
            _compile(compiler, sources / source, out, [f"-Wl,-soname,{name}", *versions])
            ctypes.CDLL(str(out), mode=ctypes.RTLD_GLOBAL)


def _compile(compiler: Sequence[str], source: Path, out: Path, options: list[str]) -> None:
    command = [*compiler, "-shared", "-fPIC", *options, "-o", str(out), str(source)]
    done = run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{compiler[0]} could not compile {source.name}: {done.stderr.strip()}")


def check_tvm() -> None:
    """InternalError unless TVM (imported by now) has loaded its CUDA library: otherwise it would
    silently put source text in the artifact instead of machine code."""
    loaded: dict[str, ctypes.CDLL] = sys.modules["tvm.base"]._LOADED_LIBS
    if "tvm_runtime_cuda" not in loaded:
        raise InternalError("TVM did not load its CUDA runtime library in the build process")
