"""Moves transposes from activations onto weights, where weights stay as they are.

    matmul(reshape(transpose(x)), w)   becomes   matmul(reshape(x), reordered w)

which is what flattening an image before a dense layer is once images are NHWC. The reordered
weight depends on weights alone, so `hoist` moves it to `prepare`.
Input and output: a Program. One with an entry that updates weights stays as it is: there the
weight is the larger of the two.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Eqn, Program, Value
from dslc.ir.dims import product
from dslc.ir.rewrite import Context, rewrite
from dslc.ops.linalg import MatmulAttrs, matmul
from dslc.ops.shape import TransposeAttrs, inverse, reshape, transpose
from dslc.passes.hoist import fixed_variables
from dslc.passes.match import producer_of


def absorb_transposes(program: Program) -> Program:
    fixed = fixed_variables(program)
    if not fixed:
        return program
    return replace(program, entries=tuple(_absorb(entry, fixed) for entry in program.entries))


def _absorb(entry: Entry, fixed: frozenset[str]) -> Entry:
    weights = {
        param
        for param, argument in zip(entry.function.params, entry.arguments)
        if argument.role == "weight" and argument.name in fixed
    }

    def flattened(eqn: Eqn, b: Builder, context: Context) -> Value | None:
        if eqn.op is not matmul or eqn.inputs[1] not in weights:
            return None
        x, w = eqn.inputs
        attrs = cast(MatmulAttrs, eqn.attrs)
        moved = _flattened_transpose(x, context)
        if moved is None or attrs.transpose_a:
            return None
        (source,), perm = moved.inputs, cast(TransposeAttrs, moved.attrs).perm
        flat = reshape(b, source, dims=x.type.dims)
        reordered = _reorder(b, w, moved.outputs[0], inverse(perm), attrs.transpose_b)
        return cast(Value, matmul(b, flat, reordered, transpose_b=attrs.transpose_b))

    return replace(entry, function=rewrite(entry.function, [flattened]))


def _flattened_transpose(x: Value, context: Context) -> Eqn | None:
    """The transpose of all axes but the first, of which `x` is the flattened result."""
    flat = producer_of(x, reshape, context)
    moved = flat and producer_of(flat.inputs[0], transpose, context)
    if moved is None or cast(TransposeAttrs, moved.attrs).perm[0] != 0:
        return None
    first, *rest = moved.outputs[0].type.dims
    return moved if x.type.dims == (first, product(rest)) else None


def _reorder(b: Builder, w: Value, image: Value, order: tuple[int, ...], last: bool) -> Value:
    """`w` with its inner axis (its last one, or else its first) in the order of the source."""
    _, *inner = image.type.dims
    if last:
        apart = reshape(b, w, dims=(w.type.dims[0], *inner))
        moved = transpose(b, apart, perm=(0, *order[1:]))
    else:
        apart = reshape(b, w, dims=(*inner, w.type.dims[1]))
        moved = transpose(b, apart, perm=(*(axis - 1 for axis in order[1:]), len(inner)))
    return cast(Value, reshape(b, moved, dims=w.type.dims))
