"""Convolutions: the library's layers where the weight is known, else its primitives."""

from __future__ import annotations

from dslc.ir.dims import Dim
from dslc.ir.types import TensorType, is_float
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators.common import statics, windows
from dslc.onnx.reading.operators.linear import is_weight, layer_hint
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Value, tuple_text
from dslc.onnx.reading.writer import Writer
from dslc.ops.windows import window_count


def conv(g: Writer, node: Node) -> Value:
    x, w, bias = node.need(0), node.need(1), node.input(2)
    count = w.rank - 2
    kernel = _kernel(x, w)
    groups = int(node.attr("group", 1))
    strides, dilations, pads = windows(node, g, x, kernel)
    if groups < 1 or w.dims[0] % groups != 0:
        raise Refused(f"{w.dims[0]} channels are no multiple of {groups} groups", "E0501")
    g.assume(x.dims[1], w.dims[1] * groups)
    sizes = [
        window_count(size, k, s, low, high, d)
        for size, k, s, d, (low, high) in zip(x.dims[2:], kernel, strides, dilations, pads)
    ]
    g.assume_windows(sizes)
    type = TensorType(x.dtype, (x.dims[0], w.dims[0], *sizes))
    known = is_weight(w) and (bias is None or is_weight(bias)) and bool(g.read(x))
    if known and (count == 2 or all(low == high for low, high in pads)):
        return _layer(
            g, node, x, type, "conv", kernel, strides, pads,
            ("dilation", tuple_text(dilations), "1"), ("groups", groups, 1),
        )  # fmt: skip
    if count == 3:
        raise Refused("a 3-d convolution needs a weight that is in the file, and equal paddings")
    y = _primitive(g, "prim_conv2d", x, w, type, strides, dilations, pads, groups)
    return y if bias is None else _biased(g, y, bias)


def _kernel(x: Value, w: Value) -> list[int]:
    if w.rank not in (3, 4, 5):
        raise Refused(f"convolutions have 1, 2 or 3 directions, not {w.rank - 2}")
    kernel = [k for k in w.dims[2:] if isinstance(k, int)]
    if len(kernel) != w.rank - 2 or not isinstance(w.dims[0], int):
        raise Refused("the size of its kernel depends on a dim")
    if x.rank != w.rank:
        raise Refused(f"its image has {x.rank} dims, its weight {w.rank}", "E0501")
    if not is_float(x.dtype):
        raise Refused(f"convolutions are of floats, not {x.dtype}")
    return kernel


def _padding(pads: list[tuple[int, int]]) -> str:
    if all(low == high for low, high in pads):
        return tuple_text([low for low, _ in pads])
    return tuple_text([side for pair in pads for side in pair], square=False)


def _layer(
    g: Writer, node: Node, x: Value, type: TensorType, kind: str, kernel: list[int],
    strides: list[int], pads: list[tuple[int, int]], *more: tuple[str, object, object],
) -> Value:  # fmt: skip
    """A layer of the library, `conv` or `conv_transpose`, with the node's weights."""
    w, bias = node.need(1), node.input(2)
    name = g.instance(layer_hint(node, w, bias), kind)
    g.weight(name, "weight", w.known, w.hint)
    if bias is not None:
        g.weight(name, "bias", bias.known, bias.hint)
    options = statics(
        str(type.dims[1]),
        f"kernel={tuple_text(kernel)}",
        ("stride", tuple_text(strides), "1"),
        ("padding", _padding(pads), "0"),
        *more,
        ("bias", bias is not None, True),
    )
    return g.stage(x, name, f"{kind}{len(kernel)}d", options, type)


def _primitive(
    g: Writer,
    name: str,
    x: Value,
    w: Value,
    type: TensorType,
    strides: list[int],
    dilations: list[int],
    pads: list[tuple[int, int]],
    groups: int,
    *more: tuple[str, object, object],
) -> Value:
    """The 2-d primitive, around which a sequence gets a height of 1."""
    flat = x.rank == 3
    if flat:
        x = g.reshape(x, (*x.dims[:2], 1, x.dims[2]))
        w = g.reshape(w, (*w.dims[:2], 1, w.dims[2]))
        strides, dilations, pads = [1, *strides], [1, *dilations], [(0, 0), *pads]
    options = statics(
        ("stride", tuple_text(strides), "1"),
        ("padding", _padding(pads), "0"),
        ("dilation", tuple_text(dilations), "1"),
        ("groups", groups, 1),
        *more,
    )
    if not flat:
        return g.call(name, [x, w], type, options)
    wide = TensorType(type.dtype, (*type.dims[:2], 1, type.dims[2]))
    return g.reshape(g.call(name, [x, w], wide, options), type.dims)


def _biased(g: Writer, y: Value, bias: Value) -> Value:
    g.read(bias)
    ones = [1] * (y.rank - 2)
    return g.binary("+", y, g.reshape(bias, (*bias.dims, *ones)), y.type)


def conv_transpose(g: Writer, node: Node) -> Value:
    x, w, bias = node.need(0), node.need(1), node.input(2)
    kernel, groups = _kernel(x, w), int(node.attr("group", 1))
    count = len(kernel)
    strides, dilations, pads = _transposed_windows(g, node, x, kernel)
    extra = [int(e) for e in node.attr("output_padding", [0] * count)]
    g.assume(x.dims[1], w.dims[0])
    shape = node.attr("output_shape")
    full = [
        (size - 1) * s + d * (k - 1) + 1
        for size, s, d, k in zip(x.dims[2:], strides, dilations, kernel)
    ]
    if shape is not None:
        pads, extra = _for_shape(node, shape[-count:], full, extra)
    sizes = [f + e - low - high for f, e, (low, high) in zip(full, extra, pads)]
    g.assume_windows(sizes)
    type = TensorType(x.dtype, (x.dims[0], w.dims[1] * groups, *sizes))
    known = is_weight(w) and (bias is None or is_weight(bias)) and bool(g.read(x))
    simple = all(low == high for low, high in pads) and all(e < s for e, s in zip(extra, strides))
    if known and simple and min(low for low, _ in pads) >= 0:
        return _layer(
            g, node, x, type, "conv_transpose", kernel, strides, pads,
            ("output_padding", tuple_text(extra), "0"), ("groups", groups, 1),
            ("dilation", tuple_text(dilations), "1"),
        )  # fmt: skip
    if count == 3:
        raise Refused(
            "in three directions it needs a weight that is in the file, and equal paddings"
        )
    # Without padding, then cut (or lengthened) to what is wanted.
    whole = TensorType(x.dtype, (*type.dims[:2], *full))
    y = _primitive(
        g, "prim_conv2d_transpose", x, w, whole, strides, dilations, [(0, 0)] * count, groups
    )
    y = _cut(g, y, full, pads, extra)
    return y if bias is None else _biased(g, y, bias)


def _transposed_windows(
    g: Writer, node: Node, x: Value, kernel: list[int]
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    auto = node.attr("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        strides = [int(s) for s in node.attr("strides", [1] * len(kernel))]
        dilations = [int(d) for d in node.attr("dilations", [1] * len(kernel))]
        pads = []
        for k, s, d in zip(kernel, strides, dilations):
            # The result is `stride` times as large.
            total = max(d * (k - 1) + 1 - s, 0)
            half = total // 2
            pads.append((half, total - half) if auto == "SAME_UPPER" else (total - half, half))
        return strides, dilations, pads
    return windows(node, g, x, kernel)


def _for_shape(
    node: Node, shape: list[int], full: list[Dim], extra: list[int]
) -> tuple[list[tuple[int, int]], list[int]]:
    """The paddings that give a shape."""
    pads = []
    for wanted, size, more in zip(shape, full, extra):
        if not isinstance(size, int):
            raise Refused(f"its output_shape is given, while its input has the dim {size}")
        total = size + more - int(wanted)
        half = total // 2
        low = half if node.attr("auto_pad", "NOTSET") == "SAME_UPPER" else total - half
        pads.append((low, total - low))
    return pads, extra


def _cut(
    g: Writer, y: Value, full: list[Dim], pads: list[tuple[int, int]], extra: list[int]
) -> Value:
    """What is beyond the paddings, taken off; negative ones add zeros."""
    ends = [(low, high - e) for (low, high), e in zip(pads, extra)]
    longer = [(max(-low, 0), max(-high, 0)) for low, high in ends]
    if any(map(any, longer)):
        dims = (*y.dims[:2], *(f + a + b for f, (a, b) in zip(full, longer)))
        text = ", ".join(f"({a}, {b})" for a, b in longer)
        y = g.call("pad", [y], TensorType(y.dtype, dims), text)
    shorter = [(max(low, 0), max(high, 0)) for low, high in ends]
    if not any(map(any, shorter)):
        return y
    parts = [":", ":", *(f"{low or ''}:{-high or ''}" for low, high in shorter)]
    sizes = [size - low - high for size, (low, high) in zip(y.dims[2:], shorter)]
    text = g.atom(y).text
    return Value(TensorType(y.dtype, (*y.dims[:2], *sizes)), f"{text}[{', '.join(parts)}]")


TABLE = {"Conv": conv, "ConvTranspose": conv_transpose}
