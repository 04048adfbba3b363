"""Cuts a kernel of a loop's step into parts, one for each thread that goes through the loop.

    kernel(p, n) { parallel for task in 0..2 { work(task) } }    becomes
    kernel(p, n, part) { let task = part; work(task) }

Input: a kernel whose tasks run in a parallel loop. Output: the same as a function of the part. What
stands beside that loop (the branch for too little work) is done by the first part. The host
function calls all parts, and waits for them before the next kernel (`host/entry.py`).
See docs/design/0027-loops-that-threads-go-through.md.

Other kernels keep their loop; `apart` makes its body a function of its own.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.ir import StringImm

from dslc.lowering.kernels.sizes import i64

_DECLARATIONS = (tirx.Bind, tirx.DeclBuffer, tirx.AllocBuffer)


def cut(function: Any) -> Any | None:
    """The kernel as a function of the part, which is its last argument; None if it does other work
    before or behind its tasks, which would have to wait."""
    part = tirx.Var("part", "int64")
    body = _of_part(function.body, part)
    if body is None:
        return None
    return tirx.PrimFunc([*function.params, part], body, function.ret_type, function.attrs)


def apart(statement: Any, name: str) -> Any:
    """The statement with what a task does in a function `name`. A thread is handed its pointers in
    a structure, and for all that LLVM knows they may overlap then; arguments of a function don't
    (`tirx.noalias`), so that results needn't be stored before the next operand is read."""
    match statement:
        case tirx.For() if statement.kind == tirx.ForKind.PARALLEL:
            task = tirx.AttrStmt(i64(0), "compute_scope", StringImm(name), statement.body)
            variable, start, extent = statement.loop_var, statement.min, statement.extent
            loop = tirx.For(variable, start, extent, tirx.ForKind.PARALLEL, task)
            # TVM goes on with the place of the inner function in the debug information, which LLVM
            # refuses, until a statement behind the loop has its own.
            return tirx.SeqStmt([loop, tirx.Bind(tirx.Var("behind", "int64"), i64(0))])
        case tirx.IfThenElse():
            sides = (statement.then_case, statement.else_case)
            either = [None if side is None else apart(side, name) for side in sides]
            return tirx.IfThenElse(statement.condition, *either)
        case tirx.SeqStmt():
            return tirx.SeqStmt([apart(inner, name) for inner in statement.seq])
        case tirx.AttrStmt():
            body = apart(statement.body, name)
            return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, body)
    return statement


def _of_part(statement: Any, part: Any) -> Any | None:
    """What a part does of the statement; None if it is more than tasks."""
    match statement:
        case tirx.For() if statement.kind == tirx.ForKind.PARALLEL:
            return tirx.SeqStmt([tirx.Bind(statement.loop_var, part), statement.body])
        case tirx.IfThenElse():
            sides = (statement.then_case, statement.else_case)
            parts = [None if side is None else _of_part(side, part) for side in sides]
            if all(cut is None for cut in parts):
                return None
            either = [
                _by_first(side, part) if cut is None else cut for side, cut in zip(sides, parts)
            ]
            return tirx.IfThenElse(statement.condition, *either)
        case tirx.SeqStmt():
            return _of_sequence(list(statement.seq), part)
    return None


def _by_first(statement: Any | None, part: Any) -> Any | None:
    if statement is None:
        return None
    return tirx.IfThenElse(tirx.EQ(part, i64(0)), statement, None)


def _of_sequence(statements: list[Any], part: Any) -> Any | None:
    """Declarations, and one statement that is work."""
    work = [s for s in statements if not isinstance(s, _DECLARATIONS)]
    if len(work) != 1:
        return None
    inner = _of_part(work[0], part)
    if inner is None:
        return None
    return tirx.SeqStmt([inner if s is work[0] else s for s in statements])
