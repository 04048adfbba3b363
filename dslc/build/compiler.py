"""TIR modules to machine code: the one place that calls TVM's compiler.

Input: a TIR module and a `Target`. Output: an object file, or a module loaded in this process.
The pass pipeline is ours: kernels are plain loops already, so that only vectors and
the calling convention are left to do. TVM's simplifier is left out on purpose: it takes the sides
of a Select for guarded and would undo what keeps a divisor from being 0; LLVM simplifies anyway.
"""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.runtime import Executable

from dslc.build import bindings

_X = tirx.transform

# TVM describes the buffers of each function to LLVM as types that never overlap those of another.
# That outlives inlining: a small kernel inlined behind the one that writes what it reads may then
# be moved before it. What pointers of one kernel don't overlap, `noalias` says already.
LLVM_OPTIONS = ("-enable-tbaa:bool=false",)


@tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
def _lower(module: Any, _context: Any) -> Any:
    passes = [
        _X.VectorizeLoop(True),
        _X.UnrollLoop(),
        _X.VerifyMemory(),
        _X.SplitHostDevice(),
        _X.MakePackedAPI(),
        _X.FP8StorageLegalize(),
        _X.BF16StorageLegalize(),
    ]
    return tvm.ir.transform.Sequential(passes)(module)


def _finish_host() -> Any:
    passes = [_X.LowerTVMBuiltin(), bindings.through_memory(), _X.LowerIntrin()]
    return tvm.ir.transform.Sequential(passes)


def _finish_device() -> Any:
    return tvm.ir.transform.Sequential([])  # nothing runs on a device here


def _pipeline() -> tuple[Any, Any, Any]:
    return _lower, _finish_host, _finish_device


tirx.register_tir_pipeline("dslc", _pipeline)


def exported(function: Any, symbol: str) -> Any:
    """A private function that other objects call, by C's convention."""
    return function.with_attr("global_symbol", symbol).with_attr("calling_conv", _AS_IT_IS)


# TVM's number for a function whose arguments are what they should be already.
_AS_IT_IS = 1


def compile_module(module: Any, target: Any) -> Any:
    """The module compiled for `target` (a TVM target): an executable, callable by entry name."""
    return Executable(tvm.tirx.build(module, target, "dslc"))
