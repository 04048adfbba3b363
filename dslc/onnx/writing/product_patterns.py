"""Products, convolutions and pools that several equations of the IR make one operator of ONNX.

A bias is an input of the operator, rows of many matrices are multiplied where they stand, and what
works on sequences, which the IR has as images of one line, has one axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from dslc._frozen import dataclass
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import product
from dslc.onnx.writing.graph import Graph, Held, Scope
from dslc.onnx.writing.match import Finder, Fused, Match, has_attributes, one_node
from dslc.onnx.writing.products import conv_operands, pool_operands, swapped
from dslc.onnx.writing.shape import reshaped
from dslc.ops.linalg import MatmulAttrs
from dslc.ops.windows import ConvAttrs, PoolAttrs


def _with_bias(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    """A product or convolution whose operator in ONNX adds a bias."""

    def look(made: Value, shift: Value) -> Fused | None:
        bias, places = match.source(shift)
        if bias.type.rank != 1 or places != (1,) or bias.type.dims != made.type.dims[1:2]:
            return None
        line = _window(match, made)
        if line is not None and line.op_type == "Conv":
            return one_node("Conv", eqn, (*line.inputs, bias), **line.operands)
        maker = match.made(made, "matmul", "conv2d")
        if maker is None or not has_attributes(eqn):
            return None
        if maker.op.name == "conv2d":
            if cast(ConvAttrs, maker.attrs).layout != "NCHW":
                return None
            return one_node("Conv", eqn, (*maker.inputs, bias), **conv_operands(maker))
        products = cast(MatmulAttrs, maker.attrs)
        if made.type.rank != 2:
            return None
        return one_node(
            "Gemm",
            eqn,
            (*maker.inputs, bias),
            transA=int(products.transpose_a),
            transB=int(products.transpose_b),
        )

    return match.either(eqn.inputs, look)


def _rows_of_matrices(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    """A product of rows that were put into one matrix, with dims as before: ONNX multiplies them
    where they stand."""
    maker = match.made(eqn.inputs[0], "matmul")
    flat = None if maker is None else match.made(maker.inputs[0], "reshape")
    if maker is None or flat is None or maker.outputs[0].type.rank != 2:
        return None
    (x,), weight, attrs = flat.inputs, maker.inputs[1], cast(MatmulAttrs, maker.attrs)
    (*lead, _), width = eqn.outputs[0].type.dims, flat.outputs[0].type.dims[1]
    if attrs.transpose_a or flat.outputs[0].type.dims[0] != product(lead) or len(lead) < 2:
        return None
    if eqn.outputs[0].type.dims[-1] != maker.outputs[0].type.dims[-1]:
        return None

    def write(graph: Graph, scope: Scope) -> Held:
        left = graph.full(scope[x], x.type.dims)
        left = reshaped(graph, left, x.type.dims, (*lead, width))
        right = graph.full(scope[weight], weight.type.dims)
        name = graph.node("MatMul", left, swapped(graph, right, 2, attrs.transpose_b))
        return Held(name, eqn.outputs[0].type)

    return Fused((x, weight), write)


# --- sequences ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Window:
    """An operator along one axis, over these tensors."""

    op_type: str
    inputs: tuple[Value, ...]
    operands: Mapping[str, Any]


def _window(match: Match, value: Value) -> _Window | None:
    """What makes the value of sequences, if the IR does that with images of one line."""
    back = match.made(value, "reshape")
    maker = None if back is None else match.made(back.inputs[0], "conv2d", *_POOLS)
    if maker is None:
        return None
    attrs = cast("ConvAttrs | PoolAttrs", maker.attrs)
    is_conv = isinstance(attrs, ConvAttrs)
    op_type, operands = ("Conv", conv_operands(maker)) if is_conv else _pool(maker)
    inputs = [_line(match, image) for image in maker.inputs]
    flat = _without_line(maker.outputs[0]) == value.type.dims and attrs.layout == "NCHW"
    if (
        not flat
        or None in inputs
        or operands["kernel_shape"][0] != 1
        or attrs.padding[:2] != (0, 0)
    ):
        return None
    told = {name: _across(name, values) for name, values in operands.items()}
    return _Window(op_type, tuple(cast("list[Value]", inputs)), told)


_POOLS = {"max_pool2d": "MaxPool", "avg_pool2d": "AveragePool"}


def _pool(eqn: Eqn) -> tuple[str, dict[str, Any]]:
    return _POOLS[eqn.op.name], pool_operands(eqn)


def _across(name: str, values: Any) -> Any:
    """The part of an operand that is about the width."""
    if isinstance(values, int):
        return values
    return [values[1], values[3]] if name == "pads" else [values[1]]


def _line(match: Match, image: Value) -> Value | None:
    """The sequences that the images are."""
    operands = match.inputs(image, "reshape")
    if operands is None or operands[0].type.dims != _without_line(image):
        return None
    return operands[0]


def _without_line(image: Value) -> tuple[Any, ...] | None:
    """Its dims as those of a sequence, if it has one line."""
    a, b, line, width = image.type.dims
    return (a, b, width) if line == 1 else None


def _along_sequence(match: Match, eqn: Eqn, opset: int) -> Fused | None:
    found = _window(match, eqn.outputs[0])
    if found is None or eqn.outputs[0].type.dtype == "f64":
        return None
    return one_node(found.op_type, eqn, found.inputs, **found.operands)


FINDERS: Mapping[str, Sequence[Finder]] = {
    "add": (_with_bias,),
    "reshape": (_rows_of_matrices, _along_sequence),
}
