"""Deals out parts of a kernel's tasks while they run, instead of before.

    parallel for task in 0..2                 words = [(0, 8), (8, 16)]
        for part in task*8 .. task*8+8        parallel for task in 0..2
            work(part)               becomes      while (part = take(words, task)) >= 0
                                                      work(part)

Input: a kernel's body, in which loops over parts are marked (`contract.each_part`). Output: the
same, in which a task takes the next of its own parts and, when it has none left, the last of
another one's. A core is often slower than another, for a time: a neighbour runs on its other half,
or the task began later; shared out beforehand, all would wait for it. A task begins with its own
parts, so that a thread finds the same rows in its cache in kernel after kernel. Which thread does a
part changes no result.

Non-goals: parts that threads go through together (`parts.py`), whose loops stay as they are.
See docs/design/0051-parts-that-others-may-take.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.ir import StringImm

from dslc.lowering.kernels.sizes import i64
from dslc.schedules.cpu.tiles.contract import DEALT

_PITCH = 8  # words from one task's to the next one's: each lies on another line of the caches

# A word is (next part, end); whose task it is takes the next, others the last one.
_LLVM_IR = """
define linkonce_odr i64 @dslc_take(ptr %words, i64 %task, i64 %tasks) #0 {
entry:
  br label %look
look:
  %turn = phi i64 [ 0, %entry ], [ %later, %empty ]
  %other = add i64 %task, %turn
  %over = icmp uge i64 %other, %tasks
  %before = sub i64 %other, %tasks
  %whose = select i1 %over, i64 %before, i64 %other
  %index = mul i64 %whose, 8
  %word = getelementptr i64, ptr %words, i64 %index
  %first = load atomic i64, ptr %word monotonic, align 8
  %mine = icmp eq i64 %turn, 0
  %step = select i1 %mine, i64 4294967296, i64 -1
  br label %check
check:
  %seen = phi i64 [ %first, %look ], [ %now, %try ]
  %next = lshr i64 %seen, 32
  %end = and i64 %seen, 4294967295
  %some = icmp ult i64 %next, %end
  br i1 %some, label %try, label %empty
try:
  %left = add i64 %seen, %step
  %pair = cmpxchg ptr %word, i64 %seen, i64 %left monotonic monotonic
  %now = extractvalue { i64, i1 } %pair, 0
  %done = extractvalue { i64, i1 } %pair, 1
  br i1 %done, label %taken, label %check
taken:
  %last = sub i64 %end, 1
  %part = select i1 %mine, i64 %next, i64 %last
  ret i64 %part
empty:
  %later = add i64 %turn, 1
  %more = icmp ult i64 %later, %tasks
  br i1 %more, label %look, label %none
none:
  ret i64 -1
}

attributes #0 = { noinline nounwind }
"""


def dealt(body: Any) -> Any:
    """The body with its marked loops in parallel loops dealt out; itself, if there are none."""
    found = _outside(body)
    if found is body:
        return body
    return tirx.AttrStmt(tirx.const(0, "int32"), "pragma_import_llvm", StringImm(_LLVM_IR), found)


def _outside(statement: Any) -> Any:
    """The statement with its parallel loops dealt out."""
    if not isinstance(statement, tirx.For) or statement.kind != tirx.ForKind.PARALLEL:
        return _changed(statement, _outside)
    task = statement.loop_var
    setup: list[Any] = []

    def inside(inner: Any) -> Any:
        if not isinstance(inner, tirx.For):
            return _changed(inner, inside)
        if DEALT not in inner.annotations:
            return inner  # the words are used up when a marked loop in it comes again
        tasks = int(inner.annotations[DEALT])
        words = _buffer(_PITCH * tasks, "words")
        setup.extend([_allocated(words), *_shared_out(words, tasks, int(inner.extent))])
        return _taking(inner, words, task, tasks)

    body = inside(statement.body)
    if not setup:
        return statement
    return tirx.SeqStmt(
        [*setup, tirx.For(task, statement.min, statement.extent, statement.kind, body)]
    )


def _buffer(elements: int, name: str) -> Any:
    return tirx.decl_buffer((elements,), "int64", name, scope="local", layout=None)


def _allocated(buffer: Any) -> Any:
    """On the stack."""
    return tirx.AllocBuffer(buffer, {"disable_lower_builtin": tirx.const(True, "bool")})


def _shared_out(words: Any, tasks: int, parts: int) -> list[Any]:
    """Sets each task's word to its own parts."""
    task = tirx.Var("task", "int64")
    word = task * i64((parts << 32) + parts) + i64(parts)
    store = tirx.BufferStore(words, word, [task * i64(_PITCH)])
    return [tirx.For(task, i64(0), i64(tasks), tirx.ForKind.SERIAL, store)]


def _taking(loop: Any, words: Any, task: Any, tasks: int) -> Any:
    """The loop over the parts that the task takes."""
    cell = _buffer(1, "taken")
    at = tirx.address_of(words[0])
    take = tirx.BufferStore(
        cell, tirx.call_extern("int64", "dslc_take", at, task, i64(tasks)), [i64(0)]
    )
    body = tirx.SeqStmt([tirx.Bind(loop.loop_var, cell[0]), loop.body, take])
    return tirx.SeqStmt([_allocated(cell), take, tirx.While(tirx.GE(cell[0], i64(0)), body)])


def _changed(statement: Any, change: Callable[[Any], Any]) -> Any:
    """The statement with what stands in it changed; itself, if nothing is."""
    match statement:
        case tirx.SeqStmt():
            before = list(statement.seq)
        case tirx.For() | tirx.While() | tirx.AttrStmt():
            before = [statement.body]
        case tirx.IfThenElse():
            before = [statement.then_case, statement.else_case]
        case _:
            return statement
    after = [None if inner is None else change(inner) for inner in before]
    if all(new is old for new, old in zip(after, before)):
        return statement
    match statement:
        case tirx.SeqStmt():
            return tirx.SeqStmt(after)
        case tirx.IfThenElse():
            return tirx.IfThenElse(statement.condition, *after)
        case tirx.While():
            return tirx.While(statement.condition, *after)
        case tirx.AttrStmt():
            return tirx.AttrStmt(statement.node, statement.attr_key, statement.value, *after)
    return tirx.For(
        statement.loop_var, statement.min, statement.extent, statement.kind, *after,
        statement.thread_binding, statement.annotations, statement.step,
    )  # fmt: skip
