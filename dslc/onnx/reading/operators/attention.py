"""Attention: the library's formula, where the node has no past, window or softcap.

Everything else about it is said by the body that ONNX gives it (`UseBody`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dslc._lazy import lazy
from dslc.ir.types import TensorType
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators.common import statics
from dslc.onnx.reading.operators.elementwise import floats
from dslc.onnx.reading.problems import UseBody
from dslc.onnx.reading.values import Value, number_text
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


def attention(g: Writer, node: Node) -> Value:
    q, k, v = floats(node, 0), floats(node, 1), floats(node, 2)
    mask = node.input(3)
    beyond = any(node.input(i) is not None for i in (4, 5, 6)) or any(node.outputs[1:])
    windows = any(int(node.attr(f"{side}_window_size", -1)) >= 0 for side in ("left", "right"))
    # Rows that see nothing: the library gives zeros, as ONNX does from version 24 on.
    may_be_blind = mask is not None and node.version < 24
    if beyond or windows or may_be_blind or node.attr("softcap", 0.0):
        raise UseBody
    if not q.dtype == k.dtype == v.dtype:
        raise UseBody
    flat = q.rank == 3
    if flat:
        heads, groups = int(node.attr("q_num_heads", 0)), int(node.attr("kv_num_heads", 0))
        if heads < 1 or groups < 1:
            raise UseBody
        q, k, v = _split(g, q, heads), _split(g, k, groups), _split(g, v, groups)
    if not (isinstance(q.dims[1], int) and isinstance(k.dims[1], int)):
        raise UseBody
    times = q.dims[1] // k.dims[1]
    if times > 1:
        k, v = (_repeated(g, x, times) for x in (k, v))
    scale = node.attr("scale")
    written = None if scale is None else number_text(np.float32(scale))
    options = statics(
        ("causal", bool(node.attr("is_causal", 0)), False),
        ("scale", written[0] if written else None, None),
    )
    name = g.use("std.attention", "scaled_dot_product_attention")
    type = TensorType(q.dtype, (*q.dims[:-1], v.dims[-1]))
    args = [g.inside(x, 1) for x in (q, k, v)]
    if mask is not None:
        word = "mask" if mask.dtype == "bool" else "bias"
        args.append(f"{word}={g.inside(mask, 1)}")
    y = Value(type, f"{name}[{options}]({', '.join(args)})".replace("[]", ""))
    if not flat:
        return y
    n, heads_, t, width = type.dims
    joined = g.use("std.attention", "join_heads")
    return g.call(joined, [y], TensorType(q.dtype, (n, t, heads_ * width)))


def _split(g: Writer, x: Value, heads: int) -> Value:
    n, t, width = x.dims
    type = TensorType(x.dtype, (n, heads, t, g.exact_quotient(width, heads)))
    return g.call(g.use("std.attention", "split_heads"), [x], type, str(heads))


def _repeated(g: Writer, x: Value, times: int) -> Value:
    n, heads, t, width = x.dims
    type = TensorType(x.dtype, (n, heads * times, t, width))
    return g.call(g.use("std.attention", "repeat_heads"), [x], type, str(times))


TABLE = {"Attention": attention}
