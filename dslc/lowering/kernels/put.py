"""A `put` whose result lies where its operand lies: only what is put is written.

Input: a `Task` of the kind "put". Output: statements in the TIR builder's current scope. Where the
planner has given the result memory of its own, the group is a loop over all of it (`loops.py`).
"""

from __future__ import annotations

from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ir.core import Value
from dslc.ir.dims import Dim
from dslc.ir.op import Index
from dslc.lowering.grouping.group import Group
from dslc.lowering.kernels.tasks import Task, for_rows
from dslc.ops.placing import PutAttrs, start_of, within


def in_place(task: Task) -> bool:
    """Whether the result lies where what is put into lies."""
    memory, (x, _, _), result = task.graph.memory, _operands(task), task.group.outputs[0]
    return x in memory and memory[x].buffer.same_as(memory[result].buffer)


def put_into(group: Group) -> Value:
    """What is put into."""
    if group.anchor is None:
        raise InternalError("a group of kind put without its equation")
    return group.anchor.inputs[0]


def emit_put(task: Task) -> None:
    """Loops over what is put, in place."""
    dims, axis = put_dims(task), _attrs(task).axis
    outer, inner = dims[: axis + 1], dims[axis + 1 :]

    def row(index: Index) -> None:
        with task.k.nest(outer[len(index) :]) as rest:
            put_row(task, (*index, *rest), inner)

    for_rows(task, outer, inner, task.weight, row)


def put_row(task: Task, index: Index, inner: tuple[Dim, ...]) -> None:
    """Puts the elements under an index into the dims up to the axis, if they are inside."""
    k, (_, values, at), result = task.k, _operands(task), task.group.outputs[0]
    axis, size = _attrs(task).axis, result.type.dims[_attrs(task).axis]
    start = start_of(k, task.graph.at(at, index[: at.type.rank]), values.type.dims[axis], size)
    place = k.intern(T.bind(k.binary("add", index[axis], start, "index")))
    with T.If(within(k, place, size)), T.Then(), k.scope(), k.nest(inner) as rest:
        element = task.graph.at(values, (*index, *rest))
        task.store(result, (*index[:axis], place, *index[axis + 1 :], *rest), element)


def put_dims(task: Task) -> tuple[Dim, ...]:
    """The dims of what is put."""
    return _operands(task)[1].type.dims


def _operands(task: Task) -> tuple[Value, ...]:
    if task.group.anchor is None:
        raise InternalError("a group of kind put without its equation")
    return task.group.anchor.inputs


def _attrs(task: Task) -> PutAttrs:
    anchor = task.group.anchor
    if anchor is None or not isinstance(anchor.attrs, PutAttrs):
        raise InternalError("a group of kind put without its attributes")
    return anchor.attrs
