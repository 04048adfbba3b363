"""What floats are bound to is kept from an analysis that takes too long."""

from __future__ import annotations

from typing import Any

import numpy as np
import tvm
import tvm_ffi
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dslc.build import bindings, compiler, cuda


def module() -> Any:
    """Floats and integers bound in all kinds of statements, and intrinsics to be lowered."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("f")
        x = T.arg("x", T.buffer((64,), "float32"))
        n = T.arg("n", tirx.Var("n", "int64"))
        with T.serial(tirx.IntImm("int64", 0), tirx.floordiv(n, tirx.IntImm("int64", 2))) as i:
            half = T.bind(tirx.floordiv(i, tirx.IntImm("int64", 2)))
            wide = T.bind(tirx.Cast("float32", half) * tirx.FloatImm("float32", 0.5))
            with T.If(tirx.floormod(i, tirx.IntImm("int64", 3)) < half):
                with T.Then():
                    T.buffer_store(x, T.bind(tirx.exp(wide)), [half])
                with T.Else():
                    T.buffer_store(x, T.bind(tirx.call_extern("float32", "g", wide)), [half])
            with T.attr(tirx.IntImm("int64", 0), "pragma", tirx.IntImm("int64", 1)):
                T.buffer_store(x, T.bind(wide + wide), [half])
    target = tvm.target.Target("llvm")
    return tirx.transform.BindTarget(target.with_host(target))(tvm.IRModule({"f": builder.get()}))


def test_what_is_lowered_is_the_same() -> None:
    plain, lower = module(), tirx.transform.LowerIntrin()
    hidden = bindings.hide()(plain)
    assert hidden.script().count("dslc_hidden") == 4
    shown = bindings.show()(lower(hidden))
    assert tvm_ffi.structural_equal(shown, lower(plain))
    assert tvm_ffi.structural_equal(bindings.show()(hidden), plain)
    assert not tvm_ffi.structural_equal(lower(plain), plain)


def long_chain() -> Any:
    """Written out, the last of its values would be of 2**60 terms."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("f")
        x = T.arg("x", T.buffer((64,), "float32"))
        value = T.bind(x[0])
        for _ in range(60):
            value = T.bind(tirx.Select(value > x[1], value, value * value))
        T.buffer_store(x, value, [2])
    return tvm.IRModule({"f": builder.get()})


def test_a_long_chain_is_compiled_for_a_cpu() -> None:
    executable = compiler.compile_module(long_chain(), tvm.target.Target("llvm"))
    x = np.zeros(64, np.float32)
    x[:2] = 1.5, 4
    executable["f"](x)
    assert x[2] == 1.5**4


def test_memory_is_of_the_function_that_a_body_becomes() -> None:
    """A parallel loop's, and what an attribute may set apart: tasks may not share it."""
    laid = bindings.through_memory()(module()).script()
    assert laid.count("T.alloc_local") == 2
    assert laid.index("pragma") < laid.rindex("alloc_local")


def test_kernels_of_a_gpu_are_lowered_so_too() -> None:
    target = tvm.target.Target({"kind": "cuda", "arch": "sm_80"}, host="llvm")
    module = tirx.transform.BindTarget(target)(long_chain())
    assert cuda._finish_device()(module).script().count("T.Select") == 60
