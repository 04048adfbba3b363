"""What floats are bound to is hidden from an analysis that takes too long, and comes back."""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dslc.build import bindings, cuda


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


def test_kernels_of_a_gpu_are_lowered_so_too() -> None:
    """Written out, the last of these would be of 2**60 terms."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("f")
        x = T.arg("x", T.buffer((64,), "float32"))
        value = T.bind(x[0])
        for _ in range(60):
            value = T.bind(tirx.Select(value < x[1], value, value * value))
        T.buffer_store(x, value, [2])
    target = tvm.target.Target({"kind": "cuda", "arch": "sm_80"}, host="llvm")
    module = tirx.transform.BindTarget(target)(tvm.IRModule({"f": builder.get()}))
    assert cuda._finish_device()(module).script().count("T.Select") == 60
