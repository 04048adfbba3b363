"""Keeps weights of products in bf16: `--precision bf16-weights`.

    matmul(x, transpose(w))   becomes   matmul(x, transpose(cast[f32](cast[bf16](w))))

where w is a weight and nothing but moves stands between. Arithmetic stays f32. The lowering packs
the bf16 once, at load, and widens it in registers: where products read each weight once, as in
decoding, time is bytes. Input: a Program without training. Output: the same to its callers.

Non-goals: weights of convolutions, and of products in loops.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Eqn, Function, Program, Value
from dslc.ir.op import Op
from dslc.ir.rewrite import drop_dead, with_inputs
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import cast as cast_op
from dslc.ops.constants import relabel
from dslc.ops.linalg import matmul
from dslc.ops.shape import reshape, transpose

MOVES: tuple[Op, ...] = (reshape, relabel, transpose, broadcast)


def keep_weights(program: Program) -> Program:
    """The program whose products read their weights from bf16."""
    return replace(program, entries=tuple(map(_entry, program.entries)))


def _entry(entry: Entry) -> Entry:
    function = entry.function
    weights = {
        param
        for param, argument in zip(function.params, entry.arguments)
        if argument.role == "weight" and param.type.dtype == "f32"
    }
    return replace(entry, function=_kept(function, weights))


def _kept(function: Function, weights: set[Value]) -> Function:
    b = Builder.over(function)
    moved = {weight: weight for weight in weights}  # what is a weight, moved: the weight
    rounded: dict[Value, Value] = {}
    for eqn in function.eqns:
        if eqn.op in MOVES and eqn.inputs[0] in moved:
            moved[eqn.outputs[0]] = moved[eqn.inputs[0]]
        if eqn.op is matmul and eqn.inputs[1] in moved:
            with b.at(eqn.origin):
                right = _rounded(b, eqn.inputs[1], function, moved, rounded)
            eqn = with_inputs(eqn, {eqn.inputs[1]: right}) if eqn.inputs[0] not in moved else eqn
        b.keep(eqn)
    return drop_dead(b.function(function.name, function.results))


def _rounded(
    b: Builder, value: Value, function: Function, moved: dict[Value, Value],
    rounded: dict[Value, Value],
) -> Value:  # fmt: skip
    """The same moves of the weight that was rounded."""
    if value not in rounded:
        if moved[value] is value:
            half = cast(Value, cast_op(b, value, dtype="bf16"))
            rounded[value] = cast(Value, cast_op(b, half, dtype="f32"))
        else:
            eqn = _producer(function, value)
            source = _rounded(b, eqn.inputs[0], function, moved, rounded)
            (rounded[value],) = b.copy(eqn, [source])
    return rounded[value]


def _producer(function: Function, value: Value) -> Eqn:
    return next(eqn for eqn in function.eqns if value in eqn.outputs)
