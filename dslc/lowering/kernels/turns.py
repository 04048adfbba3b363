"""A transpose across the last axis: square blocks are turned in registers.

Input: a `Task` whose group is nothing but such a transpose of numbers of 32 bits, of a matrix whose
rows were padded with zeros, maybe. Output: statements in the TIR builder's current scope. A plain
loop would read (or write) one number of each cache line at a time, and where rows are a power of
two apart, lose the line before the next.

Non-goals: moves that leave the last axis where it is (plain loops copy their rows), other work in
the same loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.ir.dims import Dim, product, strides_of
from dslc.ir.op import Expr, Index
from dslc.lowering.grouping.group import Group
from dslc.lowering.grouping.operands import TURNED, is_padded_rows
from dslc.lowering.kernels.buffers import STORED
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.tasks import Task, for_rows
from dslc.ops.shape import TransposeAttrs
from dslc.schedules.cpu.tiles.contract import (
    Machine,
    Operand,
    address,
    loop,
    prefetch,
    store_vector,
    unflatten,
    vector_at,
)
from dslc.schedules.cpu.tiles.pack import transpose

AHEAD = 8  # vectors of columns: of more, what was asked for would be out of the cache again


def is_turn(group: Group) -> bool:
    """Whether the group is such a transpose."""
    padded = len(group.eqns) == 3 and is_padded_rows(*group.eqns[:2])
    if not (padded or len(group.eqns) == 1) or group.kind != "loop" or len(group.outputs) != 1:
        return False
    attrs, value = group.eqns[-1].attrs, group.outputs[0]
    if not isinstance(attrs, TransposeAttrs) or STORED[value.type.dtype] not in (
        "float32", "int32",
    ):  # fmt: skip
        return False
    if not attrs.perm:
        return False
    turn = _Turn.of(attrs.perm, group.eqns[-1].inputs[0].type.dims)
    both = product(turn.rows), turn.columns
    return all(not isinstance(size, int) or size >= TURNED for size in both)


@dataclass(frozen=True, slots=True)
class _Turn:
    """A transpose as one of matrices: `columns` of the operand, each of them `rows` (of several
    axes, maybe) that lie one behind the other, become the last axis of the result. `others` are the
    axes before, by their numbers in the result."""

    rows: tuple[Dim, ...]
    columns: Dim
    row_axes: tuple[int, ...]
    others: tuple[int, ...]

    @staticmethod
    def of(perm: Sequence[int], dims: Sequence[Dim]) -> _Turn:
        head = perm[-1]
        behind = [axis for axis in range(head + 1, len(dims)) if dims[axis] != 1]
        rows, places = (dims[axis] for axis in behind), (perm.index(axis) for axis in behind)
        others = (i for i, axis in enumerate(perm) if axis < head)
        return _Turn(tuple(rows), dims[head], tuple(places), tuple(others))


def emit_turn(task: Task, machine: Machine) -> None:
    """Blocks of rows of the result, each from end to end."""
    (*padding, eqn), k = task.group.eqns, task.k
    (x,), (out,), perm = eqn.inputs, eqn.outputs, cast(TransposeAttrs, eqn.attrs).perm
    stored = padding[0].inputs[0] if padding else x
    turn, lanes = _Turn.of(perm, x.type.dims), machine.lanes("float32")
    into, source = strides_of(out.type.dims), strides_of(x.type.dims)
    rows, columns = product(turn.rows), turn.columns
    blocks = (rows + (lanes - 1)) // lanes
    sizes: tuple[Dim, ...] = (*(out.type.dims[a] for a in turn.others), blocks)
    steps = [k.dim(into[axis]) for axis in turn.row_axes]
    ahead = isinstance(columns, int) and columns <= AHEAD * lanes

    def block(index: Index) -> None:
        with k.nest(sizes[len(index) :]) as rest:
            whole = (*index, *rest)
            places = list(zip(whole, turn.others))
            begin = address(i64(0), *((i, k.dim(source[perm[a]])) for i, a in places))
            target = T.bind(address(i64(0), *((i, k.dim(into[a])) for i, a in places)))
            across = k.dim(source[perm[-1]])
            read = Operand(task.graph.memory[stored].buffer, "float32", (1, across), T.bind(begin))

            def row(number: Expr) -> Expr:
                """Where a row of the result begins."""
                parts = unflatten(number, [k.dim(dim) for dim in turn.rows])
                return address(target, *zip(parts, steps))

            written = _Rows(task.graph.memory[out].buffer, row)
            there = k.dim(columns)
            if padding:
                left = k.dim(stored.type.dims[0]) - whole[0] * there
                there = T.bind(tirx.max(i64(0), tirx.min(there, left)))
            count = _Columns(k.dim(columns), there)
            _turn_rows(read, written, whole[-1], k.dim(rows), count, lanes, ahead)

    weight = task.weight * lanes * (columns if isinstance(columns, int) else TURNED)
    for_rows(task, sizes, (), weight, block)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The result: `start` tells where in `buffer` a row begins."""

    buffer: Any
    start: Callable[[Expr], Expr]


@dataclass(frozen=True, slots=True)
class _Columns:
    """Of `all`, so many are `there`; the others are zeros."""

    all: Expr
    there: Expr


def _turn_rows(
    source: Operand, target: _Rows, block: Expr, rows: Expr, columns: _Columns, lanes: int,
    ahead: bool,
) -> None:  # fmt: skip
    """Rows of the result that are a block, as far as there are any; `ahead`: what the next blocks
    read is asked for, row of the operand by row, since there are more rows than the hardware looks
    ahead in."""
    first, whole = T.bind(block * i64(lanes)), T.bind(tirx.floordiv(columns.there, i64(lanes)))
    stop = T.bind(tirx.min(first + i64(lanes), rows))

    def one_by_one(start: Expr) -> None:
        with loop(first, stop) as row:
            begin = T.bind(target.start(row))
            with loop(start, columns.there) as column:
                T.buffer_store(target.buffer, source.load(row, column), [begin + column])
            if columns.there is not columns.all:
                with loop(columns.there, columns.all) as column:
                    zero = tirx.const(0, target.buffer.dtype)
                    T.buffer_store(target.buffer, zero, [begin + column])

    def square(starts: Sequence[Expr], column: Expr) -> None:
        vectors = [
            T.bind(vector_at(source.buffer, source.at(first, column + i64(j)), lanes))
            for j in range(lanes)
        ]
        for start, vector in zip(starts, transpose(vectors)):
            store_vector(target.buffer, vector, start + column, lanes)

    with T.If(tirx.EQ(stop, first + i64(lanes))):
        with T.Then():
            starts = [T.bind(target.start(first + i64(i))) for i in range(lanes)]
            with loop(0, whole) as number:
                column = T.bind(number * i64(lanes))
                if ahead:
                    _ask_for(source, block, column, lanes)
                square(starts, column)
            one_by_one(T.bind(whole * i64(lanes)))
        with T.Else():
            one_by_one(i64(0))


def _ask_for(source: Operand, block: Expr, column: Expr, lanes: int) -> None:
    """Of the rows that a square reads one, as much of it as `lanes` blocks further on read: all of
    them have been asked for when these blocks come."""
    turn = tirx.floormod(block, i64(lanes))
    start = T.bind(source.at((block - turn + i64(lanes)) * i64(lanes), column + turn))
    for i in range(lanes):
        prefetch(source.buffer[start + i64(i * lanes)], 2)
