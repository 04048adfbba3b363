"""Normalisations: the library's layers where scale and bias are known, else their formulas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dslc._lazy import lazy
from dslc.ir.dims import Dim
from dslc.ir.types import TensorType
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.operators.common import broadcast_type, statics
from dslc.onnx.reading.operators.elementwise import floats
from dslc.onnx.reading.operators.linear import is_weight, layer_hint
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Value, number_text, of_array, tuple_text
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


def _epsilon(node: Node, default: float = 1e-5) -> str:
    written = number_text(np.float32(node.attr("epsilon", default)))
    return written[0] if written else "0"


def batch_norm(g: Writer, node: Node) -> Value | Sequence[Value]:
    x, scale, bias, mean, var = (node.need(i) for i in range(5))
    if node.attr("spatial", 1) != 1:
        raise Refused("the old form with spatial=0")
    if node.attr("training_mode", 0) or node.wants(1):
        return _by_the_batch(g, node)
    epsilon = _epsilon(node)
    known = [scale, bias, mean, var]
    if all(map(is_weight, known)) and g.read(x) and x.rank >= 2 and x.dims[1] == scale.dims[0]:
        name = g.instance(layer_hint(node, scale, bias), "norm")
        names = ("weight", "bias", "running_mean", "running_var")
        for own, value in zip(names, known):
            g.weight(name, own, value.known, value.hint)
        return g.stage(x, name, "batch_norm", statics(("eps", epsilon, "1e-05")), x.type)
    ones = [1] * (x.rank - 2)
    parts = [g.atom(g.reshape(value, (*value.dims, *ones))) for value in known]
    s, b, m, v = (part.text for part in parts)
    x = g.atom(x)
    return Value(x.type, f"({x.text} - {m}) * (rsqrt({v} + {epsilon}) * {s}) + {b}", 5)


def _by_the_batch(g: Writer, node: Node) -> Sequence[Value]:
    """In training mode: by the mean and variance of the batch, which the running ones follow."""
    x, scale, bias, mean, var = (node.need(i) for i in range(5))
    if node.version < 14:
        raise Refused("training by an opset before 14")
    axes = tuple_text([0, *range(2, x.rank)], square=False)
    x = g.atom(x)
    own = TensorType(x.dtype, tuple(d if i == 1 else 1 for i, d in enumerate(x.dims)))
    options = f"axis={axes}, keepdims=true"
    m = g.atom(_hint(g.call("mean", [x], own, options), "mean"))
    v = g.atom(_hint(g.call("var", [x], own, options), "variance"))
    y = Value(x.type, f"({x.text} - {m.text}) * rsqrt({v.text} + {_epsilon(node)})", 6)
    y = _scaled(g, y, g.reshape(scale, own.dims), g.reshape(bias, own.dims))
    keep = float(node.attr("momentum", 0.9))
    running = [
        g.binary("+", g.scaled(old, keep), g.scaled(g.reshape(new, old.dims), 1 - keep), old.type)
        for old, new in ((mean, m), (var, v))
    ]
    return [y, *running][: max(len(node.outputs), 1)]


def layer_norm(g: Writer, node: Node) -> Sequence[Value]:
    x, scale, bias = floats(node), node.need(1), node.input(2)
    axis = normal(int(node.attr("axis", -1)), x.rank)
    dims = x.rank - axis
    epsilon = _epsilon(node)
    if not node.wants(1) and not node.wants(2) and node.attr("stash_type", 1) == 1:
        fits = scale.dims == x.dims[axis:] and (bias is None or bias.dims == scale.dims)
        if fits and is_weight(scale) and (bias is None or is_weight(bias)) and g.read(x):
            name = g.instance(layer_hint(node, scale, bias), "norm")
            g.weight(name, "weight", scale.known, scale.hint)
            if bias is not None:
                g.weight(name, "bias", bias.known, bias.hint)
            options = statics(
                ("eps", epsilon, "1e-05"), ("dims", dims, 1), ("bias", bias is not None, True)
            )
            return [g.stage(x, name, "layer_norm", options, x.type)]
    axes = range(axis, x.rank)
    x = g.atom(x)
    options = f"axis={tuple_text(list(axes), square=dims == 1)}, keepdims=true"
    reduced = TensorType(x.dtype, tuple(1 if i >= axis else d for i, d in enumerate(x.dims)))
    mean = g.atom(_hint(g.call("mean", [x], reduced, options), "mean"))
    variance = g.call("var", [x], reduced, options)
    inverse = g.atom(_hint(Value(reduced, f"rsqrt({variance.text} + {epsilon})"), "inverse_std"))
    y = Value(x.type, f"({x.text} - {mean.text}) * {inverse.text}", 6)
    y = _scaled(g, y, scale, bias)
    return [y, mean, inverse][: max(len(node.outputs), 1)]


def _hint(value: Value, hint: str) -> Value:
    value.hint = hint
    return value


def _scaled(g: Writer, y: Value, scale: Value | None, bias: Value | None) -> Value:
    if scale is not None:
        y = g.binary("*", y, scale, broadcast_type(g, [y, scale]))
    if bias is not None:
        y = g.binary("+", y, bias, broadcast_type(g, [y, bias]))
    return y


def rms_norm(g: Writer, node: Node) -> Value:
    x, scale = floats(node), node.need(1)
    axis = normal(int(node.attr("axis", -1)), x.rank)
    epsilon = _epsilon(node)
    if is_weight(scale) and scale.dims == x.dims[-1:] and axis == x.rank - 1 and g.read(x):
        name = g.instance(layer_hint(node, scale), "norm")
        g.weight(name, "weight", scale.known, scale.hint)
        return g.stage(x, name, "rms_norm", epsilon, x.type)
    x = g.atom(x)
    axes = tuple_text(list(range(axis, x.rank)), square=axis == x.rank - 1)
    square = f"mean[axis={axes}, keepdims=true]({x.text} * {x.text})"
    return _scaled(g, Value(x.type, f"{x.text} * rsqrt({square} + {epsilon})", 6), scale, None)


def instance_norm(g: Writer, node: Node) -> Value:
    x, scale, bias = floats(node), node.need(1), node.need(2)
    epsilon = _epsilon(node)
    if is_weight(scale) and is_weight(bias) and g.read(x):
        name = g.instance(layer_hint(node, scale, bias), "norm")
        g.weight(name, "weight", scale.known, scale.hint)
        g.weight(name, "bias", bias.known, bias.hint)
        options = statics(("eps", epsilon, "1e-05"), "affine=true")
        return g.stage(x, name, "instance_norm", options, x.type)
    axes = list(range(2, x.rank))
    y = _standardized(g, x, axes, epsilon)
    return _by_channel(g, y, scale, bias)


def _standardized(g: Writer, x: Value, axes: Sequence[int], epsilon: str) -> Value:
    options = statics(tuple_text(axes, square=len(axes) == 1), ("eps", epsilon, "1e-05"))
    return g.call("standardize", [x], x.type, options)


def _by_channel(g: Writer, y: Value, scale: Value, bias: Value) -> Value:
    ones = [1] * (y.rank - 2)
    g.read(scale), g.read(bias)
    return _scaled(
        g, y, g.reshape(scale, (*scale.dims, *ones)), g.reshape(bias, (*bias.dims, *ones))
    )


def group_norm(g: Writer, node: Node) -> Value:
    x, scale, bias = floats(node), node.need(1), node.need(2)
    groups = int(node.attr("num_groups", 1))
    epsilon = _epsilon(node)
    channels = x.dims[1]
    per_group = g.exact_quotient(channels, groups)
    if node.version < 21:  # one number for each group, not for each channel
        if scale.known is None or bias.known is None or not isinstance(per_group, int):
            raise Refused("the scale of opset 18's groups is computed")
        scale = of_array(np.repeat(scale.known, per_group))
        bias = of_array(np.repeat(bias.known, per_group))
    if is_weight(scale) and is_weight(bias) and g.read(x):
        name = g.instance(layer_hint(node, node.need(1), node.need(2)), "norm")
        g.weight(name, "weight", scale.known, scale.hint)
        g.weight(name, "bias", bias.known, bias.hint)
        options = statics(str(groups), ("eps", epsilon, "1e-05"))
        return g.stage(x, name, "group_norm", options, x.type)
    size: Dim = per_group
    for dim in x.dims[2:]:
        size = size * dim
    y = g.reshape(x, (x.dims[0], groups, size))
    y = g.reshape(_standardized(g, y, [-1], epsilon), x.dims)
    return _by_channel(g, y, scale, bias)


def lrn(g: Writer, node: Node) -> Value:
    """x / (bias + alpha / size * sum of squares of near channels) ** beta."""
    x = g.atom(floats(node))
    size = int(node.attr("size", 1))
    if size < 1 or size > 64:
        raise Refused(f"a window of {size} channels")
    low, high = (size - 1) // 2, size - 1 - (size - 1) // 2
    zeros = ", (0, 0)" * (x.rank - 2)
    dims = (x.dims[0], x.dims[1] + size - 1, *x.dims[2:])
    squares = Value(TensorType(x.dtype, dims), f"pad[({low}, {high}){zeros}]({x.text} * {x.text})")
    squares = g.atom(_hint(squares, "squares"))
    total = " + ".join(f"{squares.text}[:, {i or ''}:{x.dims[1] + i}]" for i in range(size))
    total_value = g.atom(_hint(Value(x.type, total, 5), "near"))
    factor = number_text(np.float32(float(node.attr("alpha", 1e-4)) / size))
    bias = number_text(np.float32(node.attr("bias", 1.0)))
    beta = number_text(np.float32(node.attr("beta", 0.75)))
    if factor is None or bias is None or beta is None:
        raise Refused("its attributes are not finite")
    text = f"{x.text} / ({bias[0]} + {factor[0]} * {total_value.text}) ** {beta[0]}"
    return Value(x.type, text, 6)


def lp_normalization(g: Writer, node: Node) -> Value:
    x = g.atom(floats(node))
    axis, p = node.axis(-1, x.rank), int(node.attr("p", 2))
    if p == 2:
        length = f"sqrt(sum[axis={axis}, keepdims=true]({x.text} * {x.text}))"
    else:
        length = f"sum[axis={axis}, keepdims=true](abs({x.text}))"
    reduced = TensorType(x.dtype, tuple(1 if i == axis else d for i, d in enumerate(x.dims)))
    named = g.atom(_hint(Value(reduced, length), "length")).text
    # Where all are 0, they stay so.
    return Value(x.type, f"where({named} == 0, 0, {x.text} / where({named} == 0, 1, {named}))")


def mean_variance(g: Writer, node: Node) -> Value:
    x = floats(node)
    axes = [normal(int(a), x.rank) for a in node.attr("axes", [0, 2, 3])]
    options = f"axis={tuple_text(axes, square=len(axes) == 1)}, keepdims=true"
    x = g.atom(x)
    reduced = TensorType(x.dtype, tuple(1 if i in axes else d for i, d in enumerate(x.dims)))
    mean = g.atom(_hint(g.call("mean", [x], reduced, options), "mean")).text
    return Value(x.type, f"({x.text} - {mean}) / (sqrt(var[{options}]({x.text})) + 1e-9)", 6)


TABLE = {
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "RMSNormalization": rms_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "LRN": lrn,
    "LpNormalization": lp_normalization,
    "MeanVarianceNormalization": mean_variance,
}
