"""A TIR module of entries and CUDA kernels to object files with machine code inside.

Input: an IRModule whose public functions are host entries and whose private ones are kernels (each
carries its target), and architectures. Output: two objects to link: the host code, and the image
of all kernels. One compiler run serves all kernels of the module.

Runs in a build process after `cuda_drivers.load_drivers()`. Non-goals: linking, packing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.runtime import _ffi_api
from tvm.tirx.compilation_pipeline import finalize_host_passes

from dslc._frozen import dataclass
from dslc.build import bindings
from dslc.build.cubin import KernelInfo, kernels_of
from dslc.build.cuda_drivers import check_tvm
from dslc.build.cuda_toolchain import Toolchain, compile_source, compute_capability
from dslc.build.errors import BuildError
from dslc.diagnostics import InternalError


@dataclass(frozen=True, slots=True)
class CudaObjects:
    """What a build leaves: object files in their folder, kernels, the CUDA source, seconds."""

    objects: tuple[Path, ...]
    kernels: tuple[KernelInfo, ...]
    source: str
    compiler_seconds: float


_X = tirx.transform


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
def _lower(module: Any, _context: Any) -> Any:
    """As the CPU's pipeline (`compiler.py`), without TVM's simplifier, which writes every variable
    out where it is used: a kernel's text would grow exponentially, and NVIDIA's compiler
    simplifies anyway. It unrolls what is to be unrolled, too. Indices that provably fit become
    32-bit."""
    passes = [
        _X.NarrowDataType(32),
        _X.AnnotateEntryFunc(),
        _X.SplitHostDevice(),
        _X.MakePackedAPI(),
        _X.FP8StorageLegalize(),
        _X.BF16StorageLegalize(),
    ]
    return tvm.ir.transform.Sequential(passes)(module)


def _finish_device() -> Any:
    passes = [bindings.hide(), _X.LowerIntrin(), bindings.show()]
    return tvm.ir.transform.Sequential(passes)


def _pipeline() -> tuple[Any, Any, Any]:
    return _lower, finalize_host_passes, _finish_device


tirx.register_tir_pipeline("dslc_cuda", _pipeline)


def lowest(architectures: Sequence[str]) -> str:
    """The architecture that code for all of them is generated for."""
    return min(architectures, key=compute_capability)


def write_objects(
    module: Any, host: Any, architectures: Sequence[str], toolchain: Toolchain, folder: Path
) -> CudaObjects:
    """Compiles `module`; `host` is the LLVM target of its entries.

    BuildError when the CUDA compiler does not know an architecture.
    """
    check_tvm()
    compiled: list[bytes] = []
    failures: list[BuildError | InternalError] = []
    seconds = 0.0

    def compile_kernels(source: str) -> bytes:
        nonlocal seconds
        start = time.perf_counter()
        try:
            compiled.append(compile_source(source, architectures, toolchain))
        except (BuildError, InternalError) as error:
            failures.append(error)  # TVM makes a RuntimeError of it on the way
            raise
        seconds += time.perf_counter() - start
        return compiled[-1]

    tvm_ffi.register_global_func("tvm_callback_cuda_compile", compile_kernels, override=True)
    target = tvm.target.Target({"kind": "cuda", "arch": lowest(architectures)}, host=host)
    try:
        library = tvm.compile(module, target=target, tir_pipeline="dslc_cuda").mod
    except RuntimeError:
        if failures:
            raise failures[0] from None
        raise
    if len(compiled) != 1 or len(library.imports) != 1:
        raise InternalError(f"expected one CUDA module, got {len(compiled)}")
    host_object, image_object = folder / "host.o", folder / "kernels.o"
    library.write_to_file(str(host_object), "o")
    triple = library.get_function("_get_target_string")()
    _ffi_api.ModulePackImportsToLLVM(library, False, triple, "").write_to_file(
        str(image_object), "o"
    )
    return CudaObjects(
        (host_object, image_object),
        tuple(kernels_of(compiled[0])),
        library.imports[0].inspect_source(),
        seconds,
    )
