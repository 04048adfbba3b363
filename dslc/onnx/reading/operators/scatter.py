"""Elements put by index: ScatterND and ScatterElements as sums by segments.

What is put lies in one row of all places, each named by one index: sums by segments of the updates,
added to the data, or taken instead of it where a place is named at all (ONNX leaves open what two
updates of one place give, unless they are added).
"""

from __future__ import annotations

from collections.abc import Sequence

from dslc.ir.dims import Dim, product
from dslc.ir.types import DType, TensorType
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators.index import factor_text, place_of_all
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
    how = how.decode() if isinstance(how, bytes) else how
    if how not in ("none", "add"):
        raise Refused(f"the reduction {how!r}")
    rows, rest = product(x.dims[:depth]), x.dims[depth:]
    if how == "add":
        total = g.reshape(_sums(g, updates, index, (rows, *rest)), x.dims)
        return g.binary("+", x, total, x.type)
    index = g.atom(index)
    dtype: DType = "i32" if x.dtype == "bool" else x.dtype  # truth values are put as numbers
    put = updates if dtype == x.dtype else g.cast(updates, dtype)
    put = g.reshape(_sums(g, put, index, (rows, *rest)), x.dims)
    if dtype != x.dtype:
        put = g.cast(put, x.dtype)
    ones = Value(TensorType("i32", index.dims), _ones(index.dims))
    named = _sums(g, ones, index, (rows,))
    named = g.reshape(named, (*x.dims[:depth], *(1,) * len(rest)))
    met = Value(TensorType("bool", named.dims), f"{g.inside(named, SUM)} > 0", COMPARE)
    return g.call("where", [met, put, x], x.type)


def _sums(g: Writer, updates: Value, index: Value, dims: Sequence[Dim]) -> Value:
    """The updates of each place, summed: a tensor of `dims`, by the place."""
    g.read(updates)
    type = TensorType(updates.dtype, tuple(dims))
    return g.call("segment_sum", [updates, index], type, str(dims[0]))


def _ones(dims: Sequence[Dim]) -> str:
    sizes = ", ".join(map(str, dims)) if dims else "dims=()"
    return f"ones[{sizes}, dtype=i32]()"


TABLE = {
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
