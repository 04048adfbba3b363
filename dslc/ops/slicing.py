"""`slice` and `pad`, each other's adjoints.

Starts, stops and paddings may be expressions of dim variables; steps and interior padding are
integers. Interior padding (elements put between neighbours) is there for the adjoint of a slice
with steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import (
    Attrs,
    Expr,
    Index,
    Kernels,
    Op,
    Operand,
    Reader,
    Sample,
    TypeRuleError,
)
from dslc.ir.types import TensorType
from dslc.ops.constants import fill
from dslc.ops.errors import bad_static, is_negative
from dslc.ops.pointwise import Cotangents, quiet, tensor

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")


@dataclass(frozen=True, slots=True)
class SliceAttrs(Attrs):
    """Along each axis the elements start, start + step, ... before stop, all inside the tensor.

    A negative step walks down: then start is the last element and stop lies below the first one
    (-1 is "before element 0", not "the last one").
    """

    starts: tuple[Dim, ...]
    stops: tuple[Dim, ...]
    steps: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PadAttrs(Attrs):
    """How many elements `value` go before, after and (interior) between neighbours of each axis.

    No `interior` means none. With interior padding, n elements take (n - 1) * (interior + 1) + 1
    places, for n = 0 too.
    """

    low: tuple[Dim, ...]
    high: tuple[Dim, ...]
    value: int | float | bool = 0.0
    interior: tuple[int, ...] = ()


_N = sym("N")

# --- slice ------------------------------------------------------------------------------------


def slice_size(start: Dim, stop: Dim, step: int) -> Dim:
    """How many elements a slice takes along an axis."""
    if step > 0:
        return (stop - start + step - 1) // step
    return (start - stop - step - 1) // -step


def _slice_type(attrs: SliceAttrs, x: TensorType) -> TensorType:
    if not len(attrs.starts) == len(attrs.stops) == len(attrs.steps) == x.rank:
        raise bad_static(f"a slice of {x} needs {x.rank} starts, stops and steps")
    dims = []
    for axis, (start, stop, step) in enumerate(zip(attrs.starts, attrs.stops, attrs.steps)):
        if step == 0:
            raise bad_static(f"cannot slice {x} by step 0 along axis {axis}")
        size = slice_size(start, stop, step)
        # The outermost places that may be named; unknown ones are the checker's to prove.
        low, high = (start, stop) if step > 0 else (stop + 1, start + 1)
        if is_negative(size) or is_negative(low) or is_negative(x.dims[axis] - high):
            raise TypeRuleError(
                f"cannot slice {x} from {start} to {stop} by {step} along axis {axis}",
                notes=[f"that dim is {x.dims[axis]}"],
                inputs=(0,),
            )
        dims.append(size)
    return x.with_dims(tuple(dims))


def _slice_reference(attrs: SliceAttrs, x: Any) -> Any:
    places = [
        cast(int, start) + step * np.arange(cast(int, slice_size(start, stop, step)))
        for start, stop, step in zip(attrs.starts, attrs.stops, attrs.steps)
    ]
    return x[np.ix_(*places)] if places else x


def _slice_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    attrs, x = cast(SliceAttrs, eqn.attrs), eqn.inputs[0].type
    if 0 in g.type.dims:
        return (fill(b, 0.0, x),)
    low: list[Dim] = []
    high: list[Dim] = []
    for axis, (start, step, count) in enumerate(zip(attrs.starts, attrs.steps, g.type.dims)):
        extent = (count - 1) * abs(step) + 1
        if step < 0:
            g = reverse(b, g, axis)
        low.append(start if step > 0 else start - extent + 1)
        high.append(x.dims[axis] - low[-1] - extent)
    interior = tuple(abs(step) - 1 for step in attrs.steps)
    return (_padded(b, g, tuple(low), tuple(high), interior),)


def _slice_compute(
    k: Kernels, attrs: SliceAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    (x,) = operands

    def place(i: Expr, start: Dim, step: int) -> Expr:
        scaled = i if step == 1 else k.binary("mul", i, k.dim(step), "index")
        return scaled if start == 0 else k.binary("add", scaled, k.dim(start), "index")

    def read(index: Index) -> Expr:
        return x(tuple(place(*which) for which in zip(index, attrs.starts, attrs.steps)))

    return read


slice_: Op = Op(
    "slice",
    attrs=SliceAttrs,
    type_rule=_slice_type,
    reference=_slice_reference,
    gradient=quiet(_slice_gradient),
    compute=_slice_compute,
    samples=(
        Sample((tensor("f32", 5, 6),), SliceAttrs((1, 0), (4, 6), (1, 1))),
        Sample((tensor("f32", 7, 6),), SliceAttrs((0, 1), (7, 6), (2, 3))),
        Sample((tensor("f32", 7, 6),), SliceAttrs((6, 4), (-1, 0), (-1, -2))),
        Sample((tensor("f64", 4, _N + 3),), SliceAttrs((0, 2), (4, _N + 2), (1, 1))),
        Sample((tensor("f64", _N),), SliceAttrs((0,), (_N,), (2,))),
        Sample((tensor("i64", 5),), SliceAttrs((2,), (2,), (1,))),
        Sample((tensor("f32"),), SliceAttrs((), (), ())),
    ),
    view=True,
)


def reverse(b: Builder, x: Value, axis: int) -> Value:
    """`x` with the order along `axis` turned round."""
    starts, stops, steps = [0] * x.type.rank, list(x.type.dims), [1] * x.type.rank
    size = x.type.dims[axis]
    first = tuple(size - 1 if i == axis else s for i, s in enumerate(starts))
    stops[axis], steps[axis] = -1, -1
    return cast(Value, slice_(b, x, starts=first, stops=tuple(stops), steps=tuple(steps)))


def slice_axis(b: Builder, x: Value, axis: int, start: Dim, stop: Dim) -> Value:
    """The elements `start` to `stop` (excluded) of one axis, all of the others."""
    rank = x.type.rank
    starts = tuple(start if i == axis else 0 for i in range(rank))
    stops = tuple(stop if i == axis else d for i, d in enumerate(x.type.dims))
    return cast(Value, slice_(b, x, starts=starts, stops=stops, steps=(1,) * rank))


# --- pad --------------------------------------------------------------------------------------


def _interior(attrs: PadAttrs) -> tuple[int, ...]:
    return attrs.interior or (0,) * len(attrs.low)


def _pad_type(attrs: PadAttrs, x: TensorType) -> TensorType:
    interior = _interior(attrs)
    if not len(attrs.low) == len(attrs.high) == len(interior) == x.rank:
        raise bad_static(f"padding {x} needs {x.rank} pairs of low and high")
    if any(map(is_negative, (*attrs.low, *attrs.high, *interior))):
        raise bad_static(f"cannot pad {x} by less than nothing", help="slice it instead")
    if x.dtype == "bool" and attrs.value not in (0, 1):
        raise bad_static(f"cannot pad {x} with {attrs.value}")
    sizes = zip(x.dims, attrs.low, attrs.high, interior)
    return x.with_dims(tuple(lo + (d - 1) * (inner + 1) + 1 + hi for d, lo, hi, inner in sizes))


def _pad_reference(attrs: PadAttrs, x: Any) -> Any:
    shape = _pad_type(attrs, TensorType("f32", x.shape)).dims
    result = np.full(cast(tuple[int, ...], shape), attrs.value, x.dtype)
    places = [
        low + (inner + 1) * np.arange(size)
        for size, low, inner in zip(x.shape, attrs.low, _interior(attrs))
    ]
    result[np.ix_(*places) if places else ()] = x
    return result


def _padded(
    b: Builder, x: Value, low: tuple[Dim, ...], high: tuple[Dim, ...], interior: tuple[int, ...]
) -> Value:
    """`x` padded with zeros, or `x` itself where nothing is added."""
    if not any(interior) and all(d == 0 for d in (*low, *high)):
        return x
    inner = interior if any(interior) else ()
    return cast(Value, pad(b, x, low=low, high=high, interior=inner))


def _pad_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    attrs, x = cast(PadAttrs, eqn.attrs), eqn.inputs[0].type
    if 0 in x.dims:
        return (fill(b, 0.0, x),)
    steps = tuple(inner + 1 for inner in _interior(attrs))
    ends = zip(attrs.low, x.dims, steps)
    stops = tuple(low + (size - 1) * step + 1 for low, size, step in ends)
    return (slice_(b, g, starts=attrs.low, stops=stops, steps=steps),)


def _pad_compute(
    k: Kernels, attrs: PadAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    (x,) = operands
    fill_value = k.const(attrs.value, x.type.dtype)

    def along(i: Expr, axis: int, conditions: list[Expr]) -> Expr:
        """The input's index along `axis`; adds what must hold for it to be one."""
        low, high, step = attrs.low[axis], attrs.high[axis], _interior(attrs)[axis] + 1
        if low != 0:
            i = k.binary("sub", i, k.dim(low), "index")
            conditions.append(k.compare("ge", i, k.dim(0), "index"))
        if step != 1:
            rest = k.binary("mod", i, k.dim(step), "index")
            conditions.append(k.compare("eq", rest, k.dim(0), "index"))
            i = k.binary("floordiv", i, k.dim(step), "index")
        if high != 0:
            conditions.append(k.compare("lt", i, k.dim(x.type.dims[axis]), "index"))
        return i

    def read(index: Index) -> Expr:
        conditions: list[Expr] = []
        source = tuple(along(i, axis, conditions) for axis, i in enumerate(index))
        if not conditions:
            return x(source)
        inside = conditions[0]
        for condition in conditions[1:]:
            inside = k.binary("and", inside, condition, "bool")
        return k.guarded(inside, lambda: x(source), fill_value)

    return read


pad: Op = Op(
    "pad",
    attrs=PadAttrs,
    type_rule=_pad_type,
    reference=_pad_reference,
    gradient=quiet(_pad_gradient),
    compute=_pad_compute,
    samples=(
        Sample((tensor("f32", 3, 5),), PadAttrs((1, 0), (2, 3))),
        Sample((tensor("f32", 3, 4),), PadAttrs((0, 1), (0, 2), 1.5, (1, 2))),
        Sample((tensor("f64", 2, _N),), PadAttrs((0, _N), (1, 1), -1.0)),
        Sample((tensor("f32", 0, 2),), PadAttrs((1, 0), (1, 0))),
        Sample((tensor("i64", 4),), PadAttrs((2,), (0,), 7)),
        Sample((tensor("bool", 4),), PadAttrs((2,), (1,), 1)),
    ),
)

OPS: tuple[Op, ...] = (slice_, pad)
