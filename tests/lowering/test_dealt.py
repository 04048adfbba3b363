"""Parts of tasks are taken while a kernel runs, each once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tvm_ffi
from tvm import tirx
from tvm.ir import IRModule
from tvm.script.ir_builder import IRBuilder
from tvm.target import Target
from tvm.tirx.script import builder as T

from dslc.build.compiler import compile_module
from dslc.lowering.kernels.dealt import dealt
from dslc.lowering.kernels.sizes import i64
from dslc.schedules.cpu.tiles.contract import MOST_PARTS, each_part, loop, share
from dslc_runtime import launcher
from tests.lowering.native import loaded

TASKS = 3
COUNT = TASKS * MOST_PARTS


def marked(again: int = 1) -> Any:
    """Each part adds one to its number, and writes which task did it; `again`: so many times."""
    with IRBuilder() as builder, T.prim_func():
        T.func_name("kernel")
        T.func_attr({"tirx.noalias": True})
        done, by = (T.arg(name, T.buffer((COUNT,), "int32", align=4)) for name in ("done", "by"))
        with (
            T.parallel(i64(0), i64(TASKS)) as task,
            loop(0, again),
            each_part(task, TASKS, COUNT) as (part, parts),
            loop(*share(COUNT, part, parts)) as item,
        ):
            T.buffer_store(done, done[item] + 1, [item])
            T.buffer_store(by, tirx.Cast("int32", task), [item])
    return builder.get()


@pytest.fixture
def limit() -> Iterator[Any]:
    launcher.install(tvm_ffi.LIB)
    yield launcher.limit_threads
    launcher.limit_threads(0)


def test_each_part_is_done_once_by_whoever_has_time(limit: Any) -> None:
    """On one thread that is the first task, which is over before the others begin."""
    kernel = marked()
    function = tirx.PrimFunc(kernel.params, dealt(kernel.body), None, kernel.attrs)
    module = compile_module(
        IRModule({"kernel": function}), Target({"kind": "llvm", "opt-level": 0})
    )
    run = loaded(module)["kernel"]
    for threads, times in ((1, 1), (TASKS, 20)):
        limit(threads)
        for _ in range(times):
            done, by = np.zeros(COUNT, np.int32), np.full(COUNT, -1, np.int32)
            run(done, by)
            np.testing.assert_array_equal(done, 1)
            assert threads > 1 or not by.any()


def test_a_mark_in_a_loop_is_left_alone() -> None:
    """What stands in a loop comes again when all parts have been taken."""
    body = marked(again=2).body
    assert dealt(body) is body
