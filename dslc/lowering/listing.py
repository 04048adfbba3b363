"""An entry's kernels as text: what each reads, writes and computes, and why it is that kernel.

Input: an Entry, its Layout, and how a group's template is planned. Output: a block of text for each
kernel, in the order in which they run; the kernels of a loop's body stand below it.

    0 forward_0_matmul_relu: contract by matmul(source=pack, rows=12, vectors=2, ...)
      reads   x f32[N, 4]: argument, 16 * N bytes
              fc.weight f32[3, 4]: argument, 48 bytes
      writes  relu f32[N, 3]: output, 12 * N bytes; a result
      fused   add, relu: epilogue, saves 48 * N bytes
      work    30 * N FLOPs, 28 * N + 48 bytes moved

Bytes moved are those of what a kernel reads and writes, each once: a cache that is too small makes
it more. Non-goals: time (`dslc bench` measures it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields

from dslc._frozen import dataclass
from dslc.ir.core import Entry, Eqn, Value
from dslc.ir.dims import Dim, Poly
from dslc.ir.picture import Box, Picture
from dslc.lowering.grouping.cost import cost_of
from dslc.lowering.grouping.group import Group, Grouping
from dslc.lowering.grouping.work import flops_in, moved, read_by
from dslc.lowering.memory.arena import largest_live_set
from dslc.lowering.memory.plan import InArena, InArgument, InCarry, InOutput, OfScan, Place
from dslc.lowering.program import Layout, calls_of, kernel_name, scan_attrs

Template = Callable[[Group], object | None]


def listed(entry: Entry, layout: Layout, template: Template) -> str:
    """The entry's kernels; `template(group)`: the plan of what runs the group, if something does
    but plain loops."""
    return "\n".join([_head(entry, layout), *_List(entry, layout, template).lines(entry.name)])


def pictured(entry: Entry, layout: Layout, template: Template) -> Picture:
    """The same as boxes: the arguments, a box for each kernel, the results."""
    told, grouping = _List(entry, layout, template), layout.grouping
    computed = told.computed()
    boxes: list[Box] = []
    made: dict[Value, int] = {}
    for argument, param in zip(entry.arguments, entry.function.params):
        made[param] = len(boxes)
        detail = f"{argument.role} {argument.name}: {param.type}"
        boxes.append(Box(argument.role, argument.name, str(param.type), detail))
    for i, g in enumerate(grouping.groups):
        needs = tuple((made[grouping.base(v)], str(v.type)) for v in read_by(g, grouping))
        head, *lines = told.kernel(i, g, entry.name, computed)
        name = f"{i} scan" if g.kind == "scan" else kernel_name(str(i), 0, g).replace("_0_", " ")
        note = ", ".join(str(v.type) for v in g.outputs)
        made.update((value, len(boxes)) for value in g.outputs)
        boxes.append(Box(g.kind, name, note, "\n".join([head, *lines]), needs))
    names = [*entry.outputs, *(f"next {name}" for name in entry.updates)]
    for name, result in zip(names, entry.function.results):
        needs = ((made[grouping.base(result)], str(result.type)),)
        boxes.append(Box("result", name, str(result.type), f"{name}: {result}", needs))
    return Picture(_head(entry, layout), tuple(boxes))


def _head(entry: Entry, layout: Layout) -> str:
    step, live = largest_live_set(layout.plan.blocks)
    calls, flops = calls_of(layout), flops_in(entry.function.eqns)
    head = f"{entry.name}: {number(calls)} kernel{'s' * (calls != 1)}, {number(flops)} FLOPs"
    head += f", {number(layout.plan.size)} bytes of arena"
    if live != 0:
        at = min(max(step, 0), len(layout.grouping.groups) - 1)
        head += f"; most live at {at}: {number(live)} bytes"
    return head


def number(dim: Dim) -> str:
    """A number with separators; a size of dynamic dims as it is written."""
    return f"{dim:,}" if isinstance(dim, int) else str(dim)


@dataclass(frozen=True, slots=True, eq=False)
class _List:
    """One function's kernels while they are listed."""

    entry: Entry
    layout: Layout
    template: Template

    def lines(self, prefix: str) -> Iterator[str]:
        computed = self.computed()
        for i, group in enumerate(self.layout.grouping.groups):
            yield from self.kernel(i, group, prefix, computed)
        for copy in self.layout.plan.copies:
            source, target = self.place(copy.source), self.place(copy.target)
            yield f"- copy: {source} to {target}, {number(copy.size)} bytes"

    def computed(self) -> dict[Eqn, int]:
        """In how many kernels each equation is."""
        counts: dict[Eqn, int] = {}
        for group in self.layout.grouping.groups:
            for eqn in group.eqns:
                counts[eqn] = counts.get(eqn, 0) + 1
        return counts

    def kernel(
        self, i: int, group: Group, prefix: str, computed: Mapping[Eqn, int]
    ) -> Iterator[str]:
        if group.kind == "scan":
            yield f"{i} {prefix}_{i}: a loop of {scan_attrs(group).length} steps"
        else:
            yield f"{i} {kernel_name(prefix, i, group)}: {group.kind}{self.by(group)}"
        grouping = self.layout.grouping
        yield from _field("reads", [self.value(v) for v in read_by(group, grouping)])
        yield from _field("writes", [f"{self.value(v)}{self.why(v)}" for v in group.outputs])
        yield from _field("fused", list(_fused(group)))
        yield from _field(
            "kept", [f"{v.name} {v.type}: a row, on the stack" for v, *_ in group.kept]
        )
        yield from _field("repeats", list(_repeated(group, computed)))
        yield from _field("scratch", self.scratch(i))
        yield from _field("launch", self.launch(i))
        yield from _field("work", [_work(group, grouping)])
        body = self.layout.bodies.get(i)
        if body is not None:
            for line in _List(self.entry, body, self.template).lines(f"{prefix}_{i}"):
                yield f"  {line}"

    def by(self, group: Group) -> str:
        plan = self.template(group)
        if plan is None:
            return f" in {len(group.parts)} parts" if group.parts else ""
        return f" by {parameters(plan)}"

    def value(self, value: Value) -> str:
        base = self.layout.grouping.base(value)
        place = self.layout.plan.places.get(base)
        where = "stack" if place is None else self.place(place)
        under = "" if base is value else f" (of {base.name})"
        return f"{value.name} {value.type}{under}: {where}, {number(value.type.nbytes)} bytes"

    def why(self, value: Value) -> str:
        reason = self.layout.grouping.reasons.get(value)
        return f"; {reason}" if reason is not None else ""

    def place(self, place: Place) -> str:
        match place:
            case InArgument(position):
                return self.entry.arguments[position].role
            case InOutput():
                return "output"
            case InArena(offset, _):
                return f"arena {number(offset)}"
            case OfScan(of, position, stride):
                return f"{of} {position} of the loop" + (", a step's part" * (stride != 0))
            case InCarry(position, following):
                return f"carry {position}" + (" of the next step" * following)

    def scratch(self, i: int) -> list[str]:
        place = self.layout.plan.scratch.get(i)
        return (
            [] if place is None else [f"arena {number(place.offset)}, {number(place.size)} bytes"]
        )

    def launch(self, i: int) -> list[str]:
        return [
            f"shared by {launch[0]} to {launch[-1]}, which don't wait for one another"
            for launch in self.layout.launches if i in launch
        ]  # fmt: skip


def _field(name: str, rows: Sequence[str]) -> Iterator[str]:
    for first, row in zip([name, *[""] * len(rows)], rows):
        yield f"  {first:7} {row}"


def parameters(plan: object) -> str:
    """A template's plan: its name, and what it has decided."""
    name = type(plan).__name__.removesuffix("Plan").lower()
    told = []
    for item in fields(plan):  # type: ignore[arg-type]
        value = getattr(plan, item.name)
        if isinstance(value, str | int | Poly):
            told.append(f"{item.name}={value}")
    return f"{name}({', '.join(told)})"


def _fused(group: Group) -> Iterator[str]:
    """What is computed around the anchor (or in one loop), and the bytes that are not stored."""
    work = [e for e in group.eqns if e.inputs and not e.op.view and e is not group.anchor]
    stored = {*group.outputs, *(v for v, *_ in group.kept)}
    behind = _behind(group)
    if group.anchor is None:
        roles = {"in one loop": work if len(work) > 1 else []}
    else:
        roles = {
            "prologue": [eqn for eqn in work if eqn not in behind],
            "epilogue": [eqn for eqn in work if eqn in behind],
        }
    for role, eqns in roles.items():
        inner = [*eqns, *([group.anchor] if role == "epilogue" and group.anchor else [])]
        between: Dim = 0
        for eqn in inner:
            if not stored.intersection(eqn.outputs):
                between = between + eqn.outputs[0].type.nbytes * 2
        saves = f", saves {number(between)} bytes" if between != 0 else ""
        if eqns:
            yield f"{', '.join(eqn.op.name for eqn in eqns)}: {role}{saves}"


def _behind(group: Group) -> set[Eqn]:
    """What is computed from the anchor's results."""
    made = set(group.anchor.outputs) if group.anchor is not None else set()
    found: set[Eqn] = set()
    for eqn in group.eqns:
        if made.intersection(eqn.inputs):
            found.add(eqn)
            made.update(eqn.outputs)
    return found


def _repeated(group: Group, computed: Mapping[Eqn, int]) -> Iterator[str]:
    for eqn in group.eqns:
        weight = cost_of(eqn).weight
        if computed[eqn] > 1 and eqn.inputs and weight:
            each = f"{weight} operation{'s' * (weight != 1)}"
            yield f"{eqn.op.name} {eqn.outputs[0].name}: {each}, in {computed[eqn]} kernels"


def _work(group: Group, grouping: Grouping) -> str:
    flops, bytes_ = flops_in(group.eqns), moved(group, grouping)
    return f"{number(flops)} FLOPs, {number(bytes_)} bytes moved"
