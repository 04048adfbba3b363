"""CUDA C++ source to machine code: finds a compiler on this machine and calls it.

Input: the source that TVM wrote for a module of kernels, and architectures ("sm_90"). Output: one
binary: a cubin, or a fatbin with a cubin for each architecture and PTX for later ones.

Two compilers serve: NVRTC, a library that needs no host compiler (from the pip packages of the
extra `cuda`, or from an installed toolkit), and nvcc. `--use_fast_math` is never on: results must
agree with the reference to f32 accuracy.

Non-goals: choosing architectures (the target does), loading (the runtime does).
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

from dslc._frozen import dataclass
from dslc.build.errors import BuildError
from dslc.build.fatbin import Image, pack
from dslc.build.scratch import scratch_folder
from dslc.diagnostics import InternalError

Kind = Literal["cubin", "ptx"]

_MISSING = (
    "building for CUDA needs a CUDA compiler: install the packages of the extra "
    "(pip install 'dslc[cuda]'), or CUDA toolkit 13 with nvcc on the PATH"
)


@dataclass(frozen=True, slots=True)
class Nvrtc:
    """NVIDIA's compiler as a library, and the folders of its headers."""

    library: Path
    includes: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Nvcc:
    """NVIDIA's compiler as a program; it runs a host C++ compiler too."""

    program: Path


Toolchain = Nvrtc | Nvcc


def cuda_roots() -> list[Path]:
    """Folders that hold a toolkit or its pip packages, the likeliest to fit first."""
    roots: list[Path] = []
    spec = importlib.util.find_spec("nvidia")
    if spec is not None:
        roots += [Path(p) / "cu13" for p in spec.submodule_search_locations or ()]
    for name in ("CUDA_PATH", "CUDA_HOME"):
        if os.environ.get(name):
            roots.append(Path(os.environ[name]))
    nvcc = shutil.which("nvcc")
    if nvcc is not None:
        roots.append(Path(nvcc).resolve().parent.parent)
    roots.append(Path("/usr/local/cuda"))
    return [root for root in roots if root.is_dir()]


def find_toolchain(roots: Sequence[Path] | None = None) -> Toolchain:
    """The first usable compiler; BuildError that says what to install when there is none."""
    for root in cuda_roots() if roots is None else roots:
        nvrtc = _nvrtc_in(root)
        if nvrtc is not None:
            return nvrtc
        program = root / "bin" / "nvcc"
        if program.is_file():
            return Nvcc(program)
    raise BuildError(_MISSING)


def find_library(name: str) -> Path | None:
    """A shared library of the CUDA toolkit, such as `libcudart.so.13`."""
    for root in cuda_roots():
        for folder in ("lib", "lib64"):
            if (root / folder / name).is_file():
                return root / folder / name
    return None


def _nvrtc_in(root: Path) -> Nvrtc | None:
    """NVRTC under `root`, if its headers stand there too."""
    headers = [root / "include", root / "targets" / "x86_64-linux" / "include"]
    headers = [folder for folder in headers if (folder / "cuda_runtime.h").is_file()]
    cccl = [folder / "cccl" for folder in headers if (folder / "cccl" / "cuda" / "std").is_dir()]
    libraries = [root / folder / "libnvrtc.so.13" for folder in ("lib", "lib64")]
    library = next((path for path in libraries if path.is_file()), None)
    if library is None or not headers or not cccl:
        return None
    return Nvrtc(library, (*headers, *cccl))


def compile_source(
    source: str, architectures: Sequence[str], toolchain: Toolchain, *, ptx: bool = True
) -> bytes:
    """One binary for all `architectures`: a cubin each and, with `ptx`, PTX of the lowest.

    BuildError when the compiler does not know an architecture.
    """
    jobs: list[tuple[str, Kind]] = [(name, "cubin") for name in architectures]
    if ptx:
        jobs.append((min(architectures, key=compute_capability), "ptx"))
    with ThreadPoolExecutor(len(jobs)) as pool:
        codes = list(pool.map(lambda j: _compile_one(source, j[0], j[1], toolchain), jobs))
    if len(jobs) == 1:
        return codes[0]
    return pack([Image(kind, compute_capability(name), c) for (name, kind), c in zip(jobs, codes)])


def compute_capability(architecture: str) -> int:
    """90 for "sm_90" and for "sm_90a"."""
    digits = architecture.removeprefix("sm_").rstrip("af")
    if not architecture.startswith("sm_") or not digits.isdecimal():
        raise BuildError(f"{architecture!r} is not a CUDA architecture: they are named like sm_90")
    return int(digits)


def _compile_one(source: str, architecture: str, kind: Kind, toolchain: Toolchain) -> bytes:
    match toolchain:
        case Nvrtc():
            return _compile_nvrtc(source, architecture, kind, toolchain)
        case Nvcc(program):
            return _compile_nvcc(source, architecture, kind, program)


# --- NVRTC --------------------------------------------------------------------------------------

# TVM's source asks NVRTC for headers of CCCL that take a second to read and leave 50 kB in the
# cubin. Plain kernels use nothing of them but the integers' names, so they get these instead;
# a source that includes more (half precision) gets the real ones.
_SMALL_HEADERS = {
    "cuda/std/cstdint": """#pragma once
#define INFINITY (__int_as_float(0x7f800000))
namespace cuda { namespace std {
typedef signed char int8_t; typedef unsigned char uint8_t;
typedef short int16_t; typedef unsigned short uint16_t;
typedef int int32_t; typedef unsigned int uint32_t;
typedef long int64_t; typedef unsigned long uint64_t;
} }
""",
    "math_constants.h": """#pragma once
#define CUDART_INF_F __int_as_float(0x7f800000)
#define CUDART_NAN_F __int_as_float(0x7fffffff)
#define CUDART_INF __longlong_as_double(0x7ff0000000000000LL)
#define CUDART_NAN __longlong_as_double(0xfff8000000000000LL)
""",
    "cuda/std/type_traits": """#pragma once
namespace cuda { namespace std {
template <class, class> struct is_same;
template <class, class> constexpr bool is_same_v = false;
template <class> struct is_integral;
template <class> struct is_signed;
template <class> struct is_unsigned;
template <class> struct is_floating_point;
template <bool, class> struct enable_if;
template <bool, class, class> struct conditional;
} }
""",
}
_INFINITY = "#define INFINITY (__int_as_float(0x7f800000))\n"


# What the source may include for the small headers to do; the last three are nvcc's branch.
_PLAIN = {*_SMALL_HEADERS, "cstdint", "type_traits", "cuda.h"}
_INCLUDE = re.compile(r"^\s*#include <([^>]+)>", re.MULTILINE)


def _headers(source: str) -> dict[str, str]:
    """The headers to hand to NVRTC beside the source, by name."""
    return _SMALL_HEADERS if _PLAIN.issuperset(_INCLUDE.findall(source)) else {}


def _compile_nvrtc(source: str, architecture: str, kind: Kind, nvrtc: Nvrtc) -> bytes:
    library = _load_nvrtc(nvrtc.library)
    program = ctypes.c_void_p()
    headers = _headers(source)
    text = source if headers else _INFINITY + source
    array = ctypes.c_char_p * len(headers)
    status = library.nvrtcCreateProgram(
        ctypes.byref(program),
        text.encode(),
        b"kernels.cu",
        len(headers),
        array(*[content.encode() for content in headers.values()]),
        array(*[name.encode() for name in headers]),
    )
    if status != 0:
        raise InternalError(f"NVRTC could not start: error {status}")
    try:
        options = _nvrtc_options(architecture, kind, nvrtc.includes)
        given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
        status = library.nvrtcCompileProgram(program, len(options), given)
        if status != 0:
            _refuse(_fetch(library, "ProgramLog", program).decode(errors="replace"), architecture)
        return _fetch(library, "CUBIN" if kind == "cubin" else "PTX", program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _load_nvrtc(path: Path) -> ctypes.CDLL:
    # NVRTC opens this one by its bare name, which finds it only when it is loaded already.
    for builtins in sorted(path.parent.glob("libnvrtc-builtins.so.*")):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(path))


def _nvrtc_options(architecture: str, kind: Kind, includes: Sequence[Path]) -> list[str]:
    arch = architecture if kind == "cubin" else architecture.replace("sm_", "compute_")
    return [
        f"--gpu-architecture={arch}",
        "--std=c++17",
        "-default-device",
        "--fmad=true",
        *(f"-I{folder}" for folder in includes),
    ]


def _fetch(library: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> bytes:
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


# --- nvcc ---------------------------------------------------------------------------------------


def _compile_nvcc(source: str, architecture: str, kind: Kind, program: Path) -> bytes:
    arch = architecture if kind == "cubin" else architecture.replace("sm_", "compute_")
    with scratch_folder("cuda") as folder:
        text, out = folder / "kernels.cu", folder / f"kernels.{kind}"
        text.write_text(source, encoding="utf-8")
        command = [str(program), f"-{kind}", f"-arch={arch}", "-O3", "-w", "-std=c++17"]
        done = subprocess.run(
            [*command, "-o", str(out), str(text)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            _refuse(done.stderr or done.stdout, architecture)
        return out.read_bytes()


def _refuse(log: str, architecture: str) -> None:
    """Raises what the compiler's log stands for."""
    first = log.strip().splitlines()[0] if log.strip() else "no message"
    if "gpu-architecture" in log or "Unsupported gpu architecture" in log:
        raise BuildError(f"the CUDA compiler here does not know {architecture}: {first}")
    if "cannot execute" in log or "No such file or directory" in log:
        raise BuildError(f"nvcc could not run its host compiler: {first}; {_MISSING}")
    raise InternalError(f"the CUDA compiler refused generated code for {architecture}:\n{log}")
