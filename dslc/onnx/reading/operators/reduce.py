"""Reductions over axes, positions of extremes, running sums, the greatest few."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dslc._lazy import lazy
from dslc.ir.dims import Dim
from dslc.ir.types import TensorType, is_float
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.operators.common import with_dims
from dslc.onnx.reading.operators.shape import indexed
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import SUM, Value, of_array, tuple_text
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

# What a reduction over nothing gives.
_OF_NOTHING = {"max": float("-inf"), "min": float("inf"), "prod": 1.0}


def _axes(node: Node, x: Value) -> list[int] | None:
    """The axes, ascending; None where nothing is reduced."""
    axes = node.axes(1, x.rank)
    if axes is None or not axes:
        if node.attr("noop_with_empty_axes", 0):
            return None
        return list(range(x.rank))
    return sorted(axes)


def _reduced(g: Writer, name: str, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    kept = [1 if i in axes else d for i, d in enumerate(x.dims)]
    dims = kept if keepdims else [d for i, d in enumerate(x.dims) if i not in axes]
    if any(x.dims[axis] == 0 for axis in axes) and name in _OF_NOTHING:
        fill = _OF_NOTHING[name]
        if not is_float(x.dtype):
            raise Refused("it reduces a dim of 0")
        return g.broadcast_to(of_array(np.asarray(fill, np.float32), dtype=x.dtype), dims)
    if not axes:
        return x
    parts = []
    if len(axes) < x.rank or keepdims:
        parts.append(f"axis={tuple_text(list(axes), square=len(axes) == 1)}")
    if keepdims:
        parts.append("keepdims=true")
    return g.call(name, [x], with_dims(x, dims), ", ".join(parts))


def reduction(
    name: str,
    before: Callable[[Writer, Value], Value] | None = None,
    after: str = "",
) -> Callable[[Writer, Node], Value]:
    """`name` over axes of what `before` makes of the input; `after` is a function of the result."""

    def handler(g: Writer, node: Node) -> Value:
        x = node.need(0)
        axes = _axes(node, x)
        if name == "mean" and not is_float(x.dtype):
            raise Refused(f"means are of floats, not {x.dtype}")
        if before is not None:
            x = before(g, x)
        if axes is not None:
            x = _reduced(g, _named(name, x), x, axes, bool(node.attr("keepdims", 1)))
        return g.call(after, [x], x.type) if after else x

    return handler


def _named(name: str, x: Value) -> str:
    if x.dtype == "bool":
        return {"max": "any", "min": "all"}.get(name, name)
    return name


def _squares(g: Writer, x: Value) -> Value:
    x = g.atom(x)
    return g.binary("*", x, x, x.type)


def _abs(g: Writer, x: Value) -> Value:
    return g.call("abs", [x], x.type)


def log_sum_exp(g: Writer, node: Node) -> Value:
    x = node.need(0)
    axes = _axes(node, x)
    keepdims = bool(node.attr("keepdims", 1))
    if axes is None:
        return x
    if any(x.dims[axis] == 0 for axis in axes):
        total = _reduced(g, "sum", x, axes, keepdims)
        return g.call("log", [total], total.type)
    x = g.atom(x)
    top = g.atom(_hinted(_reduced(g, "max", x, axes, True), "top"))
    shifted = g.call("exp", [g.binary("-", x, top, x.type)], x.type)
    total = _reduced(g, "sum", shifted, axes, True)
    y = g.binary("+", g.call("log", [total], total.type), top, total.type)
    if keepdims:
        return y
    return g.reshape(y, [d for i, d in enumerate(x.dims) if i not in axes])


def _hinted(value: Value, hint: str) -> Value:
    value.hint = hint
    return value


def position(name: str) -> Callable[[Writer, Node], Value]:
    """argmax or argmin along an axis."""

    def handler(g: Writer, node: Node) -> Value:
        x = node.need(0)
        axis = node.axis(0, x.rank)
        keepdims = bool(node.attr("keepdims", 1))
        last = bool(node.attr("select_last_index", 0))
        size = x.dims[axis]
        g.assume_at_least(size, 1)
        kept: list[Dim] = [1 if i == axis else d for i, d in enumerate(x.dims)]
        dims = kept if keepdims else [d for i, d in enumerate(x.dims) if i != axis]
        if last:
            x = flipped(g, x, axis)
        option = f"axis={axis}" + ", keepdims=true" * keepdims
        y = g.call(name, [x], TensorType("i64", tuple(dims)), option)
        if not last:
            return y
        return Value(y.type, f"{size - 1} - {g.inside(y, SUM + 1)}", SUM)

    return handler


def flipped(g: Writer, x: Value, axis: int) -> Value:
    return indexed(g, x, [*[":"] * axis, "::-1"], x.dims)


def cumulative_sum(g: Writer, node: Node) -> Value:
    x = node.need(0)
    axis = normal(int(node.scalar(1, "axis")), x.rank)
    reverse = bool(node.attr("reverse", 0))
    y = flipped(g, x, axis) if reverse else x
    if node.attr("exclusive", 0):  # what comes before each: a 0, then all but the last
        g.assume_at_least(x.dims[axis], 1)
        dims = list(x.dims)
        dims[axis] = dims[axis] - 1
        y = indexed(g, y, [*[":"] * axis, ":-1"], dims)
        y = g.call("cumsum", [y], y.type, f"axis={axis}")
        y = g.call("pad", [y], x.type, "(1, 0)" + ", (0, 0)" * (x.rank - 1 - axis))
    else:
        y = g.call("cumsum", [y], x.type, f"axis={axis}")
    return flipped(g, y, axis) if reverse else y


def top_k(g: Writer, node: Node) -> Sequence[Value]:
    x = node.need(0)
    axis = node.axis(-1, x.rank)
    if node.version < 10:
        k: Dim = int(node.attr("k"))
    else:
        (k,) = node.dims(1, "k")
    dims = list(x.dims)
    dims[axis] = k
    largest = bool(node.attr("largest", 1))
    option = f"{k}, axis={axis}" + ", largest=false" * (not largest)
    values = Value(with_dims(x, dims), hint=node.outputs[0] or "values")
    places = Value(TensorType("i64", tuple(dims)), hint=(node.outputs[1:] or [""])[0] or "places")
    g.bind_all(g.call("top_k", [x], x.type, option).text, [values, places])
    return [values, places][: len(node.outputs)]


TABLE: dict[str, Callable[[Writer, Node], Value | Sequence[Value]]] = {
    "ReduceSum": reduction("sum"),
    "ReduceMean": reduction("mean"),
    "ReduceMax": reduction("max"),
    "ReduceMin": reduction("min"),
    "ReduceProd": reduction("prod"),
    "ReduceL1": reduction("sum", _abs),
    "ReduceL2": reduction("sum", _squares, "sqrt"),
    "ReduceSumSquare": reduction("sum", _squares),
    "ReduceLogSum": reduction("sum", None, "log"),
    "ReduceLogSumExp": log_sum_exp,
    "ArgMax": position("argmax"),
    "ArgMin": position("argmin"),
    "CumSum": cumulative_sum,
    "TopK": top_k,
}
