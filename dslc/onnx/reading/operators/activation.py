"""Activations: mostly functions of the library of the same name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.types import is_float
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators.common import broadcast_type
from dslc.onnx.reading.operators.elementwise import floats, literal, number, same
from dslc.onnx.reading.operators.linear import is_weight, layer_hint
from dslc.onnx.reading.values import Value
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


def relu(g: Writer, node: Node) -> Value:
    x = node.need(0)
    if is_float(x.dtype):
        return g.call("relu", [x], x.type)
    return g.call("maximum", [x, number(x, 0)], x.type, literals=True)


def clip(g: Writer, node: Node) -> Value:
    x = node.need(0)
    if node.version < 11:
        low: Any = node.attr("min")
        high: Any = node.attr("max")
        ends = [None if end is None else number(x, np.float32(end)) for end in (low, high)]
        ends = [None if end is None or abs(float(end.known)) >= 3.4e38 else end for end in ends]
    else:
        ends = [node.input(1), node.input(2)]
    for end, name in zip(ends, ("maximum", "minimum")):
        if end is not None:
            x = g.call(name, [x, end], x.type, literals=bool(g.read(x)))
    return x


def gelu(g: Writer, node: Node) -> Value:
    x = floats(node)
    approximate = node.attr("approximate", "none") == "tanh"
    return g.call("gelu_tanh" if approximate else "gelu", [x], x.type)


def swish(g: Writer, node: Node) -> Value:
    x, alpha = floats(node), float(node.attr("alpha", 1.0))
    if alpha == 1:
        return g.call("silu", [x], x.type)
    x = g.atom(x)
    return g.binary("*", x, g.call("sigmoid", [g.scaled(x, alpha)], x.type), x.type)


def hard_sigmoid(g: Writer, node: Node) -> Value:
    x = floats(node)
    alpha, beta = float(node.attr("alpha", 0.2)), float(node.attr("beta", 0.5))
    line = g.binary("+", g.scaled(x, alpha), number(x, np.float32(beta)), x.type)
    return g.call("clamp", [line], x.type, "0, 1")


def shrink(g: Writer, node: Node) -> Value:
    x = g.atom(floats(node))
    lambd, bias = literal(node.attr("lambd", 0.5)), literal(node.attr("bias", 0.0))
    t = x.text
    inner = f"where({t} < -{lambd}, {t} + {bias}, where({t} > {lambd}, {t} - {bias}, 0))"
    return Value(x.type, inner)


def selu(g: Writer, node: Node) -> Value:
    x = floats(node)
    alpha = float(node.attr("alpha", 1.67326319217681884765625))
    gamma = float(node.attr("gamma", 1.05070102214813232421875))
    if abs(alpha - 1.6732632) < 1e-6 and abs(gamma - 1.0507010) < 1e-6:
        return g.call("selu", [x], x.type)
    return g.scaled(g.call("elu", [x], x.type, literal(alpha)), gamma)


def thresholded_relu(g: Writer, node: Node) -> Value:
    x = floats(node)
    return g.call("threshold", [x], x.type, f"{literal(node.attr('alpha', 1.0))}, 0")


def prelu(g: Writer, node: Node) -> Value:
    x, slope = floats(node), node.need(1)
    per_channel = slope.rank == x.rank - 1 and all(d == 1 for d in slope.dims[1:])
    if is_weight(slope) and g.read(x) and x.rank > 1 and (slope.dims == (1,) or per_channel):
        count = slope.dims[0]
        if isinstance(count, int) and (count == 1 or x.dims[1] == count):
            name = g.instance(layer_hint(node, slope), "prelu")
            g.weight(name, "weight", slope.known.reshape(-1))
            return g.stage(x, name, "prelu", "" if count == 1 else str(count), x.type)
    x = g.atom(x)
    scaled = g.binary("*", slope, x, broadcast_type(g, [slope, x]))
    return Value(scaled.type, f"where({x.text} > 0, {x.text}, {scaled.text})")


TABLE = {
    "Softsign": same("softsign"),
    "Softplus": same("softplus"),
    "Mish": same("mish"),
    "HardSwish": same("hardswish"),
    "Elu": same("elu", ("alpha", "alpha", 1.0)),
    "Celu": same("celu", ("alpha", "alpha", 1.0)),
    "LeakyRelu": same("leaky_relu", ("alpha", "slope", 0.01)),
    "Relu": relu,
    "Gelu": gelu,
    "Swish": swish,
    "Selu": selu,
    "ThresholdedRelu": thresholded_relu,
    "PRelu": prelu,
    "Clip": clip,
    "HardSigmoid": hard_sigmoid,
    "Shrink": shrink,
}
