"""What all templates build on: arithmetic with sizes that only a call knows."""

from __future__ import annotations

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.tiles.contract import unflatten


def test_an_index_of_unknown_extents_is_plain_divisions() -> None:
    """TVM makes a choice of each floordiv whose divisor may be negative; simplifying those of
    one kernel took seven seconds."""
    with IRBuilder() as ib, T.prim_func():
        T.func_name("kernel")
        out = T.arg("out", T.buffer((4,), "int64"))
        flat, *extents = (T.arg(name, tirx.Var(name, "int64")) for name in "fxyzw")
        for i, index in enumerate(unflatten(flat, extents)):
            T.buffer_store(out, T.bind(index), [i])
    target = tvm.target.Target("llvm")
    function = ib.get().with_attr("target", target)
    lowered = tirx.transform.LowerIntrin()(tvm.IRModule({"kernel": function}))
    text = str(lowered)
    assert "T.Select" not in text
    assert text.count("T.Div") + text.count("T.truncmod") == 9
