"""The gradient of a scan: a scan the other way round.

Each of its steps pulls back through one step of the forward scan. It carries the cotangents of the
carries, and sums up those of the captured values. What it needs of the forward step is kept: a
stack that the forward scan gives, too (`keeping`). That is all of it, or with `keep=carries` the
next carries alone; the rest is computed again from the slices, what is kept and what is captured.

What a step began with is what the step before has made of the carries: their stack, moved by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.rewrite import drop_dead, with_inputs
from dslc.ir.types import is_float
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import constant, dim_value, relabel
from dslc.ops.cotangents import cotangents, zeros
from dslc.ops.elementwise import add
from dslc.ops.scan_attrs import ScanAttrs, carried_values
from dslc.ops.shape import concat, iota, reshape, transpose
from dslc.ops.slicing import slice_

# What is made again for nothing, from what it is made of.
FREE = (broadcast, reshape, transpose, relabel, constant, dim_value, iota)
# Elementwise ops that cost less than to write their result and read it again.
CHEAP = frozenset({
    "add", "sub", "mul", "neg", "minimum", "maximum", "abs", "cast", "select", "stop_gradient",
    "eq", "ne", "lt", "le", "gt", "ge", "not", "and", "or",
})  # fmt: skip


# --- what is kept -------------------------------------------------------------------------------


def keeping(b: Builder, eqn: Eqn) -> Eqn:
    """The scan with what its gradient keeps stacked, too, behind what it yields; any other
    equation as it is."""
    if not isinstance(eqn.attrs, ScanAttrs):
        return eqn
    attrs = eqn.attrs
    if attrs.keep == "all":
        attrs = replace(attrs, body=_with_kept_inside(attrs.body))
    count, results = attrs.yields, attrs.body.results
    missing = [v for v in _wanted(attrs) if v not in results[:count]]
    if not missing:
        return eqn
    kept = tuple(
        Value(b.name(f"kept_{v.name}"), v.type.with_dims((attrs.length, *v.type.dims)))
        for v in missing
    )
    body = replace(attrs.body, results=(*results[:count], *missing, *results[count:]))
    outputs = (*eqn.outputs[:count], *kept, *eqn.outputs[count:])
    return Eqn(eqn.op, eqn.inputs, replace(attrs, body=body), outputs, eqn.origin)


def _with_kept_inside(body: Function) -> Function:
    """A body whose own scans keep what their gradients need."""
    b = Builder.over(body)
    eqns = tuple(keeping(b, eqn) for eqn in body.eqns)
    if all(new is old for new, old in zip(eqns, body.eqns)):
        return body
    return replace(body, eqns=eqns)


def _wanted(attrs: ScanAttrs) -> list[Value]:
    """The values of the body that are kept: the next carries, and what pulling back through the
    step reads that is not cheap to compute from those."""
    following = list(dict.fromkeys(attrs.following))
    if attrs.keep == "carries":
        return following
    body = attrs.body
    b = Builder.over(body)
    seeds = {v: b.param("flowing", v.type) for v in body.results if is_float(v.type.dtype)}
    floats = [param for param in body.params if is_float(param.type.dtype)]
    found = cotangents(b, body.eqns, seeds, floats)
    read = dict.fromkeys([*(v for eqn in b.eqns for v in eqn.inputs), *found.values()])
    return _Choice(attrs, following).kept(read)


class _Choice:
    """What to keep of a body's values so that the ones that are read can be had."""

    def __init__(self, attrs: ScanAttrs, following: Sequence[Value]) -> None:
        self.chosen = dict.fromkeys(following)
        self.producers = {out: eqn for eqn in attrs.body.eqns for out in eqn.outputs}
        self.carried = carried_values(attrs)

    def kept(self, read: dict[Value, None]) -> list[Value]:
        cheap = []
        for value in read:
            eqn = self.producers.get(value)
            if eqn is not None and eqn.op.name in CHEAP:
                cheap.append(value)
            else:
                self.settle(value)
        for value in cheap:
            self.settle(value)
        return list(self.chosen)

    def settle(self, value: Value) -> None:
        """Keeps the value, or what it is a free form of, if it can't be had yet."""
        if self.is_there(value):
            return
        eqn = self.producers[value]
        if eqn.op in FREE:
            for source in eqn.inputs:
                self.settle(source)
        else:
            self.chosen[value] = None

    def is_there(self, value: Value) -> bool:
        eqn = self.producers.get(value)
        if eqn is None or value not in self.carried or value in self.chosen:
            return True
        costs_little = eqn.op in FREE or eqn.op.name in CHEAP
        return costs_little and all(self.is_there(source) for source in eqn.inputs)


# --- the scan backwards -------------------------------------------------------------------------


def scan_gradient(
    b: Builder, eqn: Eqn, arriving: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    """The cotangents of what the scan takes. One that does not keep what it should (of a function
    that was not prepared) runs once more."""
    kept = keeping(b, eqn)
    if kept is not eqn:
        flowing = dict(zip(eqn.outputs, arriving))
        arriving = tuple(flowing.get(output) for output in kept.outputs)
        outputs = b.emit(kept.op, kept.inputs, kept.attrs, eqn.origin)
        kept = Eqn(kept.op, kept.inputs, kept.attrs, outputs, eqn.origin)
    return _Backwards(b, kept, arriving).cotangents()


class _Backwards:
    """The backward scan of `eqn` while it is made. Its body takes slices of what the forward one
    took, of what its steps began with, of what is kept, and of the stacks' cotangents; then the
    carries' cotangents and the sums; then the captured values. What it does not read it does not
    take."""

    def __init__(self, b: Builder, eqn: Eqn, arriving: Sequence[Value | None]) -> None:
        self.b, self.eqn, self.attrs = b, eqn, cast(ScanAttrs, eqn.attrs)
        self.body, count, first = self.attrs.body, self.attrs.yields, self.attrs.elements
        last = first + self.attrs.carries
        self.flowing = [(i, g) for i, g in enumerate(arriving[:count]) if g is not None]
        self.slices = self.body.params[:first]
        self.captured = self.body.params[last:]
        # What has cotangents that are carried: float carries, and float captured values.
        self.moving = [i for i, c in enumerate(self.attrs.carried) if is_float(c.type.dtype)]
        self.summed = [i for i, c in enumerate(self.captured) if is_float(c.type.dtype)]
        self.initial = [
            arriving[count + i] or zeros(b, self.attrs.carried[i].type) for i in self.moving
        ] + [zeros(b, self.captured[i].type) for i in self.summed]

    def cotangents(self) -> tuple[Value | None, ...]:
        inputs, count = self.eqn.inputs, len(self.slices)
        carried = count + self.attrs.carries
        wanted = [i for i, s in enumerate(self.slices) if is_float(s.type.dtype)]
        inner = Builder()
        scanned = [(inner.param(v.name, v.type), stack) for v, stack in self.stacks()]
        flowing = [inner.param(f"d_{v.name}", v.type) for v in self.initial]
        captured = [inner.param(c.name, c.type) for c in self.captured]
        params = [param for param, _ in scanned]
        body = self.step(inner, params, flowing, captured, wanted)
        read = {v for eqn in body.eqns for v in eqn.inputs} | set(body.results)
        scanned = [(param, stack) for param, stack in scanned if param in read]
        with_operands = [(p, v) for p, v in zip(captured, inputs[carried:]) if p in read]
        params = [*(p for p, _ in scanned), *flowing, *(p for p, _ in with_operands)]
        attrs = replace(
            self.attrs, body=replace(body, params=tuple(params)), elements=len(scanned),
            carries=len(flowing), reverse=not self.attrs.reverse,
        )  # fmt: skip
        operands = [*(stack() for _, stack in scanned), *self.initial,
                    *(v for _, v in with_operands)]  # fmt: skip
        made = self.b.emit(self.eqn.op, operands, attrs)
        found: list[Value | None] = [None] * len(inputs)
        places = [*wanted, *(count + i for i in self.moving), *(carried + i for i in self.summed)]
        for place, value in zip(places, made):
            found[place] = value
        return tuple(found)

    def stacks(self) -> list[tuple[Value, Callable[[], Value]]]:
        """What the backward body may take slices of: the value whose slices they are, and how to
        have the stack. In the order of `step`'s `scanned`."""
        attrs, found = self.attrs, list(zip(self.slices, map(_is, self.eqn.inputs)))
        found += [(v, partial(self.begun, i)) for i, v in enumerate(attrs.carried)]
        found += [(v, _is(stack)) for v, stack in self.kept()]
        return found + [(self.body.results[i], _is(g)) for i, g in self.flowing]

    def kept(self) -> list[tuple[Value, Value]]:
        """The values of the body that are stacked and depend on a carry, and their stacks."""
        made = {out for e in self.body.eqns for out in e.outputs}
        carried = carried_values(self.attrs)
        stacks = dict(zip(self.body.results[: self.attrs.yields], self.eqn.outputs))
        return [(v, stack) for v, stack in stacks.items() if v in made and v in carried]

    def begun(self, carry: int) -> Value:
        """What each step began with, of a carry: its first value, then what the steps made."""
        b, attrs = self.b, self.attrs
        place = self.body.results[: attrs.yields].index(attrs.following[carry])
        stack, first = self.eqn.outputs[place], self.eqn.inputs[attrs.elements + carry]
        dims, length = first.type.dims, attrs.length
        row = reshape(b, first, dims=(1, *dims))
        parts, start = ((stack, row), 1) if attrs.reverse else ((row, stack), 0)
        rows = cast(Value, concat(b, *parts, axis=0))
        starts, stops = (start, *(0 for _ in dims)), (length + start, *dims)
        return cast(Value, slice_(b, rows, starts=starts, stops=stops, steps=(1,) * len(starts)))

    def step(
        self,
        b: Builder,
        scanned: Sequence[Value],
        flowing: Sequence[Value],
        captured: Sequence[Value],
        wanted: Sequence[int],
    ) -> Function:
        """The backward body: cotangents of the `wanted` slices, of the carries, and the sums."""
        count, attrs = len(self.slices), self.attrs
        taken = [*scanned[: count + attrs.carries], *captured]
        env = dict(zip(self.body.params, taken))
        self.again(b, env)
        results = [env[result] for result in self.body.results]
        kept = [value for value, _ in self.kept()]
        given = {env[v]: p for v, p in zip(kept, scanned[count + attrs.carries :])}
        arriving = list(
            zip((i for i, _ in self.flowing), scanned[len(scanned) - len(self.flowing) :])
        )
        arriving += [(attrs.yields + i, g) for i, g in zip(self.moving, flowing)]
        seeds: dict[Value, Value] = {}
        for i, g in arriving:
            value = results[i]
            seeds[value] = add(b, seeds[value], g) if value in seeds else g
        floats = [value for value in taken if is_float(value.type.dtype)]
        found = cotangents(b, tuple(b.eqns), seeds, floats)

        def of(value: Value) -> Value:
            return found.get(value) or zeros(b, value.type)

        sums = flowing[len(self.moving) :]
        made = [
            *(of(taken[i]) for i in wanted),
            *(of(taken[count + i]) for i in self.moving),
            *(add(b, s, of(captured[i])) for i, s in zip(self.summed, sums)),
        ]
        b.eqns[:] = [with_inputs(eqn, given) for eqn in b.eqns]
        return drop_dead(b.function("body", [given.get(value, value) for value in made]))

    def again(self, b: Builder, env: dict[Value, Value]) -> None:
        """Adds the forward step; what is kept takes the place of what it computes later."""
        for eqn in self.body.eqns:
            env.update(zip(eqn.outputs, b.copy(eqn, [env[v] for v in eqn.inputs])))
        b.eqns[:] = [keeping(b, eqn) for eqn in b.eqns]


def _is(value: Value) -> Callable[[], Value]:
    return lambda: value
