"""Keeps what floats are bound to from TVM's analysis of integers.

`LowerIntrin` and TVM's writer of LLVM's IR tell their analyzer what each variable is bound to, and
that simplifies it, with the values of the variables in place of their names. Along a polynomial,
whose terms are bound one after the other, this takes time that multiplies with each: for kernels
with tanh or exp several times what LLVM takes. The analyzer looks into calls, but not into memory.
So for LLVM a float is stored to memory of its own and read back, which LLVM's first pass makes a
register again; for CUDA, whose compiler is given text, it is hidden in a call that nobody knows
while `LowerIntrin` runs.

Input: a TIR module. Output: a module whose floats lie in memory, are hidden, or shown again.
Non-goals: floats that are bound within expressions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Any

import tvm
from tvm import tirx

from dslc._frozen import dataclass

_CALL = "dslc_hidden"
_FLOATS = ("float", "bfloat")

# A binding -> the statements that take its place.
Change = Callable[[Any], list[Any]]


def through_memory() -> Any:
    """The pass after which floats are read from memory where they were bound."""
    return _each_function(_in_memory)


def hide() -> Any:
    """The pass that hides what floats are bound to."""

    def change(bind: Any) -> list[Any]:
        dtype = _float_of(bind)
        if dtype is None:
            return [bind]
        return [tirx.Bind(bind.var, tirx.call_extern(dtype, _CALL, bind.value))]

    return _each_function(lambda body: _joined(_mapped(body, change)))


def show() -> Any:
    """The pass that shows it again."""

    def change(bind: Any) -> list[Any]:
        call = bind.value
        if not isinstance(call, tvm.ir.Call) or not call.op.same_as(_EXTERN):
            return [bind]
        name, *values = call.args
        return [tirx.Bind(bind.var, values[0]) if str(name.value) == _CALL else bind]

    return _each_function(lambda body: _joined(_mapped(body, change)))


_EXTERN = tvm.ir.Op.get("tirx.call_extern")


def _each_function(change: Callable[[Any], Any]) -> Any:
    @tvm.transform.module_pass(opt_level=0)  # type: ignore[untyped-decorator]
    def run(module: Any, _context: Any) -> Any:
        functions = {
            variable: f.with_body(change(f.body)) if isinstance(f, tirx.PrimFunc) else f
            for variable, f in module.functions.items()
        }
        return tvm.IRModule(functions, attrs=module.attrs)

    return run


def _float_of(bind: Any) -> str | None:
    """The dtype of a binding of floats, which may be vectors."""
    type = bind.var.ty
    dtype = str(type.dtype) if isinstance(type, tvm.ir.PrimType) else ""
    return dtype if dtype.startswith(_FLOATS) else None


@dataclass(slots=True, eq=False)
class _Memory:
    """One place for each dtype, for the statements that become one function of LLVM's."""

    places: dict[str, Any] = field(default_factory=dict)

    def __call__(self, bind: Any) -> list[Any]:
        dtype = _float_of(bind)
        if dtype is None or isinstance(bind.value, tvm.ir.TensorLoad):
            return [bind]
        if dtype not in self.places:
            self.places[dtype] = tirx.decl_buffer((1,), dtype, "bound", scope="local", layout=None)
        place = self.places[dtype]
        stored = tirx.BufferStore(place, bind.value, [_FIRST])
        return [stored, tirx.Bind(bind.var, tirx.BufferLoad(place, [_FIRST]))]


_FIRST = tirx.const(0, "int32")


def _in_memory(body: Any) -> Any:
    memory = _Memory()
    statements = _mapped(body, memory, _in_memory)
    return _joined([*map(tirx.AllocBuffer, memory.places.values()), *statements])


def _mapped(stmt: Any, change: Change, outlined: Callable[[Any], Any] | None = None) -> list[Any]:
    """The statement with its bindings changed; `outlined` changes the bodies that may become
    functions of their own."""

    def inner(body: Any) -> Any:
        return _joined(_mapped(body, change, outlined))

    apart = outlined or inner
    match stmt:
        case tirx.Bind():
            return change(stmt)
        case tirx.SeqStmt():
            return [made for each in stmt.seq for made in _mapped(each, change, outlined)]
        case tirx.For():
            body = (apart if stmt.kind == tirx.ForKind.PARALLEL else inner)(stmt.body)
            return [
                tirx.For(
                    stmt.loop_var, stmt.min, stmt.extent, stmt.kind, body,
                    stmt.thread_binding, stmt.annotations, stmt.step,
                )
            ]  # fmt: skip
        case tirx.While():
            return [tirx.While(stmt.condition, inner(stmt.body))]
        case tirx.IfThenElse():
            other = None if stmt.else_case is None else inner(stmt.else_case)
            return [tirx.IfThenElse(stmt.condition, inner(stmt.then_case), other)]
        case tirx.AttrStmt():
            body = apart(stmt.body)
            return [tirx.AttrStmt(stmt.node, stmt.attr_key, stmt.value, body)]
        case _:
            return [stmt]


def _joined(statements: list[Any]) -> Any:
    return statements[0] if len(statements) == 1 else tirx.SeqStmt(statements)
