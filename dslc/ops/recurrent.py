"""Recurrence: `scan` runs a body once per slice of its scanned tensors, one step after the other.

    %hs: f32[T, H], %last: f32[H] = scan[length=T, elements=1, carries=1](%xs, %h, %w) func body(
      %x: f32[H], %h: f32[H], %w: f32[H]) -> (f32[H], f32[H]) { ... return %next, %next }

Inputs: the scanned tensors (their first axis is the steps), the first carries, and whatever else
the body uses; the body's parameters stand beside them. The body gives what is stacked, then the
next carries; the equation gives the stacks, then the last carries. `reverse` starts at the last
slice; what a step gives still stands in the stack where the step's slice stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.evaluate import concrete, evaluate, numpy_dtype
from dslc.ir.op import Attrs, NoFacet, Op, Sample, TypeRuleError
from dslc.ir.types import TensorType, is_float
from dslc.ops.cotangents import cotangents, zeros
from dslc.ops.elementwise import add, mul, tanh
from dslc.ops.linalg import matmul
from dslc.ops.pointwise import tensor

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class ScanAttrs(Attrs):
    """How many of the inputs are scanned, how many are carries; `length` is the number of steps."""

    body: Function
    length: Dim
    elements: int
    carries: int
    reverse: bool = False

    @property
    def yields(self) -> int:
        """How many results are stacks."""
        return len(self.body.results) - self.carries

    @property
    def carried(self) -> tuple[Value, ...]:
        """The body's parameters that are carries."""
        return self.body.params[self.elements : self.elements + self.carries]


def _scan_type(attrs: ScanAttrs, *inputs: TensorType) -> tuple[TensorType, ...]:
    body, count = attrs.body, attrs.elements
    given = [_slice(attrs, type) for type in inputs[:count]] + list(inputs[count:])
    wanted = [param.type for param in body.params]
    if given != wanted:
        raise TypeRuleError(f"the body takes {_listed(wanted)}, not {_listed(given)}")
    results = [value.type for value in body.results]
    carries = wanted[count : count + attrs.carries]
    if results[attrs.yields :] != carries:
        raise TypeRuleError(
            f"the next carries are {_listed(results[attrs.yields :])}, not {_listed(carries)}"
        )
    stacked = [type.with_dims((attrs.length, *type.dims)) for type in results[: attrs.yields]]
    return (*stacked, *carries)


def _slice(attrs: ScanAttrs, type: TensorType) -> TensorType:
    if not type.dims or type.dims[0] != attrs.length:
        raise TypeRuleError(f"{type} has no {attrs.length} slices")
    return type.with_dims(type.dims[1:])


def _listed(types: Sequence[TensorType]) -> str:
    return f"({', '.join(map(str, types))})"


def _scan_reference(attrs: ScanAttrs, *arrays: Any) -> tuple[Any, ...]:
    count = attrs.elements
    scanned, carries = arrays[:count], list(arrays[count : count + attrs.carries])
    captured = arrays[count + attrs.carries :]
    steps = range(attrs.length)  # type: ignore[arg-type]  # an int by now
    kept = attrs.body.results[: attrs.yields]
    stacks = [
        np.empty([len(steps), *concrete(value.type, {})], numpy_dtype(value.type.dtype))
        for value in kept
    ]
    for step in reversed(steps) if attrs.reverse else steps:
        slices = [x[step] for x in scanned]
        results = evaluate(attrs.body, [*slices, *carries, *captured])
        carries = results[attrs.yields :]
        for stack, result in zip(stacks, results):
            stack[step] = result
    return (*stacks, *carries)


# --- gradient -----------------------------------------------------------------------------------


def keeping_carries(b: Builder, eqn: Eqn) -> Eqn:
    """The scan with what its steps begin with stacked, too, behind what it yields; any other
    equation as it is. The gradient needs those values and would compute them once more."""
    if not isinstance(eqn.attrs, ScanAttrs):
        return eqn
    attrs, body, count = eqn.attrs, eqn.attrs.body, eqn.attrs.yields
    missing = [c for c in attrs.carried if c not in body.results[:count]]
    if not missing:
        return eqn
    results = (*body.results[:count], *missing, *body.results[count:])
    kept = tuple(
        Value(b.name("begun"), c.type.with_dims((attrs.length, *c.type.dims))) for c in missing
    )
    outputs = (*eqn.outputs[:count], *kept, *eqn.outputs[count:])
    changed = replace(attrs, body=replace(body, results=results))
    return Eqn(eqn.op, eqn.inputs, changed, outputs, eqn.origin)


def _scan_gradient(
    b: Builder, eqn: Eqn, arriving: tuple[Value | None, ...]
) -> tuple[Value | None, ...]:
    """A scan the other way round: each step computes the forward step again from what that began
    with, and pulls back through it. It carries the cotangents of the carries, and sums up those of
    the captured values."""
    kept = keeping_carries(b, eqn)
    if kept is not eqn:
        outputs = b.emit(scan, kept.inputs, kept.attrs, eqn.origin)
        arriving = _beside(eqn, kept, arriving)
        kept = Eqn(scan, kept.inputs, kept.attrs, outputs, eqn.origin)
    return _Backwards(b, kept, arriving).cotangents()


def _beside(eqn: Eqn, kept: Eqn, arriving: tuple[Value | None, ...]) -> tuple[Value | None, ...]:
    """The cotangents of the scan that keeps more: nothing flows into what it keeps."""
    found = dict(zip(eqn.outputs, arriving))
    return tuple(found.get(output) for output in kept.outputs)


class _Backwards:
    """The backward scan of `eqn` while it is made. Its body takes slices of what the forward one
    took, of what its steps began with and of the stacks' cotangents; then the carries' cotangents
    and the sums; then the captured values."""

    def __init__(self, b: Builder, eqn: Eqn, arriving: Sequence[Value | None]) -> None:
        self.b, self.eqn, self.attrs = b, eqn, cast(ScanAttrs, eqn.attrs)
        self.body, count, first = self.attrs.body, self.attrs.yields, self.attrs.elements
        last = first + self.attrs.carries
        self.flowing = [(i, g) for i, g in enumerate(arriving[:count]) if g is not None]
        self.slices = self.body.params[:first]
        self.captured = self.body.params[last:]
        self.begun = [eqn.outputs[self.body.results.index(carry)] for carry in self.attrs.carried]
        # What has cotangents that are carried: float carries, and float captured values.
        self.moving = [i for i, c in enumerate(self.attrs.carried) if is_float(c.type.dtype)]
        self.summed = [i for i, c in enumerate(self.captured) if is_float(c.type.dtype)]
        self.initial = [
            arriving[count + i] or zeros(b, self.attrs.carried[i].type) for i in self.moving
        ] + [zeros(b, self.captured[i].type) for i in self.summed]

    def cotangents(self) -> tuple[Value | None, ...]:
        inputs, count = self.eqn.inputs, len(self.slices)
        stacks = [*inputs[:count], *self.begun, *(g for _, g in self.flowing)]
        operands = [*stacks, *self.initial, *inputs[count + self.attrs.carries :]]
        wanted = [i for i, s in enumerate(self.slices) if is_float(s.type.dtype)]
        attrs = ScanAttrs(
            self.step(stacks, wanted), self.attrs.length, len(stacks), len(self.initial),
            not self.attrs.reverse,
        )  # fmt: skip
        made = self.b.emit(scan, operands, attrs)
        found: list[Value | None] = [None] * len(inputs)
        carried = count + self.attrs.carries
        places = [*wanted, *(count + i for i in self.moving), *(carried + i for i in self.summed)]
        for place, value in zip(places, made):
            found[place] = value
        return tuple(found)

    def step(self, stacks: Sequence[Value], wanted: Sequence[int]) -> Function:
        """The backward body: cotangents of the `wanted` slices, of the carries, and the sums."""
        b = Builder()
        slices = [b.param(s.name, s.type.with_dims(s.type.dims[1:])) for s in stacks]
        flowing = [b.param(f"d_{v.name}", v.type) for v in self.initial]
        captured = [b.param(c.name, c.type) for c in self.captured]
        count = len(self.slices) + self.attrs.carries
        taken = [*slices[:count], *captured]
        results = self.again(b, taken)
        seeds: dict[Value, Value] = {}
        arriving = [(results[i], g) for (i, _), g in zip(self.flowing, slices[count:])]
        arriving += [(results[self.attrs.yields + i], g) for i, g in zip(self.moving, flowing)]
        for value, g in arriving:
            seeds[value] = add(b, seeds[value], g) if value in seeds else g
        floats = [value for value in taken if is_float(value.type.dtype)]
        found = cotangents(b, tuple(b.eqns), seeds, floats)

        def of(value: Value) -> Value:
            return found.get(value) or zeros(b, value.type)

        sums = flowing[len(self.moving) :]
        return b.function("body", [
            *(of(taken[i]) for i in wanted),
            *(of(taken[len(self.slices) + i]) for i in self.moving),
            *(add(b, s, of(captured[i])) for i, s in zip(self.summed, sums)),
        ])  # fmt: skip

    def again(self, b: Builder, taken: Sequence[Value]) -> list[Value]:
        """The results of the forward step."""
        env = dict(zip(self.body.params, taken))
        for eqn in self.body.eqns:
            env.update(zip(eqn.outputs, b.copy(eqn, [env[v] for v in eqn.inputs])))
        b.eqns[:] = [keeping_carries(b, eqn) for eqn in b.eqns]
        return [env[result] for result in self.body.results]


# --- samples ------------------------------------------------------------------------------------

Body = Callable[[Builder, list[Value]], Sequence[Value]]


def _sample(
    inputs: Sequence[TensorType],
    length: Dim,
    elements: int,
    carries: int,
    body: Body,
    reverse: bool = False,
    rtol: float = 1e-5,
) -> Sample:
    b = Builder()
    slices = [t.with_dims(t.dims[1:]) for t in inputs[:elements]]
    types = [*slices, *inputs[elements:]]
    params = [b.param(f"p{i}", type) for i, type in enumerate(types)]
    function = b.function("body", body(b, params))
    attrs = ScanAttrs(function, length, elements, carries, reverse)
    return Sample(tuple(inputs), attrs, low=-1, high=1, rtol=rtol, why="step after step")


def _recurrent(b: Builder, p: list[Value]) -> Sequence[Value]:
    x, h, w = p
    next_h: Value = tanh(b, add(b, x, matmul(b, h, w)))
    return next_h, next_h


def _total(b: Builder, p: list[Value]) -> Sequence[Value]:
    x, total = p
    return (add(b, total, x),)


def _fibonacci(b: Builder, p: list[Value]) -> Sequence[Value]:
    x, low, high = p
    return mul(b, x, low), low, high, add(b, low, high)


def _swapped(b: Builder, p: list[Value]) -> Sequence[Value]:
    x, left, right = p
    return x, right, add(b, left, x)


scan: Op = Op(
    "scan",
    attrs=ScanAttrs,
    type_rule=_scan_type,
    reference=_scan_reference,
    gradient=_scan_gradient,
    compute=NoFacet("a loop around kernels, made by lowering/scan.py; no kernel itself"),
    samples=(
        _sample(
            (tensor("f32", 4, 2, 3), tensor("f32", 2, 3), tensor("f32", 3, 3)),
            4, 1, 1, _recurrent,
        ),
        _sample(
            (tensor("f32", sym("N"), 2, 3), tensor("f32", 2, 3), tensor("f32", 3, 3)),
            sym("N"), 1, 1, _recurrent, reverse=True,
        ),
        _sample((tensor("f64", sym("N")), tensor("f64")), sym("N"), 1, 1, _total),
        _sample((tensor("i64", 5), tensor("i64"), tensor("i64")), 5, 1, 2, _fibonacci),
        _sample((tensor("f32", 3, sym("N")), *[tensor("f32", sym("N"))] * 2), 3, 1, 2, _swapped),
    ),
)  # fmt: skip

OPS: tuple[Op, ...] = (scan,)
