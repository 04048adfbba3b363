"""`read`, an element of a tensor for each index of another index space, and its adjoint.

    y[n, i, k] = x[n, 2 * i + k - 1] else 0

is `read[dims=(N, I, K), offsets=(0, -1), steps=((1, 0, 0), (0, 2, 1)), guarded=(1,)](x)`. The
position along each axis of x is affine in the index, plus an element of an integer tensor where one
is given, over a divisor (what is no whole number is outside). Outside of x the value is `value`;
axes that are not `guarded` are known to stay inside. What index notation reads becomes this op,
unless it is a view. Non-goals: proofs that reads are inside (`semantics/formulas`).

The cotangent of an affine read is again a read, of what was read at each element, and a sum over
the indices that were free to read it; else it is `read_gradient`, which adds up one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, minimum, product, sym
from dslc.ir.op import (
    Attrs,
    Expr,
    Index,
    Kernels,
    Op,
    Operand,
    Reader,
    Sample,
    Scatter,
    TypeRuleError,
)
from dslc.ir.types import DType, TensorType, is_float, is_integer
from dslc.ops.broadcast import reduce_sum
from dslc.ops.errors import bad_static
from dslc.ops.pointwise import Cotangents, is_narrow, tensor

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class ReadAttrs(Attrs):
    """Along axis a of x the position is

        (offsets[a] + sum over j of steps[a][j] * index[j] + index tensor) // divisors[a]

    where `indexed` are the axes that have an index tensor, of dims `dims`, in order. No
    `divisors` are all 1.
    """

    dims: tuple[Dim, ...]
    offsets: tuple[Dim, ...]
    steps: tuple[tuple[Dim, ...], ...]
    indexed: tuple[int, ...] = ()
    guarded: tuple[int, ...] = ()
    divisors: tuple[int, ...] = ()
    value: int | float | bool = 0

    def divisor(self, axis: int) -> int:
        return self.divisors[axis] if self.divisors else 1


@dataclass(frozen=True, slots=True)
class ReadGradientAttrs(ReadAttrs):
    """`size` are the dims of what was read."""

    size: tuple[Dim, ...] = ()


# --- types ------------------------------------------------------------------------------------


def _check(attrs: ReadAttrs, rank: int, indices: Sequence[TensorType]) -> None:
    rows = [attrs.offsets, attrs.steps, *([attrs.divisors] if attrs.divisors else [])]
    if any(len(row) != rank for row in rows):
        raise bad_static(f"a read of {rank} dims needs as many offsets, steps and divisors")
    if any(len(step) != len(attrs.dims) for step in attrs.steps):
        raise bad_static(f"a read over {len(attrs.dims)} indices needs a step for each")
    if any(not 0 <= axis < rank for axis in (*attrs.guarded, *attrs.indexed)):
        raise bad_static(f"a read of {rank} dims has no axes {(*attrs.guarded, *attrs.indexed)}")
    if any(divisor < 1 for divisor in attrs.divisors):
        raise bad_static(f"the divisors {attrs.divisors} of a read must be positive")
    if len(indices) != len(attrs.indexed):
        raise bad_static(f"{len(attrs.indexed)} index tensors are needed, not {len(indices)}")
    for position, type in enumerate(indices, 1):
        if not is_integer(type.dtype) or type.dims != attrs.dims:
            wanted = TensorType("i64", attrs.dims)
            raise TypeRuleError(f"an index tensor is {wanted}, not {type}", inputs=(position,))


def _read_type(attrs: ReadAttrs, x: TensorType, *indices: TensorType) -> TensorType:
    _check(attrs, x.rank, indices)
    return x.with_dims(attrs.dims)


def _gradient_type(attrs: ReadGradientAttrs, g: TensorType, *indices: TensorType) -> TensorType:
    _check(attrs, len(attrs.size), indices)
    if not is_float(g.dtype) or g.dims != attrs.dims:
        raise TypeRuleError(f"{g} is not the cotangent of a read of dims {attrs.dims}")
    return g.with_dims(attrs.size)


# --- the reference ----------------------------------------------------------------------------


def _places(attrs: ReadAttrs, size: Sequence[int], indices: Sequence[Any]) -> tuple[Any, Any]:
    """Where each index reads, kept inside of `size`, and whether it is inside."""
    shape = cast(tuple[int, ...], attrs.dims)
    grid = np.indices(shape, dtype=np.int64, sparse=True)
    tensors = dict(zip(attrs.indexed, indices))
    inside = np.ones(shape, np.bool_)
    places = []
    for axis, length in enumerate(size):
        place = np.full(shape, attrs.offsets[axis], np.int64)
        for step, index in zip(attrs.steps[axis], grid):
            place = place + cast(int, step) * index
        if axis in tensors:
            place = place + tensors[axis].astype(np.int64)
        divisor = attrs.divisor(axis)
        inside &= place % divisor == 0
        place = place // divisor
        if axis in attrs.guarded:
            inside &= (place >= 0) & (place < length)
        places.append(np.clip(place, 0, max(length - 1, 0)))
    return tuple(places), inside


def _read_reference(attrs: ReadAttrs, x: Any, *indices: Any) -> Any:
    if x.size == 0:
        return np.full(cast(tuple[int, ...], attrs.dims), attrs.value, x.dtype)
    places, inside = _places(attrs, x.shape, indices)
    return np.where(inside, x[places], np.asarray(attrs.value).astype(x.dtype))


def _gradient_reference(attrs: ReadGradientAttrs, g: Any, *indices: Any) -> Any:
    size = cast(tuple[int, ...], attrs.size)
    wide = g.astype(np.float32) if is_narrow(g.dtype) else g
    out = np.zeros(size, wide.dtype)
    if out.size:
        places, inside = _places(attrs, size, indices)
        np.add.at(out, places, np.where(inside, wide, 0))
    return out.astype(g.dtype)


# --- kernels ----------------------------------------------------------------------------------


def _position(k: Kernels, attrs: ReadAttrs, axis: int, index: Index, more: Expr | None) -> Expr:
    """The position along `axis`, before it is divided."""
    terms: list[Expr] = []
    for step, at in zip(attrs.steps[axis], index):
        if step == 1:
            terms.append(at)
        elif step != 0:
            terms.append(k.binary("mul", at, k.dim(step), "index"))
    if more is not None:
        terms.append(k.index(more))
    if attrs.offsets[axis] != 0 or not terms:
        terms.append(k.dim(attrs.offsets[axis]))
    total = terms[0]
    for term in terms[1:]:
        total = k.binary("add", total, term, "index")
    return total


def _located(
    k: Kernels, attrs: ReadAttrs, size: Sequence[Dim], indices: Sequence[Operand], index: Index
) -> tuple[list[Expr], list[Expr]]:
    """Positions along all axes of x, and what must hold for them to be inside."""
    tensors = dict(zip(attrs.indexed, indices))
    places: list[Expr] = []
    conditions: list[Expr] = []
    for axis, length in enumerate(size):
        more = tensors[axis](index) if axis in tensors else None
        place = _position(k, attrs, axis, index, more)
        if attrs.divisor(axis) != 1:
            divisor = k.dim(attrs.divisor(axis))
            rest = k.binary("mod", place, divisor, "index")
            conditions.append(k.compare("eq", rest, k.dim(0), "index"))
            place = k.binary("floordiv", place, divisor, "index")
        if axis in attrs.guarded:
            conditions.append(k.compare("ge", place, k.dim(0), "index"))
            conditions.append(k.compare("lt", place, k.dim(length), "index"))
        places.append(place)
    return places, conditions


def _all(k: Kernels, conditions: Sequence[Expr]) -> Expr:
    total = conditions[0]
    for condition in conditions[1:]:
        total = k.binary("and", total, condition, "bool")
    return total


def _read_compute(
    k: Kernels, attrs: ReadAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    x, *indices = operands

    def read(index: Index) -> Expr:
        places, conditions = _located(k, attrs, x.type.dims, indices, index)
        if not conditions:
            return x(tuple(places))
        outside = k.const(attrs.value, x.type.dtype)
        return k.guarded(_all(k, conditions), lambda: x(tuple(places)), outside)

    return read


def _gradient_compute(
    k: Kernels,
    attrs: ReadGradientAttrs,
    operands: Sequence[Operand],
    outputs: Sequence[TensorType],
) -> Scatter:
    g, *indices = operands
    # A tensor that turns out to have no elements has none to add to.
    some = minimum(1, product(attrs.size))

    def target(index: Index) -> Index:
        places, _ = _located(k, attrs, attrs.size, indices, index[1:])
        moved = [attrs.divisor(axis) != 1 or axis in attrs.guarded for axis in range(len(places))]
        return tuple(
            _kept_inside(k, place, length) if may_leave else place
            for place, length, may_leave in zip(places, attrs.size, moved)
        )

    def value(index: Index) -> Expr:
        _, conditions = _located(k, attrs, attrs.size, indices, index[1:])
        if not conditions:
            return g(index[1:])
        return k.select(_all(k, conditions), g(index[1:]), k.const(0, g.type.dtype))

    return Scatter((some, *attrs.dims), target, value)


def _kept_inside(k: Kernels, place: Expr, length: Dim) -> Expr:
    last = k.binary("sub", k.dim(length), k.dim(1), "index")
    return k.binary("min", k.binary("max", place, k.dim(0), "index"), last, "index")


# --- gradients --------------------------------------------------------------------------------


def _read_gradient(b: Builder, eqn: Eqn, cotangents: Cotangents) -> Cotangents:
    (g,), (x, *indices) = cotangents, eqn.inputs
    attrs = cast(ReadAttrs, eqn.attrs)
    nothing = (None,) * len(indices)
    if g is None or not is_float(x.type.dtype):
        return None, *nothing
    pivots = _pivots(attrs, x.type.dims)
    if pivots is not None:
        return (_read_back(b, g, attrs, x.type.dims, pivots),)
    adjoint = _plain(attrs, size=x.type.dims)
    return b.emit(read_gradient, (g, *indices), adjoint)[0], *nothing


def _gradient_gradient(b: Builder, eqn: Eqn, cotangents: Cotangents) -> Cotangents:
    (d,), (_, *indices) = cotangents, eqn.inputs
    if d is None:
        return (None,) * len(eqn.inputs)
    attrs = cast(ReadGradientAttrs, eqn.attrs)
    back = ReadAttrs(
        attrs.dims, attrs.offsets, attrs.steps, attrs.indexed, attrs.guarded, attrs.divisors
    )
    return b.emit(read, (d, *indices), back)[0], *((None,) * len(indices))


def _plain(attrs: ReadAttrs, size: tuple[Dim, ...]) -> ReadGradientAttrs:
    """The same places, of a tensor of dims `size`."""
    return ReadGradientAttrs(
        attrs.dims,
        attrs.offsets,
        attrs.steps,
        attrs.indexed,
        attrs.guarded,
        attrs.divisors,
        0,
        size,
    )


def _pivots(attrs: ReadAttrs, size: Sequence[Dim]) -> tuple[int, ...] | None:
    """For each axis of x an index that the position there determines, given the others: one that
    no other axis has. None if there is none, or if it would reach only a small part of x, so that
    reading back would mostly read outside."""
    if attrs.indexed:
        return None
    out: list[int] = []
    for axis, steps in enumerate(attrs.steps):
        others = [row for other, row in enumerate(attrs.steps) if other != axis]
        able = [
            j
            for j, step in enumerate(steps)
            if isinstance(step, int) and step != 0 and all(row[j] == 0 for row in others)
        ]
        if not able:
            return None
        best = max(able, key=lambda j: _reach(attrs, axis, j))
        if 4 * _reach(attrs, axis, best) < _length(size[axis]) * attrs.divisor(axis):
            return None
        out.append(best)
    return tuple(out)


_UNKNOWN = 1 << 12  # what an unknown dim counts as


def _length(dim: Dim) -> int:
    return dim if isinstance(dim, int) else _UNKNOWN


def _reach(attrs: ReadAttrs, axis: int, j: int) -> int:
    return _length(attrs.dims[j]) * abs(cast(int, attrs.steps[axis][j]))


def _read_back(
    b: Builder, g: Value, attrs: ReadAttrs, size: tuple[Dim, ...], pivots: tuple[int, ...]
) -> Value:
    """The sum, over the indices that are no pivots, of what read each element of x."""
    free = [j for j in range(len(attrs.dims)) if j not in pivots]
    width, first = len(free) + len(size), len(free)
    offsets: list[Dim] = []
    steps: list[tuple[Dim, ...]] = []
    divisors: list[int] = []
    guarded: list[int] = []
    for j in range(len(attrs.dims)):
        row: list[Dim] = [0] * width
        offset: Dim = 0
        divisor = 1
        if j in free:
            row[free.index(j)] = 1
        else:
            axis = pivots.index(j)
            step = cast(int, attrs.steps[axis][j])
            sign, divisor = (1 if step > 0 else -1), abs(step)
            row[first + axis] = sign * attrs.divisor(axis)
            offset = attrs.offsets[axis] * -sign
            for other, place in zip(free, range(first)):
                row[place] = attrs.steps[axis][other] * -sign
            same = row == [int(place == first + axis) for place in range(width)]
            if not same or offset != 0 or divisor != 1 or attrs.dims[j] != size[axis]:
                guarded.append(j)
        offsets.append(offset)
        steps.append(tuple(row))
        divisors.append(divisor)
    back = ReadAttrs(
        (*(attrs.dims[j] for j in free), *size),
        tuple(offsets),
        tuple(steps),
        (),
        tuple(guarded),
        tuple(divisors) if max(divisors, default=1) > 1 else (),
    )
    (found,) = b.emit(read, (g,), back)
    return cast(Value, reduce_sum(b, found, axes=tuple(range(first)))) if free else found


# --- the records ------------------------------------------------------------------------------

_N = sym("N")


def _samples() -> tuple[tuple[tuple[Dim, ...], ReadAttrs, DType], ...]:
    """Dims of x, the read, dtype."""
    return (
        ((5,), ReadAttrs((3, 3), (0,), ((1, 1),)), "f32"),
        ((2, 7), ReadAttrs((2, 4, 3), (0, -1), ((1, 0, 0), (0, 2, 1)), guarded=(1,)), "f32"),
        ((4, 4), ReadAttrs((4,), (0, 0), ((1,), (1,))), "f32"),
        ((3, 6), ReadAttrs((6, 3), (0, 5), ((0, 1), (-1, 0))), "f64"),
        ((3,), ReadAttrs((8,), (1,), ((1,),), guarded=(0,), divisors=(2,), value=1.5), "f32"),
        ((2, 5), ReadAttrs((), (1, 7), ((), ()), guarded=(1,), value=2), "f32"),
        ((_N, 3), ReadAttrs((_N, 3), (1, 0), ((1, 0), (0, 1)), guarded=(0,)), "f32"),
        ((6,), ReadAttrs((3, _N), (-2,), ((1, 2),), guarded=(0,), value=3), "i64"),
        ((4,), ReadAttrs((2, 2), (0,), ((2, 1),), value=True), "bool"),
        ((9,), ReadAttrs((4, 2), (0,), ((2, 1),)), "f16"),
        ((0, 2), ReadAttrs((3, 2), (0, 0), ((1, 0), (0, 1)), guarded=(0,), value=4), "f32"),
        ((6, 2), ReadAttrs((3, 2), (1, 0), ((0, 0), (0, 1)), (0,), (0,)), "f32"),
        ((5, 4), ReadAttrs((_N,), (0, 0), ((0,), (1,)), (0, 1), (0, 1), value=-1), "f32"),
        ((5, 3), ReadAttrs((2, 3), (0, 0), ((1, 0), (0, 0)), (1,), (1,)), "f32"),
    )


def _read_samples() -> tuple[Sample, ...]:
    out = []
    for dims, attrs, dtype in _samples():
        indices = [tensor("i64", *attrs.dims)] * len(attrs.indexed)
        out.append(Sample((tensor(dtype, *dims), *indices), attrs))
    return tuple(out)


def _gradient_samples() -> tuple[Sample, ...]:
    out = []
    for dims, attrs, dtype in _samples():
        if is_float(dtype):
            indices = [tensor("i64", *attrs.dims)] * len(attrs.indexed)
            inputs = (tensor(dtype, *attrs.dims), *indices)
            rtol, why = (2e-3, "the last bit of f16") if dtype == "f16" else (2e-6, "")
            out.append(Sample(inputs, _plain(attrs, dims), rtol=rtol, why=why))
    return tuple(out)


read = Op(
    "read",
    attrs=ReadAttrs,
    type_rule=_read_type,
    reference=_read_reference,
    gradient=_read_gradient,
    compute=_read_compute,
    samples=_read_samples(),
)

read_gradient = Op(
    "read_gradient",
    attrs=ReadGradientAttrs,
    type_rule=_gradient_type,
    reference=_gradient_reference,
    gradient=_gradient_gradient,
    compute=_gradient_compute,
    samples=_gradient_samples(),
)

OPS: tuple[Op, ...] = (read, read_gradient)
