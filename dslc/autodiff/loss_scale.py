"""Keeps the gradients of f16 within its range, by scaling the loss that they are taken of.

Small gradients would be 0 in f16. So the loss is multiplied by a power of two, the gradients are
divided by it where they are f32 again, and the power follows what they do: when one of them is not
finite the update is skipped and the scale is halved; after INTERVAL good updates it is doubled.
That is `torch.amp.GradScaler` with its default settings. The states are optimiser states, so
checkpoints hold them: `optimizer.loss_scale` is the power of two beyond FIRST,
`optimizer.loss_scale_good` counts good updates since the scale last changed,
`optimizer.loss_scale_skipped` counts skipped ones.
Non-goals: when it is needed (`passes/precision.py` says so in the plan).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast as typed

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Function, Value
from dslc.ir.types import TensorType
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import cast, constant
from dslc.ops.elementwise import absolute, add, div, mul, power_op, sub
from dslc.ops.logic import eq, logical_and, logical_not, lt, select
from dslc.ops.reduce import reduce_max

SCALE = "optimizer.loss_scale"
GOOD = "optimizer.loss_scale_good"
SKIPPED = "optimizer.loss_scale_skipped"
STATES = (SCALE, GOOD, SKIPPED)
STATE = TensorType("i64")

FIRST = 16
INTERVAL = 2000


def with_scaled_loss(function: Function) -> Function:
    """The loss's function with SCALE as one more parameter and the scaled loss, its first result,
    as one more result."""
    b = Builder.over(function)
    for eqn in function.eqns:
        b.keep(eqn)
    loss = function.results[0]
    factor = _factor(b, b.param(SCALE, STATE))
    scaled = mul(b, loss, cast(b, factor, dtype=loss.type.dtype))
    return b.function(function.name, (*function.results, scaled))


def _factor(b: Builder, scale: Value) -> Value:
    """What the loss is multiplied by, f32."""
    exponent = add(b, scale, _whole(b, FIRST))
    two = constant(b, value=2.0, type=TensorType("f32"))
    return typed(Value, power_op(b, two, cast(b, exponent, dtype="f32")))


@dataclass(frozen=True, slots=True)
class Scaled:
    """Gradients of the loss itself, whether all are finite, and the next values of STATES where an
    update is due."""

    grads: list[Value]
    finite: Value
    states: tuple[Value, Value, Value]


def unscaled(b: Builder, grads: Sequence[Value], states: Sequence[Value]) -> Scaled:
    """From gradients of the scaled loss, and STATES as they are."""
    scale, good, skipped = states
    factor, one = _factor(b, scale), _whole(b, 1)
    finite = _all_finite(b, grads)
    risen = add(b, good, one)
    grows = logical_and(b, finite, eq(b, risen, _whole(b, INTERVAL)))
    kept = logical_and(b, finite, logical_not(b, grows))
    after = select(b, finite, scale, sub(b, scale, one))
    nexts = (
        select(b, grows, add(b, scale, one), after),
        select(b, kept, risen, _whole(b, 0)),
        select(b, finite, skipped, add(b, skipped, one)),
    )
    return Scaled([_divided(b, g, factor) for g in grads], finite, nexts)


def _all_finite(b: Builder, grads: Sequence[Value]) -> Value:
    """A bool. The largest of a gradient's sizes is NaN where one of them is."""
    finite: Value = constant(b, value=True, type=TensorType("bool"))
    for g in grads:
        largest: Value = absolute(b, g)
        if g.type.dims:
            largest = reduce_max(b, largest, axes=tuple(range(g.type.rank)))
        infinity = constant(b, value=math.inf, type=largest.type)
        finite = logical_and(b, finite, lt(b, largest, infinity))
    return finite


def _divided(b: Builder, g: Value, factor: Value) -> Value:
    by = factor if g.type.dtype == "f32" else cast(b, factor, dtype=g.type.dtype)
    return typed(
        Value, div(b, g, broadcast(b, by, dims=g.type.dims, axes=()) if g.type.dims else by)
    )


def _whole(b: Builder, value: int) -> Value:
    return typed(Value, constant(b, value=value, type=STATE))
