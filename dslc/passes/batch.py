"""One equation of a loop's body, for all steps at once.

Input: an equation whose inputs are, at each step, a slice of a stack or the same value. Output: how
to emit the equation over the stacks, which gives the stack of its results; None where there is no
rule. Values that are the same at each step are broadcast where that is free, and else taken as they
are: a product with a weight becomes one product of all rows.
Non-goals: choosing what is worth it (`scans.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, cast

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim
from dslc.ir.op import Op
from dslc.ops import conv, index, pool, reduce, shape, slicing
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.constants import relabel
from dslc.ops.linalg import MatmulAttrs, matmul

Emit = Callable[[Builder, Sequence[Value]], Value]

REDUCTIONS: tuple[Op, ...] = (
    reduce_sum,
    reduce.reduce_max,
    reduce.reduce_min,
    reduce.reduce_prod,
    reduce.reduce_any,
    reduce.reduce_all,
)
# Images whose first dim is a batch; all other inputs are weights.
IMAGES: tuple[Op, ...] = (conv.conv2d, pool.max_pool2d, pool.avg_pool2d)


def for_all_steps(eqn: Eqn, stacked: Sequence[bool], length: Dim) -> Emit | None:
    """How to emit `eqn` over stacks; `stacked` tells which inputs are."""
    op, attrs = eqn.op, cast(Any, eqn.attrs)
    if len(eqn.outputs) != 1 or not any(stacked):
        return None
    if op is matmul:
        return _product(eqn, stacked, length)
    if op in IMAGES:
        return _images(eqn, length) if stacked[0] and not any(stacked[1:]) else None
    if op is index.gather:
        alone = attrs.axis == 0 and not stacked[0]
        return (lambda b, inputs: b.emit(op, inputs, attrs)[0]) if alone else None
    changes = _shifted(eqn, length)
    if changes is None:
        return None
    shifted = replace(attrs, **changes) if changes else attrs

    def emit(b: Builder, inputs: Sequence[Value]) -> Value:
        each = [v if s else spread(b, v, length) for v, s in zip(inputs, stacked)]
        return b.emit(op, each, shifted)[0]

    return emit


def spread(b: Builder, value: Value, length: Dim) -> Value:
    """The stack of the same value at each step."""
    dims = value.type.dims
    axes = tuple(range(1, len(dims) + 1))
    return cast(Value, broadcast(b, value, dims=(length, *dims), axes=axes))


def _shifted(eqn: Eqn, length: Dim) -> dict[str, Any] | None:
    """What changes in the attributes when each tensor has the steps as its first axis."""
    op, attrs = eqn.op, cast(Any, eqn.attrs)
    if op.elementwise:
        return {}
    if op in (shape.reshape, relabel):
        return {"dims": (length, *attrs.dims)}
    if op is broadcast:
        return {"dims": (length, *attrs.dims), "axes": (0, *(axis + 1 for axis in attrs.axes))}
    if op is shape.transpose:
        return {"perm": (0, *(axis + 1 for axis in attrs.perm))}
    if op in REDUCTIONS:
        return {"axes": tuple(axis + 1 for axis in attrs.axes)}
    if op in (shape.concat, reduce.argmax, reduce.argmin, reduce.cumsum, index.take_along):
        return {"axis": attrs.axis + 1}
    if op is slicing.slice_:
        starts, stops = (0, *attrs.starts), (length, *attrs.stops)
        return {"starts": starts, "stops": stops, "steps": (1, *attrs.steps)}
    if op is slicing.pad:
        interior = (0, *attrs.interior) if attrs.interior else ()
        return {"low": (0, *attrs.low), "high": (0, *attrs.high), "interior": interior}
    return None


def _product(eqn: Eqn, stacked: Sequence[bool], length: Dim) -> Emit | None:
    """All products at once; those with one matrix as the product of all rows and the matrix."""
    attrs = cast(MatmulAttrs, eqn.attrs)
    if all(stacked):
        return lambda b, inputs: b.emit(matmul, inputs, attrs)[0]
    if eqn.outputs[0].type.rank != 2:
        return None
    rows, columns = eqn.outputs[0].type.dims

    def left(b: Builder, inputs: Sequence[Value]) -> Value:
        x, w = inputs
        flat = _flat_rows(b, x, turned=attrs.transpose_a)
        made = matmul(b, flat, w, transpose_b=attrs.transpose_b)
        return cast(Value, shape.reshape(b, made, dims=(length, rows, columns)))

    def right(b: Builder, inputs: Sequence[Value]) -> Value:
        w, x = inputs  # (w x)^T = x^T w^T
        flat = _flat_rows(b, x, turned=not attrs.transpose_b)
        made = matmul(b, flat, w, transpose_b=not attrs.transpose_a)
        turned = shape.reshape(b, made, dims=(length, columns, rows))
        return cast(Value, shape.transpose(b, turned, perm=(0, 2, 1)))

    return left if stacked[0] else right


def _flat_rows(b: Builder, x: Value, turned: bool) -> Value:
    """A stack of matrices as the rows of one; `turned` ones are transposed first."""
    if turned:
        x = cast(Value, shape.transpose(b, x, perm=(0, 2, 1)))
    steps, rows, inner = x.type.dims
    return cast(Value, shape.reshape(b, x, dims=(steps * rows, inner)))


def _images(eqn: Eqn, length: Dim) -> Emit:
    """Steps and batch as one batch."""
    out = eqn.outputs[0].type.dims

    def emit(b: Builder, inputs: Sequence[Value]) -> Value:
        x, *weights = inputs
        steps, batch, *rest = x.type.dims
        flat = cast(Value, shape.reshape(b, x, dims=(steps * batch, *rest)))
        (made,) = b.emit(eqn.op, [flat, *weights], eqn.attrs)
        return cast(Value, shape.reshape(b, made, dims=(length, *out)))

    return emit
