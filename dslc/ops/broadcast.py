"""`broadcast` and `reduce_sum`, which are each other's adjoints, and what reductions share.

Ops take no operands of different dims: where the language broadcasts, the checker emits this op.
Non-goals: the other reductions (`reduce.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import Attrs, Expr, Index, Kernels, Op, Operand, Reader, Sample, TypeRuleError
from dslc.ir.types import TensorType
from dslc.ops.errors import bad_static, check_axis, wrong_dtype
from dslc.ops.linalg import accumulator
from dslc.ops.pointwise import NUMBERS, Cotangents, is_narrow, quiet, tensor

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class BroadcastAttrs(Attrs):
    """`dims` of the result; input dim i is its dim `axes[i]`, or 1 and stretched to it."""

    dims: tuple[Dim, ...]
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReduceAttrs(Attrs):
    """The axes that the result lacks: ascending, counted from 0."""

    axes: tuple[int, ...]


# --- broadcast --------------------------------------------------------------------------------


def _broadcast_type(attrs: BroadcastAttrs, x: TensorType) -> TensorType:
    result = x.with_dims(attrs.dims)
    ascending = all(a < b for a, b in zip(attrs.axes, attrs.axes[1:]))
    if len(attrs.axes) != x.rank or not ascending:
        raise bad_static(f"axes {attrs.axes} don't place the dims of {x} in {result}")
    for axis in attrs.axes:
        check_axis("broadcast to", result, axis)
    wrong = [i for i, d in enumerate(x.dims) if d not in (1, attrs.dims[attrs.axes[i]])]
    if wrong:
        notes = [f"dim {i} is {x.dims[i]}, not 1 or {attrs.dims[attrs.axes[i]]}" for i in wrong]
        raise TypeRuleError(f"cannot broadcast {x} to {result}", notes=notes, inputs=(0,))
    return result


def _broadcast_reference(attrs: BroadcastAttrs, x: Any) -> Any:
    shape = cast(tuple[int, ...], attrs.dims)
    placed = [1] * len(shape)
    for axis, size in zip(attrs.axes, x.shape):
        placed[axis] = size
    return np.array(np.broadcast_to(x.reshape(placed), shape))


def _stretched(attrs: BroadcastAttrs, x: TensorType) -> list[int]:
    """The input's axes that are 1 and become longer."""
    return [i for i, d in enumerate(x.dims) if d == 1 and attrs.dims[attrs.axes[i]] != 1]


def _broadcast_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    attrs, x = cast(BroadcastAttrs, eqn.attrs), eqn.inputs[0].type
    stretched = _stretched(attrs, x)
    kept = [i for i in range(x.rank) if i not in stretched]
    axes = tuple(a for a in range(len(attrs.dims)) if a not in [attrs.axes[i] for i in kept])
    total = reduce_sum(b, g, axes=axes) if axes else g
    return (broadcast(b, total, dims=x.dims, axes=tuple(kept)) if stretched else total,)


def _broadcast_compute(
    k: Kernels, attrs: BroadcastAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    (x,) = operands
    stretched = _stretched(attrs, x.type)

    def read(index: Index) -> Expr:
        return x(tuple(k.dim(0) if i in stretched else index[a] for i, a in enumerate(attrs.axes)))

    return read


_N = sym("N")
broadcast: Op = Op(
    "broadcast",
    attrs=BroadcastAttrs,
    type_rule=_broadcast_type,
    reference=_broadcast_reference,
    gradient=quiet(_broadcast_gradient),
    compute=_broadcast_compute,
    samples=(
        Sample((tensor("f32"),), BroadcastAttrs((3, 5), ())),
        Sample((tensor("f32", 5),), BroadcastAttrs((3, 5), (1,))),
        Sample((tensor("f32", 3, 1),), BroadcastAttrs((3, 5), (0, 1))),
        Sample((tensor("f32", 3),), BroadcastAttrs((2, 3, 4), (1,))),
        Sample((tensor("f32", 1, _N),), BroadcastAttrs((4, 2, _N), (1, 2))),
        Sample((tensor("f64", 1, 3),), BroadcastAttrs((0, 3), (0, 1))),
        Sample((tensor("i64", 1),), BroadcastAttrs((1, 7), (1,))),
        Sample((tensor("bool", 2),), BroadcastAttrs((2, _N), (0,))),
    ),
    view=True,
)


def broadcast_to(b: Builder, x: Value, dims: tuple[Dim, ...]) -> Value:
    """`x` broadcast to `dims` (aligned at the last dim), or `x` itself when it has them."""
    if x.type.dims == dims:
        return x
    first = len(dims) - x.type.rank
    return cast(Value, broadcast(b, x, dims=dims, axes=tuple(range(first, len(dims)))))


# --- reductions: what they share, and the sum --------------------------------------------------


def check_axes(verb: str, attrs: ReduceAttrs, x: TensorType) -> tuple[Dim, ...]:
    """The dims that are left."""
    for axis in attrs.axes:
        check_axis(verb, x, axis)
    if not attrs.axes or any(a >= b for a, b in zip(attrs.axes, attrs.axes[1:])):
        raise bad_static(f"cannot {verb} {x} along the axes {attrs.axes}")
    return tuple(d for i, d in enumerate(x.dims) if i not in attrs.axes)


def whole_index(kept: Index, reduced: Index, axes: Sequence[int]) -> Index:
    """An index of the input, from one of the result and one along the reduced axes."""
    rest, along = iter(kept), iter(reduced)
    rank = len(kept) + len(reduced)
    return tuple(next(along) if axis in axes else next(rest) for axis in range(rank))


def reduce_compute(kind: str, *, wide: bool = False) -> Any:
    """The compute of a reduction; `wide` ones keep f16 and bf16 in f32 on the way."""

    def compute(
        k: Kernels, attrs: ReduceAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
    ) -> Reader:
        (x,) = operands
        dtype = x.type.dtype
        kept = accumulator(dtype) if wide else dtype
        dims = tuple(x.type.dims[axis] for axis in attrs.axes)

        def read(index: Index) -> Expr:
            def element(r: Index) -> Expr:
                return k.cast(x(whole_index(index, r, attrs.axes)), dtype, kept)

            return k.cast(k.reduce(kind, dims, element, kept), kept, dtype)

        return read

    return compute


def spread(b: Builder, y: Value, like: Value, axes: Sequence[int]) -> Value:
    """A reduction's result (or its cotangent) copied along the reduced axes, to `like`'s dims."""
    kept = tuple(axis for axis in range(like.type.rank) if axis not in axes)
    return cast(Value, broadcast(b, y, dims=like.type.dims, axes=kept))


def _sum_type(attrs: ReduceAttrs, x: TensorType) -> TensorType:
    if x.dtype not in NUMBERS:
        raise wrong_dtype("sum", (x,), "numbers")
    return x.with_dims(check_axes("sum", attrs, x))


def _sum_reference(attrs: ReduceAttrs, x: Any) -> Any:
    wide = x.astype(np.float32) if is_narrow(x.dtype) else x
    return wide.sum(axis=attrs.axes, dtype=wide.dtype).astype(x.dtype)


def _sum_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    return (spread(b, g, eqn.inputs[0], cast(ReduceAttrs, eqn.attrs).axes),)


REDUCTION_SAMPLES: tuple[Sample, ...] = (
    Sample((tensor("f32", 3, 5),), ReduceAttrs((1,))),
    Sample((tensor("f32", 3, 5),), ReduceAttrs((0,))),
    Sample((tensor("f32", 2, 3, 4),), ReduceAttrs((0, 2))),
    Sample((tensor("f32", 2, 1, 7),), ReduceAttrs((0, 1, 2))),
    Sample((tensor("f32", 33),), ReduceAttrs((0,)), rtol=1e-5, why="33 terms in another order"),
    Sample((tensor("f32", 0, 4),), ReduceAttrs((1,))),
    Sample((tensor("f32", 2, _N),), ReduceAttrs((1,))),
    Sample((tensor("f64", _N, 3),), ReduceAttrs((0,))),
    Sample((tensor("f16", 2, 9),), ReduceAttrs((1,)), rtol=2e-3, why="the last bit of f16"),
    Sample((tensor("bf16", 2, 9),), ReduceAttrs((1,)), rtol=2e-2, why="the last bit of bf16"),
    Sample((tensor("i64", 4, 3),), ReduceAttrs((1,))),
    Sample((tensor("i32", 4, 3),), ReduceAttrs((0,))),
)

reduce_sum: Op = Op(
    "reduce_sum",
    attrs=ReduceAttrs,
    type_rule=_sum_type,
    reference=_sum_reference,
    gradient=quiet(_sum_gradient),
    compute=reduce_compute("sum", wide=True),
    samples=(*REDUCTION_SAMPLES, Sample((tensor("f32", 3, 0),), ReduceAttrs((1,)))),
)

OPS: tuple[Op, ...] = (broadcast, reduce_sum)
