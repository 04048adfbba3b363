"""Hides what floats are bound to from TVM's analysis of integers.

`LowerIntrin` tells its analyzer what each variable is bound to, and that puts it in place of the
variable. Along a polynomial, whose terms are bound to names one after the other, this takes time
that doubles with each: for a kernel with tanh more than LLVM takes. What is not pure it leaves
alone. So floats are bound to a call that nobody knows while the pass runs.

Input: a TIR module. Output: a module whose floats are `hidden` or `shown` again. Non-goals: floats
that are bound within expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
from tvm import tirx

_CALL = "dslc_hidden"
_FLOATS = ("float", "bfloat")

Change = Callable[[Any], Any]


def _module_pass(change: Change) -> Any:
    @tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
    def run(module: Any, _context: Any) -> Any:
        functions = {
            variable: f.with_body(_mapped(f.body, change)) if isinstance(f, tirx.PrimFunc) else f
            for variable, f in module.functions.items()
        }
        return tvm.IRModule(functions, attrs=module.attrs)

    return run


def hide() -> Any:
    """The pass that hides what floats are bound to."""

    def change(bind: Any) -> Any:
        type = bind.var.ty
        dtype = str(type.dtype) if isinstance(type, tvm.ir.PrimType) else ""
        if not dtype.startswith(_FLOATS):
            return bind
        return tirx.Bind(bind.var, tirx.call_extern(dtype, _CALL, bind.value))

    return _module_pass(change)


def show() -> Any:
    """The pass that shows it again."""

    def change(bind: Any) -> Any:
        call = bind.value
        if not isinstance(call, tvm.ir.Call) or not call.op.same_as(_EXTERN):
            return bind
        name, *values = call.args
        return tirx.Bind(bind.var, values[0]) if str(name.value) == _CALL else bind

    return _module_pass(change)


_EXTERN = tvm.ir.Op.get("tirx.call_extern")


def _mapped(stmt: Any, change: Change) -> Any:
    """The statement with its bindings changed."""
    match stmt:
        case tirx.Bind():
            return change(stmt)
        case tirx.SeqStmt():
            return tirx.SeqStmt([_mapped(each, change) for each in stmt.seq])
        case tirx.For():
            return tirx.For(
                stmt.loop_var, stmt.min, stmt.extent, stmt.kind, _mapped(stmt.body, change),
                stmt.thread_binding, stmt.annotations, stmt.step,
            )  # fmt: skip
        case tirx.While():
            return tirx.While(stmt.condition, _mapped(stmt.body, change))
        case tirx.IfThenElse():
            other = None if stmt.else_case is None else _mapped(stmt.else_case, change)
            return tirx.IfThenElse(stmt.condition, _mapped(stmt.then_case, change), other)
        case tirx.AttrStmt():
            body = _mapped(stmt.body, change)
            return tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, body)
        case _:
            return stmt
