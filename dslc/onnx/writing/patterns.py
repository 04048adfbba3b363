"""What several equations of the IR together are in ONNX: softmax, means, norms, activations.

Each finder looks at the last equation of a pattern and gives what is written in its place, or None.
A number is computed in another order then, as in any fused kernel. Of bf16 nothing is written so,
and of f64 nothing that has attributes, which are f32.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from dslc.ir.core import Eqn, Value
from dslc.onnx.writing.graph import Graph, Held, Scope
from dslc.onnx.writing.match import Finder, Fused, Match, has_attributes, one_node
from dslc.onnx.writing.product_patterns import FINDERS as PRODUCTS
from dslc.onnx.writing.recurrent import recurrent
from dslc.ops.broadcast import ReduceAttrs

Row = tuple[Value, tuple[int, ...]]


def _last_axis(row: Row | None) -> Row | None:
    """The row, if it is along one axis."""
    return row if row is not None and len(row[1]) == 1 else None


# --- softmax --------------------------------------------------------------------------------------


def _below_maximum(match: Match, value: Value) -> Row | None:
    """`(x, axes)` where the value is x less its maximum along an axis."""
    operands = match.inputs(value, "sub")
    if operands is None:
        return None
    row = _last_axis(match.row(operands[1], "reduce_max"))
    return row if row is not None and row[0] is operands[0] else None


def _softmax(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    exp, total = eqn.inputs
    below, summed = match.inputs(exp, "exp"), match.row(total, "reduce_sum")
    if below is None or summed is None:
        return None
    row = _below_maximum(match, below[0])
    if row is None or summed != (exp, row[1]):
        return None
    return one_node("Softmax", eqn, row[:1], axis=row[1][0])


def _log_softmax(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    below, spread = eqn.inputs
    row = _below_maximum(match, below)
    source, outer = match.source(spread)
    log = match.inputs(source, "log")
    if row is None or log is None:
        return None
    total, places = match.source(log[0])
    summed = match.made(total, "reduce_sum")
    exp = None if summed is None else match.inputs(summed.inputs[0], "exp")
    if summed is None or exp is None or exp[0] is not below:
        return None
    if cast(ReduceAttrs, summed.attrs).axes != row[1]:
        return None
    kept = [axis for axis in range(eqn.outputs[0].type.rank) if axis not in row[1]]
    at = [outer[place] if place >= 0 else -1 for place in places]
    if any(place not in (-1, axis) for place, axis in zip(at, kept)):
        return None
    return one_node("LogSoftmax", eqn, row[:1], axis=row[1][0])


# --- means and norms ------------------------------------------------------------------------------


def _mean(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    (value,) = eqn.outputs
    row = match.mean(value)
    if row is None:
        return None
    x, axes = row
    kept = tuple(1 if axis in axes else d for axis, d in enumerate(x.type.dims))
    keep = value.type.dims == kept
    if not keep and value.type.dims != tuple(
        d for axis, d in enumerate(x.type.dims) if axis not in axes
    ):
        return None

    def write(graph: Graph, scope: Scope) -> Held:
        name = graph.full(scope[x], x.type.dims)
        return Held(graph.reduced("ReduceMean", name, axes, keep), value.type)

    return Fused((x,), write)


def _standardized(match: Match, value: Value) -> tuple[Value, int, float] | None:
    """`(x, axis, eps)` where the value is x with mean 0 and variance 1 along the axes from `axis`
    on."""

    def look(centred: Value, spread: Value) -> tuple[Value, int, float] | None:
        operands = match.inputs(centred, "sub")
        mean = None if operands is None else match.mean(operands[1])
        if operands is None or mean is None or mean[0] is not operands[0]:
            return None
        x, axes = mean
        found = _rooted(match, spread, centred)
        return (x, axes[0], found[1]) if found is not None and found[0] == axes else None

    return match.either(match.inputs(value, "mul"), look)


def _rooted(match: Match, spread: Value, x: Value) -> tuple[tuple[int, ...], float] | None:
    """`(axes, eps)` where the value is 1 / sqrt(mean of x * x + eps) along x's last axes, spread
    along them again."""
    source, places = match.source(spread)
    under = match.inputs(source, "rsqrt")
    sum_ = None if under is None else match.inputs(under[0], "add")

    def look(mean: Value, eps: Value) -> tuple[tuple[int, ...], float] | None:
        row, number = match.mean(mean), match.number(eps)
        if row is None or number is None or match.inputs(row[0], "mul") != (x, x):
            return None
        return row[1], number

    found = match.either(sum_, look)
    if found is None or len(places) != x.type.rank:
        return None
    trailing = found[0] == tuple(range(found[0][0], x.type.rank))
    right = all(place in (-1, axis) for axis, place in enumerate(places))
    return found if trailing and right else None


def _trailing(match: Match, value: Value, x: Value, axis: int) -> Value | None:
    """What the value is broadcast from, if that has x's dims from `axis` on."""
    source, places = match.source(value)
    right = source.type.dims == x.type.dims[axis:]
    at = tuple(range(axis, x.type.rank))
    return source if right and all(p in (-1, a) for p, a in zip(places, at)) else None


def _scaled_norm(match: Match, value: Value) -> tuple[Value, int, float, Value] | None:
    """Standardised, times a weight."""

    def look(normal: Value, weight: Value) -> tuple[Value, int, float, Value] | None:
        found = _standardized(match, normal)
        scale = None if found is None else _trailing(match, weight, found[0], found[1])
        return None if found is None or scale is None else (*found, scale)

    return match.either(match.inputs(value, "mul"), look)


def _layer_norm(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    def look(scaled: Value, shift: Value) -> Fused | None:
        found = _scaled_norm(match, scaled)
        bias = None if found is None else _trailing(match, shift, found[0], found[1])
        if found is None or bias is None:
            return None
        x, axis, eps, weight = found
        return one_node("LayerNormalization", eqn, (x, weight, bias), axis=axis, epsilon=eps)

    return match.either(eqn.inputs, look) if has_attributes(eqn) else None


def _layer_norm_without_bias(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    found = _scaled_norm(match, eqn.outputs[0]) if has_attributes(eqn) else None
    if found is None:
        return None
    x, axis, eps, weight = found
    return one_node("LayerNormalization", eqn, (x, weight), axis=axis, epsilon=eps)


def _rms_norm(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    """x / sqrt(mean of x * x + eps) times a weight, an operator since opset 23."""
    if opset < 23 or not has_attributes(eqn):
        return None

    def look(normal: Value, weight: Value) -> Fused | None:
        return match.either(match.inputs(normal, "mul"), lambda x, root: whole(x, root, weight))

    def whole(x: Value, root: Value, weight: Value) -> Fused | None:
        found = _rooted(match, root, x)
        scale = None if found is None else _trailing(match, weight, x, found[0][0])
        if found is None or scale is None:
            return None
        (axis, *_), eps = found
        return one_node("RMSNormalization", eqn, (x, scale), axis=axis, epsilon=eps)

    return match.either(eqn.inputs, look)


def _batch_norm(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    """x * s + (bias - mean * s) with s = weight / sqrt(variance + eps), one of each for each
    channel."""
    if eqn.outputs[0].type.rank < 2:
        return None

    def look(scaled: Value, shift: Value) -> Fused | None:
        low = match.inputs(_channels(match, shift), "sub")
        product_ = match.inputs(scaled, "mul")
        if low is None or product_ is None:
            return None
        return match.either(product_, lambda x, s: whole(x, _channels(match, s), low))

    def whole(x: Value, s: Value, low: tuple[Value, ...]) -> Fused | None:
        bias, moved = low
        mean = match.either(
            match.inputs(moved, "mul"), lambda mean, other: mean if other is s else None
        )
        found = match.either(match.inputs(s, "mul"), lambda w, r: weighted(w, r))
        if mean is None or found is None or x.type != eqn.outputs[0].type:
            return None
        weight, variance, eps = found
        operands = (x, weight, bias, mean, variance)
        vectors = {value.type.dims for value in operands[1:]}
        if vectors != {(x.type.dims[1],)}:
            return None
        return one_node("BatchNormalization", eqn, operands, epsilon=eps)

    def weighted(weight: Value, root: Value) -> tuple[Value, Value, float] | None:
        under = match.inputs(root, "rsqrt")
        sum_ = None if under is None else match.inputs(under[0], "add")

        def numbered(variance: Value, eps: Value) -> tuple[Value, Value, float] | None:
            number = match.number(eps)
            return None if number is None else (weight, variance, number)

        return match.either(sum_, numbered)

    return match.either(eqn.inputs, look) if has_attributes(eqn) else None


def _channels(match: Match, value: Value) -> Value:
    """What the value is broadcast from along axis 1; itself if it is not."""
    source, places = match.source(value)
    return source if places == (1,) else value


# --- functions of elements ------------------------------------------------------------------------


def _elementwise(op_type: str, eqn: Eqn, x: Value, **attrs: Any) -> Fused:
    """One node over the tensor as it is held."""

    def write(graph: Graph, scope: Scope) -> Held:
        held = scope[x]
        return Held(graph.node(op_type, held.name, **attrs), held.type)

    return Fused((x,), write)


def _clip(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    """min(max(x, low), high)."""
    (value,) = eqn.outputs

    def outer(inner: Value, high: Value) -> Fused | None:
        top = match.number(high)
        return None if top is None else match.either(
            match.inputs(inner, "maximum"), lambda x, low: whole(x, match.number(low), top)
        )  # fmt: skip

    def whole(x: Value, low: float | None, high: float) -> Fused | None:
        if low is None or low > high:
            return None

        def write(graph: Graph, scope: Scope) -> Held:
            held, dtype = scope[x], value.type.dtype
            bounds = graph.scalar(low, dtype), graph.scalar(high, dtype)
            return Held(graph.node("Clip", held.name, *bounds), held.type)

        return Fused((x,), write)

    return match.either(eqn.inputs, outer)


def _leaky(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    """x, but `slope * x` or `alpha * expm1(x)` below 0."""
    condition, x, below = eqn.inputs
    operands = match.inputs(condition, "gt")
    if operands is None or operands[0] is not x or match.number(operands[1]) != 0:
        return None
    if not has_attributes(eqn):  # attributes are of f32
        return None
    if _is_expm1(match, below, x):
        return _elementwise("Elu", eqn, x, alpha=1.0)

    def look(factor: Value, other: Value) -> Fused | None:
        number = match.number(factor)
        if number is None:
            return None
        if other is x:
            return _elementwise("LeakyRelu", eqn, x, alpha=number)
        return _elementwise("Elu", eqn, x, alpha=number) if _is_expm1(match, other, x) else None

    return match.either(match.inputs(below, "mul"), look)


def _is_expm1(match: Match, value: Value, x: Value) -> bool:
    """exp(min(x, 0)) - 1."""
    operands = match.inputs(value, "expm1")
    least = None if operands is None else match.inputs(operands[0], "minimum")
    return match.either(least, lambda a, b: (a is x and match.number(b) == 0) or None) is True


def _softplus(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    """max(x, 0) + log(1 + exp(-abs(x)))."""

    def look(most: Value, log: Value) -> Fused | None:
        under = match.inputs(log, "log1p")
        for op in ("exp", "neg", "abs"):
            under = None if under is None else match.inputs(under[0], op)
        if under is None:
            return None
        (x,) = under
        positive = match.either(
            match.inputs(most, "maximum"), lambda a, b: (a is x and match.number(b) == 0) or None
        )
        relu = match.inputs(most, "relu")
        return _elementwise("Softplus", eqn, x) if positive or relu == (x,) else None

    return match.either(eqn.inputs, look)


def _gelu(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    """0.5 * x * (1 + erf(x / sqrt(2))), an operator since opset 20."""
    if opset < 20:
        return None

    def look(half: Value, one: Value) -> Fused | None:
        x = match.either(
            match.inputs(half, "mul"), lambda a, b: b if match.is_number(a, 0.5) else None
        )
        erf = match.either(
            match.inputs(one, "add"),
            lambda a, b: match.inputs(b, "erf") if match.is_number(a, 1) else None,
        )
        scaled = None if erf is None else match.either(
            match.inputs(erf[0], "mul"), lambda a, b: a if match.is_number(b, 0.5**0.5) else None
        )  # fmt: skip
        return _elementwise("Gelu", eqn, x) if x is not None and scaled is x else None

    return match.either(eqn.inputs, look)


FINDERS: Mapping[str, Sequence[Finder]] = {
    **PRODUCTS,
    "div": (_softmax, _mean),
    "sub": (_log_softmax,),
    "add": (_layer_norm, _batch_norm, _softplus, *PRODUCTS["add"]),
    "mul": (_layer_norm_without_bias, _rms_norm, _gelu),
    "minimum": (_clip,),
    "select": (_leaky,),
    "scan": (recurrent,),
}
