"""Elements put by index: ScatterND and its kin by segments, MaxUnpool, TensorScatter.

What is put lies in one row of all places, each named by one index: the updates joined by segments,
and with the data, or taken instead of it where a place is named at all (ONNX leaves open what two
updates of one place give, unless they are joined).
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.ir.dims import Dim, product
from dslc.ir.types import DType, TensorType
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.operators.common import windows
from dslc.onnx.reading.operators.index import factor_text, padded, place_of_all
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import COMPARE, PRODUCT, SUM, Value
from dslc.onnx.reading.writer import Writer


def scatter_nd(g: Writer, node: Node) -> Value:
    x, places, updates = node.need(0), node.need(1), node.need(2)
    depth = places.dims[-1] if places.dims else 0
    if not isinstance(depth, int) or not 1 <= depth <= x.rank:
        raise Refused(f"its indices are {places.type}", "E0501")
    index = place_of_all(g, places, x.dims[:depth])
    return _put(g, node, x, index, updates, depth)


def scatter_elements(g: Writer, node: Node) -> Value:
    x, places, updates = node.need(0), node.need(1), node.need(2)
    axis = node.axis(0, x.rank)
    if places.rank != x.rank or updates.rank != x.rank:
        raise Refused(f"its indices have {places.rank} dims, its data {x.rank}", "E0501")
    places = g.atom(places if places.dtype == "i64" else g.cast(places, "i64"))
    text = ""
    for i, size in enumerate(x.dims):
        one = f"{places.text} % {factor_text(size)}"
        if i != axis:
            count = places.dims[i]
            behind = "".join(", 1" for _ in places.dims[i + 1 :])
            one = f"arange[{count}]()"
            one = f"reshape[{count}{behind}]({one})" if behind else one
        text = f"({text}) * {factor_text(size)} + {one}" if text else one
    # Two axes and more make a sum; one alone is a remainder.
    index = Value(TensorType("i64", places.dims), text, SUM if x.rank > 1 else PRODUCT)
    count = product(places.dims)
    index, updates = g.reshape(g.atom(index), (count,)), g.reshape(updates, (count,))
    return _put(g, node, x, index, updates, x.rank)


def _put(g: Writer, node: Node, x: Value, index: Value, updates: Value, depth: int) -> Value:
    """x with the updates put or added where `index` says, a place in all of its first dims."""
    how = node.attr("reduction", "none")
    rows, rest = product(x.dims[:depth]), x.dims[depth:]
    if how in _JOINED:
        kind, sign = _JOINED[how]
        total = g.reshape(_joined(g, kind, updates, index, (rows, *rest)), x.dims)
        if sign.isalpha():
            return g.call(sign, [x, total], x.type)
        return g.binary(sign, x, total, x.type)
    if how != "none":
        raise Refused(f"the reduction {how!r}", "E0501")
    return _instead(g, x, index, updates, depth)


# ONNX's name: how slices are joined by segments, and with the data.
_JOINED = {
    "add": ("sum", "+"),
    "mul": ("prod", "*"),
    "max": ("max", "maximum"),
    "min": ("min", "minimum"),
}


def _instead(
    g: Writer, x: Value, index: Value, updates: Value, depth: int, kind: str = "sum"
) -> Value:
    """The updates where `index` names a place, and x elsewhere. Several of one place are joined."""
    rows, rest = product(x.dims[:depth]), x.dims[depth:]
    index = g.atom(index)
    dtype: DType = "i32" if x.dtype == "bool" else x.dtype  # truth values are put as numbers
    put = updates if dtype == x.dtype else g.cast(updates, dtype)
    put = g.reshape(_joined(g, kind, put, index, (rows, *rest)), x.dims)
    if dtype != x.dtype:
        put = g.cast(put, x.dtype)
    ones = Value(TensorType("i32", index.dims), _ones(index.dims))
    named = _joined(g, "sum", ones, index, (rows,))
    named = g.reshape(named, (*x.dims[:depth], *(1,) * len(rest)))
    met = Value(TensorType("bool", named.dims), f"{g.inside(named, SUM)} > 0", COMPARE)
    return g.call("where", [met, put, x], x.type)


def _joined(g: Writer, kind: str, updates: Value, index: Value, dims: Sequence[Dim]) -> Value:
    """The updates of each place, joined: a tensor of `dims`, by the place."""
    g.read(updates)
    type = TensorType(updates.dtype, tuple(dims))
    return g.call(f"segment_{kind}", [updates, index], type, str(dims[0]))


def _ones(dims: Sequence[Dim]) -> str:
    sizes = ", ".join(map(str, dims)) if dims else "dims=()"
    return f"ones[{sizes}, dtype=i32]()"


def max_unpool(g: Writer, node: Node) -> Value:
    """Each maximum where MaxPool found it, and 0 elsewhere. Windows that overlap name a place more
    than once, with one number."""
    x, places = node.need(0), node.need(1)
    kernel = [int(k) for k in node.attr("kernel_shape", ())]
    strides, _, pads = windows(node, g, x, kernel)
    dims: tuple[Dim, ...] = x.dims[:2]
    for size, k, s, (low, high) in zip(x.dims[2:], kernel, strides, pads):
        dims = (*dims, (size - 1) * s + k - low - high)
    row, count = product(dims), product(x.dims)
    g.read(x), g.read(places)
    values, index = g.reshape(x, (count,)), g.reshape(places, (count,))
    zeros = Value(TensorType(x.dtype, (row,)), f"zeros[{row}{_dtype(x.dtype)}]()")
    y = g.reshape(_instead(g, zeros, index, values, 1, "max"), dims)
    if node.input(2) is None:
        return y
    whole = node.dims(2, "output_shape")
    if len(whole) != len(dims):
        raise Refused(f"its output_shape has {len(whole)} dims, its data {len(dims)}", "E0501")
    more = [want - have for have, want in zip(dims, whole)]
    if any(isinstance(n, int) and n < 0 for n in more):
        raise Refused("its output_shape is smaller than what its windows cover", "E0504")
    return padded(g, y, [0] * x.rank, more)


def _dtype(dtype: DType) -> str:
    return "" if dtype == "f32" else f", dtype={dtype}"


def tensor_scatter(g: Writer, node: Node) -> Value:
    """A cache with what is new put in from each batch's own position on."""
    x, update = g.atom(node.need(0)), g.atom(node.need(1))
    axis = normal(int(node.attr("axis", -2)), x.rank)
    at = node.input(2)
    if at is None:
        at = Value(TensorType("i64", x.dims[:1]), f"zeros[{x.dims[0]}, dtype=i64]()")
    at = g.atom(at if at.dtype == "i64" else g.cast(at, "i64"))
    if node.attr("mode", "linear") == "linear":
        return g.call("put", [x, update, at], x.type, f"axis={axis}")
    letters = [f"i{n}" for n in range(x.rank)]
    size = factor_text(x.dims[axis])
    place = f"({letters[axis]} - {at.text}[i0]) % {size}"
    source = ", ".join(place if n == axis else letter for n, letter in enumerate(letters))
    old = f"{x.text}[{', '.join(letters)}]"
    element = f"{update.text}[{source}] else {old}"
    return g.formula(Value(x.type, hint=node.outputs[0]), letters, element)


TABLE = {
    "MaxUnpool": max_unpool,
    "TensorScatter": tensor_scatter,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
