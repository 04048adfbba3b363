"""Keeps weights of products in fewer bits: `--precision bf16-weights` and `int8-weights`.

    matmul(x, transpose(w))   becomes   matmul(x, transpose(cast[f32](cast[bf16](w))))
                              or        matmul(x, cast[f32](cast[i8](round(transpose(w) / s)))) * s

where w is a weight and nothing but moves stands between. s has a number for each column of the
product: the largest size in the column / 127. Arithmetic stays f32. The lowering packs what is
cast once, at load, and widens it in registers: where products read each weight once, as in
decoding, time is bytes. Input: a Program without training. Output: the same to its callers.

Non-goals: weights of convolutions, and of products in loops; for int8, of batches of products.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Literal, cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Eqn, Function, Program, Value
from dslc.ir.op import Op
from dslc.ir.rewrite import drop_dead, with_inputs
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import cast as cast_op
from dslc.ops.constants import fill, relabel
from dslc.ops.elementwise import absolute, div, maximum, mul, rounded
from dslc.ops.linalg import MatmulAttrs, matmul
from dslc.ops.reduce import reduce_max
from dslc.ops.shape import reshape, transpose

Kept = Literal["bf16-weights", "int8-weights"]
MOVES: tuple[Op, ...] = (reshape, relabel, transpose, broadcast)
STEPS = 127.0  # of int8, on either side of 0
LEAST = 1e-30  # what a column's largest size counts as, at least: nothing is divided by 0


def keep_weights(program: Program, kept: Kept) -> Program:
    """The program whose products read their weights from bf16 or int8."""
    return replace(program, entries=tuple(_entry(entry, kept) for entry in program.entries))


def _entry(entry: Entry, kept: Kept) -> Entry:
    function = entry.function
    weights = {
        param: param
        for param, argument in zip(function.params, entry.arguments)
        if argument.role == "weight" and param.type.dtype == "f32"
    }
    walk = _Walk(Builder.over(function), function, weights)
    product = walk.by_bf16 if kept == "bf16-weights" else walk.by_int8
    for eqn in function.eqns:
        if eqn.op in MOVES and eqn.inputs[0] in walk.moved:
            walk.moved[eqn.outputs[0]] = walk.moved[eqn.inputs[0]]
        if eqn.op is matmul and eqn.inputs[1] in walk.moved and eqn.inputs[0] not in walk.moved:
            with walk.b.at(eqn.origin):
                product(eqn)
        else:
            walk.b.keep(with_inputs(eqn, walk.replaced))
    results = [walk.replaced.get(result, result) for result in function.results]
    return replace(entry, function=drop_dead(walk.b.function(function.name, results)))


@dataclass(slots=True)
class _Walk:
    """A function's equations, one after the other, with products by rounded weights."""

    b: Builder
    function: Function
    moved: dict[Value, Value]  # what is a weight, moved: the weight
    halves: dict[Value, Value] = field(default_factory=dict)
    steps: dict[tuple[Value, int], tuple[Value, Value]] = field(default_factory=dict)
    replaced: dict[Value, Value] = field(default_factory=dict)

    def by_bf16(self, eqn: Eqn) -> None:
        eqn = with_inputs(eqn, self.replaced)
        self.b.keep(with_inputs(eqn, {eqn.inputs[1]: self.rounded(eqn.inputs[1])}))

    def rounded(self, value: Value) -> Value:
        """The same moves of the weight that was rounded."""
        if value not in self.halves:
            if self.moved[value] is value:
                half = cast(Value, cast_op(self.b, value, dtype="bf16"))
                self.halves[value] = cast(Value, cast_op(self.b, half, dtype="f32"))
            else:
                eqn = next(eqn for eqn in self.function.eqns if value in eqn.outputs)
                (self.halves[value],) = self.b.copy(eqn, [self.rounded(eqn.inputs[0])])
        return self.halves[value]

    def by_int8(self, eqn: Eqn) -> None:
        eqn = with_inputs(eqn, self.replaced)
        x, w = eqn.inputs
        if (x.type.rank, w.type.rank) != (2, 2) or not w.type.is_static or 0 in w.type.dims:
            self.b.keep(eqn)
            return
        columns = 0 if cast(MatmulAttrs, eqn.attrs).transpose_b else 1
        if (w, columns) not in self.steps:
            self.steps[w, columns] = self.in_steps(w, columns)
        steps, size = self.steps[w, columns]
        whole = cast(Value, cast_op(self.b, steps, dtype="f32"))
        (total,) = self.b.copy(eqn, [x, whole])
        sizes = cast(Value, broadcast(self.b, size, dims=total.type.dims, axes=(1,)))
        self.replaced[eqn.outputs[0]] = cast(Value, mul(self.b, total, sizes))

    def in_steps(self, w: Value, columns: int) -> tuple[Value, Value]:
        """The i8 numbers of steps that the weights are, and the size of a step in each column,
        which lie along the axis `columns`."""
        b = self.b
        largest = cast(Value, reduce_max(b, absolute(b, w), axes=(1 - columns,)))
        largest = cast(Value, maximum(b, largest, fill(b, LEAST, largest.type)))
        size = cast(Value, div(b, largest, fill(b, STEPS, largest.type)))
        sizes = broadcast(b, size, dims=w.type.dims, axes=(columns,))
        return cast(Value, cast_op(b, rounded(b, div(b, w, sizes)), dtype="i8")), size
