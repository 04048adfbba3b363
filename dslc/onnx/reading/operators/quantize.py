"""QuantizeLinear and DequantizeLinear: numbers rounded to 8 or 16 bits, and back.

What lies between them computes in floats, as it does in a model of float weights: a model quantised
in that form gives the numbers that it was trained or calibrated for, but no faster. What computes
in 8 bits itself (`MatMulInteger`, `QLinearConv`) is not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.evaluate import numpy_dtype
from dslc.ir.types import DType, is_float
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.operators.common import broadcast_type
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Value, dtype_of, of_array
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    np = lazy("numpy")
    onnx = lazy("onnx")

_RANGES: dict[DType, tuple[int, int]] = {"i8": (-128, 127), "u8": (0, 255), "i16": (-32768, 32767)}


def quantize(g: Writer, node: Node) -> Value:
    x, scale, zero = node.need(0), node.need(1), node.input(2)
    dtype: DType = "u8"
    if zero is not None:
        dtype = zero.dtype
    elif node.attr("output_dtype", 0):
        dtype = dtype_of(onnx.helper.tensor_dtype_to_np_dtype(node.attr("output_dtype")))
    if dtype not in _RANGES or not is_float(x.dtype):
        raise Refused(f"it makes {dtype} of {x.dtype}")
    y = _with(g, "/", x, _along(g, node, scale, x, x.dtype))
    y = g.call("round", [y], y.type)
    if zero is not None and not _is_zero(zero):
        y = _with(g, "+", y, _along(g, node, zero, x, x.dtype))
    low, high = _RANGES[dtype]
    return g.cast(g.call("clamp", [y], y.type, f"{low}, {high}"), dtype)


def dequantize(g: Writer, node: Node) -> Value:
    x, scale, zero = node.need(0), node.need(1), node.input(2)
    y = g.cast(x, scale.dtype)
    if zero is not None and not _is_zero(zero):
        y = _with(g, "-", y, _along(g, node, zero, x, scale.dtype))
    return _with(g, "*", y, _along(g, node, scale, x, scale.dtype))


def _is_zero(value: Value) -> bool:
    return value.number is not None and value.number == 0


def _with(g: Writer, sign: str, x: Value, y: Value) -> Value:
    return g.binary(sign, x, y, broadcast_type(g, [x, y]))


def _along(g: Writer, node: Node, value: Value, x: Value, dtype: DType) -> Value:
    """A scale or zero point: one number, or one for each index into an axis of x."""
    if node.attr("block_size", 0):
        raise Refused("scales of blocks")
    size: Any = () if value.dims in ((), (1,)) else value.dims
    if size:
        axis = normal(int(node.attr("axis", 1)), x.rank)
        if len(size) != 1:
            raise Refused(f"its scale is {value.type}", "E0501")
        g.assume(size[0], x.dims[axis])
        size = (*size, *(1,) * (x.rank - axis - 1))
    if value.known is not None and not value.text:
        array = np.asarray(value.known).astype(numpy_dtype(dtype)).reshape(size)
        return of_array(array, value.hint)
    value = value if value.dtype == dtype else g.cast(value, dtype)
    return g.reshape(value, size) if value.dims != size else value


def refused(g: Writer, node: Node) -> Value:
    raise Refused(
        "it computes in 8 bits; pairs of QuantizeLinear and DequantizeLinear come in, "
        "and so does the model before it was quantised"
    )


TABLE = {
    "DequantizeLinear": dequantize,
    "QuantizeLinear": quantize,
    "ConvInteger": refused,
    "MatMulInteger": refused,
    "QLinearConv": refused,
    "QLinearMatMul": refused,
}
