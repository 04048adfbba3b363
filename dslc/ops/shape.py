"""Ops that move elements without changing them: reshape, transpose, concat; and iota, the indices.

Slices and padding are in `slicing.py`, broadcasting in `broadcast.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from operator import mul
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.evaluate import numpy_dtype
from dslc.ir.op import (
    Attrs,
    Expr,
    Index,
    Kernels,
    NoFacet,
    Op,
    Operand,
    Reader,
    Sample,
    TypeRuleError,
)
from dslc.ir.types import DType, TensorType
from dslc.ops.errors import bad_static, check_axis, is_negative, wrong_dtype
from dslc.ops.pointwise import NUMBERS, Cotangents, quiet, tensor
from dslc.ops.slicing import slice_axis

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class ReshapeAttrs(Attrs):
    dims: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class TransposeAttrs(Attrs):
    """Dim i of the result is the input's dim `perm[i]`."""

    perm: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ConcatAttrs(Attrs):
    axis: int


@dataclass(frozen=True, slots=True)
class IotaAttrs(Attrs):
    """Each element is its index along `axis`."""

    dims: tuple[Dim, ...]
    axis: int
    dtype: DType = "i64"


_N = sym("N")

# --- reshape ----------------------------------------------------------------------------------


def _reshape_type(attrs: ReshapeAttrs, x: TensorType) -> TensorType:
    result = x.with_dims(attrs.dims)
    if any(is_negative(d) for d in attrs.dims):
        raise bad_static(f"cannot reshape {x} to {result}", notes=["a dim is negative"])
    if result.size != x.size:
        notes = [f"the one has {x.size} elements, the other {result.size}"]
        raise TypeRuleError(f"cannot reshape {x} to {result}", notes=notes, inputs=(0,))
    return result


def reshape_groups(
    old: Sequence[Dim], new: Sequence[Dim]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Axes of `old` and of `new` that hold the same elements, in the smallest groups.

    (2, 3, 4) to (6, 2, 2) gives ((0, 1), (0,)) and ((2,), (1, 2)). Dims that are 1 belong to no
    group. The index arithmetic of a reshape needs no more than one division per dim of a group.
    """
    a = [i for i, d in enumerate(old) if d != 1]
    b = [i for i, d in enumerate(new) if d != 1]
    before = list(accumulate((old[i] for i in a), mul))
    after = list(accumulate((new[i] for i in b), mul))
    groups = []
    from_a = from_b = 0
    for end_a, size in enumerate(before, 1):
        if size in after[from_b:]:
            end_b = after.index(size, from_b) + 1
            groups.append((tuple(a[from_a:end_a]), tuple(b[from_b:end_b])))
            from_a, from_b = end_a, end_b
    if from_a < len(a) or from_b < len(b):  # sizes that only the checker knows to be equal
        groups.append((tuple(a[from_a:]), tuple(b[from_b:])))
    return groups


def _reshape_compute(
    k: Kernels, attrs: ReshapeAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    (x,) = operands
    old, new = x.type.dims, attrs.dims
    empty = 0 in old or 0 in new
    groups = [] if empty else reshape_groups(old, new)

    def read(index: Index) -> Expr:
        source: list[Expr] = [k.dim(0)] * len(old)
        for olds, news in groups:
            for axis, position in zip(olds, _regroup(k, index, old, olds, new, news)):
                source[axis] = position
        return x(tuple(source))

    return read


def _regroup(
    k: Kernels,
    index: Index,
    old: Sequence[Dim],
    olds: Sequence[int],
    new: Sequence[Dim],
    news: Sequence[int],
) -> list[Expr]:
    """Indices along the axes `olds` of the element that `index` names along `news`."""
    if len(olds) == 1 and len(news) == 1:
        return [index[news[0]]]
    position = index[news[0]]
    for axis in news[1:]:
        position = k.binary("mul", position, k.dim(new[axis]), "index")
        position = k.binary("add", position, index[axis], "index")
    out: list[Expr] = []
    for axis in reversed(olds[1:]):
        out.append(k.binary("mod", position, k.dim(old[axis]), "index"))
        position = k.binary("floordiv", position, k.dim(old[axis]), "index")
    return [position, *reversed(out)]


reshape: Op = Op(
    "reshape",
    attrs=ReshapeAttrs,
    type_rule=_reshape_type,
    reference=lambda attrs, x: x.reshape(attrs.dims),
    gradient=quiet(lambda b, eqn, g: (reshape(b, g, dims=eqn.inputs[0].type.dims),)),
    compute=_reshape_compute,
    samples=(
        Sample((tensor("f32", 2, 3, 4),), ReshapeAttrs((6, 2, 2))),
        Sample((tensor("f32", 2, 3, 4),), ReshapeAttrs((2, 12))),
        Sample((tensor("f32", 6, 4),), ReshapeAttrs((3, 8))),
        Sample((tensor("f32", _N, 1, 6),), ReshapeAttrs((_N, 2, 1, 3))),
        Sample((tensor("f32", _N, 4),), ReshapeAttrs((_N * 4,))),
        Sample((tensor("f32", _N * 2, 3),), ReshapeAttrs((2, _N * 3))),
        Sample((tensor("f64"),), ReshapeAttrs((1, 1))),
        Sample((tensor("f64", 1, 1),), ReshapeAttrs(())),
        Sample((tensor("i64", 0, 3),), ReshapeAttrs((5, 0))),
        Sample((tensor("bool", 4),), ReshapeAttrs((2, 2))),
    ),
    view=True,
)

# --- transpose --------------------------------------------------------------------------------


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """The permutation that undoes `perm`."""
    return tuple(sorted(range(len(perm)), key=perm.__getitem__))


def _transpose_type(attrs: TransposeAttrs, x: TensorType) -> TensorType:
    if sorted(attrs.perm) != list(range(x.rank)):
        numbers = ", ".join(map(str, range(x.rank)))
        help, order = None, list(range(x.rank))
        two = len(set(attrs.perm)) == len(attrs.perm) == 2 < x.rank
        if two and set(attrs.perm) <= set(order):  # those to swap
            a, b = attrs.perm
            order[a], order[b] = b, a
            help = f"all axes in their new order: transpose{order}"
        raise bad_static(
            f"cannot transpose {x} by {attrs.perm}",
            notes=[f"each of the axes {numbers} must stand there once"],
            help=help,
        )
    return x.with_dims(tuple(x.dims[p] for p in attrs.perm))


def _transpose_compute(
    k: Kernels, attrs: TransposeAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    (x,) = operands
    back = inverse(attrs.perm)
    return lambda index: x(tuple(index[i] for i in back))


def _transpose_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    return (transpose(b, g, perm=inverse(cast(TransposeAttrs, eqn.attrs).perm)),)


transpose: Op = Op(
    "transpose",
    attrs=TransposeAttrs,
    type_rule=_transpose_type,
    reference=lambda attrs, x: np.transpose(x, attrs.perm),
    gradient=quiet(_transpose_gradient),
    compute=_transpose_compute,
    samples=(
        Sample((tensor("f32", 3, 5),), TransposeAttrs((1, 0))),
        Sample((tensor("f32", 2, 3, 4),), TransposeAttrs((1, 2, 0))),
        Sample((tensor("f64", 2, _N, 1, 3),), TransposeAttrs((0, 3, 1, 2))),
        Sample((tensor("i64", 0, 3),), TransposeAttrs((1, 0))),
        Sample((tensor("f32"),), TransposeAttrs(())),
    ),
    view=True,
)

# --- concat -----------------------------------------------------------------------------------


def _concat_type(attrs: ConcatAttrs, *types: TensorType) -> TensorType:
    if not types:
        raise bad_static("concat needs a tensor")
    first = types[0]
    check_axis("concatenate", first, attrs.axis)
    for i, type in enumerate(types[1:], 1):
        if type.dtype != first.dtype or type.rank != first.rank:
            same = "dtypes" if type.dtype != first.dtype else "ranks"
            pair = (first.dtype, type.dtype) if same == "dtypes" else (first.rank, type.rank)
            raise TypeRuleError(
                f"cannot concatenate {first} and {type}",
                notes=[f"the {same} differ ({pair[0]} and {pair[1]})"],
                inputs=(0, i),
                code="E0204" if same == "dtypes" else "E0205",
            )
        pairs = enumerate(zip(first.dims, type.dims))
        wrong = [(j, x, y) for j, (x, y) in pairs if j != attrs.axis and x != y]
        if wrong:
            notes = [f"dim {j} differs ({x} and {y})" for j, x, y in wrong]
            what = f"cannot concatenate {first} and {type} along axis {attrs.axis}"
            help = _concat_help(first, type)
            raise TypeRuleError(what, notes=notes, inputs=(0, i), help=help)
    total: Dim = sum((type.dims[attrs.axis] for type in types), start=0)
    dims = tuple(total if j == attrs.axis else d for j, d in enumerate(first.dims))
    return first.with_dims(dims)


def _concat_help(a: TensorType, b: TensorType) -> str | None:
    """The axis along which the two would fit, if only one dim differs."""
    differing = [axis for axis, (x, y) in enumerate(zip(a.dims, b.dims)) if x != y]
    return (
        f"they fit along axis {differing[0]}: concat[axis={differing[0]}]"
        if len(differing) == 1
        else None
    )


def _concat_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    axis = cast(ConcatAttrs, eqn.attrs).axis
    parts: list[Value] = []
    start: Dim = 0
    for x in eqn.inputs:
        stop = start + x.type.dims[axis]
        parts.append(slice_axis(b, g, axis, start, stop))
        start = stop
    return tuple(parts)


def _concat_compute(
    k: Kernels, attrs: ConcatAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    axis = attrs.axis
    sizes = [x.type.dims[axis] for x in operands]
    starts: list[Dim] = [0, *accumulate(sizes)]

    def part(index: Index, which: int) -> Expr:
        i = index[axis]
        if which:
            i = k.binary("sub", i, k.dim(starts[which]), "index")
        return operands[which]((*index[:axis], i, *index[axis + 1 :]))

    def read(index: Index) -> Expr:
        if len(operands) == 1:
            return operands[0](index)
        result = k.const(0, outputs[0].dtype)
        for which in reversed(range(len(operands))):
            low = k.compare("ge", index[axis], k.dim(starts[which]), "index")
            high = k.compare("lt", index[axis], k.dim(starts[which + 1]), "index")
            inside = k.binary("and", low, high, "bool")
            result = k.guarded(inside, partial(part, index, which), result)
        return result

    return read


concat = Op(
    "concat",
    attrs=ConcatAttrs,
    type_rule=_concat_type,
    reference=lambda attrs, *parts: np.concatenate(parts, axis=attrs.axis),
    gradient=quiet(_concat_gradient),
    compute=_concat_compute,
    samples=(
        Sample((tensor("f32", 2, 3), tensor("f32", 2, 5)), ConcatAttrs(1)),
        Sample((tensor("f32", 2), tensor("f32", 0), tensor("f32", 1)), ConcatAttrs(0)),
        Sample((tensor("f64", 3, _N), tensor("f64", 3, 2)), ConcatAttrs(1)),
        Sample((tensor("f32", 3),), ConcatAttrs(0)),
        Sample((tensor("bool", 2, 2),) * 2, ConcatAttrs(0)),
    ),
)

# --- iota -------------------------------------------------------------------------------------


def _iota_type(attrs: IotaAttrs) -> TensorType:
    result = TensorType(attrs.dtype, attrs.dims)
    check_axis("count", result, attrs.axis)
    if attrs.dtype not in NUMBERS:
        raise wrong_dtype("count in", (result,), "numbers")
    return result


def _iota_reference(attrs: IotaAttrs) -> Any:
    dims = cast(tuple[int, ...], attrs.dims)
    shape = [size if axis == attrs.axis else 1 for axis, size in enumerate(dims)]
    steps = np.arange(dims[attrs.axis]).reshape(shape).astype(numpy_dtype(attrs.dtype))
    return np.array(np.broadcast_to(steps, dims))


def _iota_compute(
    k: Kernels, attrs: IotaAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    return lambda index: k.from_index(index[attrs.axis], attrs.dtype)


iota = Op(
    "iota",
    attrs=IotaAttrs,
    type_rule=_iota_type,
    reference=_iota_reference,
    gradient=NoFacet("it has no inputs"),
    compute=_iota_compute,
    samples=(
        Sample((), IotaAttrs((5,), 0)),
        Sample((), IotaAttrs((3, _N), 1, "f32")),
        Sample((), IotaAttrs((2, 4, 1), 1, "i32")),
        Sample((), IotaAttrs((0, 2), 0)),
    ),
)

OPS: tuple[Op, ...] = (reshape, transpose, concat, iota)
