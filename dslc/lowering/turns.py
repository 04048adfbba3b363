"""A transpose across the last axis: square blocks are turned in registers.

Input: a `Task` whose group is nothing but such a transpose of numbers of 32 bits. Output:
statements in the TIR builder's current scope. A plain loop would read (or write) one number of each
cache line at a time, and where rows are a power of two apart, lose the line before the next.

Non-goals: moves that leave the last axis where it is (plain loops copy their rows), other work in
the same loop.
"""

from __future__ import annotations

from typing import cast

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.ir.dims import Dim
from dslc.ir.op import Expr, Index
from dslc.lowering.buffers import STORED, strides_of
from dslc.lowering.group import Group
from dslc.lowering.loops import Task, for_rows
from dslc.lowering.sizes import i64
from dslc.ops.shape import TransposeAttrs
from dslc.schedules.cpu.contract import Machine, Operand, address, loop
from dslc.schedules.cpu.pack import transpose_block

LEAST = 16  # elements of both axes: fewer are no block


def is_turn(group: Group) -> bool:
    """Whether the group is such a transpose."""
    if len(group.eqns) != 1 or group.kind != "loop" or len(group.outputs) != 1:
        return False
    attrs, value = group.eqns[0].attrs, group.outputs[0]
    if not isinstance(attrs, TransposeAttrs) or STORED[value.type.dtype] not in (
        "float32", "int32",
    ):  # fmt: skip
        return False
    last = value.type.rank - 1
    if last < 0 or attrs.perm[last] == last:
        return False
    both = value.type.dims[last], value.type.dims[attrs.perm.index(last)]
    return all(not isinstance(size, int) or size >= LEAST for size in both)


def emit_turn(task: Task, machine: Machine) -> None:
    """Blocks of rows of the result, each from end to end."""
    (eqn,), k = task.group.eqns, task.k
    (x,), (out,), perm = eqn.inputs, eqn.outputs, cast(TransposeAttrs, eqn.attrs).perm
    last = out.type.rank - 1
    axis = perm.index(last)  # of the result: what was last
    rows, columns = out.type.dims[axis], out.type.dims[last]
    lanes = machine.lanes("float32")
    into, source = strides_of(out.type.dims), strides_of(x.type.dims)
    others = [a for a in range(last) if a != axis]
    blocks = (rows + (lanes - 1)) // lanes
    sizes: tuple[Dim, ...] = (*(out.type.dims[a] for a in others), blocks)

    def block(index: Index) -> None:
        with k.nest(sizes[len(index) :]) as rest:
            whole = (*index, *rest)
            first = T.bind(whole[-1] * i64(lanes))
            places = list(zip(whole, others))
            begin = address(i64(0), *((i, k.dim(source[perm[a]])) for i, a in places))
            target = address(i64(0), *((i, k.dim(into[a])) for i, a in places))
            across = k.dim(source[perm[last]])
            read = Operand(task.graph.memory[x].buffer, "float32", (1, across), T.bind(begin))
            written = Operand(
                task.graph.memory[out].buffer, "float32", (k.dim(into[axis]), 1), T.bind(target)
            )
            _rows(read, written, first, k.dim(rows), k.dim(columns), lanes)

    for_rows(task, sizes, (), lanes * (columns if isinstance(columns, int) else LEAST), block)


def _rows(
    source: Operand, target: Operand, first: Expr, rows: Expr, columns: Expr, lanes: int
) -> None:
    """Rows [first, first + lanes) of the result, as far as there are any."""
    whole = T.bind(tirx.floordiv(columns, i64(lanes)))
    stop = T.bind(tirx.min(first + i64(lanes), rows))

    def one_by_one(start: Expr) -> None:
        with loop(first, stop) as row, loop(start, columns) as column:
            T.buffer_store(target.buffer, source.load(row, column), [target.at(row, column)])

    with T.If(tirx.EQ(stop, first + i64(lanes))):
        with T.Then():
            with loop(0, whole) as number:
                transpose_block(source, target, first, T.bind(number * i64(lanes)), lanes)
            one_by_one(T.bind(whole * i64(lanes)))
        with T.Else():
            one_by_one(i64(0))
