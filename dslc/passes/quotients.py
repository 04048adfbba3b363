"""Divides a softmax's rows by multiplying them.

    exp(x - max) / sum    becomes    exp(x - max) * (1 / sum)

A division takes several times as long as a product, and a row has one divisor: so the quotient is
taken once for each row. It is off by one rounding more. The sum is between 1 and the length of the
row, for one of its terms is exp(0): one over it neither overflows nor loses digits.

Input and output: a Function, after gradients are made. Non-goals: other divisors, which may be
anything; floats of 16 bits, which would round the factor.
"""

from __future__ import annotations

from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.rewrite import Context, rewrite
from dslc.ops.broadcast import BroadcastAttrs, broadcast, reduce_sum
from dslc.ops.constants import constant
from dslc.ops.elementwise import div, exp, mul, sub
from dslc.ops.reduce import reduce_max
from dslc.ops.shape import reshape
from dslc.passes.match import producer_of


def quotients(function: Function) -> Function:
    return rewrite(function, [by_product])


def by_product(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """x / spread(sum) as x * spread(1 / sum)."""
    if eqn.op is not div or eqn.outputs[0].type.dtype != "f32":
        return None
    x, divisor = eqn.inputs
    spread = producer_of(divisor, broadcast, context)
    if spread is None or spread.inputs[0].type.size == divisor.type.size:
        return None
    (rows,) = spread.inputs
    if not _is_sum_of_softmax(rows, context):
        return None
    inverse = div(b, constant(b, value=1.0, type=rows.type), rows)
    attrs = cast(BroadcastAttrs, spread.attrs)
    factor = broadcast(b, inverse, dims=attrs.dims, axes=attrs.axes)
    return cast(Value, mul(b, x, factor))


def _is_sum_of_softmax(value: Value, context: Context) -> bool:
    """Whether it is a sum over what reduce_max was taken over, of exp(x - max)."""
    total = producer_of(_unspread(value, context), reduce_sum, context)
    power = total and producer_of(total.inputs[0], exp, context)
    less = power and producer_of(power.inputs[0], sub, context)
    if total is None or less is None:
        return False
    x, top = less.inputs
    most = producer_of(_unspread(top, context), reduce_max, context)
    return most is not None and most.inputs[0] is x and most.attrs == total.attrs


def _unspread(value: Value, context: Context) -> Value:
    """What is repeated or written with other dims."""
    eqn = context.producer(value)
    while eqn is not None and eqn.op in (broadcast, reshape):
        (value,) = eqn.inputs
        eqn = context.producer(value)
    return value
