"""Rules of `canonicalize` about ops that move elements: chains become one op, what moves nothing
goes away, and transposes become flags of matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, product
from dslc.ir.rewrite import Context, Rule
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.constants import relabel
from dslc.ops.linalg import matmul
from dslc.ops.reduce import (
    reduce_all,
    reduce_any,
    reduce_max,
    reduce_min,
    reduce_prod,
)
from dslc.ops.shape import concat, reshape, transpose
from dslc.ops.slicing import pad, slice_
from dslc.passes.match import producer_of

ROW = 16  # elements that a transpose moves together: of fewer, turning blocks of them is quicker
REDUCTIONS = (reduce_sum, reduce_max, reduce_min, reduce_prod, reduce_any, reduce_all)


def unmoved(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A reshape, broadcast, relabel, slice, pad, concat or transpose that changes nothing."""
    if not eqn.inputs or eqn.inputs[0].type != eqn.outputs[0].type:
        return None
    x, attrs = eqn.inputs[0], _attrs(eqn)
    if eqn.op in (reshape, relabel) or (eqn.op is concat and len(eqn.inputs) == 1):
        return x
    if eqn.op is transpose and attrs.perm == tuple(range(x.type.rank)):
        return x
    if eqn.op is broadcast and attrs.axes == tuple(range(x.type.rank)):
        return x
    if eqn.op is pad and not any((*attrs.low, *attrs.high, *attrs.interior)):
        return x
    if eqn.op is slice_:
        moved = zip(x.type.dims, attrs.starts, attrs.steps)
        return x if all(dim == 1 or (start, step) == (0, 1) for dim, start, step in moved) else None
    return None


def reshape_chain(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A reshape of a reshape, a relabel of a relabel."""
    if eqn.op not in (reshape, relabel):
        return None
    inner = producer_of(eqn.inputs[0], eqn.op, context)
    if inner is None:
        return None
    return _made(eqn.op(b, inner.inputs[0], dims=eqn.outputs[0].type.dims))


def slice_joined(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A reshape of a slice along the first dim that puts it together with the second: x[1] of many
    caches in one tensor. The reshape comes first, where it is another view of memory, and what
    reads the slice does so where it lies."""
    inner = producer_of(eqn.inputs[0], slice_, context) if eqn.op is reshape else None
    if inner is None or context.uses(eqn.inputs[0]) > 1:
        return None
    (x,), attrs, out = inner.inputs, _attrs(inner), eqn.outputs[0].type
    if x.type.rank < 2 or set(attrs.steps) != {1}:
        return None
    count, second, *rest = x.type.dims
    cut, *whole = inner.outputs[0].type.dims
    if cut == count or whole != [second, *rest] or out.dims != (cut * second, *rest):
        return None
    joined = reshape(b, x, dims=(count * second, *rest))
    starts = (attrs.starts[0] * second, *(0 for _ in rest))
    stops = (attrs.stops[0] * second, *rest)
    return _made(slice_(b, joined, starts=starts, stops=stops, steps=(1,) * out.rank))


def transpose_chain(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A transpose of a transpose."""
    if eqn.op is not transpose:
        return None
    inner = producer_of(eqn.inputs[0], transpose, context)
    if inner is None:
        return None
    first = _attrs(inner).perm
    perm = tuple(first[axis] for axis in _attrs(eqn).perm)
    return _made(transpose(b, inner.inputs[0], perm=perm))


def transpose_of_ones(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A transpose that moves only dims of size 1 past others is a reshape."""
    if eqn.op is not transpose:
        return None
    dims = eqn.inputs[0].type.dims
    wide = [axis for axis in _attrs(eqn).perm if dims[axis] != 1]
    if wide != sorted(wide):
        return None
    return _made(reshape(b, eqn.inputs[0], dims=eqn.outputs[0].type.dims))


def transposed_again(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A transpose of a reshape of a transpose, where the reshape takes dims apart or together:

    - that puts back what was moved is a reshape: (N, L, C) as an image (N, C, 1, L) and as
      (N, L, 1, C);
    - that leaves rows of the first operand whole is one transpose: a matrix turned, then packed in
      panels of its former columns.
    """
    if eqn.op is not transpose:
        return None
    between = producer_of(eqn.inputs[0], reshape, context)
    inner = between and producer_of(between.inputs[0], transpose, context)
    if between is None or inner is None:
        return None
    y, z = between.inputs[0].type.dims, between.outputs[0].type.dims
    blocks = same_elements(y, z)
    if blocks is None:
        return None
    (x,), (out,) = inner.inputs, eqn.outputs
    pieces, olds, news = _pieces(blocks, y, z)
    first: tuple[int, ...] = _attrs(inner).perm
    source = [piece for axis in range(x.type.rank) for piece in olds.get(first.index(axis), ())]
    wanted = [piece for axis in _attrs(eqn).perm for piece in news.get(axis, ())]
    if wanted == source:
        return _made(reshape(b, x, dims=out.type.dims))
    row = pieces[source[-1]]
    alone = context.uses(eqn.inputs[0]) <= 1 and context.uses(between.inputs[0]) <= 1
    if wanted[-1] != source[-1] or not isinstance(row, int) or row < ROW or not alone:
        return None
    apart = reshape(b, x, dims=tuple(pieces[piece] for piece in source))
    moved = transpose(b, apart, perm=tuple(map(source.index, wanted)))
    return _made(reshape(b, moved, dims=out.type.dims))


def transposed_batch(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A batch of transposed matrices with the dims before them taken apart or together: matrices
    are transposed last, where a product does it."""
    if eqn.op is not reshape:
        return None
    (x,), (out,) = eqn.inputs, eqn.outputs
    matrices = _untransposed(x, context)
    if matrices is None or context.uses(x) > 1 or min(x.type.rank, out.type.rank) < 3:
        return None
    rows, columns = x.type.dims[-2:]
    if out.type.dims[-2:] != (rows, columns) or 0 in (rows, columns):
        return None
    before = out.type.dims[:-2]
    made = reshape(b, matrices, dims=(*before, columns, rows))
    order = (*range(len(before)), len(before) + 1, len(before))
    return _made(transpose(b, made, perm=order))


Pieces = dict[int, list[int]]


def _pieces(
    blocks: Sequence[tuple[list[int], list[int]]], before: Sequence[Dim], after: Sequence[Dim]
) -> tuple[list[Dim], Pieces, Pieces]:
    """The sizes of the smallest pieces that a reshape moves as one, and which of them, by their
    numbers, each axis of its operand and of its result holds."""
    sizes: list[Dim] = []
    olds: Pieces = {}
    news: Pieces = {}
    for old, new in blocks:
        fine, whole, dims = (old, new, before) if len(old) > 1 else (new, old, after)
        numbers = list(range(len(sizes), len(sizes) + len(fine)))
        sizes += [dims[axis] for axis in fine]
        apart, together = (olds, news) if fine is old else (news, olds)
        apart.update((axis, [number]) for axis, number in zip(fine, numbers))
        together[whole[0]] = numbers
    return sizes, olds, news


def same_elements(
    before: Sequence[Dim], after: Sequence[Dim]
) -> list[tuple[list[int], list[int]]] | None:
    """Which axes of a reshape's result are made of which of its operand, one of several or several
    of one; those of size 1 don't count. None when a dim has parts of two others."""
    old = [axis for axis, dim in enumerate(before) if dim != 1]
    new = [axis for axis, dim in enumerate(after) if dim != 1]
    blocks: list[tuple[list[int], list[int]]] = []
    while old and new:
        one = before[old[0]]
        found = _run(one, [after[axis] for axis in new])
        if found:
            blocks.append(([old.pop(0)], new[:found]))
            del new[:found]
            continue
        found = _run(after[new[0]], [before[axis] for axis in old])
        if not found:
            return None
        blocks.append((old[:found], [new.pop(0)]))
        del old[:found]
    return None if old or new else blocks


def _run(whole: Dim, parts: Sequence[Dim]) -> int:
    """How many of the first parts have the product `whole`; 0 if none."""
    for count in range(1, len(parts) + 1):
        if product(parts[:count]) == whole:
            return count
    return 0


def transpose_of_broadcast(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A transpose of a broadcast is a broadcast, when the source's axes keep their order."""
    if eqn.op is not transpose:
        return None
    inner = producer_of(eqn.inputs[0], broadcast, context)
    if inner is None:
        return None
    axes = tuple(_attrs(eqn).perm.index(axis) for axis in _attrs(inner).axes)
    if list(axes) != sorted(axes):
        return None
    return _made(broadcast(b, inner.inputs[0], dims=eqn.outputs[0].type.dims, axes=axes))


def broadcast_chain(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A broadcast of a broadcast, and of a reshape that only puts in dims of size 1."""
    if eqn.op is not broadcast:
        return None
    (x,) = eqn.inputs
    inner = producer_of(x, broadcast, context)
    if inner is not None:
        axes: Sequence[int] | None = _attrs(inner).axes
    else:
        inner = producer_of(x, reshape, context)
        axes = None if inner is None else inserted_ones(inner.inputs[0].type.dims, x.type.dims)
    if inner is None or axes is None:
        return None
    outer = _attrs(eqn)
    places = tuple(outer.axes[axis] for axis in axes)
    return _made(broadcast(b, inner.inputs[0], dims=outer.dims, axes=places))


def broadcast_of_ones(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A broadcast that only puts in dims of size 1 is a reshape."""
    if eqn.op is not broadcast:
        return None
    x, dims = eqn.inputs[0], eqn.outputs[0].type.dims
    new = [dim for axis, dim in enumerate(dims) if axis not in _attrs(eqn).axes]
    kept = tuple(dims[axis] for axis in _attrs(eqn).axes)
    if kept != x.type.dims or any(dim != 1 for dim in new):
        return None
    return _made(reshape(b, x, dims=dims))


def inserted_ones(before: Sequence[Dim], after: Sequence[Dim]) -> tuple[int, ...] | None:
    """Where each dim stands in `after`, if that is `before` with ones put in."""
    axes: list[int] = []
    for axis, dim in enumerate(after):
        if len(axis_left := before[len(axes) :]) and axis_left[0] == dim:
            axes.append(axis)
        elif dim != 1:
            return None
    return tuple(axes) if len(axes) == len(before) else None


def reduce_of_ones(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A reduction over dims of size 1, or over none."""
    if eqn.op not in REDUCTIONS:
        return None
    (x,) = eqn.inputs
    if any(x.type.dims[axis] != 1 for axis in _attrs(eqn).axes):
        return None
    return _made(reshape(b, x, dims=eqn.outputs[0].type.dims))


def transposed_operand(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A product of a matrix that was transposed just for it."""
    if eqn.op is not matmul:
        return None
    x, y = (_untransposed(value, context) for value in eqn.inputs)
    if x is None and y is None:
        return None
    attrs = _attrs(eqn)
    return _made(
        matmul(
            b,
            x or eqn.inputs[0],
            y or eqn.inputs[1],
            transpose_a=attrs.transpose_a != (x is not None),
            transpose_b=attrs.transpose_b != (y is not None),
        )
    )


def transposed_product(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """(x y)^T is y^T x^T, when nothing else reads the product."""
    if eqn.op is not transpose or not _swaps_last_two(eqn):
        return None
    inner = producer_of(eqn.inputs[0], matmul, context)
    if inner is None or context.uses(eqn.inputs[0]) > 1:
        return None
    x, y = inner.inputs
    attrs = _attrs(inner)
    return _made(
        matmul(b, y, x, transpose_a=not attrs.transpose_b, transpose_b=not attrs.transpose_a)
    )


def _untransposed(value: Value, context: Context) -> Value | None:
    """The matrix (or batch of matrices) of which `value` is the transpose."""
    eqn = producer_of(value, transpose, context)
    return eqn.inputs[0] if eqn is not None and _swaps_last_two(eqn) else None


def _swaps_last_two(eqn: Eqn) -> bool:
    perm = _attrs(eqn).perm
    rank = len(perm)
    return rank >= 2 and tuple(perm) == (*range(rank - 2), rank - 1, rank - 2)


def _attrs(eqn: Eqn) -> Any:
    return eqn.attrs


def _made(value: Value) -> Value:
    """What an op called through its record gives, typed."""
    return value


RULES: tuple[Rule, ...] = (
    unmoved,
    reshape_chain,
    slice_joined,
    transpose_chain,
    transpose_of_ones,
    transposed_again,
    transposed_batch,
    transpose_of_broadcast,
    broadcast_chain,
    broadcast_of_ones,
    reduce_of_ones,
    transposed_operand,
    transposed_product,
)
