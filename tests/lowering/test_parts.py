"""What a task does is a function of its own, whose pointers don't overlap."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.ir import IRModule, PrimType
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target
from tvm.tirx.script import builder as T

from dslc.build.compiler import compile_module
from dslc.lowering.kernels.parts import apart
from dslc.lowering.kernels.sizes import i64


def test_tasks_are_functions() -> None:
    """Behind a condition, and with what stands beside the loop."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        size = tirx.Var("size", "int64")
        x, y = (T.arg(name, T.buffer((size,), "float32", align=4)) for name in "xy")
        half = T.bind(tirx.floordiv(size, i64(2)))
        with T.If(size >= i64(4)):
            with T.Then(), T.parallel(i64(0), i64(2)) as task, T.serial(i64(0), half) as i:
                at = task * half + i
                T.buffer_store(y, x[at] + x[at], [at])
            with T.Else(), T.serial(i64(0), size) as i:
                T.buffer_store(y, x[i], [i])
    kernel = builder.get()
    body = apart(kernel.body, "kernel_task")
    assert str(tirx.PrimFunc(kernel.params, body)).count("compute_scope") == 1
    function = tirx.PrimFunc(kernel.params, body, PrimType("int32"), kernel.attrs)
    run = compile_module(IRModule({"kernel": function}), Target("llvm"))["kernel"]
    for count, factor in ((6, 2.0), (3, 1.0)):
        given, found = np.arange(count, dtype="float32"), np.zeros(count, "float32")
        run(given, found)
        np.testing.assert_array_equal(found, factor * given)
