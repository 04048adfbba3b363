"""Shapes: what only moves elements, and the sizes that tell where to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.dims import Dim, Poly, minimum, product
from dslc.ir.evaluate import numpy_dtype
from dslc.ir.types import TensorType, is_float
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.operators.common import broadcast_dims, with_dims
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import ATOM, Value, dtype_of, of_array, static, tuple_text
from dslc.onnx.reading.writer import Writer
from dslc.ops.slicing import slice_size

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

_MOST_KNOWN = 1 << 16


def constant(g: Writer, node: Node) -> Value:
    for name in ("value", "value_float", "value_int", "value_floats", "value_ints"):
        if node.has(name):
            value = node.attr(name)
            array = np.asarray(value)
            if name.startswith("value_float"):
                array = array.astype(np.float32)
            return of_array(array, node.outputs[0])
    raise Refused("it is neither numbers nor a dense tensor")


def shape(g: Writer, node: Node) -> Value:
    x = node.need(0)
    start, end = node.attr("start", 0), node.attr("end")
    dims = list(x.dims)[start : None if end is None else end]
    return of_dims(dims)


def of_dims(dims: Sequence[Dim]) -> Value:
    """A vector of dims whose numbers are known."""
    if any(isinstance(dim, Poly) for dim in dims):
        array = np.empty(len(dims), dtype=object)
        array[:] = list(dims)
        return of_array(array)
    return of_array(np.asarray(dims, dtype=np.int64).reshape(len(dims)))


def size(g: Writer, node: Node) -> Value:
    total = node.need(0).type.size
    array = np.empty((), dtype=object if isinstance(total, Poly) else np.int64)
    array[()] = total
    return of_array(array)


def constant_of_shape(g: Writer, node: Node) -> Value:
    dims = node.dims(0, "shape")
    if node.need(0).dims == (0,):
        dims = []
    value = node.attr("value")
    fill = np.zeros((), np.float32) if value is None else np.asarray(value).reshape(-1)[0]
    scalar = np.asarray(fill)
    if any(isinstance(d, int) and d < 0 for d in dims):
        raise Refused(f"it makes a tensor of {dims}", "E0501")
    return _filled(g, scalar, dims)


def _filled(g: Writer, scalar: Any, dims: Sequence[Dim]) -> Value:
    """A tensor of one number: not stored, however large it is."""
    if len(static(dims)) == len(dims):
        return of_array(np.broadcast_to(scalar, static(dims)))
    one = of_array(scalar)
    return g.broadcast_to(one, dims)


def reshape(g: Writer, node: Node) -> Value:
    x = node.need(0)
    wanted = list(node.attr("shape") or []) if node.version < 5 else node.dims(1, "shape")
    allow_zero = bool(node.attr("allowzero", 0))
    dims: list[Dim] = []
    for i, dim in enumerate(wanted):
        if isinstance(dim, int) and dim == 0 and not allow_zero:
            if i >= x.rank:
                raise Refused(f"its shape keeps dim {i}, which {x.type} doesn't have", "E0501")
            dim = x.dims[i]
        dims.append(dim)
    return g.reshape(x, _with_rest(g, x, dims))


def _with_rest(g: Writer, x: Value, dims: list[Dim]) -> list[Dim]:
    """The dims, with what is left for -1."""
    places = [i for i, d in enumerate(dims) if isinstance(d, int) and d == -1]
    if not places:
        return dims
    if len(places) > 1 or any(isinstance(d, int) and d < -1 for d in dims):
        raise Refused(f"its shape is {dims}", "E0501")
    known = product(d for i, d in enumerate(dims) if i != places[0])
    if known == 0:
        dims[places[0]] = 0
        return dims
    dims[places[0]] = g.exact_quotient(x.type.size, known)
    return dims


def flatten(g: Writer, node: Node) -> Value:
    x = node.need(0)
    axis = int(node.attr("axis", 1))
    axis = axis + x.rank if axis < 0 else axis
    if not 0 <= axis <= x.rank:
        raise Refused(f"it flattens {x.type} at {axis}", "E0501")
    dims = (product(x.dims[:axis]), product(x.dims[axis:]))
    if axis == 1 and x.rank > 2 and is_float(x.dtype):
        return g.call("flatten", [x], with_dims(x, dims))
    return g.reshape(x, dims)


def squeeze(g: Writer, node: Node) -> Value:
    x = node.need(0)
    axes = node.axes(1, x.rank)
    if axes is None:
        axes = [i for i, dim in enumerate(x.dims) if dim == 1]
    for axis in axes:
        g.assume(x.dims[axis], 1)
    return g.reshape(x, [d for i, d in enumerate(x.dims) if i not in axes])


def unsqueeze(g: Writer, node: Node) -> Value:
    x = node.need(0)
    given = node.attr("axes") or (node.ints(1, "axes") if node.input(1) else [])
    rank = x.rank + len(given)
    axes = [normal(int(axis), rank) for axis in given]
    rest = iter(x.dims)
    return g.reshape(x, [1 if i in axes else next(rest) for i in range(rank)])


def transpose(g: Writer, node: Node) -> Value:
    x = node.need(0)
    perm = [int(p) for p in node.attr("perm", range(x.rank)[::-1])]
    if sorted(perm) != list(range(x.rank)):
        raise Refused(f"its perm is {perm} for {x.type}", "E0501")
    return g.transpose(x, perm)


def concat(g: Writer, node: Node) -> Value:
    values = node.given()
    first = values[0]
    axis = normal(int(node.attr("axis", 1)), first.rank)
    dims = list(first.dims)
    for other in values[1:]:
        for i, dim in enumerate(other.dims):
            if i != axis:
                g.assume(dims[i], dim)
    dims[axis] = sum((v.dims[axis] for v in values), start=0)
    if len(values) == 1:
        return first
    for value in values:
        g.read(value)
    return g.call("concat", values, with_dims(first, dims), f"axis={axis}")


def split(g: Writer, node: Node) -> Sequence[Value]:
    x = node.need(0)
    axis, count = node.axis(0, x.rank), len(node.outputs)
    whole = x.dims[axis]
    sizes: list[Dim] = list(node.attr("split") or [])
    if not sizes and node.input(1) is not None:
        sizes = node.dims(1, "sizes")
    if not sizes:
        count = int(node.attr("num_outputs", count))
        if isinstance(whole, int):
            each = -(-whole // count)
            sizes = [min(each, whole - i * each) for i in range(count)]
        else:
            sizes = [g.exact_quotient(whole, count)] * count
    g.assume(sum(sizes, start=0), whole)
    fixed = static(sizes)
    if x.known is not None and not x.text and len(fixed) == len(sizes):
        parts_ = np.split(x.known, np.cumsum(fixed)[:-1], axis)
        return [of_array(part, dtype=x.dtype) for part in parts_]
    parts = []
    for size_, name in zip(sizes, node.outputs):
        dims = list(x.dims)
        dims[axis] = size_
        parts.append(Value(with_dims(x, dims), hint=name))
    if len(parts) == 1:
        return [x]
    equal = all(s == sizes[0] for s in sizes)
    how = str(count) if equal and isinstance(whole, int) else tuple_text(sizes, square=False)
    text = g.call("split", [x], x.type, f"{how}, axis={axis}").text
    g.bind_all(text, parts)
    return parts


def slice_(g: Writer, node: Node) -> Value:
    x = node.need(0)
    if node.version < 10:
        starts, ends = node.attr("starts", []), node.attr("ends", [])
        axes, steps = node.attr("axes", list(range(len(starts)))), [1] * len(starts)
    else:
        starts, ends = node.dims(1, "starts"), node.dims(2, "ends")
        axes = node.ints(3, "axes") if node.input(3) else list(range(len(starts)))
        steps = node.ints(4, "steps") if node.input(4) else [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise Refused("its starts, ends, axes and steps do not fit", "E0501")
    dims, kept = list(x.dims), list(x.dims)
    parts, turned = [":"] * x.rank, [":"] * x.rank
    for start, end, axis, step in zip(starts, ends, axes, steps):
        axis = normal(int(axis), x.rank)
        low, high = (_clamped(g, x.dims[axis], at, step) for at in (start, end))
        size_ = slice_size(low, high, step)
        dims[axis] = max(size_, 0) if isinstance(size_, int) else size_
        if step < 0:  # first what lies between both ends, then that backwards
            low, high = high + 1, low + 1
            turned[axis] = f"::{step}"
            kept[axis] = high - low
        parts[axis] = _between(x.dims[axis], low, high, max(step, 1))
    if any(part != ":" for part in parts):
        x = indexed(g, x, parts, [k if t != ":" else d for k, t, d in zip(kept, turned, dims)])
    return indexed(g, x, turned, dims) if any(part != ":" for part in turned) else x


def indexed(g: Writer, x: Value, parts: Sequence[str], dims: Sequence[Dim]) -> Value:
    """x[parts], of these dims; whole dims at the end are not written."""
    shown = list(parts)
    while shown[-1] == ":" and len(shown) > 1:
        shown.pop()
    g.read(x)
    text = x.text if x.strength == ATOM and len(x.text) < 60 else g.atom(x).text
    return Value(with_dims(x, dims), f"{text}[{', '.join(shown)}]")


def _between(size_: Dim, low: Dim, high: Dim, step: int) -> str:
    """The text of a slice."""
    first = "" if low == 0 else str(low)
    last = "" if high == size_ else str(high)
    middle = " : " if any(sign in first + last for sign in " +*/") else ":"
    text = f"{first}{middle}{last}".strip() if first or last else ":"
    return text if step == 1 else f"{text}:{step}"


def _clamped(g: Writer, size_: Dim, at: Dim, step: int) -> Dim:
    """A start or end as a place from 0, as NumPy has it; huge numbers are the ends."""
    if isinstance(at, int) and abs(at) >= 2**31 - 1:
        if at < 0:
            return 0 if step > 0 else -1
        return size_ if step > 0 else size_ - 1
    if isinstance(at, int) and at < 0:
        place = size_ + at
        return max(place, 0 if step > 0 else -1) if isinstance(place, int) else place
    if at == 0:  # no size is negative
        return 0
    last = size_ if step > 0 else size_ - 1
    difference = last - at
    if isinstance(difference, int):
        return at if difference >= 0 else last
    if isinstance(last, int):  # a table that is long enough: no one means to get less
        g.assume_at_most(at, last)
        return at
    if at == 1:  # the first element: no one means the none of an empty dim, which nothing fits
        g.assume_at_least(last, 1)
        return 1
    return minimum(at, last)


def expand(g: Writer, node: Node) -> Value:
    x, wanted = node.need(0), node.dims(1, "shape")
    dims = broadcast_dims(g, [x.dims, wanted])
    if x.known is not None and not x.text and all(isinstance(d, int) for d in dims):
        return of_array(np.broadcast_to(x.known, static(dims)), x.hint, x.dtype)
    return g.broadcast_to(x, dims)


def tile(g: Writer, node: Node) -> Value:
    x, times = node.need(0), node.dims(1, "repeats")
    if len(times) != x.rank:
        raise Refused(f"it repeats {len(times)} dims of {x.type}", "E0501")
    total = x.type.size * product(times)
    if x.known is not None and not x.text and isinstance(total, int) and total <= _MOST_KNOWN:
        return of_array(np.tile(x.known, [int(t) for t in times if isinstance(t, int)]), x.hint)
    wide: list[Dim] = []
    before: list[Dim] = []
    for dim, count in zip(x.dims, times):
        if count != 1 and dim != 1:
            before += [1, dim]
            wide += [count, dim]
        else:
            before.append(dim)
            wide.append(count * dim)
    g.read(x)
    y = g.broadcast_to(g.reshape(x, before), wide)
    return g.reshape(y, [dim * count for dim, count in zip(x.dims, times)])


def range_(g: Writer, node: Node) -> Value:
    start, limit, step = (node.scalar(i, w) for i, w in enumerate(("start", "limit", "step")))
    dtype = node.need(0).dtype
    if isinstance(start, np.floating):
        count = max(int(np.ceil((limit - start) / step)), 0) if step else 0
        if count > _MOST_KNOWN:
            raise Refused(f"it makes {count} floats", "E0504")
        return of_array((start + np.arange(count) * step).astype(start.dtype))
    ends = [n if isinstance(n, Poly) else int(n) for n in (start, limit, step)]
    if not isinstance(ends[2], int) or ends[2] == 0:
        raise Refused("its step depends on a dim")
    size_ = slice_size(ends[0], ends[1], ends[2])
    made = _arange(ends, max(size_, 0) if isinstance(size_, int) else size_)
    if isinstance(size_, int) and size_ <= _MOST_KNOWN:
        whole = [n for n in ends if isinstance(n, int)]
        if len(whole) == 3:
            return of_array(np.arange(*whole).astype(numpy_dtype(dtype)))
    return made if dtype == "i64" else g.cast(made, dtype)


def _arange(ends: Sequence[Dim], count: Dim) -> Value:
    start, stop, step = ends
    parts = [start, stop, step] if step != 1 else [start, stop] if start != 0 else [stop]
    return Value(TensorType("i64", (count,)), f"arange[{', '.join(map(str, parts))}]()")


def trilu(g: Writer, node: Node) -> Value:
    x = node.need(0)
    k = int(node.scalar(1, "diagonal", 0))
    name = "triu" if node.attr("upper", 1) else "tril"
    return g.call(name, [x], x.type, f"diagonal={k}" if k else "")


def depth_to_space(g: Writer, node: Node) -> Value:
    x, block = node.need(0), int(node.attr("blocksize", 1))
    n, c, h, w = x.dims
    if node.attr("mode", "DCR") == "CRD" and isinstance(c, int):
        type = with_dims(x, (n, c // (block * block), h * block, w * block))
        return g.call("pixel_shuffle", [x], type, str(block))
    depth = g.exact_quotient(c, block * block)
    y = g.reshape(x, (n, block, block, depth, h, w))
    y = g.transpose(y, (0, 3, 4, 1, 5, 2))
    return g.reshape(y, (n, depth, h * block, w * block))


def space_to_depth(g: Writer, node: Node) -> Value:
    x, block = node.need(0), int(node.attr("blocksize", 1))
    n, c, h, w = x.dims
    high, wide = g.exact_quotient(h, block), g.exact_quotient(w, block)
    y = g.reshape(x, (n, c, high, block, wide, block))
    crd = node.attr("mode", "DCR") == "CRD"  # blocks behind the channels, not before them
    y = g.transpose(y, (0, 1, 3, 5, 2, 4) if crd else (0, 3, 5, 1, 2, 4))
    return g.reshape(y, (n, c * block * block, high, wide))


def eye_like(g: Writer, node: Node) -> Value:
    x = node.need(0)
    k = int(node.attr("k", 0))
    dtype = x.dtype
    if node.has("dtype"):
        import onnx

        dtype = dtype_of(onnx.helper.tensor_dtype_to_np_dtype(node.attr("dtype")))
    rows, columns = x.dims
    if k:
        wide = f"arange[{columns}]() - reshape[{rows}, 1](arange[{rows}]()) == {k}"
        y = Value(TensorType("bool", x.dims), wide, 4)
        return y if dtype == "bool" else g.cast(y, dtype)
    option = "" if dtype == "f32" else f", dtype={dtype}"
    return Value(TensorType(dtype, x.dims), f"eye[{rows}, {columns}{option}]()")


TABLE = {
    "Constant": constant,
    "Shape": shape,
    "Size": size,
    "ConstantOfShape": constant_of_shape,
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Expand": expand,
    "Tile": tile,
    "Range": range_,
    "Trilu": trilu,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
    "EyeLike": eye_like,
}
