"""Cuts a kernel of a loop's step into parts, one for each thread that goes through the loop.

    kernel(p, n) { parallel for task in 0..2 { work(task) } }    becomes
    kernel(p, n, part) { let task = part; work(task) }

Input: a kernel whose tasks run in a parallel loop. Output: the same as a function of the part. What
stands beside that loop (the branch for too little work) is done by the first part. The host
function calls all parts, and waits for them before the next kernel (`entry.py`).
See docs/design/0027-loops-that-threads-go-through.md.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

from dslc.lowering.sizes import i64

_DECLARATIONS = (tirx.Bind, tirx.DeclBuffer, tirx.AllocBuffer)


def cut(function: Any) -> Any | None:
    """The kernel as a function of the part, which is its last argument; None if it does other work
    before or behind its tasks, which would have to wait."""
    part = tirx.Var("part", "int64")
    body = _of_part(function.body, part)
    if body is None:
        return None
    return tirx.PrimFunc([*function.params, part], body, function.ret_type, function.attrs)


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
