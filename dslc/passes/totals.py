"""Sums that follow from a sum which is there already.

    sum(-x)  =  -sum(x)        sum(x * spread)  =  sum(x) * what is spread
    sum(x + d)  =  sum(x)      where d = y - spread(mean of y), which adds up to 0

`spread` is a broadcast along all axes that are summed over. The gradient of a batch norm for the
mean is such a sum: the bias has the sum of the cotangent, so that two passes over an image are
saved. Nothing is done that could cancel: what follows is as exact as the sum there is.

Input and output: a Function, after gradients are made. Non-goals: sums that follow from several;
floats of 16 bits; bodies of scans.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim, product
from dslc.ir.rewrite import Context, rewrite
from dslc.ops.broadcast import BroadcastAttrs, ReduceAttrs, broadcast, reduce_sum
from dslc.ops.constants import ConstantAttrs, DimAttrs, constant, dim_value, fill
from dslc.ops.constants import cast as convert
from dslc.ops.elementwise import add, div, mul, neg, sub
from dslc.ops.shape import reshape
from dslc.passes.match import producer_of

DEPTH = 8  # operations between a sum and what it is made of

Axes = tuple[int, ...]


def totals(function: Function) -> Function:
    known = {
        (eqn.inputs[0], cast(ReduceAttrs, eqn.attrs).axes)
        for eqn in function.eqns
        if eqn.op is reduce_sum
    }

    def from_known(eqn: Eqn, b: Builder, context: Context) -> Value | None:
        """The sum, made of a known one."""
        if eqn.op is not reduce_sum or eqn.outputs[0].type.dtype not in ("f32", "f64"):
            return None
        sums = _Sums(context, known, cast(ReduceAttrs, eqn.attrs).axes)
        term = sums.made(eqn.inputs[0], DEPTH)
        return None if term is None else sums.emit(b, term, eqn.outputs[0])

    return rewrite(function, [from_known])


@dataclass(frozen=True, slots=True)
class _Term:
    """What a sum is: that of `value` times `factors`, which are spread; without a value 0."""

    value: Value | None
    factors: tuple[Value, ...] = ()
    negative: bool = False

    def negated(self) -> _Term:
        return replace(self, negative=not self.negative)


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over `axes`; `known`: what is summed over which axes."""

    context: Context
    known: Container[tuple[Value, Axes]]
    axes: Axes

    def of(self, value: Value, depth: int) -> _Term | None:
        """The value's sum, if it is known or follows from a known one."""
        if (value, self.axes) in self.known:
            return _Term(value)
        return self.made(value, depth)

    def made(self, value: Value, depth: int) -> _Term | None:
        """The value's sum, if it follows from that of what it is made of."""
        made = self.context.producer(value)
        if made is None or depth == 0:
            return None
        if self.is_centred(made):
            return _Term(None)
        if made.op is neg:
            term = self.of(made.inputs[0], depth - 1)
            return None if term is None else term.negated()
        if made.op is mul:
            return self.of_product(made, depth)
        if made.op not in (add, sub):
            return None
        left, right = (self.of(v, depth - 1) for v in made.inputs)
        if left is None or right is None or None not in (left.value, right.value):
            return None
        if right.value is None:
            return left
        return right if made.op is add else right.negated()

    def of_product(self, made: Eqn, depth: int) -> _Term | None:
        rest = [value for value in made.inputs if not self.is_spread(value)]
        if len(rest) != 1:
            return None
        term = self.of(rest[0], depth - 1)
        if term is None or term.value is None:
            return term
        factor = made.inputs[0] if rest[0] is made.inputs[1] else made.inputs[1]
        return replace(term, factors=(*term.factors, factor))

    def is_spread(self, value: Value) -> bool:
        """Whether the value is the same along all axes that are summed over."""
        made = self.context.producer(value)
        if made is None or made.op is not broadcast:
            return made is not None and made.op is constant
        placed = zip(cast(BroadcastAttrs, made.attrs).axes, made.inputs[0].type.dims)
        return all(dim == 1 for axis, dim in placed if axis in self.axes)

    def is_centred(self, made: Eqn) -> bool:
        """Whether it is y - spread(mean of y), the mean over all axes that are summed over."""
        if made.op is not sub or not self.is_spread(made.inputs[1]):
            return False
        quotient = producer_of(self.unspread(made.inputs[1]), div, self.context)
        if quotient is None:
            return False
        total = producer_of(self.unspread(quotient.inputs[0]), reduce_sum, self.context)
        if total is None or cast(ReduceAttrs, total.attrs).axes != self.axes:
            return False
        y, dims = made.inputs[0], made.inputs[0].type.dims
        count = product([dims[axis] for axis in self.axes])
        return total.inputs[0] is y and self.is_number(quotient.inputs[1], count)

    def is_number(self, value: Value, count: Dim) -> bool:
        """Whether the value is `count` everywhere."""
        made = self.context.producer(self.unspread(value))
        if made is not None and made.op is convert:
            made = self.context.producer(made.inputs[0])
        if made is None:
            return False
        if made.op is dim_value:
            return cast(DimAttrs, made.attrs).dim == count
        return made.op is constant and cast(ConstantAttrs, made.attrs).value == count

    def unspread(self, value: Value) -> Value:
        """What is repeated or written with other dims."""
        made = self.context.producer(value)
        while made is not None and made.op in (broadcast, reshape):
            (value,) = made.inputs
            made = self.context.producer(value)
        return value

    def emit(self, b: Builder, term: _Term, old: Value) -> Value:
        """The sum that takes the place of `old`."""
        if term.value is None:
            return fill(b, 0.0, old.type)
        total = cast(Value, reduce_sum(b, term.value, axes=self.axes))
        for factor in term.factors:
            total = cast(Value, mul(b, total, self.source(b, factor)))
        return cast(Value, neg(b, total)) if term.negative else total

    def source(self, b: Builder, value: Value) -> Value:
        """What is spread, with the dims of the sum."""
        made = cast(Eqn, self.context.producer(value))
        kept = [axis for axis in range(value.type.rank) if axis not in self.axes]
        dims = tuple(value.type.dims[axis] for axis in kept)
        if made.op is constant:
            number = cast(ConstantAttrs, made.attrs).value
            return fill(b, float(number), value.type.with_dims(dims))
        (inner,), placed = made.inputs, cast(BroadcastAttrs, made.attrs).axes
        left = [(a, d) for a, d in zip(placed, inner.type.dims) if a not in self.axes]
        inner = cast(Value, reshape(b, inner, dims=tuple(d for _, d in left)))
        axes = tuple(kept.index(axis) for axis, _ in left)
        return cast(Value, broadcast(b, inner, dims=dims, axes=axes))
