"""Lowers an entry: groups, memory plan, kernels and the host function, as one TIR module.

Input: an optimised Entry and a `Machine`. Output: a `Lowered`, which `build` compiles. Equal
kernels are kept once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tvm
import tvm_ffi

from dslc.ir.core import Entry
from dslc.ir.dims import Dim
from dslc.lower.contract import emit_contraction, scratch_of
from dslc.lower.cost import flops_of
from dslc.lower.entry import Call, entry_dims, make_copy, make_entry
from dslc.lower.group import Group, Grouping, group
from dslc.lower.kernel import make_kernel
from dslc.lower.loops import Task, emit_loops
from dslc.lower.memory import Copy, Plan, plan
from dslc.schedules.cpu import vmath
from dslc.schedules.cpu.contract import Machine


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """An entry as a TIR module whose one public function is called like the entry.

    `kernels` names the calls in order; `notes` are things a user should know (slow paths).
    """

    name: str
    module: Any
    dims: tuple[str, ...]
    arena: Dim
    kernels: tuple[str, ...]
    distinct: int
    flops: Dim
    notes: tuple[str, ...]


def lower_entry(entry: Entry, machine: Machine) -> Lowered:
    """The whole entry as one TIR module for a CPU."""
    grouping = group(entry.function)
    notes: list[str] = []
    scratch = {
        i: size
        for i, g in enumerate(grouping.groups)
        if g.kind == "contract" and (size := scratch_of(g, machine)) != 0
    }
    planned = plan(entry, grouping, scratch)

    def emit(task: Task, memory: Any) -> None:
        if task.group.kind == "contract":
            note = emit_contraction(task, machine, memory)
            if note is not None:
                notes.append(f"{task.group.outputs[0].name}: {note}")
        else:
            emit_loops(task)

    def make(name: str, g: Group, position: int) -> Any:
        math = vmath.math
        return make_kernel(name, g, grouping, planned, position, machine.tasks, math, emit)

    return assemble(entry, grouping, planned, make, notes)


def assemble(
    entry: Entry,
    grouping: Grouping,
    planned: Plan,
    make: Callable[[str, Group, int], Any],
    notes: Sequence[str],
) -> Lowered:
    """Makes every kernel by `make(name, group, position)`, shares equal ones, and joins them."""
    functions: dict[Any, Any] = {}
    shared: dict[int, tuple[Any, Any]] = {}
    calls: list[Call] = []
    names: list[str] = []
    for i, g in enumerate(grouping.groups):
        name = kernel_name(entry.name, i, g)
        kernel = make(name, g, i)
        key = tvm_ffi.structural_hash(kernel.function)
        known = shared.get(key)
        if known is None or not tvm_ffi.structural_equal(known[1], kernel.function):
            variable = tvm.ir.GlobalVar(name)
            functions[variable] = kernel.function
            known = shared[key] = (variable, kernel.function)
        names.append(known[0].name_hint)
        calls.append(Call(kernel, known[0]))
    copies = _copies(entry, planned, functions)
    places = {copy.source: planned.places[grouping.base(copy.source)] for copy, _ in copies}
    host = make_entry(entry, calls, copies, places)
    functions[tvm.ir.GlobalVar(entry.name)] = host
    flops: Dim = 0
    for eqn in entry.function.eqns:
        flops = flops + flops_of(eqn)
    return Lowered(
        entry.name, tvm.IRModule(functions), entry_dims(entry), planned.size, tuple(names),
        len(functions) - 1, flops, tuple(notes),
    )  # fmt: skip


def _copies(entry: Entry, planned: Plan, functions: dict[Any, Any]) -> list[tuple[Copy, Any]]:
    if not planned.copies:
        return []
    variable = tvm.ir.GlobalVar(f"{entry.name}_copy")
    functions[variable] = make_copy(variable.name_hint)
    return [(copy, variable) for copy in planned.copies]


def kernel_name(entry: str, position: int, g: Group) -> str:
    """`forward_3_conv2d_relu`: the entry, the call's position, and what it computes."""
    named = [g.anchor] if g.anchor is not None else []
    named += [e for e in g.eqns if e is not g.anchor and any(o in g.outputs for o in e.outputs)]
    words = list(dict.fromkeys(e.op.name for e in named))[:3]
    return "_".join([entry, str(position), *words])
