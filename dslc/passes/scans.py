"""Takes out of a scan what need not be in the loop.

Input and output: a Function.
- What depends on captured values alone is computed once, before the loop.
- Products (and convolutions, reductions) that depend on the scanned tensors, but not on the
  carries, are computed for all steps at once before the loop, with what they need; their results
  are scanned. What is only added to such a result goes with it. What is yielded without a carry
  never enters. Out of a scan over chunks nothing goes that way: all steps' values at once are what
  its chunks are there to avoid.
- What the function around does not use is dropped: yields, carries, operands. A carry that never
  changes is a captured value; captured constants, and slices of constants, are constants of the
  body.

Only work is moved: what costs nothing where it is used (broadcasts, constants) is done again there.
Non-goals: moving work behind the loop; unrolling.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field, replace
from typing import cast

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.rewrite import drop_dead, map_bodies, with_inputs
from dslc.ir.text import print_eqn
from dslc.ir.types import TensorType
from dslc.ops.constants import ConstantAttrs, constant
from dslc.ops.linalg import matmul
from dslc.ops.recurrent import scan
from dslc.ops.scan_attrs import ScanAttrs
from dslc.passes.batch import IMAGES, REDUCTIONS, for_all_steps, spread
from dslc.passes.hoist import FREE, RENAMES

# What is worth a stack of its results.
HEAVY = (matmul, *IMAGES, *REDUCTIONS)


def scans(function: Function) -> Function:
    function = map_bodies(function, scans)
    if not any(eqn.op is scan for eqn in function.eqns):
        return function
    b = Builder.over(function)
    used = {v for eqn in function.eqns for v in eqn.inputs} | set(function.results)
    producers: dict[Value, Eqn] = {}
    replaced: dict[Value, Value] = {}
    for old in function.eqns:
        eqn = with_inputs(old, replaced)
        if eqn.op is scan:
            replaced.update(_Scan(b, eqn, used, producers).rebuilt())
        else:
            b.keep(eqn)
            producers.update(dict.fromkeys(eqn.outputs, eqn))
    results = [replaced.get(result, result) for result in function.results]
    return drop_dead(b.function(function.name, results))


@dataclass(slots=True, eq=False)
class _Scan:
    """One scan being taken apart. `outside` and `stacks` give what stands for values of its body in
    the function around: the value itself, if each step has the same, or the stack of all steps'."""

    b: Builder
    eqn: Eqn
    used: set[Value]
    around: dict[Value, Eqn]
    outside: dict[Value, Value] = field(default_factory=dict)
    stacks: dict[Value, Value] = field(default_factory=dict)
    # Values that no carry reaches: the same at each step, or made of the step's slices.
    fixed: set[Value] = field(default_factory=set)
    sliced: set[Value] = field(default_factory=set)
    producers: dict[Value, Eqn] = field(default_factory=dict)

    @property
    def attrs(self) -> ScanAttrs:
        return cast(ScanAttrs, self.eqn.attrs)

    @property
    def body(self) -> Function:
        return self.attrs.body

    def rebuilt(self) -> dict[Value, Value]:
        """Emits what remains of the scan; what stands for its old results."""
        results, outputs = self.body.results, self.eqn.outputs
        following = self.attrs.following
        changing = [i for i, param in enumerate(self.attrs.carried) if following[i] is not param]
        self.classify(changing)
        asked = [i for i in range(self.attrs.yields) if outputs[i] in self.used]
        free = [i for i in asked if results[i] in self.fixed | self.sliced]
        yields = [i for i in asked if i not in free]
        carries = self.live_carries([results[i] for i in yields], changing)
        wanted = [*(results[i] for i in yields), *(following[i] for i in carries)]
        taken = self.taken(self.reached(wanted))
        read = self.reached(wanted, taken)
        before = [v for v in read if v in taken or self.is_work(v)]
        self.compute([*(results[i] for i in free), *before])
        new = {outputs[i]: self.stack(results[i]) for i in free}
        for i, param in enumerate(self.attrs.carried):
            if i not in changing:
                new[outputs[self.attrs.yields + i]] = self.outside[param]
        if wanted:
            new.update(self.remaining(yields, carries, read, taken))
        return new

    # --- what can be moved ----------------------------------------------------------------------

    def classify(self, changing: Sequence[int]) -> None:
        """Which values no carry reaches; a carry that never changes is a captured value."""
        operands, first = self.eqn.inputs, self.attrs.elements
        last = first + self.attrs.carries
        for param, operand in zip(self.body.params[:first], operands):
            made = self.around.get(operand)
            if made is not None and made.op is constant:
                number = cast(ConstantAttrs, made.attrs).value
                self.outside[param] = self.constant(number, param.type)
            else:
                self.stacks[param] = operand
        self.outside.update(zip(self.body.params[last:], operands[last:]))
        for i, param in enumerate(self.attrs.carried):
            if i not in changing:
                self.outside[param] = operands[first + i]
        self.fixed.update(self.outside)
        self.sliced.update(self.stacks)
        for eqn in self.body.eqns:
            self.producers.update(dict.fromkeys(eqn.outputs, eqn))
            if all(value in self.fixed for value in eqn.inputs):
                self.fixed.update(eqn.outputs)
            elif all(value in self.fixed or value in self.sliced for value in eqn.inputs) and (
                for_all_steps(eqn, self.stacked(eqn), self.attrs.length) is not None
            ):
                self.sliced.update(eqn.outputs)

    def constant(self, number: float | bool, type: TensorType) -> Value:
        """A slice of a constant that is scanned."""
        value = cast(Value, constant(self.b, value=number, type=type))
        self.around[value] = self.b.eqns[-1]
        return value

    def stacked(self, eqn: Eqn) -> list[bool]:
        return [value in self.sliced for value in eqn.inputs]

    def live_carries(self, results: Sequence[Value], changing: Sequence[int]) -> list[int]:
        """The carries that something used needs, directly or through another carry's next value."""
        count = self.attrs.yields
        live = {i for i in changing if self.eqn.outputs[count + i] in self.used}
        while True:
            read = self.reached([*results, *(self.body.results[count + i] for i in live)])
            more = {i for i in changing if self.attrs.carried[i] in read}
            if more <= live:
                return sorted(live)
            live |= more

    def taken(self, live: Mapping[Value, None]) -> dict[Value, None]:
        """Results of heavy work on slices, and what is computed from them for nothing."""
        taken: dict[Value, None] = {}
        if self.attrs.chunks:
            return taken
        for eqn in self.body.eqns:
            out = eqn.outputs[0]
            if out not in live or out not in self.sliced:
                continue
            if eqn.op in HEAVY or self.goes_along(eqn, taken):
                taken[out] = None
        return taken

    def goes_along(self, eqn: Eqn, taken: Mapping[Value, None]) -> bool:
        """Whether `eqn` adds nothing but an epilogue to work that is taken out."""
        sources = [value for value in eqn.inputs if value in self.sliced]
        if not (eqn.op.elementwise or eqn.op.view) or not all(v in taken for v in sources):
            return False
        return any(eqn.outputs[0].type.size == value.type.size for value in sources)

    def is_work(self, value: Value) -> bool:
        """Whether the value is the same at each step and costs something to compute."""
        eqn = self.producers.get(value) if value in self.fixed else None
        while eqn is not None and eqn.op in RENAMES:
            eqn = self.producers.get(eqn.inputs[0])
        return eqn is not None and eqn.op not in FREE

    def reached(
        self, wanted: Iterable[Value], taken: Mapping[Value, None] | None = None
    ) -> dict[Value, None]:
        """What the values need, themselves included, in an order; given what is `taken` out, only
        what is read or computed inside."""
        reached = dict.fromkeys(wanted)
        for eqn in reversed(self.body.eqns):
            if taken is not None and self.is_outside(eqn, taken):
                continue
            if any(output in reached for output in eqn.outputs):
                reached.update(dict.fromkeys(eqn.inputs))
        return reached

    def is_outside(self, eqn: Eqn, taken: Mapping[Value, None]) -> bool:
        return eqn.outputs[0] in taken or self.is_work(eqn.outputs[0])

    # --- before the loop ------------------------------------------------------------------------

    def compute(self, values: Sequence[Value]) -> None:
        """Emits what makes the values, none of which a carry reaches, before the loop."""
        needed = self.reached(values)
        for eqn in self.body.eqns:
            if not any(output in needed for output in eqn.outputs):
                continue
            inputs = [self.stacks[v] if v in self.sliced else self.outside[v] for v in eqn.inputs]
            if eqn.outputs[0] in self.fixed:
                self.outside.update(zip(eqn.outputs, self.b.copy(eqn, inputs)))
                continue
            emit = for_all_steps(eqn, self.stacked(eqn), self.attrs.length)
            if emit is None:
                raise InternalError(f"a carry reaches {print_eqn(eqn)}")
            with self.b.at(eqn.origin):
                self.stacks[eqn.outputs[0]] = emit(self.b, inputs)

    def stack(self, value: Value) -> Value:
        """All steps' values of one that was computed before the loop."""
        if value in self.stacks:
            return self.stacks[value]
        with self.b.at(self.eqn.origin):
            return spread(self.b, self.outside[value], self.attrs.length)

    # --- the loop -------------------------------------------------------------------------------

    def remaining(
        self,
        yields: Sequence[int],
        carries: Sequence[int],
        read: Mapping[Value, None],
        taken: Mapping[Value, None],
    ) -> dict[Value, Value]:
        """Emits the scan with what stays in it."""
        attrs, results, outputs = self.attrs, self.body.results, self.eqn.outputs
        inner, env = Builder(), dict[Value, Value]()
        from_outside = [*self.body.params, *(v for v in self.producers if self.is_work(v))]
        fed: dict[Value, Value] = {}
        for value in (v for v in (*self.body.params, *taken) if v in read and v in self.stacks):
            stack = self.stacks[value]
            fed[stack] = env[value] = fed.get(stack) or inner.param(value.name, value.type)
        for param in (attrs.carried[i] for i in carries):
            env[param] = inner.param(param.name, param.type)
        captured: dict[Value, Value] = {}
        for value in (v for v in from_outside if v in read and v in self.outside):
            whole = self.outside[value]
            made = self.around.get(whole)
            if made is not None and made.op is constant:
                (env[value],) = inner.copy(made, ())
                continue
            param = captured.get(whole) or inner.param(value.name, value.type)
            captured[whole] = env[value] = param
        for eqn in self.body.eqns:
            if not self.is_outside(eqn, taken) and any(v in read for v in eqn.outputs):
                env.update(zip(eqn.outputs, inner.copy(eqn, [env[v] for v in eqn.inputs])))
        stacks = list(dict.fromkeys(results[i] for i in yields))
        following = [results[attrs.yields + i] for i in carries]
        body = inner.function("body", [env[v] for v in (*stacks, *following)])
        initial = [self.eqn.inputs[attrs.elements + i] for i in carries]
        new = replace(attrs, body=body, elements=len(fed), carries=len(carries))
        inputs = (*fed, *initial, *captured)
        if inputs == self.eqn.inputs and self.is_as_before(new):
            self.b.keep(self.eqn)
            return {}
        made_of = self.b.emit(scan, inputs, new, self.eqn.origin)
        stack_of = dict(zip(stacks, made_of))
        lasts = zip(carries, made_of[len(stacks) :])
        replaced = {outputs[i]: stack_of[results[i]] for i in yields}
        return replaced | {outputs[attrs.yields + i]: last for i, last in lasts}

    def is_as_before(self, new: ScanAttrs) -> bool:
        """Whether nothing was dropped from the body."""
        old = self.attrs
        counts = [(a.yields, a.carries, len(a.body.eqns)) for a in (old, new)]
        return counts[0] == counts[1]
