"""Lowers an entry: groups, memory plan, kernels and the host function, as one TIR module.

Input: an optimised Entry and a `Machine`. Output: a `Lowered`, which `build` compiles. Equal
kernels are kept once. The body of a scan is laid out like an entry, in a region of its own; its
kernels are called in a loop of the host function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any, cast

import tvm

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.core import Entry, Eqn, Function, Value
from dslc.ir.dims import Dim
from dslc.lowering.grouping.group import Group, Grouping, group
from dslc.lowering.grouping.moves import join_moves
from dslc.lowering.grouping.rows import join_rows
from dslc.lowering.grouping.work import flops_in, moved
from dslc.lowering.host.entry import COUNTED, Counters, entry_dims, make_copy, make_entry
from dslc.lowering.host.launches import shared_launches, work_of
from dslc.lowering.host.steps import Call, CopyCall, Launch, Loop, Step
from dslc.lowering.kernels.attention_tiles import (
    attention_scratch,
    attention_template,
    emit_attention_group,
)
from dslc.lowering.kernels.contract import contraction_template, emit_contraction, scratch_of
from dslc.lowering.kernels.kernel import Kernel, make_kernel, places_of, pointers_of
from dslc.lowering.kernels.loops import emit_loops
from dslc.lowering.kernels.put import emit_put, in_place, put_into
from dslc.lowering.kernels.ranking import emit_ranking
from dslc.lowering.kernels.scalar import SUMS
from dslc.lowering.kernels.tasks import Task
from dslc.lowering.kernels.turns import emit_turn, is_turn
from dslc.lowering.measured import for_group
from dslc.lowering.memory.arena import largest_live_set
from dslc.lowering.memory.plan import InArena, InCarry, Place, Plan, plan, plan_body
from dslc.lowering.shared import Callee, Shared, told, with_any_streams
from dslc.ops.scan_attrs import ScanAttrs
from dslc.schedules.cpu.tiles import vmath
from dslc.schedules.cpu.tiles.contract import Machine


@dataclass(frozen=True, slots=True, eq=False)
class Lowered:
    """An entry as a TIR module whose one public function is called like the entry; with `steps`,
    there is another, which counts what each of them takes.

    `live`: the most bytes of the `arena` that are used at once.
    `kernels` names them in the order in which they are called, `calls` counts the calls, those of
    each step of a scan; `notes` are things a user should know (slow paths).
    """

    name: str
    module: Any
    dims: tuple[str, ...]
    arena: Dim
    live: Dim
    kernels: tuple[str, ...]
    distinct: int
    calls: Dim
    flops: Dim
    notes: tuple[str, ...]
    steps: tuple[Work, ...] = ()


@dataclass(frozen=True, slots=True)
class Work:
    """A step of an entry: a kernel, a loop of kernels or a copy. `moved`: bytes of what it reads
    and writes, each once."""

    name: str
    flops: Dim
    moved: Dim


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A function's groups, where its values lie, and the same for the bodies of its scans, by the
    number of their group. One that is `repeated` is such a body. `launches`: of several groups, by
    `tasks` tasks."""

    grouping: Grouping
    plan: Plan
    bodies: Mapping[int, Layout]
    repeated: bool = False
    launches: tuple[range, ...] = ()
    tasks: int = 1

    def joint(self, position: int) -> bool:
        """Whether the group at `position` is launched with others."""
        return any(position in launch for launch in self.launches)


COPIED = "all of it is copied at each call: its old value is read later"

Scratch = Callable[[Group, bool], Dim]  # (group, whether it is of a scan's body)
Make = Callable[[str, Group, Layout, int], Kernel]
Grouped = Callable[[Function], Grouping]
Noted = Callable[[Group, str], str | None]


def lower_entry(
    entry: Entry, machine: Machine, shared: Shared | None = None, clock: str | None = None
) -> Lowered:
    """The whole entry as one TIR module for a CPU. Kernels that are in `shared` already are called
    there: the modules of its entries are to be joined. `clock`: of `Counters`, if steps are to be
    counted."""

    def emit(task: Task, memory: Any) -> str | None:
        used = replace(machine, tasks=task.tasks, repeated=task.turn is not None)
        used = for_group(task.group, used)
        match task.group.kind:
            case "contract":
                return emit_contraction(task, used, memory)
            case "attention":
                return emit_attention_group(task, used, memory)
            case "rank":
                emit_ranking(task)
            case "loop" if is_turn(task.group):
                emit_turn(task, machine)
            case "put" if in_place(task):
                emit_put(task)
            case "put":
                emit_loops(task)
                return COPIED
            case _:
                emit_loops(task)
        return None

    math = vmath.fused_math if machine.fuses else vmath.math
    sums = SUMS if machine.registers == 32 else SUMS // 2

    def make(name: str, g: Group, layout: Layout, position: int) -> Kernel:
        return make_kernel(
            name, g, layout.grouping, layout.plan, position, machine.tasks, math, emit,
            layout.repeated, layout.joint(position), sums,
        )  # fmt: skip

    params = zip(entry.function.params, entry.arguments)
    updated = {param: a.name for param, a in params if a.name in entry.updates}

    def noted(g: Group, note: str) -> str | None:
        if note != COPIED:
            return f"{g.outputs[0].name}: {note}"
        name = updated.get(put_into(g))
        return None if name is None else f"{name}: {note}"

    return assemble(entry, layout_of(entry, machine), make, make_copy, noted, shared, clock)


def layout_of(entry: Entry, machine: Machine) -> Layout:
    """The entry's groups, and where its values lie, for a CPU."""

    def scratch(g: Group, repeated: bool) -> Dim:
        used = for_group(g, replace(machine, repeated=repeated))
        if g.kind == "attention":
            return attention_scratch(g, used)
        return scratch_of(g, used) if g.kind == "contract" else 0

    def grouped(function: Function) -> Grouping:
        return join_rows(function, join_moves(function, group(function)), machine.tasks)

    layout = lay_out(entry, scratch, grouped)
    if machine.tasks == 1:
        return layout
    launches = shared_launches(layout.grouping, layout.plan)
    return replace(layout, launches=launches, tasks=machine.tasks)


def template_of(group: Group, machine: Machine) -> object | None:
    """The plan of the CPU template that runs the group, if one does."""
    used = for_group(group, machine)
    if group.kind == "attention":
        return attention_template(group, used)
    return contraction_template(group, used) if group.kind == "contract" else None


def lay_out(entry: Entry, scratch: Scratch, grouped: Grouped = group) -> Layout:
    """The entry laid out. `scratch` tells the bytes of working memory that a group wants."""
    grouping = grouped(entry.function)
    bodies, wanted = plan_bodies(grouping, scratch, grouped)
    return Layout(grouping, plan(entry, grouping, wanted), bodies)


def assemble(
    entry: Entry,
    layout: Layout,
    make: Make,
    make_copy: Callable[[str], Any],
    noted: Noted,
    shared: Shared | None = None,
    clock: str | None = None,
) -> Lowered:
    """Makes the entry's kernels by `make(name, group, layout, position)`, shares equal ones, and
    joins them. `noted` is what a user is told of a group whose kernel has a note."""
    shared = Shared() if shared is None else shared
    joined = _Joined(entry, make, make_copy, noted, shared)
    steps = joined.steps(layout, entry.name)
    joined.functions[tvm.ir.GlobalVar(entry.name)] = make_entry(entry, steps, shared.unit)
    if clock is not None:
        counters = Counters(clock, layout.plan.size)
        counted = make_entry(entry, steps, shared.unit, counters)
        joined.functions[tvm.ir.GlobalVar(entry.name + COUNTED)] = counted
    return Lowered(
        entry.name, tvm.IRModule(joined.functions), entry_dims(entry), layout.plan.size,
        largest_live_set(layout.plan.blocks)[1], tuple(joined.names), len(set(joined.names)),
        calls_of(layout), flops_in(entry.function.eqns), tuple(dict.fromkeys(joined.notes)),
        works_of(layout, entry.name) if clock is not None else (),
    )  # fmt: skip


def works_of(layout: Layout, prefix: str) -> tuple[Work, ...]:
    """What there is to do in each step of a function, in their order."""
    works = []
    for i, g in enumerate(layout.grouping.groups):
        name = f"{prefix}_{i}_scan" if g.kind == "scan" else kernel_name(prefix, i, g)
        works.append(Work(name, flops_in(g.eqns), moved(g, layout.grouping)))
    works += [Work(f"{prefix}_copy", 0, 2 * copy.size) for copy in layout.plan.copies]
    return tuple(works)


def plan_bodies(
    grouping: Grouping, scratch: Scratch, grouped: Grouped, repeated: bool = False
) -> tuple[dict[int, Layout], dict[int, Dim]]:
    """The layouts of the scans' bodies, and what memory each group wants, by its number."""
    bodies: dict[int, Layout] = {}
    wanted: dict[int, Dim] = {}
    for i, g in enumerate(grouping.groups):
        if g.kind == "scan":
            bodies[i] = _body_layout(scan_attrs(g), scratch, grouped)
            wanted[i] = bodies[i].plan.size
        else:
            wanted[i] = scratch(g, repeated)
    return bodies, {i: size for i, size in wanted.items() if size != 0}


def calls_of(layout: Layout) -> Dim:
    """Calls of kernels, those of each step of a scan."""
    calls: Dim = 0
    for i, g in enumerate(layout.grouping.groups):
        if g.kind == "scan":
            calls = calls + scan_attrs(g).length * calls_of(layout.bodies[i])
        else:
            calls = calls + 1
    return calls


def _body_layout(attrs: ScanAttrs, scratch: Scratch, grouped: Grouped) -> Layout:
    grouping = grouped(attrs.body)
    bodies, wanted = plan_bodies(grouping, scratch, grouped, repeated=True)
    return Layout(grouping, plan_body(attrs, grouping, wanted), bodies, repeated=True)


def scan_attrs(g: Group) -> ScanAttrs:
    """The attributes of a scan's group."""
    if g.anchor is None or not isinstance(g.anchor.attrs, ScanAttrs):
        raise InternalError("a group of kind scan without its equation")
    return g.anchor.attrs


class _Joined:
    """The functions of an entry while they are made, equal kernels once."""

    def __init__(
        self,
        entry: Entry,
        make: Make,
        make_copy: Callable[[str], Any],
        noted: Noted,
        shared: Shared,
    ) -> None:
        self.entry, self.make, self.make_copy = entry, make, make_copy
        self.noted, self.shared = noted, shared
        self.functions: dict[Any, Any] = {}
        self.names: list[str] = []
        self.notes: list[str] = []

    def steps(self, layout: Layout, prefix: str) -> list[Step]:
        """What the host function does for the groups of one function, and the copies behind."""
        steps: list[Step] = []
        launches = {launch.start: launch for launch in layout.launches}
        for i, g in enumerate(layout.grouping.groups):
            if g.kind == "scan":
                steps.append(self.loop(layout, i, f"{prefix}_{i}"))
            elif i in launches:
                steps += self.launch(layout, launches[i], prefix)
            elif not layout.joint(i):
                first = self.call(layout, i, kernel_name(prefix, i, g))
                steps += [first, *map(self.behind, first.kernel.after, repeat(first.kernel))]
        for copy in layout.plan.copies:
            steps.append(self.copy(copy.source, copy.target, copy.size))
        return steps

    def launch(self, layout: Layout, positions: range, prefix: str) -> list[Step]:
        """Kernels that share a launch, but for those that have parallel loops of their own."""
        steps: list[Step] = []
        together: list[tuple[Call, Dim]] = []
        for i in positions:
            g = layout.grouping.groups[i]
            call = self.call(layout, i, kernel_name(prefix, i, g))
            if call.kernel.parallel:
                steps += [*joint_launch(together, layout.tasks), call]
                together = []
            else:
                together.append((call, work_of(g, layout.grouping)))
        return [*steps, *joint_launch(together, layout.tasks)]

    def call(self, layout: Layout, position: int, name: str) -> Call:
        g, grouping, plan = layout.grouping.groups[position], layout.grouping, layout.plan
        together = tuple(map(tuple, pointers_of(g, grouping, plan.places).values()))
        joint = layout.joint(position)
        any_stream, streams = with_any_streams(g)
        text = told(any_stream, together, position in plan.scratch, layout.repeated, joint)
        known = self.shared.find(text)
        if known is None:
            kernel = self.make(name, any_stream, layout, position)
            callee = self.function(name, kernel.function)
            self.shared.add(text, kernel, callee)
        else:
            kernel, callee = known
            kernel = replace(kernel, pointers=places_of(g, grouping, plan, position))
        kernel = replace(kernel, streams=streams)
        self.names.append(callee.name)
        if kernel.note is not None and (note := self.noted(g, kernel.note)) is not None:
            self.notes.append(note)
        return Call(kernel, callee.called)

    def behind(self, kernel: Kernel, first: Kernel) -> Call:
        """What finishes the work of the kernel before it."""
        callee = self.function(kernel.name, kernel.function)
        self.names.append(callee.name)
        return Call(replace(kernel, pointers=first.pointers, streams=first.streams), callee.called)

    def function(self, name: str, function: Any) -> Callee:
        """What calls a function, which is of this entry's module when it is new."""
        callee, new = self.shared.callee(name, function)
        if new and isinstance(callee.called, tvm.ir.GlobalVar):
            self.functions[callee.called] = function
        return callee

    def copy(self, source: Place, target: Place, size: Dim) -> CopyCall:
        name = f"{self.entry.name}_copy"
        return CopyCall(source, target, size, self.function(name, self.make_copy(name)).called)

    def loop(self, layout: Layout, position: int, prefix: str) -> Loop:
        """A scan: its carries are copied into their slots before the first step, and out of them
        after the last."""
        body, g = layout.bodies[position], layout.grouping.groups[position]
        attrs, anchor = scan_attrs(g), cast(Eqn, g.anchor)
        before, after = [], []

        def places(values: Sequence[Value]) -> tuple[Place, ...]:
            return tuple(layout.plan.places[layout.grouping.base(value)] for value in values)

        ends = places(anchor.outputs[attrs.yields :])
        for i, value in enumerate(anchor.inputs[attrs.elements :][: attrs.carries]):
            size, carry = value.type.nbytes, body.plan.carries[i]
            if carry.slots > 1 or (carry.slots == 1 and places([value]) != ends[i : i + 1]):
                before.append(self.copy(carry.first, InCarry(i), size))
            if carry.slots != 1:
                after.append(self.copy(InCarry(i), carry.last, size))

        return Loop(
            attrs.length, attrs.reverse, layout.plan.scratch.get(position, InArena(0, 0)),
            places(anchor.inputs), places(anchor.outputs), body.plan.carries,
            tuple(before), tuple(self.steps(body, prefix)), tuple(after), flops_in([anchor]),
        )  # fmt: skip


def joint_launch(works: Sequence[tuple[Call, Dim]], tasks: int) -> list[Step]:
    """The calls, each with its work, as a launch. What is not cut goes to the task that has least
    to do."""
    if len(works) < 2 and not any(call.kernel.parts > 1 for call, _ in works):
        return [call for call, _ in works]
    loads, owners, total = [0] * tasks, [], cast(Dim, 0)
    for call, work in works:
        owner = loads.index(min(loads))
        if call.kernel.parts == 1 and isinstance(work, int):
            loads[owner] += work
        owners.append(owner)
        total = total + work
    return [Launch(tuple(call for call, _ in works), tuple(owners), tasks, total)]


def kernel_name(entry: str, position: int, g: Group) -> str:
    """`forward_3_conv2d_relu`: the entry, the call's position, and what it computes."""
    named = [g.anchor] if g.anchor is not None else []
    named += [e for e in g.eqns if e is not g.anchor and any(o in g.outputs for o in e.outputs)]
    words = list(dict.fromkeys(e.op.name for e in named))[:3]
    return "_".join([entry, str(position), *words])
