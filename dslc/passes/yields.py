"""Takes products that only what is yielded needs out of a scan: what they are made of is yielded
instead, and behind the loop they are one product of all steps.

    yields relu(h @ w + b), carries h      becomes      yields h; relu(hs @ w + b) behind the loop

What is computed from such a product element by element goes with it. The gradient of a recurrent
layer gives the cotangents of its inputs this way. Input and output: a Function.
Non-goals: what no carry reaches (`scans.py`), sums over the steps (`sums.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.rewrite import drop_dead, map_bodies, with_inputs
from dslc.ir.text import print_eqn
from dslc.ops.linalg import matmul
from dslc.ops.recurrent import scan
from dslc.ops.scan_attrs import ScanAttrs, fixed_values
from dslc.passes.batch import IMAGES, for_all_steps


def yields(function: Function) -> Function:
    function = map_bodies(function, yields)
    b = Builder.over(function)
    replaced: dict[Value, Value] = {}
    for old in function.eqns:
        eqn = with_inputs(old, replaced)
        attrs = eqn.attrs
        moved = _moved(attrs) if isinstance(attrs, ScanAttrs) and not attrs.chunks else []
        if isinstance(attrs, ScanAttrs) and moved:
            with b.at(eqn.origin):
                replaced.update(_Behind(b, eqn, attrs, moved).replaced())
        else:
            b.keep(eqn)
    if not replaced:
        return function
    results = [replaced.get(result, result) for result in function.results]
    return drop_dead(b.function(function.name, results))


def _moved(attrs: ScanAttrs) -> list[Eqn]:
    """The equations that can be computed behind the loop, if a product is among them."""
    inside = _needed(attrs.body, attrs.following)
    fixed = fixed_values(attrs)
    moved: dict[Value, Eqn] = {}
    for eqn in attrs.body.eqns:
        out = eqn.outputs[0]
        if out in inside or out in fixed:
            continue
        stacked = [value not in fixed for value in eqn.inputs]
        product = eqn.op is matmul or eqn.op in IMAGES
        along = eqn.op.elementwise or eqn.op.view
        moves = (product and not all(stacked)) or (along and any(v in moved for v in eqn.inputs))
        if moves and for_all_steps(eqn, stacked, attrs.length) is not None:
            moved[out] = eqn
    for eqn in reversed(attrs.body.eqns):  # what is read in the loop stays in it
        if eqn.outputs[0] not in moved and eqn.outputs[0] not in fixed:
            for value in eqn.inputs:
                moved.pop(value, None)
    if not any(eqn.op is matmul or eqn.op in IMAGES for eqn in moved.values()):
        return []
    return list(moved.values())


def _needed(body: Function, values: Iterable[Value]) -> set[Value]:
    """What the values need, themselves included."""
    needed = set(values)
    for eqn in reversed(body.eqns):
        if any(output in needed for output in eqn.outputs):
            needed.update(eqn.inputs)
    return needed


class _Behind:
    """A scan whose equations `moved` are computed behind it."""

    def __init__(self, b: Builder, eqn: Eqn, attrs: ScanAttrs, moved: list[Eqn]) -> None:
        self.b, self.eqn, self.attrs, self.moved = b, eqn, attrs, moved
        self.fixed = fixed_values(attrs)
        self.producers = {out: e for e in attrs.body.eqns for out in e.outputs}
        params, first = attrs.body.params, attrs.elements
        last = first + attrs.carries
        self.stacks = dict(zip(params[:first], eqn.inputs))
        self.outside = dict(zip(params[last:], eqn.inputs[last:]))

    def replaced(self) -> dict[Value, Value]:
        """Emits both; what stands for the old results."""
        attrs, eqn = self.attrs, self.eqn
        made = {e.outputs[0] for e in self.moved}
        count, results = attrs.yields, attrs.body.results
        read = [v for e in self.moved for v in e.inputs if v not in made and v not in self.fixed]
        left = [v for v in results[:count] if v not in made]
        given = list(dict.fromkeys(v for v in (*left, *read) if v not in self.stacks or v in left))
        body = drop_dead(replace(attrs.body, results=(*given, *results[count:])))
        outputs = self.b.emit(scan, eqn.inputs, replace(attrs, body=body))
        inner = dict(zip(given, outputs))
        self.stacks = inner | self.stacks
        for e in self.moved:
            self.compute(e)
        stood = [inner[v] if v in inner else self.stacks[v] for v in results[:count]]
        return dict(zip(eqn.outputs, (*stood, *outputs[len(given) :])))

    def compute(self, eqn: Eqn) -> None:
        """Emits the equation for all steps."""
        stacked = [value not in self.fixed for value in eqn.inputs]
        emit = for_all_steps(eqn, stacked, self.attrs.length)
        if emit is None:
            raise InternalError(f"no rule for all steps of {print_eqn(eqn)}")
        inputs = [self.stacks[v] if s else self.same(v) for v, s in zip(eqn.inputs, stacked)]
        with self.b.at(eqn.origin):
            self.stacks[eqn.outputs[0]] = emit(self.b, inputs)

    def same(self, value: Value) -> Value:
        """The value, the same at each step, outside of the loop."""
        if value not in self.outside:
            eqn = self.producers[value]
            made = self.b.copy(eqn, [self.same(v) for v in eqn.inputs])
            self.outside.update(zip(eqn.outputs, made))
        return self.outside[value]
