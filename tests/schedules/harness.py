"""Runs an emitted kernel body on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dslc.build.compiler import compile_module
from dslc.lowering.kernels.dealt import dealt
from dslc.schedules.cpu.tiles.contract import Machine
from tests.lowering import guarded as edges
from tests.lowering.native import loaded

MCPU = {512: "x86-64-v4", 256: "x86-64-v3", 128: "x86-64-v2"}


def has_avx512() -> bool:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return "avx512f" in file.read()


MACHINE = Machine(vector_bits=512 if has_avx512() else 256)


def compile_body(
    body: Callable[..., None],
    dtypes: list[str],
    sizes: int = 0,
    vector_bits: int = 0,
    cpu: str = "",
) -> Callable[..., None]:
    """`body(buffers.., sizes..)` as a function of flat arrays and then int64 sizes. To read or
    write behind an array ends the process."""
    with IRBuilder() as ib, T.prim_func():
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        extents = [tvm.tirx.Var(f"s{i}", "int64") for i in range(len(dtypes))]
        buffers = [
            T.arg(f"b{i}", T.buffer((extent,), dtype, align=dtype_bytes(dtype)))
            for i, (extent, dtype) in enumerate(zip(extents, dtypes))
        ]
        dims = [T.arg(f"n{i}", tvm.tirx.Var(f"n{i}", "int64")) for i in range(sizes)]
        body(*buffers, *dims)
    bits = vector_bits or MACHINE.vector_bits
    assert bits <= MACHINE.vector_bits, "this CPU has no such instructions"
    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu or MCPU[bits], "opt-level": 0})
    made = ib.get()
    made = tvm.tirx.PrimFunc(made.params, dealt(made.body), made.ret_type, made.attrs)
    kernel = loaded(compile_module(tvm.IRModule({"kernel": made}), target))["kernel"]

    def run(*args: Any) -> None:
        arrays = [x for x in args if isinstance(x, np.ndarray)]
        # An empty array has no address that DLPack would take.
        apart = [edges.guarded(x) if x.size else np.zeros(1, x.dtype) for x in arrays]
        kernel(*apart, *args[len(arrays) :])
        for array, result in zip(arrays, apart):
            if array.size:
                array[...] = result

    return run


def dtype_bytes(dtype: str) -> int:
    return np.dtype(dtype).itemsize


def guarded(size: int, dtype: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """An array of NaNs, and the same with 64 canaries behind it."""
    whole = np.full(size + 64, np.nan, dtype)
    return whole[:size], whole
