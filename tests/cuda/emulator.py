"""Runs CUDA kernels without a GPU: a fake driver, and kernels compiled for the host.

The CUDA C++ that TVM writes for plain kernels is C++ but for a few words (`emulate.hpp` supplies
them), so the tests see the numbers that the very source of the GPU's kernels gives.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).parent / "driver"
_KERNEL = re.compile(r'extern "C" __global__ void (?:__launch_bounds__\(\d+\) )?(\w+)\(([^)]*)\);')
_OURS = re.compile(r'^__forceinline__ __device__ \w+ dslc_|^extern "C" __global__', re.MULTILINE)

MISSING = "needs gcc and g++" if not (shutil.which("gcc") and shutil.which("g++")) else ""


def load_fake_driver(folder: Path) -> None:
    """Puts the fake driver into this process, before tvm is imported."""
    for name, source, options in (
        ("libcuda.so.1", "cuda.c", []),
        ("libcudart.so.13", "cudart.c", [f"-Wl,--version-script={SOURCES / 'cudart.map'}"]),
    ):
        out = folder / name
        flags = ["-O1", "-shared", "-fPIC", f"-Wl,-soname,{name}", *options]
        subprocess.run(["gcc", *flags, "-o", str(out), str(SOURCES / source), "-ldl"], check=True)
        ctypes.CDLL(str(out), mode=ctypes.RTLD_GLOBAL)


def host_source(cuda: str) -> str:
    """The CUDA source of a module as a host program with one `emulate_NAME` for each kernel."""
    begin = _OURS.search(cuda)
    text = cuda[begin.start() if begin else 0 :]  # without TVM's headers and helpers
    wrappers = [_wrapper(text, name, parameters) for name, parameters in _KERNEL.findall(text)]
    return "\n".join(['#include "emulate.hpp"', text, *wrappers])


def _wrapper(text: str, name: str, parameters: str) -> str:
    """`emulate_NAME(grid, block, arguments)`; kernels without barriers run without coroutines."""
    types = [p.rsplit(" ", 1)[0].replace("__restrict__", "") for p in parameters.split(", ")]
    given = ", ".join(f"*({kind} *)arguments[{i}]" for i, kind in enumerate(types) if kind)
    body = text.split(f" {name}({parameters}) {{", 1)[1].split("\n}\n", 1)[0]
    barriers = "true" if "__syncthreads" in body else "false"
    head = f'extern "C" void emulate_{name}(const unsigned *grid, const unsigned *block, '
    call = f"emulation::run(grid, block, {barriers}, [&] {{ {name}({given}); }});"
    return f"{head}void **arguments) {{ {call} }}"


def compile_kernels(cuda: str, out: Path) -> None:
    """Compiles the emulated kernels of a module into the library `out`."""
    source = out.with_suffix(".cpp")
    source.write_text(host_source(cuda), encoding="utf-8")
    flags = ["-O0", "-w", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing"]
    flags.append("-U_FORTIFY_SOURCE")  # it takes jumps from stack to stack for mistakes
    flags.append("-Wl,-Bsymbolic")  # names of kernels must not meet those of other libraries
    subprocess.run(["g++", *flags, f"-I{SOURCES}", "-o", str(out), str(source)], check=True)


def gpu_missing() -> str:
    """Why nothing can run on a GPU here; empty where it can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "needs an NVIDIA driver (libcuda.so.1)"
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "needs an NVIDIA GPU"
    return ""
