"""Joined rows: for each row, the parts of the group one after the other.

Input: a `Task` whose group is of kind `rows` (`rows.py`). Output: statements in the TIR builder's
current scope.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import product
from dslc.ir.op import Index
from dslc.lowering.buffers import STORED, Memory
from dslc.lowering.graph import Graph
from dslc.lowering.group import Group
from dslc.lowering.reductions import KEPT_LANES, reduce_row
from dslc.lowering.scalar import ScalarKernels
from dslc.lowering.stack import aligned
from dslc.lowering.stream import BLOCK, fence, imported, past_caches, store_block
from dslc.lowering.tasks import GUESS, Task, for_rows
from dslc.ops.broadcast import ReduceAttrs


def emit_rows(task: Task) -> None:
    """For each row, the parts one after the other."""
    group, k = task.group, task.k
    count = len(group.rows)
    past = past_caches(task)

    def row(index: Index) -> None:
        with k.nest(group.rows[len(index) :]) as rest:
            memory = {**task.graph.memory}
            for value, *views in group.kept:
                buffer = _stack_row(value, count)
                memory.update((v, Memory(buffer, v.type, count)) for v in (value, *views))
            _Row(k, (*index, *rest), memory, past, _ahead(group)).emit(group.parts)

    longest = [product(v.type.dims[count:]) for part in group.parts for v in part.inputs]
    size = max((n for n in longest if isinstance(n, int)), default=GUESS * KEPT_LANES)
    with imported(past):
        for_rows(task, group.rows, (), task.weight * max(1, size), row, lambda: fence(past))


def _ahead(group: Group) -> dict[Value, int]:
    """What the first part reads from memory, row by row, and the elements of a row: while the last
    part writes a row, the next one is asked for."""
    count, (first, *_, last) = len(group.rows), group.parts
    size = product(last.dims[count:])
    rows = [v for v in first.inputs if v in group.inputs and v.type.dims == last.dims]
    return {value: size for value in rows if isinstance(size, int)}


def _stack_row(value: Value, rows: int) -> Any:
    elements = product(value.type.dims[rows:])
    if not isinstance(elements, int):
        raise InternalError(f"a row of {value} has no known size, and is kept on the stack")
    return aligned(max(1, elements), STORED[value.type.dtype])


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of a joined group, while its parts are emitted."""

    k: ScalarKernels
    index: Index
    memory: Mapping[Value, Memory]
    past: frozenset[Value]
    ahead: Mapping[Value, int]

    def emit(self, parts: Sequence[Group]) -> None:
        """The parts; a reduction does at each index what the part before it would."""
        before: Group | None = None
        for part, after in zip(parts, (*parts[1:], None)):
            goes = after is not None and _goes_into(part, after) and self.apart(part, after)
            if before is None and goes:
                before = part
                continue
            self.part(part, before)
            before = None

    def apart(self, part: Group, after: Group) -> bool:
        """Whether a part reads what the one before it makes by no other name."""
        made = {id(self.memory[value].buffer) for value in part.outputs}
        others = [value for value in after.inputs if value not in part.outputs]
        return not any(id(self.memory[value].buffer) in made for value in others)

    def task(self, group: Group, eqns: Iterable[Eqn], hidden: Iterable[Value] = ()) -> Task:
        memory = {v: m for v, m in self.memory.items() if v not in hidden}
        return Task(group, Graph(self.k, eqns, memory), 1)

    def part(self, part: Group, before: Group | None) -> None:
        anchor = part.anchor
        if anchor is None:
            self.points(self.task(part, part.eqns))
        elif before is None:
            reduce_row(self.task(part, part.eqns), anchor.outputs[0], self.index)
        else:
            task = self.task(part, (*before.eqns, *part.eqns), before.outputs)

            def store(index: Index) -> None:
                for value in before.outputs:
                    self.memory[value].store(self.k, index, task.graph.at(value, index))

            reduce_row(task, anchor.outputs[0], self.index, store)

    def points(self, task: Task) -> None:
        """A part that doesn't reduce."""
        k, (*outer, last) = self.k, (1, *task.group.dims[len(self.index) :])
        blocks = last // BLOCK if isinstance(last, int) else 0
        if not blocks or not (self.ahead or self.past):
            with k.nest(task.group.dims[len(self.index) :]) as inner:
                task.store_all((*self.index, *inner))
            return
        with k.nest(outer[1:]) as inner:
            index = (*self.index, *inner)
            with k.loop(blocks) as number:
                start = k.binary("mul", number, k.dim(BLOCK), "index")
                store_block(
                    task, self.past, lambda lane: (*index, k.binary("add", start, lane, "index")),
                    self.ahead,
                )  # fmt: skip
            with k.loop(last % BLOCK) as lane:
                at = k.binary("add", k.dim(blocks * BLOCK), lane, "index")
                task.store_all((*index, at))


def _goes_into(part: Group, reduction: Group) -> bool:
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
    return reduction.anchor.inputs[0] in made
