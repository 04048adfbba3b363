"""Pools: windows, whole channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.dims import Dim
from dslc.ir.types import TensorType, is_float
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators.common import statics, windows
from dslc.onnx.reading.operators.index import factor_text
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Value, tuple_text
from dslc.onnx.reading.writer import Writer
from dslc.ops.windows import window_count

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


def max_pool(g: Writer, node: Node) -> Sequence[Value]:
    if not node.wants(1):
        return [_pooled(g, node, "max")]
    g.atom(node.need(0))
    y = _pooled(g, node, "max")
    return [y, _places(g, node, y.dims)]


def _places(g: Writer, node: Node, dims: Sequence[Dim]) -> Value:
    """Where each window's maximum is among all elements of x: the first one, where several are."""
    x = node.need(0)
    kernel = [int(k) for k in node.attr("kernel_shape")]
    strides, dilations, pads = windows(node, g, x, kernel)
    letters = ["n", "c", *"ijk"[: len(kernel)]]

    def along(axis: int, tap: str) -> str:
        """The position in a direction of a tap of the window."""
        behind = math.prod(kernel[axis + 1 :])
        one = f"{tap} // {behind}" if behind > 1 else tap
        one = f"{one} % {kernel[axis]}" if axis else one
        text = f"{letters[2 + axis]} * {strides[axis]} + {one} * {dilations[axis]}"
        return f"{text} - {pads[axis][0]}"

    positions = [along(axis, "tap") for axis in range(len(kernel))]
    seen = Value(TensorType(x.dtype, (*dims, math.prod(kernel))), hint=f"{node.outputs[1]}_windows")
    element = f"{x.text}[n, c, {', '.join(positions)}] else -3.4028234663852886e38"
    g.formula(seen, [*letters, "tap"], element)
    taps = Value(TensorType("i64", tuple(dims)), hint=f"{node.outputs[1]}_taps")
    taps.text = f"argmax[axis=-1]({seen.text})"
    tap = f"{g.atom(taps).text}[{', '.join(letters)}]"
    at = f"n * {factor_text(x.dims[1])} + c"
    ways = list(range(len(kernel)))
    for axis in reversed(ways) if node.attr("storage_order", 0) else ways:
        at = f"({at}) * {factor_text(x.dims[2 + axis])} + {along(axis, tap)}"
    return g.formula(Value(taps.type, hint=node.outputs[1]), letters, at)


def average_pool(g: Writer, node: Node) -> Value:
    return _pooled(g, node, "avg")


def _pooled(g: Writer, node: Node, kind: str) -> Value:
    x = node.need(0)
    kernel = [int(k) for k in node.attr("kernel_shape", ())]
    if not 1 <= len(kernel) <= 3 or min(kernel) < 1:
        raise Refused(f"pools have 1, 2 or 3 directions, not {len(kernel)}")
    if not is_float(x.dtype):
        raise Refused(f"pools are of floats, not {x.dtype}")
    strides, dilations, pads = windows(node, g, x, kernel)
    ceil = bool(node.attr("ceil_mode", 0))
    include = bool(node.attr("count_include_pad", 0))
    sizes, more = _sizes(x.dims[2:], kernel, strides, dilations, pads, ceil)
    g.assume_windows(sizes)
    plain = (
        all(d == 1 or k == 1 for d, k in zip(dilations, kernel))
        and not any(more)
        and all(2 * max(pad) <= k for pad, k in zip(pads, kernel))
        and len(kernel) < 3
    )
    type = TensorType(x.dtype, (*x.dims[:2], *sizes))
    if plain:
        return _layer(g, kind, x, type, kernel, strides, pads, include)
    return _by_taps(g, node, kind, x, sizes, kernel, strides, dilations, pads, more, include)


def _sizes(
    dims: Sequence[Dim],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[tuple[int, int]],
    ceil: bool,
) -> tuple[list[Dim], list[int]]:
    """How many windows there are along each dim, and how far the last one goes beyond the padding.

    With `ceil_mode` a window may begin in the input or the padding before it and end outside."""
    sizes: list[Dim] = []
    more: list[int] = []
    for size, k, s, d, (low, high) in zip(dims, kernel, strides, dilations, pads):
        count = window_count(size, k, s, low, high, d)
        beyond = 0
        if ceil and s > 1:
            if not isinstance(size, int) or not isinstance(count, int):
                raise Refused(f"with ceil_mode its size depends on the dim {size}")
            extent = d * (k - 1) + 1
            rounded = -(-(size + low + high - extent) // s) + 1
            if (rounded - 1) * s >= size + low:
                rounded -= 1
            beyond = max((rounded - 1) * s + extent - (size + low + high), 0)
            count = rounded
        sizes.append(count)
        more.append(beyond)
    return sizes, more


def _layer(
    g: Writer,
    kind: str,
    x: Value,
    type: TensorType,
    kernel: list[int],
    strides: list[int],
    pads: list[tuple[int, int]],
    include: bool,
) -> Value:
    symmetric = all(low == high for low, high in pads)
    padding = tuple_text([low for low, _ in pads])
    counted: tuple[str, object, object] = ("count_include_pad", include or padding == "0", True)
    if len(kernel) == 1 and not symmetric:
        wide = g.reshape(x, (*x.dims[:2], 1, x.dims[2]))
        inner = TensorType(x.dtype, (*type.dims[:2], 1, type.dims[2]))
        return g.reshape(
            _layer(g, kind, wide, inner, [1, *kernel], [1, *strides], [(0, 0), *pads], include),
            type.dims,
        )
    if not symmetric:
        padding = tuple_text([side for pair in pads for side in pair], square=False)
        counted = ("count_include_pad", include, True)
    options = statics(
        tuple_text(kernel),
        ("stride", tuple_text(strides), tuple_text(kernel)),
        ("padding", padding, "0"),
        *([counted] if kind == "avg" else []),
    )
    return g.call(f"{kind}_pool{len(kernel)}d", [x], type, options)


def _by_taps(
    g: Writer,
    node: Node,
    kind: str,
    x: Value,
    sizes: list[Dim],
    kernel: list[int],
    strides: list[int],
    dilations: list[int],
    pads: list[tuple[int, int]],
    more: list[int],
    include: bool,
) -> Value:
    """Windows with holes, or that go beyond the padding: one direction after the other, the maximum
    (or sum) of what each place of the window sees."""
    y, count = x, None
    # What divides a sum: how many elements the window sees, which is a product over directions.
    for direction, size in enumerate(sizes):
        axis = 2 + direction
        k, s, d = kernel[direction], strides[direction], dilations[direction]
        low, high = pads[direction][0], pads[direction][1] + more[direction]
        if kind == "avg":
            number = _seen(x.dims[axis], size, k, s, d, pads[direction], include)
            shape = [1] * x.rank
            shape[axis] = len(number)
            number = number.reshape(shape)
            count = number if count is None else count * number
        y = _along(g, kind, y, axis, size, (k, s, d), (low, high))
    if count is None:
        return y
    divisor = Value(
        TensorType(x.dtype, count.shape), known=count.astype(np.float32), hint="window_sizes"
    )
    return g.binary("/", y, divisor, y.type)


def _seen(
    size: Dim, count: Dim, k: int, s: int, d: int, pads: tuple[int, int], include: bool
) -> Any:
    """How many elements each window of a direction counts."""
    if not isinstance(size, int) or not isinstance(count, int):
        if include:
            return np.asarray([k])
        raise Refused(f"what its windows at the ends count depends on the dim {size}")
    places = np.arange(count)[:, None] * s + np.arange(k)[None, :] * d
    low, high = pads
    inside = places < size + low + high if include else (places >= low) & (places < size + low)
    return inside.sum(axis=1)


def _along(
    g: Writer,
    kind: str,
    x: Value,
    axis: int,
    size: Dim,
    window: tuple[int, int, int],
    pads: tuple[int, int],
) -> Value:
    k, s, d = window
    low, high = pads
    if k == 1 and s == 1 and not low and not high:
        return x
    dims = list(x.dims)
    if low or high:
        behind = ", (0, 0)" * (x.rank - 1 - axis)
        dims[axis] = dims[axis] + low + high
        # Nothing is less than minus infinity; a float's least is as good for finite inputs.
        value = ", value=-3.4028234663852886e38" if kind == "max" else ""
        x = g.call("pad", [x], TensorType(x.dtype, tuple(dims)), f"({low}, {high}){behind}{value}")
    x = g.atom(x)
    front = ":, " * axis
    out = TensorType(x.dtype, (*x.dims[:axis], size, *x.dims[axis + 1 :]))
    taps = []
    for i in range(k):
        stop = (size - 1) * s + i * d + 1
        step = f":{s}" if s != 1 else ""
        taps.append(Value(out, f"{x.text}[{front}{i * d or ''}:{stop}{step}]"))
    y = taps[0]
    for tap in taps[1:]:
        y = g.call("maximum", [y, tap], out) if kind == "max" else g.binary("+", y, tap, out)
    return y


def whole(name: str) -> Callable[[Writer, Node], Value]:
    """Over all dims of a channel, which stay as 1."""

    def handler(g: Writer, node: Node) -> Value:
        x = node.need(0)
        if x.rank < 3:
            raise Refused(f"it pools {x.type}", "E0501")
        axes = tuple(range(2, x.rank))
        dims = (*x.dims[:2], *(1 for _ in axes))
        options = f"axis={tuple_text(axes, square=len(axes) == 1)}, keepdims=true"
        return g.call(name, [x], TensorType(x.dtype, dims), options)

    return handler


def lp_pool(g: Writer, node: Node) -> Value:
    """The p-th root of the sum of p-th powers of windows, or of a channel."""
    p = int(node.attr("p", 2))
    x = g.atom(node.need(0))
    powers = Value(x.type, f"{x.text} * {x.text}" if p == 2 else f"abs({x.text}) ** {p}", 6)
    inner = Node(node.proto, node.version, [g.atom(_hinted(powers, x))], "")
    if node.op == "GlobalLpPool":
        total = whole("sum")(g, inner)
    else:
        kernel = [int(k) for k in node.attr("kernel_shape", ())]
        strides, dilations, pads = windows(node, g, x, kernel)
        sizes, more = _sizes(
            x.dims[2:], kernel, strides, dilations, pads, bool(node.attr("ceil_mode", 0))
        )
        total = inner.need(0)
        for i, size in enumerate(sizes):
            window = (kernel[i], strides[i], dilations[i])
            total = _along(g, "sum", total, 2 + i, size, window, (pads[i][0], pads[i][1] + more[i]))
    if p == 1:
        return total
    return g.call("sqrt", [total], total.type) if p == 2 else _root(g, total, p)


def _hinted(value: Value, like: Value) -> Value:
    value.hint = f"{like.hint}_powers"
    return value


def _root(g: Writer, x: Value, p: int) -> Value:
    exponent = Value(TensorType(x.dtype), known=np.asarray(np.float32(1 / p)))
    return g.binary("**", x, exponent, x.type)


TABLE = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": whole("mean"),
    "GlobalMaxPool": whole("max"),
    "GlobalLpPool": lp_pool,
}
