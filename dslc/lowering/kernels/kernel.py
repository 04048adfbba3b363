"""A group as a private TIR function: typed pointers, then dim variables.

Input: a group, where its values lie, a machine. Output: a `Kernel`: the function and what to call
it with. Pointers never overlap (`tirx.noalias`); values that share memory are one pointer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.ir.core import Value
from dslc.ir.dims import Dim, free_symbols
from dslc.ir.op import attrs_symbols
from dslc.lowering.grouping.group import Group, Grouping
from dslc.lowering.kernels.buffers import STORED, Memory
from dslc.lowering.kernels.dealt import dealt
from dslc.lowering.kernels.graph import Graph
from dslc.lowering.kernels.parts import apart, cut
from dslc.lowering.kernels.scalar import SUMS, Math, ScalarKernels
from dslc.lowering.kernels.tasks import Task
from dslc.lowering.memory.plan import InArena, Place, Plan


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """`function(pointers..., scratch?, symbols...)`; `parallel` ones return an int32. `note`: what
    a user should know of it (a slow path). One that is `repeated` in a loop takes the number of the
    step, too; cut into several `parts` it is called for each of them, and takes its number last.
    `after`: what is called behind it, with the same pointers, to finish its work. `streams`: what
    is given for those of its symbols that are no dims."""

    name: str
    function: Any
    pointers: tuple[Place, ...]
    symbols: tuple[str, ...]
    parallel: bool
    note: str | None = None
    repeated: bool = False
    parts: int = 1
    after: tuple[Kernel, ...] = ()
    streams: Mapping[str, int] = field(default_factory=dict)


# (task, scratch pointer or None) -> emits the body; the kernel's note
Emit = Callable[[Task, Any], str | None]


def symbols_of(group: Group) -> tuple[str, ...]:
    """Dim variables that the group's types and attributes mention."""
    names: set[str] = set()
    for eqn in group.eqns:
        names |= attrs_symbols(eqn.attrs)
    for value in {*group.inputs, *group.outputs, *(v for e in group.eqns for v in e.outputs)}:
        for dim in value.type.dims:
            names |= free_symbols(dim)
    return tuple(sorted(names))


def pointers_of(
    group: Group, grouping: Grouping, places: Mapping[Value, Place]
) -> dict[Place, list[Value]]:
    """The distinct places of the group's values, outputs last."""
    found: dict[Place, list[Value]] = {}
    for value in (*group.inputs, *group.outputs):
        found.setdefault(places[grouping.base(value)], []).append(value)
    return found


def places_of(group: Group, grouping: Grouping, plan: Plan, position: int) -> tuple[Place, ...]:
    """What the kernel of the group at `position` is called with, its working memory last."""
    found = pointers_of(group, grouping, plan.places)
    scratch = plan.scratch.get(position)
    return (*found, *([] if scratch is None else [scratch]))


def make_kernel(
    name: str, group: Group, grouping: Grouping, plan: Plan, position: int, tasks: int,
    math: Math, emit: Emit, repeated: bool = False, joint: bool = False, sums: int = SUMS,
) -> Kernel:  # fmt: skip
    """The kernel of the group at `position`; one that is `repeated` in a loop is cut into parts
    that threads go through together (`parts.py`), and runs no parallel loop of its own. So is one
    that is `joint`, launched with others, if it can be. `sums` as in `ScalarKernels`."""
    found = pointers_of(group, grouping, plan.places)
    scratch = plan.scratch.get(position)
    symbols = symbols_of(group)
    with IRBuilder() as builder, T.prim_func(is_private=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True})
        task, extra = _declare_all(
            found, scratch, symbols, group, tasks, math, repeated, joint, sums
        )  # fmt: skip
        note = emit(task, extra)
    function = builder.get()
    places = places_of(group, grouping, plan, position)
    if task.parallel and (repeated or joint):
        divided = cut(function)
        if divided is None:
            tasks = 1 if repeated else tasks
            return make_kernel(
                name, group, grouping, plan, position, tasks, math, emit, repeated, sums=sums
            )  # fmt: skip
        return Kernel(name, divided, places, symbols, False, note, repeated, tasks)
    if task.parallel:  # such a function returns a status
        status, body = tvm.ir.PrimType("int32"), apart(dealt(function.body), f"{name}_task")
        function = tirx.PrimFunc(function.params, body, status, function.attrs)
    return Kernel(name, function, places, symbols, task.parallel, note, repeated)


def _declare_all(
    found: Mapping[Place, list[Value]], scratch: InArena | None, symbols: Sequence[str],
    group: Group, tasks: int, math: Math, repeated: bool, joint: bool, sums: int,
) -> tuple[Task, Any]:  # fmt: skip
    """Parameters and buffers of the function being built; the task, and the scratch buffer."""
    types = [STORED[values[0].type.dtype] for values in found.values()]
    if scratch is not None:
        types.append("float32")
    handles = [T.arg(f"p{i}", T.handle(t, "global")) for i, t in enumerate(types)]
    k = ScalarKernels({s: T.arg(s, tirx.Var(s, "int64")) for s in symbols}, math, sums)
    turn = T.arg("turn", tirx.Var("turn", "int64")) if repeated else None
    memory = {
        value: Memory(buffer, value.type)
        for values, buffer in zip(found.values(), _buffers(k, found, handles))
        for value in values
    }
    task = Task(group, Graph(k, group.eqns, memory), tasks, turn, joint)
    if scratch is None:
        return task, None
    return task, handles[-1]


def _buffers(
    k: ScalarKernels, found: Mapping[Place, list[Value]], handles: Sequence[Any]
) -> list[Any]:
    return [
        declare(k, handle, values[0].type.size, STORED[values[0].type.dtype])
        for values, handle in zip(found.values(), handles)
    ]


def declare(k: ScalarKernels, handle: Any, elements: Dim, dtype: str) -> Any:
    """A flat buffer at a pointer, aligned to its elements only."""
    align = {"bool": 1, "float64": 8, "int64": 8}.get(dtype, 4)
    align = {"float16": 2, "uint16": 2, "int16": 2, "uint8": 1, "int8": 1}.get(dtype, align)
    size = k.dim(elements)
    return T.decl_buffer((size,), dtype, data=handle, align=align, layout=None)
