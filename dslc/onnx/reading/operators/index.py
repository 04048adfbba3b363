"""Elements by their places: Gather and its kin, OneHot, and padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.dims import Dim, Poly, product
from dslc.ir.types import TensorType, is_float
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.operators.common import with_dims
from dslc.onnx.reading.operators.linear import is_weight, layer_hint
from dslc.onnx.reading.operators.shape import indexed
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import PRODUCT, SUM, UNARY, Value, number_text, of_array
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")


def gather(g: Writer, node: Node) -> Value:
    x, places = node.need(0), node.need(1)
    axis = node.axis(0, x.rank)
    dims = (*x.dims[:axis], *places.dims, *x.dims[axis + 1 :])
    if places.known is not None and not places.text and not places.dims:
        return _element(g, x, axis, places.number, dims)
    table = is_weight(x) and x.rank == 2 and axis == 0 and x.dtype == "f32" and places.text
    if table and places.dtype == "i64":
        count, width = x.dims
        name = g.instance(layer_hint(node, x), "embedding")
        g.weight(name, "weight", x.known, x.hint)
        return g.stage(places, name, "embedding", f"{count}, {width}", TensorType(x.dtype, dims))
    g.read(x), g.read(places)
    return g.call("take", [x, places], TensorType(x.dtype, dims), f"axis={axis}")


def _element(g: Writer, x: Value, axis: int, place: Any, dims: Sequence[Dim]) -> Value:
    """x[..., place], which must be inside."""
    if isinstance(place, Poly):
        raise Refused(f"the place that it takes depends on a dim: {place}")
    at = int(place)
    g.assume_at_least(x.dims[axis], at + 1 if at >= 0 else -at)
    return indexed(g, x, [*[":"] * axis, str(at)], dims)


def gather_elements(g: Writer, node: Node) -> Value:
    x, places = g.atom(node.need(0)), node.need(1)
    axis = node.axis(0, x.rank)
    if places.rank != x.rank:
        raise Refused(f"its indices have {places.rank} dims, its data {x.rank}", "E0501")
    parts = []
    dims = list(x.dims)
    for i, (have, want) in enumerate(zip(x.dims, places.dims)):
        smaller = i != axis and isinstance(have, int) and isinstance(want, int) and want < have
        if i != axis and not smaller:
            g.assume(have, want)
        parts.append(f":{want}" if smaller else ":")
        dims[i] = want if smaller else have
    if any(part != ":" for part in parts):
        x = indexed(g, x, parts, dims)
    g.read(places)
    type = TensorType(x.dtype, places.dims)
    return g.call("take_along", [x, places], type, f"axis={axis}")


def gather_nd(g: Writer, node: Node) -> Value:
    x, places = node.need(0), node.need(1)
    batch = int(node.attr("batch_dims", 0))
    depth = places.dims[-1] if places.dims else 0
    if not 0 <= batch < places.rank or not isinstance(depth, int):
        raise Refused(f"its indices are {places.type}", "E0501")
    if not 1 <= depth <= x.rank - batch:
        raise Refused(f"its indices are {places.type}", "E0501")
    found, rest = x.dims[batch : batch + depth], x.dims[batch + depth :]
    rows = g.reshape(x, (product(x.dims[: batch + depth]), *rest))
    first = ""
    if batch:  # the rows of each of the batch begin behind those of the one before
        ones = (1,) * (places.rank - 1 - batch)
        shape = ", ".join(map(str, (*x.dims[:batch], *ones)))
        first = f"reshape[{shape}](arange[{product(x.dims[:batch])}]())"
    index = place_of_all(g, places, found, first)
    type = TensorType(x.dtype, (*places.dims[:-1], *rest))
    return g.call("take", [rows, index], type, "axis=0")


def place_of_all(g: Writer, places: Value, dims: Sequence[Dim], first: str = "") -> Value:
    """One place among all that `dims` have, of the places in each (the last dim), of which negative
    ones count from its end; with `first`, of the places in a dim before these."""
    places = g.atom(places)
    flat = first
    for i, dim in enumerate(dims):
        one = f"{places.text}[..., {i}] % {factor_text(dim)}"
        flat = f"({flat}) * {factor_text(dim)} + {one}" if flat else one
    type = TensorType(places.dtype, places.dims[:-1])
    return Value(type, flat, SUM if first or len(dims) > 1 else PRODUCT)


def factor_text(dim: Dim) -> str:
    """A dim as an operand of a product."""
    return str(dim) if isinstance(dim, int) or str(dim).isidentifier() else f"({dim})"


def one_hot(g: Writer, node: Node) -> Value:
    places = node.need(0)
    depth = node.dims(1, "depth")[0]
    values = node.need(2)
    axis = normal(int(node.attr("axis", -1)), places.rank + 1)
    if places.dtype != "i64":
        places = g.cast(places, "i64")
    places = g.atom(places)
    wrapped = f"where({places.text} < 0, {places.text} + {depth}, {places.text})"
    dims = [*places.dims, depth]
    on = Value(TensorType("bool", tuple(dims)), f"one_hot[{depth}, dtype=bool]({wrapped})")
    if values.known is not None and not values.text:
        ends = [of_array(n, dtype=values.dtype) for n in values.known.reshape(-1)]
        type = TensorType(values.dtype, tuple(dims))
        if [float(end.number) for end in ends] == [0, 1]:
            hot = g.cast(on, values.dtype)
        else:
            hot = Value(type, f"where({on.text}, {g.read(ends[1])}, {g.read(ends[0])})")
    else:
        pair = g.atom(values).text
        text = f"where({on.text}, {pair}[1], {pair}[0])"
        hot = Value(TensorType(values.dtype, tuple(dims)), text)
    perm = list(range(places.rank))
    perm.insert(axis, places.rank)
    return g.transpose(hot, perm)


def reverse_sequence(g: Writer, node: Node) -> Value:
    """The first steps of each batch backwards, as many as its length says."""
    x, lengths = g.atom(node.need(0)), node.need(1)
    lengths = g.atom(lengths if lengths.dtype == "i64" else g.cast(lengths, "i64"))
    time, batch = int(node.attr("time_axis", 0)), int(node.attr("batch_axis", 1))
    if {time, batch} != {0, 1} or x.rank < 2:
        raise Refused(f"its axes of time and batch are {time} and {batch}", "E0501")
    source = Value(TensorType("i64", (x.dims[batch], x.dims[time])), hint=f"{node.outputs[0]}_from")
    place = f"where(t < {lengths.text}[n], {lengths.text}[n] - 1 - t, t)"
    g.formula(source, ["n", "t"], place)
    rest = [f"i{axis}" for axis in range(2, x.rank)]
    letters = ["t", "n", *rest] if time == 0 else ["n", "t", *rest]
    read = [f"{source.text}[n, t]" if letter == "t" else letter for letter in letters]
    text = f"{x.text}[{', '.join(read)}] else 0"
    return g.formula(Value(x.type, hint=node.outputs[0]), letters, text)


_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def pad(g: Writer, node: Node) -> Value:
    x = node.need(0)
    mode = node.attr("mode", "constant")
    value: Any = 0.0
    if node.version < 11:
        pads: list[Dim] = [int(p) for p in node.attr("pads", node.attr("paddings", []))]
        value = node.attr("value", 0.0)
    else:
        pads = node.dims(1, "pads")
        if node.input(2) is not None and node.need(2).dims != (0,):
            value = node.scalar(2, "constant_value")
    axes = list(range(x.rank))
    if node.input(3) is not None:
        axes = [normal(axis, x.rank) for axis in node.ints(3, "axes")]
    if len(pads) != 2 * len(axes):
        raise Refused(f"it has {len(pads)} pads for {len(axes)} axes", "E0501")
    low: list[Dim] = [0] * x.rank
    high: list[Dim] = [0] * x.rank
    for axis, before, behind in zip(axes, pads, pads[len(axes) :]):
        low[axis], high[axis] = before, behind
    x = _cropped(g, x, low, high)
    low, high = [_added(n) for n in low], [_added(n) for n in high]
    if mode == "constant":
        return padded(g, x, low, high, value)
    if mode not in _MODES:
        raise Refused(f"the mode {mode!r}")
    dtype = x.dtype
    for axis, (before, behind) in enumerate(zip(low, high)):
        if before != 0 or behind != 0:
            dims = list(x.dims)
            dims[axis] = dims[axis] + before + behind
            option = f'{before}, {behind}, axis={axis}, mode="{_MODES[mode]}"'
            # The library's function is one of floats; f64 holds the integers there are in practice.
            x = x if is_float(x.dtype) else g.cast(x, "f64")
            x = g.call("extend", [x], with_dims(x, dims), option)
    return x if x.dtype == dtype else g.cast(x, dtype)


def _added(count: Dim) -> Dim:
    return max(count, 0) if isinstance(count, int) else count


def _cropped(g: Writer, x: Value, low: Sequence[Dim], high: Sequence[Dim]) -> Value:
    """Without what negative pads take off."""
    dims, parts = list(x.dims), [":"] * x.rank
    for axis, (before, behind) in enumerate(zip(low, high)):
        off = [min(n, 0) if isinstance(n, int) else 0 for n in (before, behind)]
        if any(off):
            dims[axis] = dims[axis] + off[0] + off[1]
            parts[axis] = f"{-off[0] or ''}:{off[1] or ''}"
    return x if dims == list(x.dims) else indexed(g, x, parts, dims)


def padded(g: Writer, x: Value, low: Sequence[Dim], high: Sequence[Dim], value: Any = 0) -> Value:
    """x with elements of one value more at both ends of dims."""
    first = next((i for i in range(x.rank) if low[i] != 0 or high[i] != 0), x.rank)
    if first == x.rank:
        return x
    dims = [d + a + b for d, a, b in zip(x.dims, low, high)]
    pairs = ", ".join(f"({a}, {b})" for a, b in zip(low[first:], high[first:]))
    if x.dtype == "bool":
        value = int(value)
    written = number_text(value)
    if written is None:
        limit = "3.4028234663852886e38"
        written = (limit if value > 0 else f"-{limit}"), UNARY
    option = f", value={written[0]}" if value != 0 else ""
    return g.call("pad", [x], with_dims(x, dims), pairs + option)


TABLE = {
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "Pad": pad,
    "ReverseSequence": reverse_sequence,
}
