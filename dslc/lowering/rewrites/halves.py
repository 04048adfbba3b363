"""Contractions of f16 and bf16 on a CPU, by the kernels there are.

    matmul(x, w) of f16    becomes   cast[f16](matmul(cast[f32](x), cast[f32](w)))
    matmul(x, w) of bf16   becomes   cast[bf16](matmul_pairs(pairs of x, pairs of w))
    conv2d_weight_gradient(x, g)     cast[bf16](conv2d_weight_gradient[wide](x, g))

The second is for CPUs with dot products of bf16, twice as fast as f32, the third for those with
registers that hold matrices of it. Elsewhere the f32 kernels do the work: products are exact in
f32, sums are kept in it, and casts are fused into what stands around. Attention of bf16 stays where
registers hold matrices. In an inference entry the weights are converted once, at load. A sum that
is widened again is not rounded on the way, except in a training step where it would be kept for the
backward pass in 32 bits then. Input and output: an Entry, loops included.

Non-goals: TVM (this runs in the user's process); packing weights (`pack.py` does, before: by pairs;
after: what was widened).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Eqn, Function, Value
from dslc.ir.op import Op
from dslc.ir.rewrite import Context, Rule, drop_dead, map_bodies, rewrite, with_inputs
from dslc.lowering.rewrites.activations import keep_in_16_bits
from dslc.ops.attention import attention, attention_gradient
from dslc.ops.attention_formula import AttentionAttrs, has_few_queries
from dslc.ops.constants import cast as cast_op
from dslc.ops.conv import conv2d, conv2d_input_gradient, conv2d_weight_gradient
from dslc.ops.linalg import MatmulAttrs, matmul
from dslc.ops.packed import conv2d_packed, matmul_packed
from dslc.ops.pairs import matmul_pairs
from dslc.ops.shape import reshape, transpose
from dslc.ops.slicing import pad
from dslc.ops.windows import ConvWeightGradientAttrs

CONTRACTIONS: tuple[Op, ...] = (
    matmul, conv2d, conv2d_input_gradient, conv2d_weight_gradient, attention, attention_gradient,
)  # fmt: skip
SUMS: tuple[Op, ...] = (*CONTRACTIONS, matmul_pairs, matmul_packed, conv2d_packed)


def halves(entry: Entry, dots: bool, matrices: bool = False) -> Entry:
    """The entry without contractions of 16 bits but those that have kernels; `dots`: whether the
    CPU has dot products of bf16, `matrices`: whether also registers that hold matrices of it."""
    rules: list[Rule] = [paired, widened] if dots else [widened]
    if matrices:
        rules = [paired, summed, partial(_widened_but, _is_by_matrices)]
    function = rewrite(entry.function, rules)
    weights = [
        value for value, argument in zip(function.params, entry.arguments)
        if argument.role == "weight" and argument.name in entry.updates
    ]  # fmt: skip
    trains = bool(weights)
    if trains and matrices:
        function = keep_in_16_bits(function, weights)
    return replace(entry, function=unrounded(function, trains, matrices and not trains))


def paired(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """The product of bf16 by pairs."""
    if eqn.op is not matmul or eqn.outputs[0].type.dtype != "bf16":
        return None
    (x, y), attrs = eqn.inputs, cast(MatmulAttrs, eqn.attrs)
    left = pairs_along(b, x, last=not attrs.transpose_a)
    right = pairs_along(b, y, last=attrs.transpose_b)
    made = b.emit(matmul_pairs, (left, right), attrs)[0]
    return cast(Value, cast_op(b, made, dtype="bf16"))


def summed(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """The gradient of a convolution's weights, whose kernel makes pairs of pixels itself, from
    images of known size."""
    if eqn.op is not conv2d_weight_gradient or eqn.outputs[0].type.dtype != "bf16":
        return None
    attrs = cast(ConvWeightGradientAttrs, eqn.attrs)
    sizes = [size for value in eqn.inputs for size in value.type.dims[1:]]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    if attrs.groups != 1 or attrs.layout != "NHWC":
        return None
    made = b.emit(eqn.op, eqn.inputs, replace(attrs, wide=True))[0]
    return cast(Value, cast_op(b, made, dtype="bf16"))


def pairs_along(b: Builder, value: Value, last: bool) -> Value:
    """The value with pairs along its last axis, or the one before it, in a new last axis of 2; a
    zero is added where one is missing."""
    axis = value.type.rank - (1 if last else 2)
    half = (value.type.dims[axis] + 1) // 2
    missing = 2 * half - value.type.dims[axis]
    if missing != 0:
        high = tuple(missing if i == axis else 0 for i in range(value.type.rank))
        value = cast(Value, pad(b, value, low=(0,) * value.type.rank, high=high))
    *outer, width = value.type.dims
    if last:
        return cast(Value, reshape(b, value, dims=(*outer, half, 2)))
    value = cast(Value, reshape(b, value, dims=(*outer[:-1], half, 2, width)))
    rank = value.type.rank
    return cast(Value, transpose(b, value, perm=(*range(rank - 2), rank - 1, rank - 2)))


def widened(eqn: Eqn, b: Builder, context: Context) -> Sequence[Value] | None:
    """The contraction of f32, rounded to what it was of."""
    dtype = eqn.outputs[0].type.dtype
    if eqn.op not in CONTRACTIONS or dtype not in ("f16", "bf16"):
        return None
    inputs = [
        cast(Value, cast_op(b, value, dtype="f32")) if value.type.dtype == dtype else value
        for value in eqn.inputs
    ]
    made = b.emit(eqn.op, inputs, eqn.attrs)
    return [
        cast(Value, cast_op(b, new, dtype=dtype)) if old.type.dtype == dtype else new
        for old, new in zip(eqn.outputs, made)
    ]


def _widened_but(
    kept: Callable[[Eqn], bool], eqn: Eqn, b: Builder, context: Context
) -> Sequence[Value] | None:
    return None if kept(eqn) else widened(eqn, b, context)


def _is_by_matrices(eqn: Eqn) -> bool:
    """Whether it has a kernel of bf16 where registers hold matrices: attention, or its gradient, of
    more than a few queries, which fill some."""
    if eqn.op not in (attention, attention_gradient) or eqn.outputs[0].type.dtype != "bf16":
        return False
    return not has_few_queries(cast(AttentionAttrs, eqn.attrs), eqn.inputs[0].type)


def unrounded(function: Function, trains: bool, waiting: bool = False) -> Function:
    """The function without casts of f32 sums to 16 bits and back. Where it `trains`, what is made
    before the loss, its first result, must be used up at once. With `waiting`, a sum that is stored
    until a later one meets it stays rounded: where products are quick, memory is what counts."""
    function = map_bodies(function, lambda body: unrounded(body, False, waiting))
    uses = _Uses.of(function)
    replaced: dict[Value, Value] = {}
    may_be_kept = trains
    for eqn in function.eqns:
        may_be_kept = may_be_kept and function.results[0] not in eqn.outputs
        source = _sum_rounded(eqn, uses.producers)
        if source is None or (may_be_kept and not _is_used_up(eqn.outputs[0], uses.users)):
            continue
        if not (waiting and uses.waits(source, eqn.outputs[0])):
            replaced[eqn.outputs[0]] = source
    eqns = tuple(with_inputs(eqn, replaced) for eqn in function.eqns)
    results = tuple(replaced.get(result, result) for result in function.results)
    return drop_dead(Function(function.name, function.params, eqns, results))


@dataclass(frozen=True, slots=True)
class _Uses:
    """Who makes and who reads a function's values; the numbers of those who make them."""

    producers: Mapping[Value, Eqn]
    users: Mapping[Value, Sequence[Eqn]]
    numbers: Mapping[Value, int]

    @staticmethod
    def of(function: Function) -> _Uses:
        made = [(out, n, eqn) for n, eqn in enumerate(function.eqns) for out in eqn.outputs]
        users: dict[Value, list[Eqn]] = {}
        for eqn in function.eqns:
            for value in eqn.inputs:
                users.setdefault(value, []).append(eqn)
        return _Uses(
            {out: eqn for out, _, eqn in made}, users, {out: number for out, number, _ in made}
        )  # fmt: skip

    def waits(self, total: Value, value: Value) -> bool:
        """Whether a sum, which is used as `value`, is met by a later one, behind which all that is
        done to either is fused."""
        while len(readers := self.users.get(value, ())) == 1 and readers[0].op.elementwise:
            (reader,) = readers
            if any(self.later(other, total) for other in reader.inputs if other is not value):
                return True
            value = reader.outputs[0]
        return False

    def later(self, value: Value, total: Value) -> bool:
        """Whether a later sum is used as `value`, and for nothing else."""
        while len(self.users[value]) == 1 and value in self.producers:
            eqn = self.producers[value]
            if eqn.op in SUMS:
                return self.numbers[value] > self.numbers[total]
            if not eqn.op.elementwise:
                return False
            value = eqn.inputs[0]
        return False


def _sum_rounded(eqn: Eqn, producers: Mapping[Value, Eqn]) -> Value | None:
    """The contraction's f32 sum, if that is what the equation widens after it was rounded."""
    if eqn.op is not cast_op or eqn.outputs[0].type.dtype != "f32":
        return None
    rounding = producers.get(eqn.inputs[0])
    if rounding is None or rounding.op is not cast_op:
        return None
    made = producers.get(rounding.inputs[0])
    is_sum = made is not None and made.op in SUMS
    return rounding.inputs[0] if is_sum and rounding.inputs[0].type.dtype == "f32" else None


def _is_used_up(value: Value, users: Mapping[Value, Sequence[Eqn]]) -> bool:
    """Whether each step from the value on has one reader, to a cast, a result or a reduction."""
    while len(readers := users.get(value, ())) == 1:
        (reader,) = readers
        if not reader.op.elementwise or reader.op is cast_op:
            return True
        value = reader.outputs[0]
    return not readers
