"""Element by element: arithmetic, comparisons, logic, activations, casts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.types import TensorType, is_float
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators.common import broadcast_type
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import (
    AND,
    COMPARE,
    NOT,
    OR,
    Value,
    dtype_of,
    number_text,
)
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    np = lazy("numpy")
    onnx = lazy("onnx")

Handler = Callable[[Writer, Node], Value]


def floats(node: Node, index: int = 0) -> Value:
    value = node.need(index)
    if not is_float(value.dtype):
        raise Refused(f"it is said of floats here, not of {value.dtype}")
    return value


def same(name: str, *options: tuple[str, str, float]) -> Handler:
    """A function of one float tensor; `options` are (ONNX's attribute, ours, both's default)."""

    def handler(g: Writer, node: Node) -> Value:
        x = floats(node)
        parts = []
        for attribute, ours, default in options:
            given = float(node.attr(attribute, default))
            # Attributes are f32: written as short as that is exact.
            if np.float32(given) != np.float32(default):
                parts.append(f"{ours}={literal(given)}")
        return g.call(name, [x], x.type, ", ".join(parts))

    return handler


def literal(number: float) -> str:
    written = number_text(np.float32(number))
    if written is None:
        raise Refused(f"its attribute is {number}")
    return written[0]


def anynumber(name: str) -> Handler:
    return lambda g, node: g.call(name, [node.need(0)], node.need(0).type)


# --- arithmetic -----------------------------------------------------------------------------------


def operator(sign: str) -> Handler:
    def handler(g: Writer, node: Node) -> Value:
        a, b = _pair(node)
        return g.binary(sign, a, b, broadcast_type(g, [a, b]))

    return handler


def _pair(node: Node) -> tuple[Value, Value]:
    a, b = node.need(0), node.need(1)
    if a.dtype != b.dtype:
        raise Refused(f"it computes with {a.dtype} and {b.dtype}", "E0501")
    if node.version < 7 and (node.attr("broadcast", 0) or node.has("axis")):
        axis = node.attr("axis")
        if axis is not None and b.rank < a.rank:
            raise Refused("opset 6's broadcast along an axis")
    return a, b


def div(g: Writer, node: Node) -> Value:
    a, b = _pair(node)
    type = broadcast_type(g, [a, b])
    if is_float(a.dtype):
        return g.binary("/", a, b, type)
    if a.dtype == "u8":
        return g.binary("//", a, b, type)
    # ONNX cuts towards 0, `//` goes down.
    a, b = g.atom(a), b if b.number is not None else g.atom(b)
    quotient = g.binary("//", _abs(g, a), _abs(g, b), type)
    return g.binary("*", quotient, g.binary("*", _sign(g, a), _sign(g, b), type), type)


def _abs(g: Writer, x: Value) -> Value:
    return g.call("abs", [x], x.type)


def _sign(g: Writer, x: Value) -> Value:
    return g.call("sign", [x], x.type)


def mod(g: Writer, node: Node) -> Value:
    a, b = _pair(node)
    type = broadcast_type(g, [a, b])
    if not node.attr("fmod", 0):
        return g.binary("%", a, b, type)
    a, b = g.atom(a), g.atom(b)  # fmod has the sign of what is divided
    return g.binary("*", _sign(g, a), g.binary("%", _abs(g, a), _abs(g, b), type), type)


def power(g: Writer, node: Node) -> Value:
    a, b = node.need(0), node.need(1)
    type = broadcast_type(g, [a, b])
    if a.dtype != b.dtype and b.number is None:
        if is_float(a.dtype):
            b = g.cast(b, a.dtype)
        elif is_float(b.dtype):
            return g.cast(g.binary("**", g.cast(a, b.dtype), b, type.with_dtype(b.dtype)), a.dtype)
        else:
            b = g.cast(b, a.dtype)
    elif b.number is not None and a.text:
        exponent = b.number
        if not is_float(a.dtype) and float(exponent) != int(exponent):
            wide = g.binary("**", g.cast(a, "f64"), b, TensorType("f64", type.dims))
            return g.cast(wide, a.dtype)
        if float(exponent) == int(exponent):
            number = np.asarray(int(exponent), dtype=np.int64) if not is_float(a.dtype) else b.known
            b = Value(TensorType(a.dtype, b.dims), known=np.broadcast_to(number, b.known.shape))
    return g.binary("**", a, b, type)


def fold(name: str, sign: str = "") -> Callable[[Writer, Node], Value]:
    """Any number of inputs, two at a time."""

    def handler(g: Writer, node: Node) -> Value:
        out, *others = node.given()
        for other in others:
            type = broadcast_type(g, [out, other])
            if sign:
                out = g.binary(sign, out, other, type)
            elif out.text:
                out = g.call(name, [out, other], type, literals=True)
            else:
                out = g.call(name, [other, out], type, literals=True)
        return out

    return handler


def average(g: Writer, node: Node) -> Value:
    total = fold("", "+")(g, node)
    count = len(node.inputs)
    return g.scaled(total, 1 / count) if count == 1 else _over(g, total, count)


def _over(g: Writer, x: Value, count: int) -> Value:
    n = Value(TensorType(x.dtype), known=np.asarray(float(count)))
    return g.binary("/", x, n, x.type)


def negative(g: Writer, node: Node) -> Value:
    return g.negative(node.need(0))


def reciprocal(g: Writer, node: Node) -> Value:
    one = Value(TensorType(node.need(0).dtype), known=np.asarray(1.0))
    return g.binary("/", one, floats(node), node.need(0).type)


# --- comparisons and logic ------------------------------------------------------------------------


def comparison(sign: str) -> Handler:
    def handler(g: Writer, node: Node) -> Value:
        a, b = node.need(0), node.need(1)
        return g.binary(sign, a, b, broadcast_type(g, [a, b], "bool"))

    return handler


def exclusive_or(g: Writer, node: Node) -> Value:
    a, b = node.need(0), node.need(1)
    return g.binary("!=", a, b, broadcast_type(g, [a, b], "bool"))


def negation(g: Writer, node: Node) -> Value:
    x = node.need(0)
    return Value(x.type, f"not {g.inside(x, NOT)}", NOT)


def where(g: Writer, node: Node) -> Value:
    condition, a, b = node.need(0), node.need(1), node.need(2)
    type = broadcast_type(g, [condition, a, b], a.dtype)
    if not a.text and not b.text:
        g.read(a)
    texts = [g.inside(condition, OR), g.inside(a, OR, literal=True), g.inside(b, OR, literal=True)]
    return Value(type, f"where({', '.join(texts)})")


def is_nan(g: Writer, node: Node) -> Value:
    x = g.atom(floats(node))
    return Value(TensorType("bool", x.dims), f"{x.text} != {x.text}", COMPARE)


def is_inf(g: Writer, node: Node) -> Value:
    x = g.atom(floats(node))
    bools = TensorType("bool", x.dims)
    # Of the numbers that are not 0 only the infinite ones are their own half.
    half = f"{x.text} * 0.5 == {x.text} and {x.text} "
    both = (bool(node.attr("detect_positive", 1)), bool(node.attr("detect_negative", 1)))
    if both == (False, False):
        return Value(bools, f"{half}!= {x.text}", AND)
    sides = {(True, True): "!= 0", (True, False): "> 0", (False, True): "< 0"}
    return Value(bools, half + sides[both], AND)


# --- casts ----------------------------------------------------------------------------------------


def cast(g: Writer, node: Node) -> Value:
    target = dtype_of(onnx.helper.tensor_dtype_to_np_dtype(node.attr("to")))
    return _cast(g, node.need(0), target)


def cast_like(g: Writer, node: Node) -> Value:
    return _cast(g, node.need(0), node.need(1).dtype)


def _cast(g: Writer, x: Value, target: Any) -> Value:
    if target == x.dtype:
        return x
    if target == "bool":  # whatever is not 0
        zero = Value(TensorType(x.dtype), known=np.asarray(0))
        return g.binary("!=", x, zero, TensorType("bool", x.dims))
    return g.cast(x, target)


def number(like: Value, number: Any) -> Value:
    return Value(TensorType(like.dtype), known=np.asarray(number))


def dropout(g: Writer, node: Node) -> Sequence[Value]:
    """The identity: what is imported runs without training."""
    x = node.need(0)
    if node.version >= 12 and node.input(2) is not None and bool(node.scalar(2, "training_mode")):
        ratio = float(node.scalar(1, "ratio", 0.5))
        if ratio:
            raise Refused("it drops at random (training_mode)")
    mask = Value(TensorType("bool", x.dims), known=np.asarray(True))
    if node.wants(1):
        ones = ", ".join(str(d) for d in x.dims)
        mask = Value(TensorType("bool", x.dims), f"full[{ones}, value=1, dtype=bool]()")
    return [x, mask][: len(node.outputs)]


def identity(g: Writer, node: Node) -> Value:
    return node.need(0)


TABLE: dict[str, Callable[[Writer, Node], Value | Sequence[Value]]] = {
    "Abs": anynumber("abs"),
    "Sign": anynumber("sign"),
    "Exp": same("exp"),
    "Log": same("log"),
    "Sqrt": same("sqrt"),
    "Sin": same("sin"),
    "Cos": same("cos"),
    "Tanh": same("tanh"),
    "Erf": same("erf"),
    "Sigmoid": same("sigmoid"),
    "Floor": same("floor"),
    "Ceil": same("ceil"),
    "Round": same("round"),
    "Tan": same("tan"),
    "Asin": same("asin"),
    "Acos": same("acos"),
    "Atan": same("atan"),
    "Sinh": same("sinh"),
    "Cosh": same("cosh"),
    "Asinh": same("asinh"),
    "Acosh": same("acosh"),
    "Atanh": same("atanh"),
    "Add": operator("+"),
    "Sub": operator("-"),
    "Mul": operator("*"),
    "Div": div,
    "Mod": mod,
    "Pow": power,
    "Max": fold("maximum"),
    "Min": fold("minimum"),
    "Sum": fold("", "+"),
    "Mean": average,
    "Neg": negative,
    "Reciprocal": reciprocal,
    "Equal": comparison("=="),
    "Less": comparison("<"),
    "LessOrEqual": comparison("<="),
    "Greater": comparison(">"),
    "GreaterOrEqual": comparison(">="),
    "And": comparison("and"),
    "Or": comparison("or"),
    "Xor": exclusive_or,
    "Not": negation,
    "Where": where,
    "IsNaN": is_nan,
    "IsInf": is_inf,
    "Cast": cast,
    "CastLike": cast_like,
    "Dropout": dropout,
    "Identity": identity,
}
