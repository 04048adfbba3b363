"""Runs what is worth it in 16 bits: `--precision bf16` (or f16), decided before gradients are made.

    matmul(x, w)            becomes   matmul(cast[bf16](x), cast[bf16](w)), used as f32 again

Products of matrices, convolutions and attention take 16-bit operands and sum in f32. Everything
else (sums, norms, exponentials, losses, updates) stays f32; in a fused kernel that costs nothing.
Ops that only move, choose or drop elements give the same result before and after rounding: they
follow what they are fed, or come behind the cast where nothing needs all bits. A value is cast
once. Parameters and results keep their types, so weights and optimiser states are f32, and
gradients reach them in f32. f16 has few exponents: its gradients are those of a scaled loss.

In training, relu is such an op, so that it is kept in 16 bits; else it is done in f32 and rounded
once. Without gradients, what convolutions read is in 16 bits to all that read it, as the sums of a
residual network are: they would be kept twice.

Input: a Program before its training step is joined. Output: the same program to its callers.
Non-goals: f64 and what is 16 bits in the source already, which stay as they are.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Literal, cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Program, Value, body_of, with_body
from dslc.ir.op import Op
from dslc.ir.rewrite import drop_dead
from dslc.ir.types import DType
from dslc.ops.attention import attention
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import cast as cast_op
from dslc.ops.constants import relabel, stop_gradient
from dslc.ops.conv import conv2d
from dslc.ops.elementwise import neg, relu
from dslc.ops.linalg import matmul
from dslc.ops.pool import max_pool2d
from dslc.ops.shape import concat, reshape, transpose
from dslc.ops.slicing import pad, slice_
from dslc.passes.kept import keep_weights

Precision = Literal["f32", "bf16", "f16", "bf16-weights", "int8-weights"]
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16", "f16", "bf16-weights", "int8-weights")

# Sums of products. Of attention, the first operands (query, keys, values) are multiplied.
CONTRACTIONS: tuple[Op, ...] = (matmul, conv2d, attention)
# Rounding before is rounding after: those that move elements, or fewer of them, and others.
MOVES: tuple[Op, ...] = (
    max_pool2d, reshape, relabel, transpose, broadcast, concat, slice_, pad, stop_gradient,
)  # fmt: skip
EXACT: tuple[Op, ...] = (*MOVES, relu, neg)


def with_precision(program: Program, precision: Precision) -> Program:
    """The program computed in `precision`, its training included."""
    if precision == "f32":
        return program
    if precision == "bf16-weights" or precision == "int8-weights":
        return keep_weights(program, precision)
    entries = tuple(
        replace(entry, function=narrowed(entry.function, precision, trains=False))
        for entry in program.entries
    )
    plan = program.training
    if plan is not None:
        function = narrowed(plan.loss.function, precision)
        loss = replace(plan.loss, function=function)
        plan = replace(plan, loss=loss, scaled=precision == "f16")
    return replace(program, entries=entries, training=plan)


def narrowed(function: Function, dtype: DType, trains: bool = True) -> Function:
    """The function with its f32 contractions, those in loops too, in `dtype`. Of one that `trains`
    what is kept for the backward pass is to be in 16 bits."""
    exact = EXACT if trains else MOVES
    rounded = frozenset[Value]() if trains else _images(function)
    walk = _Walk(Builder.over(function), dtype, exact, _wanted_narrow(function, exact), rounded)
    for param in function.params:
        walk.wide[param] = param
    for eqn in function.eqns:
        with walk.b.at(eqn.origin):
            walk.convert(eqn)
    results = [walk.as_wide(result) for result in function.results]
    return drop_dead(walk.b.function(function.name, results))


def _images(function: Function) -> frozenset[Value]:
    """What convolutions read of what the function makes."""
    read = {eqn.inputs[0] for eqn in function.eqns if eqn.op is conv2d and _is_contraction(eqn)}
    made = {value for eqn in function.eqns for value in eqn.outputs}
    return frozenset(read & made) - {*function.results}


def _is_contraction(eqn: Eqn) -> bool:
    return eqn.op in CONTRACTIONS and any(v.type.dtype == "f32" for v in eqn.inputs)


def _factors(eqn: Eqn) -> int:
    """How many of a contraction's operands are multiplied."""
    return 3 if eqn.op is attention else len(eqn.inputs)


def _is_exact(eqn: Eqn, exact: tuple[Op, ...]) -> bool:
    return eqn.op in exact and eqn.outputs[0].type.dtype == "f32"


def _wanted_narrow(function: Function, exact: tuple[Op, ...]) -> set[Value]:
    """What is read by contractions alone, directly or through exact ops."""
    other = set(function.results)
    read: set[Value] = set()
    for eqn in reversed(function.eqns):
        read.update(eqn.inputs)
        follows = _is_exact(eqn, exact) and eqn.outputs[0] in read and eqn.outputs[0] not in other
        if not follows:
            other.update(eqn.inputs[_factors(eqn) :] if _is_contraction(eqn) else eqn.inputs)
    return read - other


@dataclass(slots=True)
class _Walk:
    """Old values and what stands for them now: in their own dtype, in 16 bits, or both. `native`
    ones were made in 16 bits."""

    b: Builder
    dtype: DType
    exact: tuple[Op, ...]
    wanted: set[Value]
    rounded: frozenset[Value]
    wide: dict[Value, Value] = field(default_factory=dict)
    narrow: dict[Value, Value] = field(default_factory=dict)
    native: set[Value] = field(default_factory=set)

    def as_wide(self, old: Value) -> Value:
        """The value in its own dtype."""
        if old not in self.wide:
            self.wide[old] = cast(Value, cast_op(self.b, self.narrow[old], dtype="f32"))
        return self.wide[old]

    def as_narrow(self, old: Value) -> Value:
        """The value in 16 bits, where it is f32."""
        if old.type.dtype != "f32":
            return self.as_wide(old)
        if old not in self.narrow:
            self.narrow[old] = cast(Value, cast_op(self.b, self.wide[old], dtype=self.dtype))
        return self.narrow[old]

    def convert(self, eqn: Eqn) -> None:
        if _is_contraction(eqn) or (_is_exact(eqn, self.exact) and self.follows(eqn)):
            inputs = [self.as_narrow(value) for value in eqn.inputs[: _factors(eqn)]]
            inputs += [self.as_wide(value) for value in eqn.inputs[_factors(eqn) :]]
            made = self.b.copy(eqn, inputs)
            self.narrow[eqn.outputs[0]] = made[0]
            self.native.add(eqn.outputs[0])
            self.wide.update(zip(eqn.outputs[1:], made[1:]))  # the sums of attention's rows
            return
        body = body_of(eqn)
        if body is not None:
            eqn = with_body(eqn, narrowed(body, self.dtype, trains=self.exact == EXACT))
        inputs = [self.as_wide(value) for value in eqn.inputs]
        if all(new is old for new, old in zip(inputs, eqn.inputs)):
            self.b.keep(eqn)
            self.wide.update(zip(eqn.outputs, eqn.outputs))
        else:
            self.wide.update(zip(eqn.outputs, self.b.copy(eqn, inputs)))
        for value in self.rounded.intersection(eqn.outputs):
            self.as_narrow(value)
            del self.wide[value]

    def follows(self, eqn: Eqn) -> bool:
        """Whether an exact op is fed with 16 bits, or what it gives is wanted in 16 bits only."""
        fed = [value for value in eqn.inputs if value.type.dtype == "f32"]
        return eqn.outputs[0] in self.wanted or all(value in self.native for value in fed)
