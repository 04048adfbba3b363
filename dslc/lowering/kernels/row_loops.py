"""Joined rows: for each row, the parts of the group one after the other.

    maximum of row 1 · exp and sum of row 1
    maximum of row 2 · exp and sum of row 2, beside it the quotients of row 1
    maximum of row 3 · ...

A part that computes much and one that stores much take less time together than one after the other.
So what the last part makes of a row is stored while the next one is reduced, and what it reads of
the parts before is on the stack for two rows, in turn. Rows that go past the caches (`stream.py`)
are stored at once, for memory is read and written faster in turns. The part that computes most asks
for the row to come.

Input: a `Task` whose group is of kind `rows` (`grouping/rows.py`). Output: statements in the TIR
builder's current scope.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import product
from dslc.ir.op import Expr, Index
from dslc.lowering.grouping.cost import cost_of
from dslc.lowering.grouping.group import Group, Rows
from dslc.lowering.kernels.buffers import STORED, Memory
from dslc.lowering.kernels.graph import Graph
from dslc.lowering.kernels.reductions import KEPT_LANES, Beside, reduce_row
from dslc.lowering.kernels.scalar import ScalarKernels
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.stack import aligned, local
from dslc.lowering.kernels.stream import (
    BLOCK,
    LINE,
    ask,
    fenced,
    imported,
    past_caches,
    store_block,
)
from dslc.lowering.kernels.tasks import GUESS, Task, for_rows, unflatten
from dslc.ops.broadcast import ReduceAttrs

LEAST_ROW = 2 * BLOCK  # elements of a row that is stored beside the next one


def emit_rows(task: Task) -> None:
    """For each row, the parts one after the other."""
    group, past = task.group, past_caches(task)
    steps = _steps(task)
    carrier = _carrier(group, steps)
    in_turn = carrier is not None and not past
    rows = (_InTurn if in_turn else _Rows)(task, past, steps, carrier)
    longest = [product(v.type.dims[len(group.rows) :]) for p in group.parts for v in p.inputs]
    size = max((n for n in longest if isinstance(n, int)), default=GUESS * KEPT_LANES)
    with imported(past):
        for_rows(task, rows.dims, (), task.weight * max(1, size), rows.emit, rows.around, in_turn)


# --- steps ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """A part; one that reduces does at each index what the part `before` it would do there."""

    part: Group
    before: Group | None = None

    @property
    def weight(self) -> int:
        """Operations for each element that is reduced."""
        eqns = [*(self.before.eqns if self.before else ()), *self.part.eqns]
        return sum(cost.weight + cost.repeated for cost in map(cost_of, eqns))


def _steps(task: Task) -> list[_Step]:
    """The parts in their order; a reduction takes in the part before it that makes its terms."""
    parts = task.group.parts
    steps: list[_Step] = []
    before: Group | None = None
    for part, after in zip(parts, (*parts[1:], None)):
        if before is None and after is not None and _goes_into(task, part, after):
            before = part
            continue
        steps.append(_Step(part, before))
        before = None
    return steps


def _goes_into(task: Task, part: Group, reduction: Group) -> bool:
    """Whether all that a part makes can be made where a reduction behind it reads it: at each index
    that it reduces, once."""
    if part.anchor is not None or reduction.anchor is None:
        return False
    dims = part.dims
    if reduction.anchor.inputs[0].type.dims != dims or not isinstance(
        reduction.anchor.attrs, ReduceAttrs
    ):
        return False
    made = set(part.outputs)
    for eqn in reduction.eqns:
        if eqn is reduction.anchor or made.isdisjoint(eqn.inputs):
            continue
        if not eqn.op.elementwise or any(out.type.dims != dims for out in eqn.outputs):
            return False
        made.update(eqn.outputs)
    return reduction.anchor.inputs[0] in made and _reads_by_name(task, part, reduction)


def _reads_by_name(task: Task, part: Group, after: Group) -> bool:
    """Whether a part reads what the one before it makes by no other name."""
    kept = {view: value for value, *views in task.group.kept for view in (value, *views)}

    def place(value: Value) -> Hashable:
        return kept[value] if value in kept else id(task.graph.memory[value].buffer)

    made = set(map(place, part.outputs))
    return made.isdisjoint(place(value) for value in after.inputs if value not in part.outputs)


def _carrier(group: Group, steps: list[_Step]) -> _Step | None:
    """The step that reduces rows and computes most; None where they are short, or unknown."""
    last = steps[-1].part
    *_, length = last.dims
    if last.anchor is not None or not isinstance(length, int) or length < LEAST_ROW:
        return None
    if not isinstance(product(last.dims[len(group.rows) :]), int):
        return None
    wide = [
        step for step in steps
        if step.part.anchor is not None and step.part.anchor.inputs[0].type.dims == last.dims
    ]  # fmt: skip
    return max(wide, key=lambda step: step.weight, default=None)


# --- rows -----------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Rows:
    """The rows of a group, each on its own. In step `carrier` the next one is asked for. `stack`
    has what parts hand on."""

    task: Task
    past: frozenset[Value]
    steps: list[_Step]
    carrier: _Step | None
    stack: dict[Value, Any] = field(default_factory=dict)

    @property
    def k(self) -> ScalarKernels:
        return self.task.k

    @property
    def dims(self) -> Rows:
        """What is shared out."""
        return self.task.group.rows

    @contextmanager
    def around(self) -> Iterator[None]:
        """Around the rows of a task."""
        self.make_stack(1)
        with fenced(self.past):
            yield

    def make_stack(self, rows: int) -> None:
        for value, *_ in self.task.group.kept:
            elements = max(1, self.elements(value)) * rows
            self.stack[value] = aligned(elements, STORED[value.type.dtype])

    def elements(self, value: Value) -> int:
        """Of a row."""
        elements = product(value.type.dims[len(self.task.group.rows) :])
        if not isinstance(elements, int):
            raise InternalError(f"a row of {value} has no known size, and is kept on the stack")
        return elements

    def row(self, index: Index, turn: Expr = None) -> _Row:
        """A row by its index; of those on the stack, it is in place number `turn`."""
        k, group = self.k, self.task.group
        memory = {**self.task.graph.memory}
        for value, *views in group.kept:
            start = None
            if turn is not None:
                start = k.binary("mul", turn, k.dim(self.elements(value)), "index")
            for view in (value, *views):
                memory[view] = Memory(self.stack[value], view.type, len(group.rows), start)
        return _Row(k, index, memory, self.past)

    def ask_ahead(self, index: Index, elements: int) -> None:
        """Asks for a block of what the first step reads, a row ahead."""
        memory, dims = self.task.graph.memory, self.steps[-1].part.dims
        for value in self.steps[0].part.inputs if elements % LINE == 0 else ():
            if value in memory and value.type.dims == dims:
                place = memory[value].offset(self.k, index) + self.k.dim(self.elements(value))
                ask(memory[value].buffer, place, elements)

    def emit(self, index: Index) -> None:
        with self.k.nest(self.dims[len(index) :]) as rest:
            row = self.row((*index, *rest))
            for step in self.steps:
                row.emit(step, self.ask_ahead if step is self.carrier else None)


@dataclass(slots=True, eq=False)
class _InTurn(_Rows):
    """Rows that are stored while the next one goes through the step `carrier`."""

    pending: Any = None  # the number of the row that is to be stored, or -1

    @property
    def dims(self) -> Rows:
        return (product(self.task.group.rows),)

    @contextmanager
    def around(self) -> Iterator[None]:
        self.make_stack(2)
        self.pending = local(1, "int64")
        T.buffer_store(self.pending, i64(-1), [0])
        with fenced(self.past):
            yield
            with T.If(self.is_pending()), T.Then(), self.k.scope():
                last = self.k.intern(T.bind(self.pending[0]))
                self.numbered(last).emit(self.steps[-1])

    def is_pending(self) -> Expr:
        return tirx.GE(self.pending[0], i64(0))

    def numbered(self, number: Expr) -> _Row:
        index = unflatten(self.k, number, self.task.group.rows)
        return self.row(index, self.k.binary("mod", number, self.k.dim(2), "index"))

    def emit(self, index: Index) -> None:
        k = self.k
        with k.nest(self.dims[len(index) :]) as rest:
            number = (*index, *rest)[0]
            row = self.numbered(number)
            before = self.numbered(k.binary("sub", number, k.dim(1), "index"))
            for step in self.steps[:-1]:
                row.emit(step, self.beside(before) if step is self.carrier else None)
            T.buffer_store(self.pending, number, [0])

    def beside(self, before: _Row) -> Callable[[Index, int], None]:
        """Stores a block of the row before, and asks for the same block of the row to come."""
        last, count = self.steps[-1].part, len(self.task.group.rows)

        def block(index: Index, elements: int) -> None:
            self.ask_ahead(index, elements)
            with T.If(self.is_pending()), T.Then(), self.k.scope():
                before.store(last, index[count:], elements)

        return block


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a joined group."""

    k: ScalarKernels
    index: Index
    memory: Mapping[Value, Memory]
    past: frozenset[Value]

    def task(self, group: Group, eqns: Iterable[Eqn], hidden: Iterable[Value] = ()) -> Task:
        memory = {v: m for v, m in self.memory.items() if v not in hidden}
        return Task(group, Graph(self.k, eqns, memory), 1)

    def emit(self, step: _Step, behind: Callable[[Index, int], None] | None = None) -> None:
        """A step; if it reduces, `behind` is done behind each block of its terms."""
        part, before = step.part, step.before
        if part.anchor is None:
            self.points(part)
        elif before is None:
            task = self.task(part, part.eqns)
            reduce_row(task, part.anchor.outputs[0], self.index, Beside(behind=behind))
        else:
            task = self.task(part, (*before.eqns, *part.eqns), before.outputs)

            def store(index: Index) -> None:
                for value in before.outputs:
                    self.memory[value].store(self.k, index, task.graph.at(value, index))

            reduce_row(task, part.anchor.outputs[0], self.index, Beside(store, behind))

    def points(self, part: Group) -> None:
        """A part that doesn't reduce."""
        k, (*outer, last) = self.k, (1, *part.dims[len(self.index) :])
        if not self.past or not isinstance(last, int) or last < BLOCK:
            task = self.task(part, part.eqns)
            with k.nest(part.dims[len(self.index) :]) as inner:
                task.store_all((*self.index, *inner))
            return
        with k.nest(outer[1:]) as inner:
            with k.loop(last // BLOCK) as number:
                start = k.binary("mul", number, k.dim(BLOCK), "index")
                self.store(part, (*inner, start), BLOCK)
            if last % BLOCK:
                self.store(part, (*inner, k.dim(last - last % BLOCK)), last % BLOCK)

    def store(self, part: Group, first: Index, count: int) -> None:
        """So many results of a part, from the place `first` of the row on."""
        *inner, start = first

        def at(lane: Expr) -> Index:
            return (*self.index, *inner, self.k.binary("add", start, lane, "index"))

        store_block(self.task(part, part.eqns), self.past, at, count)
