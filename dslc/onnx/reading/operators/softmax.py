"""Along an axis: Softmax, LogSoftmax, Hardmax.

Before opset 13 all dims from `axis` on counted as one.
"""

from __future__ import annotations

from collections.abc import Callable

from dslc.ir.dims import product
from dslc.ir.types import TensorType
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.operators.elementwise import floats
from dslc.onnx.reading.values import Value
from dslc.onnx.reading.writer import Writer


def along(say: Callable[[Writer, Value, int], Value]) -> Callable[[Writer, Node], Value]:
    def handler(g: Writer, node: Node) -> Value:
        x = floats(node)
        default = -1 if node.version >= 13 else 1
        axis = normal(int(node.attr("axis", default)), x.rank)
        if node.version >= 13 or axis == x.rank - 1:
            return say(g, x, axis)
        y = g.reshape(x, (*x.dims[:axis], product(x.dims[axis:])))
        return g.reshape(say(g, y, axis), x.dims)

    return handler


def _function(name: str) -> Callable[[Writer, Value, int], Value]:
    def say(g: Writer, x: Value, axis: int) -> Value:
        return g.call(name, [x], x.type, "" if axis == x.rank - 1 else f"axis={axis}")

    return say


def _hardmax(g: Writer, x: Value, axis: int) -> Value:
    places = g.call(
        "argmax",
        [x],
        TensorType("i64", tuple(d for i, d in enumerate(x.dims) if i != axis)),
        f"axis={axis}",
    )
    rest = [d for i, d in enumerate(x.dims) if i != axis]
    type = TensorType(x.dtype, (*rest, x.dims[axis]))
    dtype = "" if x.dtype == "f32" else f", dtype={x.dtype}"
    hot = g.call("one_hot", [places], type, f"{x.dims[axis]}{dtype}")
    perm = list(range(x.rank - 1))
    perm.insert(axis, x.rank - 1)
    return g.transpose(hot, perm)


TABLE = {
    "Softmax": along(_function("softmax")),
    "LogSoftmax": along(_function("log_softmax")),
    "Hardmax": along(_hardmax),
}
