"""Nodes whose inputs are all known: computed now.

Numbers go through `onnx.reference`, one node at a time. Arrays of dims (what `Shape` gave) go
through NumPy's object arrays, whose elements are `Dim`s with Python's arithmetic; only integer
operators that move or compute them are there. Nodes whose result may be far larger than what they
read are not folded, so that a small file can't fill the memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.dims import Dim, Poly, floordiv, maximum, minimum, mod, product
from dslc.ir.evaluate import numpy_dtype
from dslc.ir.types import DType, is_float
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Value, dtype_of, is_symbolic, of_array

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    np = lazy("numpy")
    onnx = lazy("onnx")

_LARGEST = 1 << 28
# Results larger than what they read, costly ones, random ones, ones that hold graphs.
_NEVER = """
ConstantOfShape Expand Tile Range Pad Resize Upsample OneHot If Loop Scan RandomNormal
RandomUniform RandomNormalLike RandomUniformLike Bernoulli Multinomial Conv ConvTranspose
ConvInteger Einsum LSTM GRU RNN CenterCropPad AffineGrid GridSample Col2Im MaxUnpool Optional
SequenceMap StringConcat ImageDecoder DFT STFT Attention Shape Size Identity Constant Dropout
HannWindow HammingWindow BlackmanWindow EyeLike Compress SplitToSequence SequenceConstruct
MelWeightMatrix MatMul Gemm BitCast Split TopK Unique
"""


def folded(node: Node) -> list[Value] | None:
    """The node's results, if all it reads is known and it is one that is computed now."""
    values = [value for value in node.inputs if value is not None]
    if not values or any(value.known is None for value in values):
        return None
    if any(is_symbolic(value.known) for value in values):
        return _symbolic(node)
    if node.domain or node.op in _NEVER.split():
        return None
    if any(value.shared and is_float(value.dtype) and value.rank > 1 for value in values):
        return None  # it stays one weight, however it is read
    shapes = [value.known.shape for value in values]
    try:
        size = math.prod(np.broadcast_shapes(*shapes))
    except ValueError:
        size = 0
    if max(size, *(math.prod(shape) for shape in shapes), 0) > _LARGEST:
        return None
    return _computed(node)


def _computed(node: Node) -> list[Value] | None:
    """By the reference implementation of the onnx package; None where it has none."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    feeds = {}
    for index, value in enumerate(node.inputs):
        name = f"in{index}" if value is not None else ""
        proto.input[index] = name
        if value is not None:
            array = value.known
            feeds[name] = array.astype(np.int64) if array.dtype == object else np.asarray(array)
    outputs = [name for name in proto.output if name]
    empty = onnx.TypeProto()
    graph = helper.make_graph(
        [proto],
        "node",
        [helper.make_value_info(name, empty) for name in feeds],
        [helper.make_value_info(name, empty) for name in outputs],
    )
    version = node.version
    if node.op in ("QuantizeLinear", "DequantizeLinear"):
        version = max(version, 19)  # the first that the reference has; they mean the same before
    opset = [helper.make_opsetid("", version)]
    try:
        with np.errstate(all="ignore"):
            model = helper.make_model(graph, opset_imports=opset)
            results = ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # any: what can't be computed now is said in .dl, or refused there
        return None
    given = iter(results)
    arrays = [next(given) if name else None for name in node.outputs]
    try:
        arrays = [np.asarray(0 if array is None else array) for array in arrays]
        return [of_array(array, name) for array, name in zip(arrays, node.outputs)]
    except Refused:
        return None


# --- dims -----------------------------------------------------------------------------------------


def _symbolic(node: Node) -> list[Value] | None:
    rule = _DIM_RULES.get(node.op) if not node.domain else None
    if rule is None:
        return None
    try:
        arrays = [None if v is None else _integers(v.known) for v in node.inputs]
        result = rule(node, arrays)
    except (_NotWhole, ZeroDivisionError):
        return None
    dtype = _result_dtype(node)
    results = result if isinstance(result, list) else [result]
    return [of_array(_plain(_object(r), dtype), n, dtype) for r, n in zip(results, node.outputs)]


def _result_dtype(node: Node) -> DType:
    if node.op == "Cast":
        return dtype_of(onnx.helper.tensor_dtype_to_np_dtype(node.attr("to")))
    if node.op in ("Equal", "Less", "Greater"):
        return "bool"
    return node.need(1 if node.op == "Where" else 0).dtype


def _plain(array: Any, dtype: DType) -> Any:
    """Without dims in it, an array of numbers is one of NumPy's own dtypes."""
    return array if is_symbolic(array) else array.astype(numpy_dtype(dtype))


class _NotWhole(Exception):
    """A float that is no whole number stands beside a dim."""


def _object(array: Any) -> Any:
    out = np.empty(np.shape(array), dtype=object)
    out[...] = array
    return out


def _integers(array: Any) -> Any:
    """An array of Python integers, dims and truths."""
    if array.dtype.kind == "f" and not np.array_equal(array, np.floor(array)):
        raise _NotWhole
    if array.dtype.kind == "f":
        array = array.astype(np.int64)
    out = np.empty(array.shape, dtype=object)
    out[...] = array if array.dtype == object else array.tolist()
    return out


def _pairs(compute: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    function = np.frompyfunc(compute, 2, 1)

    def rule(node: Node, arrays: Sequence[Any]) -> Any:
        out = arrays[0]
        for other in arrays[1:]:
            out = function(out, other)
        return out

    return rule


def _quotient(a: Dim, b: Dim) -> Dim:
    """ONNX cuts integers towards 0; dims are never negative, so that is the floor."""
    if isinstance(b, int) and b < 0:
        raise _NotWhole
    return floordiv(a, b)


def _equal(a: Dim, b: Dim) -> bool:
    difference = a - b
    if isinstance(difference, int):
        return difference == 0
    # No dim is negative: -1 in a shape stands for something else than any dim.
    if (isinstance(b, int) and b < 0) or (isinstance(a, int) and a < 0):
        return False
    raise _NotWhole


def _less(a: Dim, b: Dim) -> bool:
    difference = a - b
    if not isinstance(difference, int):
        raise _NotWhole
    return difference < 0


def _where(node: Node, arrays: Sequence[Any]) -> Any:
    condition, a, b = np.broadcast_arrays(*arrays)
    out = np.empty(condition.shape, dtype=object)
    for index in np.ndindex(condition.shape):
        out[index] = a[index] if condition[index] else b[index]
    return out


def _gather(node: Node, arrays: Sequence[Any]) -> Any:
    x, places = arrays
    return np.take(x, places.astype(np.int64), axis=node.axis(0, x.ndim))


def _slice(node: Node, arrays: Sequence[Any]) -> Any:
    x = arrays[0]
    if node.has("starts"):
        starts, ends = node.attr("starts"), node.attr("ends")
        axes, steps = node.attr("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = list(arrays[1]), list(arrays[2])
        axes = list(arrays[3]) if len(arrays) > 3 and arrays[3] is not None else range(len(starts))
        steps = list(arrays[4]) if len(arrays) > 4 and arrays[4] is not None else [1] * len(starts)
    if any(isinstance(n, Poly) for n in (*starts, *ends, *steps)):
        raise _NotWhole
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps):
        stop = None if step < 0 and end < -x.shape[axis] else end
        index[normal(axis, x.ndim)] = slice(start, stop, step)
    return x[tuple(index)]


def _squeeze(node: Node, arrays: Sequence[Any]) -> Any:
    x = arrays[0]
    axes = node.axes(1, x.ndim)
    return np.squeeze(x, None if axes is None else tuple(axes))


def _unsqueeze(node: Node, arrays: Sequence[Any]) -> Any:
    given = node.attr("axes") or node.ints(1, "axes")
    return np.expand_dims(arrays[0], tuple(given))


def _reshape(node: Node, arrays: Sequence[Any]) -> Any:
    dims = node.attr("shape") or [int(n) for n in arrays[1].reshape(-1)]
    x = arrays[0]
    return x.reshape([x.shape[i] if d == 0 else d for i, d in enumerate(dims)])


def _reduce(combine: Callable[..., Dim]) -> Callable[..., Any]:
    def rule(node: Node, arrays: Sequence[Any]) -> Any:
        x = arrays[0]
        if x.ndim != 1:
            raise _NotWhole
        return np.full([1] * bool(node.attr("keepdims", 1)), combine(*x), dtype=object)

    return rule


def _split(node: Node, arrays: Sequence[Any]) -> Any:
    x, count = arrays[0], len(node.outputs)
    sizes = node.attr("split") or (node.ints(1, "split") if node.input(1) else None)
    axis = node.axis(0, x.ndim)
    step = -(-x.shape[axis] // count)
    cuts = np.cumsum(sizes)[:-1] if sizes else [step * i for i in range(1, count)]
    return list(np.split(x, cuts, axis))


def _same(node: Node, arrays: Sequence[Any]) -> Any:
    return arrays[0]


_DIM_RULES: dict[str, Callable[..., Any]] = {
    "Add": _pairs(lambda a, b: a + b),
    "Sub": _pairs(lambda a, b: a - b),
    "Mul": _pairs(lambda a, b: a * b),
    "Div": _pairs(_quotient),
    "Mod": _pairs(mod),
    "Max": _pairs(maximum),
    "Min": _pairs(minimum),
    "Equal": _pairs(_equal),
    "Less": _pairs(_less),
    "Greater": _pairs(lambda a, b: _less(b, a)),
    "Neg": lambda node, arrays: arrays[0] * -1,
    "Where": _where,
    "Cast": _same,
    "Identity": _same,
    "Floor": _same,
    "Ceil": _same,
    "Gather": _gather,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Reshape": _reshape,
    "Split": _split,
    "Concat": lambda node, arrays: np.concatenate(arrays, node.axis(0, arrays[0].ndim)),
    "ReduceProd": _reduce(lambda *n: product(n)),
    "ReduceSum": _reduce(lambda *n: sum(n)),
    "ReduceMax": _reduce(maximum),
    "ReduceMin": _reduce(minimum),
}
