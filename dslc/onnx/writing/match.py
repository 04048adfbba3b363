"""Finds equations that together are one operator of ONNX, which then stands in their place.

Input: a function and the patterns of `patterns.py`, one finder for each op that may be the
last equation of one. Output: a `Plan`: which equations are written as what, and which need not be
written at all. What a pattern computes on the way must be read by the pattern alone; constants and
views may be read by others, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from dslc._frozen import dataclass
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim
from dslc.onnx.writing.graph import Graph, Held, Scope
from dslc.ops.broadcast import BroadcastAttrs, ReduceAttrs
from dslc.ops.constants import ConstantAttrs, DimAttrs
from dslc.ops.shape import ReshapeAttrs

T = TypeVar("T")
# What moves or makes elements and costs nothing if it is written without need.
_FREE = ("constant", "broadcast", "reshape", "relabel", "stop_gradient", "dim_value", "cast")


@dataclass(frozen=True, slots=True)
class Fused:
    """What is written for an equation and those before it: from `inputs` by `write`."""

    inputs: tuple[Value, ...]
    write: Callable[[Graph, Scope], Held | tuple[Held, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How the equations of a function are written."""

    fused: Mapping[Eqn, Fused]
    needed: frozenset[Value]


Finder = Callable[["Match", Eqn, int], "Fused | None"]


def plan(function: Function, finders: Mapping[str, Sequence[Finder]], opset: int) -> Plan:
    """From the last equation to the first: the largest pattern is found before its parts. Only
    floats that are not widened on the way (see `computed`) are looked at."""
    makers = {value: eqn for eqn in function.eqns for value in eqn.outputs}
    readers: dict[Value, list[Eqn]] = {}
    for eqn in function.eqns:
        for value in eqn.inputs:
            readers.setdefault(value, []).append(eqn)
    results = frozenset(function.results)
    needed: set[Value] = set(results)
    fused: dict[Eqn, Fused] = {}
    for eqn in reversed(function.eqns):
        if needed.isdisjoint(eqn.outputs):
            continue
        whole = eqn.outputs[0].type.dtype in ("f64", "f32", "f16")
        for finder in finders.get(eqn.op.name, ()) if whole else ():
            match = Match(makers)
            found = finder(match, eqn, opset)
            if found is not None and match.is_closed(eqn, readers, results):
                fused[eqn] = found
                break
        needed.update(fused[eqn].inputs if eqn in fused else eqn.inputs)
    return Plan(fused, frozenset(needed))


class Match:
    """One attempt: what makes a value, which is noted as inside of the pattern."""

    def __init__(self, makers: Mapping[Value, Eqn]) -> None:
        self._makers = makers
        self._inside: set[Eqn] = set()

    def is_closed(
        self, root: Eqn, readers: Mapping[Value, Sequence[Eqn]], results: frozenset[Value]
    ) -> bool:
        """Whether nothing else reads what is computed inside."""
        inside = self._inside | {root}
        return not any(
            value in results or any(reader not in inside for reader in readers.get(value, ()))
            for eqn in self._inside - {root}
            if eqn.op.name not in _FREE
            for value in eqn.outputs
        )

    def made(self, value: Value, *ops: str) -> Eqn | None:
        """The equation that makes the value, if it is of one of these ops."""
        eqn = self._makers.get(value)
        if eqn is None or eqn.op.name not in ops:
            return None
        self._inside.add(eqn)
        return eqn

    def inputs(self, value: Value, op: str) -> tuple[Value, ...] | None:
        """What the op that makes the value reads."""
        eqn = self.made(value, op)
        return None if eqn is None else eqn.inputs

    def number(self, value: Value) -> float | None:
        """The one number that all elements are, if that is known."""
        source, _ = self.source(value)
        eqn = self.made(source, "constant")
        return None if eqn is None else cast(ConstantAttrs, eqn.attrs).value

    def is_number(self, value: Value, number: float) -> bool:
        """Whether all elements are known to be that number, but for rounding to their dtype."""
        found = self.number(value)
        return found is not None and abs(found - number) <= 1e-6 * abs(number)

    def source(self, value: Value) -> tuple[Value, tuple[int, ...]]:
        """What the value is broadcast from, through dims of 1 that come and go, and at which of its
        axes each dim of that stands (-1 for one that is 1)."""
        places = tuple(range(value.type.rank))
        while True:
            eqn = self._makers.get(value)
            if eqn is None:
                return value, places
            if eqn.op.name == "broadcast":
                axes = cast(BroadcastAttrs, eqn.attrs).axes
                inner = tuple(places[axis] for axis in axes)
            elif eqn.op.name == "reshape":
                moved = _ones_apart(eqn.inputs[0].type.dims, cast(ReshapeAttrs, eqn.attrs).dims)
                if moved is None:
                    return value, places
                inner = tuple(places[axis] if axis >= 0 else -1 for axis in moved)
            else:
                return value, places
            self._inside.add(eqn)
            (value,) = eqn.inputs
            places = tuple(-1 if d == 1 else p for d, p in zip(value.type.dims, inner))

    def row(self, value: Value, op: str) -> tuple[Value, tuple[int, ...]] | None:
        """`(x, axes)` where the value is a reduction of x along axes, spread along them again."""
        source, places = self.source(value)
        return self._reduction(source, places, value, op)

    def mean(self, value: Value) -> tuple[Value, tuple[int, ...]] | None:
        """`(x, axes)` where the value is x's mean along axes, spread along them again or not."""
        source, outer = self.source(value)
        operands = self.inputs(source, "div")
        if operands is None:
            return None
        summed, places = self.source(operands[0])
        places = tuple(outer[axis] if axis >= 0 else -1 for axis in places)
        found = self._reduction(summed, places, value, "reduce_sum")
        if found is None:
            return None
        x, axes = found
        count = x.type.with_dims(tuple(x.type.dims[axis] for axis in axes)).size
        return found if self._is_size(operands[1], count) else None

    def _reduction(
        self, source: Value, places: Sequence[int], value: Value, op: str
    ) -> tuple[Value, tuple[int, ...]] | None:
        eqn = self.made(source, op)
        if eqn is None:
            return None
        (x,), axes = eqn.inputs, cast(ReduceAttrs, eqn.attrs).axes
        kept = [axis for axis in range(x.type.rank) if axis not in axes]
        if value.type.rank != x.type.rank:  # the reduced axes are gone
            kept = list(range(len(kept)))
        right = all(place in (-1, axis) for place, axis in zip(places, kept))
        return (x, axes) if right else None

    def _is_size(self, value: Value, count: Dim) -> bool:
        if isinstance(count, int):
            return self.number(value) == count
        source, _ = self.source(value)
        operands = self.inputs(source, "cast")
        eqn = None if operands is None else self.made(operands[0], "dim_value")
        return eqn is not None and cast(DimAttrs, eqn.attrs).dim == count

    def either(
        self, operands: Sequence[Value] | None, look: Callable[[Value, Value], T | None]
    ) -> T | None:
        """What `look` finds in the two operands, in one order or the other."""
        if operands is None:
            return None
        a, b = operands
        before = set(self._inside)
        found = look(a, b)
        if found is None:
            self._inside = before
            found = look(b, a)
        return found


def one_node(op_type: str, eqn: Eqn, inputs: Sequence[Value], **attrs: Any) -> Fused:
    """One node over whole tensors in place of the equation."""

    def write(graph: Graph, scope: Scope) -> Held:
        names = [graph.full(scope[value], value.type.dims) for value in inputs]
        return Held(graph.node(op_type, *names, **attrs), eqn.outputs[0].type)

    return Fused(tuple(inputs), write)


def has_attributes(eqn: Eqn) -> bool:
    """Whether attributes, which are f32, are as precise as the equation's result."""
    return eqn.outputs[0].type.dtype in ("f32", "f16")


def _ones_apart(old: Sequence[Dim], new: Sequence[Dim]) -> list[int] | None:
    """Where each dim of `old` stands in `new`, if they differ by dims of 1 only (-1: it is 1)."""
    places = [axis for axis, dim in enumerate(new) if dim != 1]
    if [dim for dim in old if dim != 1] != [dim for dim in new if dim != 1]:
        return None
    left = iter(places)
    return [next(left) if dim != 1 else -1 for dim in old]
