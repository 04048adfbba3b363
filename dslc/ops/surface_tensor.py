"""How ops that make, move and index tensors look in `.dl`.

Input: the statics in `[ ]` and the arguments as Values. Output: equations. Non-goals: what the
library wraps (`surface_primitives.py`), arithmetic (`surface_math.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import Dim, mod, product
from dslc.ir.op import Op, StaticParam, Surface, TypeRuleError
from dslc.ir.types import DType, TensorType, is_float
from dslc.ops import (
    constants,
    elementwise,
    index,
    logic,
    placing,
    ranking,
    segments,
    shape,
    slicing,
)
from dslc.ops.broadcast import broadcast, broadcast_to
from dslc.ops.errors import bad_static, dim_notes, wrong_dtype, wrong_rank
from dslc.ops.surface_math import normal_axis

Statics = Mapping[str, Any]
Args = tuple[Value, ...]

_DTYPE = StaticParam("dtype", "dtype", "f32")

# --- new tensors ------------------------------------------------------------------------------


def _filled(value: float | None) -> Any:
    def build(b: Builder, statics: Statics, args: Args) -> Value:
        number = statics["value"] if value is None else value
        dtype = cast(DType, statics["dtype"])
        if dtype == "bool":
            number = bool(number)
        elif is_float(dtype):
            number = float(number)
        return constants.fill(b, number, TensorType(dtype, tuple(statics["dims"])))

    return build


def _scalar(b: Builder, dim: Dim, dtype: DType) -> Value:
    """A dim as a scalar of `dtype`."""
    if isinstance(dim, int):
        return constants.fill(b, float(dim) if is_float(dtype) else dim, TensorType(dtype))
    value = constants.dim_value(b, dim=dim)
    return cast(Value, value if dtype == "i64" else constants.cast(b, value, dtype=dtype))


def _arange(b: Builder, statics: Statics, args: Args) -> Value:
    dims, dtype = tuple(statics["dims"]), cast(DType, statics["dtype"])
    if not 1 <= len(dims) <= 3:
        raise bad_static(f"arange takes [stop], [start, stop] or [start, stop, step], not {dims}")
    start, stop = (0, dims[0]) if len(dims) == 1 else dims[:2]
    step = dims[2] if len(dims) == 3 else 1
    if not isinstance(step, int) or step == 0:
        raise bad_static(f"the step of arange is an integer other than 0, not {step}")
    size = slicing.slice_size(start, stop, step)
    if isinstance(size, int):
        size = max(size, 0)
    x = shape.iota(b, dims=(size,), axis=0, dtype=dtype)
    if step != 1:
        x = elementwise.mul(b, x, broadcast_to(b, _scalar(b, step, dtype), (size,)))
    if start != 0:
        x = elementwise.add(b, x, broadcast_to(b, _scalar(b, start, dtype), (size,)))
    return cast(Value, x)


def _eye(b: Builder, statics: Statics, args: Args) -> Value:
    dims = tuple(statics["dims"])
    if len(dims) not in (1, 2):
        raise bad_static(f"eye takes [n] or [rows, columns], not {dims}")
    rows, columns = dims * 2 if len(dims) == 1 else dims
    row = shape.iota(b, dims=(rows, columns), axis=0)
    column = shape.iota(b, dims=(rows, columns), axis=1)
    return cast(Value, constants.cast(b, logic.eq(b, row, column), dtype=statics["dtype"]))


def _triangle(keep_lower: bool) -> Any:
    def build(b: Builder, statics: Statics, args: Args) -> Value:
        (x,) = args
        if x.type.rank < 2:
            raise wrong_rank("take a triangle of", (x.type,), "two dims or more are needed")
        dims, rank = x.type.dims, x.type.rank
        row = shape.iota(b, dims=dims, axis=rank - 2)
        offset = constants.fill(b, statics["diagonal"], row.type)
        diagonal = elementwise.add(b, row, offset)
        column = shape.iota(b, dims=dims, axis=rank - 1)
        kept = (logic.le if keep_lower else logic.ge)(b, column, diagonal)
        return cast(Value, logic.select(b, kept, x, zeros_like(b, x.type)))

    return build


def zeros_like(b: Builder, type: TensorType) -> Value:
    """Zeros (or false) of a type."""
    zero = 0.0 if is_float(type.dtype) else type.dtype != "bool" and 0
    return constants.fill(b, zero, type)


# --- moving elements --------------------------------------------------------------------------


def _reshape(b: Builder, statics: Statics, args: Args) -> Value:
    (x,), dims = args, tuple(statics["dims"])
    if dims.count(-1) == 1:
        known = product(d for d in dims if d != -1)
        if known == 0:
            raise bad_static(f"cannot reshape {x.type} to {_listed(dims)}: -1 could be anything")
        rest = x.type.size // known
        if rest * known != x.type.size:
            raise TypeRuleError(
                f"cannot reshape {x.type} to {_listed(dims)}",
                notes=[f"its {x.type.size} elements are not known to be a multiple of {known}"],
                inputs=(0,),
            )
        dims = tuple(rest if d == -1 else d for d in dims)
    return cast(Value, shape.reshape(b, x, dims=dims))


def _listed(dims: tuple[Dim, ...]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _transpose(b: Builder, statics: Statics, args: Args) -> Value:
    (x,), given = args, tuple(statics["perm"])
    if not given:
        return cast(Value, shape.transpose(b, x, perm=tuple(reversed(range(x.type.rank)))))
    perm = tuple(normal_axis("transpose", x.type, axis) for axis in given)
    return cast(Value, shape.transpose(b, x, perm=perm))


def _broadcast_to(b: Builder, statics: Statics, args: Args) -> Value:
    (x,), dims = args, tuple(statics["dims"])
    if len(dims) < x.type.rank:
        raise TypeRuleError(
            f"cannot broadcast {x.type} to {x.type.with_dims(dims)}", inputs=(0,), code="E0205"
        )
    return broadcast_to(b, x, dims)


def _concat(b: Builder, statics: Statics, args: Args) -> Value:
    axis = normal_axis("concatenate", args[0].type, statics["axis"])
    return cast(Value, shape.concat(b, *args, axis=axis))


def _stack(b: Builder, statics: Statics, args: Args) -> Value:
    first, axis = args[0].type, statics["axis"]
    for position, x in enumerate(args):
        if x.type != first:
            notes = dim_notes(first, x.type) or [
                f"the dtypes differ ({first.dtype} and {x.type.dtype})"
            ]
            what = f"cannot stack {first} and {x.type}"
            raise TypeRuleError(what, notes=notes, inputs=(0, position))
    axis = normal_axis("stack", first.with_dims((*first.dims, 1)), axis)
    dims = (*first.dims[:axis], 1, *first.dims[axis:])
    return cast(Value, shape.concat(b, *(shape.reshape(b, x, dims=dims) for x in args), axis=axis))


def _split(b: Builder, statics: Statics, args: Args) -> tuple[Value, ...]:
    (x,), parts = args, statics["parts"]
    axis = normal_axis("split", x.type, statics["axis"])
    size = x.type.dims[axis]
    sizes = _equal_parts(x.type, axis, parts) if isinstance(parts, int) else tuple(parts)
    if sum(sizes, start=cast(Dim, 0)) != size:
        what = f"cannot split {x.type} along axis {axis} into parts of {sizes}"
        raise TypeRuleError(what, notes=[f"that dim is {size}"], inputs=(0,))
    starts: list[Dim] = [0]
    for part in sizes:
        starts.append(starts[-1] + part)
    return tuple(slicing.slice_axis(b, x, axis, lo, hi) for lo, hi in pairwise(starts))


def _equal_parts(type: TensorType, axis: int, count: int) -> tuple[Dim, ...]:
    if count < 1:
        raise bad_static(f"cannot split {type} into {count} parts")
    size = type.dims[axis] // count
    if size * count != type.dims[axis]:
        raise TypeRuleError(
            f"cannot split {type} along axis {axis} into {count} equal parts",
            notes=[f"{type.dims[axis]} is not {_known(type.dims[axis])}a multiple of {count}"],
            help=_split_help(type.dims[axis], count),
            inputs=(0,),
        )
    return (size,) * count


def _split_help(dim: Dim, count: int) -> str:
    sizes = "give the sizes: split[(a, b), axis=...]"
    if isinstance(dim, int):
        return sizes
    return f"if it always is, say so: assert {mod(dim, count)} == 0; or {sizes}"


def _known(dim: Dim) -> str:
    return "" if isinstance(dim, int) else "known to be "


def _pad(b: Builder, statics: Statics, args: Args) -> Value:
    (x,), pairs = args, tuple(statics["pairs"])
    if len(pairs) > x.type.rank:
        raise bad_static(f"cannot pad {len(pairs)} axes of {x.type}")
    unpadded = ((0, 0),) * (x.type.rank - len(pairs))
    low, high = zip(*(*unpadded, *pairs)) if x.type.rank else ((), ())
    value = statics["value"]
    return cast(Value, slicing.pad(b, x, low=low, high=high, value=value))


def _cast(b: Builder, statics: Statics, args: Args) -> Value:
    (x,), dtype = args, statics["dtype"]
    return x if x.type.dtype == dtype else cast(Value, constants.cast(b, x, dtype=dtype))


# --- indexing ---------------------------------------------------------------------------------


def _take(b: Builder, statics: Statics, args: Args) -> Value:
    x, i = args
    axis = normal_axis("index", x.type, statics["axis"])
    return cast(Value, index.gather(b, x, i, axis=axis, from_end=statics["from_end"]))


def _take_along(b: Builder, statics: Statics, args: Args) -> Value:
    x, i = args
    axis = normal_axis("index", x.type, statics["axis"])
    return cast(Value, index.take_along(b, x, i, axis=axis, from_end=statics["from_end"]))


def _segment_sum(b: Builder, statics: Statics, args: Args) -> Value:
    x, i = args
    axis, dtype = normal_axis("sum", x.type, statics["axis"]), x.type.dtype
    # Sums of halves are in f32.
    wide = constants.cast(b, x, dtype="f32") if dtype in ("f16", "bf16") else x
    total = index.scatter_add(b, wide, i, axis=axis, size=statics["n"])
    return cast(Value, total if wide is x else constants.cast(b, total, dtype=dtype))


def _segment_reduction(op: Op, verb: str) -> Any:
    def build(b: Builder, statics: Statics, args: Args) -> Value:
        x, i = args
        axis = normal_axis(verb, x.type, statics["axis"])
        if x.type.dtype == "bool":
            raise wrong_dtype(verb, (x.type,), "numbers")
        return cast(Value, op(b, x, i, axis=axis, size=statics["n"]))

    return build


def _put(b: Builder, statics: Statics, args: Args) -> Value:
    axis = normal_axis("put into", args[0].type, statics["axis"])
    return cast(Value, placing.put(b, *args, axis=axis))


def _narrow(b: Builder, statics: Statics, args: Args) -> Value:
    axis = normal_axis("narrow", args[0].type, statics["axis"])
    return cast(Value, placing.narrow(b, *args, axis=axis, length=statics["length"]))


def _order(b: Builder, x: Value, axis: int, count: Dim, descending: bool) -> tuple[Value, int]:
    axis = normal_axis("order", x.type, axis)
    order = ranking.argsort(b, x, axis=axis, count=count, descending=descending)
    return cast(Value, order), axis


def _argsort(b: Builder, statics: Statics, args: Args) -> Value:
    (x,), axis = args, statics["axis"]
    size = x.type.dims[normal_axis("order", x.type, axis)]
    return _order(b, x, axis, size, statics["descending"])[0]


def _sort(b: Builder, statics: Statics, args: Args) -> Value:
    (x,), axis = args, statics["axis"]
    size = x.type.dims[normal_axis("order", x.type, axis)]
    return ranking.values_at(b, x, *_order(b, x, axis, size, statics["descending"]))


def _top_k(b: Builder, statics: Statics, args: Args) -> tuple[Value, ...]:
    (x,) = args
    order, axis = _order(b, x, statics["axis"], statics["k"], statics["largest"])
    return ranking.values_at(b, x, order, axis), order


ONE_HOT = "one_hot"  # in the origin of the comparison that it is


def _one_hot(b: Builder, statics: Statics, args: Args) -> Value:
    (x,), n = args, statics["n"]
    if x.type.dtype == "bool" or is_float(x.type.dtype):
        raise wrong_dtype("one-hot encode", (x.type,), "integers")
    dims = (*x.type.dims, n)
    wide = x if x.type.dtype == "i64" else constants.cast(b, x, dtype="i64")
    spread = broadcast(b, wide, dims=dims, axes=tuple(range(x.type.rank)))
    places = shape.iota(b, dims=dims, axis=x.type.rank)
    # The same equation that a user writes for a mask, where a number outside is none of an error.
    here = replace(b.origin, library=(*b.origin.library, ONE_HOT))
    with b.at(here):
        met = logic.eq(b, spread, places)
    return cast(Value, constants.cast(b, met, dtype=statics["dtype"]))


def _adapted(b: Builder, statics: Statics, args: Args) -> Value:
    """What it does to a layer is said by the checker; a tensor has no weights."""
    raise bad_static(f"adapted takes an instance of a layer, not {args[0].type}")


# --- the table --------------------------------------------------------------------------------

_DIMS = StaticParam("dims", "dims", required=True)
_DIAGONAL = (StaticParam("diagonal", "int", 0),)
_LAST_AXIS = StaticParam("axis", "int", -1)
_ORDER = (_LAST_AXIS, StaticParam("descending", "bool", False))
_FIRST_AXIS = (StaticParam("axis", "int", 0),)
_FROM_END = StaticParam("from_end", "bool", True)

SURFACES: tuple[Surface, ...] = (
    Surface(
        "adapted",
        ("net",),
        _adapted,
        (StaticParam("adapter", "adapter", required=True),),
        doc="The same instance of a layer, each weight of it read through an adapter.",
    ),
    Surface("zeros", (), _filled(0), (_DIMS, _DTYPE), doc="Zeros of the given dims."),
    Surface("ones", (), _filled(1), (_DIMS, _DTYPE), doc="Ones of the given dims."),
    Surface(
        "full",
        (),
        _filled(None),
        (_DIMS, StaticParam("value", "number", required=True), _DTYPE),
        doc="A tensor of the given dims, every element `value`.",
    ),
    Surface(
        "arange",
        (),
        _arange,
        (_DIMS, StaticParam("dtype", "dtype", "i64")),
        doc="[stop], [start, stop] or [start, stop, step]: the numbers from start to below stop.",
    ),
    Surface("eye", (), _eye, (_DIMS, _DTYPE), doc="Ones on the diagonal of [n] or [rows, cols]."),
    Surface("tril", ("x",), _triangle(True), _DIAGONAL, doc="x, but 0 above a diagonal."),
    Surface("triu", ("x",), _triangle(False), _DIAGONAL, doc="x, but 0 below a diagonal."),
    Surface("reshape", ("x",), _reshape, (_DIMS,), doc="The same elements; one dim may be -1."),
    Surface(
        "transpose",
        ("x",),
        _transpose,
        (StaticParam("perm", "dims", ()),),
        doc="Dim i of the result is x's dim perm[i]; without numbers the order is reversed.",
    ),
    Surface("broadcast_to", ("x",), _broadcast_to, (_DIMS,), doc="x stretched to the given dims."),
    Surface(
        "concat",
        ("x...",),
        _concat,
        _FIRST_AXIS,
        doc="Tensors one after the other.",
        alike="but axis",
    ),
    Surface(
        "stack", ("x...",), _stack, _FIRST_AXIS, doc="Equal tensors along a new axis.", alike="all"
    ),
    Surface(
        "split",
        ("x",),
        _split,
        (StaticParam("parts", "ints", required=True), *_FIRST_AXIS),
        doc="A tuple: so many equal parts, or parts of the given sizes.",
    ),
    Surface(
        "pad",
        ("x",),
        _pad,
        (StaticParam("pairs", "pairs", required=True), StaticParam("value", "number", 0.0)),
        doc="(low, high) elements more at both ends of each of the last axes.",
    ),
    Surface(
        "cast",
        ("x",),
        _cast,
        (StaticParam("dtype", "dtype", required=True),),
        doc="x with another dtype; floats are cut towards 0 to make integers.",
    ),
    Surface(
        "take",
        ("x", "indices"),
        _take,
        (*_FIRST_AXIS, _FROM_END),
        doc="Slices of x along an axis. Negative indices count from the end, unless `from_end` is "
        "false; those outside are clamped, but an input of the model must hold none.",
    ),
    Surface(
        "take_along",
        ("x", "indices"),
        _take_along,
        (_LAST_AXIS, _FROM_END),
        doc="One element along an axis for each index (NumPy's take_along_axis), as `take` reads "
        "it.",
        alike="but axis",
    ),
    Surface(
        "segment_sum",
        ("x", "segments"),
        _segment_sum,
        (StaticParam("n", "dim", required=True), *_FIRST_AXIS),
        doc="n sums along an axis: each slice of x is added to the one that its segment names, as "
        "`take` reads it; the adjoint of `take`.",
    ),
    *(
        Surface(
            f"segment_{kind}",
            ("x", "segments"),
            _segment_reduction(op, verb),
            (StaticParam("n", "dim", required=True), *_FIRST_AXIS),
            doc=f"As `segment_sum`, but n {plural}; a segment of none has {nothing}.",
        )
        for kind, op, verb, plural, nothing in (
            ("max", segments.scatter_max, "take the maximum of", "maxima", "the lowest number"),
            ("min", segments.scatter_min, "take the minimum of", "minima", "the highest number"),
            ("prod", segments.scatter_prod, "multiply", "products", "1"),
        )
    ),
    Surface(
        "put",
        ("x", "values", "at"),
        _put,
        _FIRST_AXIS,
        doc="x, but `values` from position `at` of an axis on, as far as there is room.",
    ),
    Surface(
        "narrow",
        ("x", "at"),
        _narrow,
        (StaticParam("length", "dim", required=True), *_FIRST_AXIS),
        doc="The elements from position `at` of an axis on; outside of x there are zeros.",
    ),
    Surface(
        "sort",
        ("x",),
        _sort,
        _ORDER,
        doc="x in ascending order along an axis; equals keep their order, NaN is greatest.",
    ),
    Surface(
        "argsort", ("x",), _argsort, _ORDER, doc="The positions (i64) in x of what sort gives."
    ),
    Surface(
        "top_k",
        ("x",),
        _top_k,
        (
            StaticParam("k", "dim", required=True),
            _LAST_AXIS,
            StaticParam("largest", "bool", True),
        ),
        doc="(values, positions) of the k greatest along an axis, the greatest first.",
    ),
    Surface(
        "one_hot",
        ("x",),
        _one_hot,
        (StaticParam("n", "dim", required=True), _DTYPE),
        doc="1 at each index along a new last dim of size n, else 0; all 0 of one outside.",
    ),
)
