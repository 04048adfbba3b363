"""What a training step of bf16 keeps of activations for its backward pass: one value of 16 bits.

    h = cast[f32](sum) + bias      becomes   the same, and  k = cast[bf16](h)
    e = 1 + erf(h / sqrt(2))                 the same
    .. loss ..                               .. loss ..
    gradient by h and e                      gradient by  h' = cast[f32](k), e' = 1 + erf(h' / ..)

h is the sum of a product, which was rounded to 16 bits, and of a bias. What is made of it and of
weights alone, element by element, is made again in the backward pass. PyTorch's autocast keeps the
same bits of h; here the forward pass goes on with all of them. Where registers hold matrices,
to write and read what is kept takes longer than to compute it.

Input and output: the Function of a training step, whose first result is its loss. Non-goals: loops;
what norms, softmax and residual branches keep, which depends on more than one sum.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import field
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.rewrite import drop_dead, with_inputs
from dslc.ops.constants import cast as cast_op
from dslc.ops.elementwise import add
from dslc.ops.shape import reshape


def keep_in_16_bits(function: Function, weights: Collection[Value]) -> Function:
    """The function with such sums kept in 16 bits; `weights`: parameters that are trained."""
    loss = function.results[0]
    first = next((n for n, eqn in enumerate(function.eqns) if loss in eqn.outputs), 0) + 1
    forward, backward = function.eqns[:first], function.eqns[first:]
    activations = _Activations.of(forward, weights)
    walk = _Walk(Builder.over(function), activations.producers)
    for eqn in forward:
        walk.b.keep(eqn)
        for total in activations.totals.intersection(eqn.outputs):
            with walk.b.at(eqn.origin):
                walk.kept[total] = cast(Value, cast_op(walk.b, total, dtype="bf16"))
    for eqn in backward:
        with walk.b.at(eqn.origin):
            again = {v: walk.again(v) for v in eqn.inputs if v in activations.made}
        walk.b.keep(with_inputs(eqn, again))
    return drop_dead(walk.b.function(function.name, function.results))


@dataclass(frozen=True, slots=True)
class _Activations:
    """`totals`: sums with their biases; `made`: f32 values that are made of one of them and of
    weights, and the totals; `producers`: of those that depend on a total."""

    totals: set[Value] = field(default_factory=set)
    made: set[Value] = field(default_factory=set)
    producers: dict[Value, Eqn] = field(default_factory=dict)

    @staticmethod
    def of(eqns: Sequence[Eqn], weights: Collection[Value]) -> _Activations:
        found, fixed, sums, source = (
            _Activations(),
            set(weights),
            set[Value](),
            dict[Value, Value](),
        )
        for eqn in eqns:
            first, *_ = (*eqn.inputs, None)
            moving = [value for value in eqn.inputs if value not in fixed]
            if not moving:
                fixed.update(eqn.outputs)
                continue
            (out, *_) = eqn.outputs
            totals = {source.get(value) for value in moving}
            if (eqn.op is cast_op and first is not None and first.type.dtype == "bf16") or (
                eqn.op is reshape and first in sums
            ):
                sums.add(out)
            elif eqn.op is add and len(moving) == 1 and moving[0] in sums:
                found.totals.add(out)
                found.made.add(out)
                source[out] = out
            elif eqn.op.elementwise and len(totals) == 1 and None not in totals:
                source[out] = cast(Value, totals.pop())
                found.producers[out] = eqn
                if out.type.dtype == "f32":
                    found.made.add(out)
        return found


@dataclass(slots=True)
class _Walk:
    """`kept`: totals in 16 bits; `done`: what was made again."""

    b: Builder
    producers: dict[Value, Eqn]
    kept: dict[Value, Value] = field(default_factory=dict)
    done: dict[Value, Value] = field(default_factory=dict)

    def again(self, value: Value) -> Value:
        """The value, made of what is kept."""
        if value not in self.done:
            if value in self.kept:
                self.done[value] = cast(Value, cast_op(self.b, self.kept[value], dtype="f32"))
            elif value in self.producers:
                eqn = self.producers[value]
                (self.done[value],) = self.b.copy(eqn, [self.again(v) for v in eqn.inputs])
            else:
                return value
        return self.done[value]
