"""Images in other sizes, and read at places: Resize, Upsample and GridSample.

Each axis on its own. Where ONNX's rule for places is the library's (`resize`), that is called; else
the places and weights are computed now, which needs sizes that are numbers. Cubic, antialiased and
cropping ones are a product with a matrix along each axis, which `onnx.reference` computes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.dims import Dim, Poly, floordiv
from dslc.ir.types import TensorType, is_float
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.operators.common import with_dims
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import SUM, Value, of_array, static
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    np = lazy("numpy")
    onnx = lazy("onnx")

_LARGEST = 1 << 22
_ANY = [(12, 24), (12, 7), (5, 13)]
_SAMPLE = 12  # elements of an axis that tells whether a rule is the library's


def resize(g: Writer, node: Node) -> Value:
    x = node.need(0)
    if not is_float(x.dtype):
        raise Refused(f"it is said of floats here, not of {x.dtype}")
    mode = node.attr("mode", "nearest")
    if mode not in ("nearest", "linear", "cubic"):
        raise Refused(f"the mode {mode!r}")
    axes = [normal(int(a), x.rank) for a in node.attr("axes", range(x.rank))]
    sizes, scales = _sizes(node, x, axes)
    moved = [i for i in range(x.rank) if sizes[i] != x.dims[i] or scales[i] != 1]
    crops = node.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
    smooth = bool(node.attr("antialias", 0)) and any(scales[i] < 1 for i in moved)
    if mode == "cubic" or crops or smooth:
        for place, axis in enumerate(axes):
            if axis in moved or crops:
                x = _product(g, node, x, axis, sizes[axis], scales[axis], (place, len(axes)))
        return x
    rule = _places(node)
    upsampled = _upsampled(g, node, x, mode, moved, sizes, scales, rule)
    if upsampled is not None:
        return upsampled
    for axis in moved:
        x = _along(g, node, x, axis, sizes[axis], scales[axis], mode, rule)
    return x


def _sizes(node: Node, x: Value, axes: Sequence[int]) -> tuple[list[Dim], list[float]]:
    """The new size of each axis, and how many times the old one it is."""
    sizes: list[Dim] = list(x.dims)
    scales = [1.0] * x.rank
    given: Any = None
    if node.op == "Upsample" and node.version < 9:
        given = node.attr("scales")
    elif node.op == "Upsample" or node.version == 10:
        given = node.known(1, "scales")
    elif node.input(2) is not None and node.need(2).dims != (0,):
        given = node.known(2, "scales")
    if given is not None:
        for axis, scale in zip(axes, np.asarray(given, dtype=np.float64).reshape(-1)):
            size = x.dims[axis]
            scales[axis] = float(scale)
            if isinstance(size, int):
                sizes[axis] = int(np.floor(np.float32(size) * np.float32(scale)))
            elif scale == int(scale):
                sizes[axis] = size * int(scale)
            elif 1 / scale == int(1 / scale):
                sizes[axis] = size // int(1 / scale)
            else:
                raise Refused(f"its scale of {scale} along the dim {size}")
        return sizes, scales
    wanted = node.dims(3, "sizes")
    wanted = _policy(node, x, axes, wanted)
    for axis, size in zip(axes, wanted):
        old = x.dims[axis]
        sizes[axis] = size
        if isinstance(old, int) and isinstance(size, int):
            scales[axis] = size / old
        elif size != old:
            times = floordiv(size, old)
            scales[axis] = float(times) if isinstance(times, int) else np.nan
    return sizes, scales


def _policy(node: Node, x: Value, axes: Sequence[int], wanted: list[Dim]) -> list[Dim]:
    """Sizes of `keep_aspect_ratio_policy`: one scale for all axes."""
    policy = node.attr("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return wanted
    old = [x.dims[axis] for axis in axes]
    if any(isinstance(n, Poly) for n in (*old, *wanted)):
        raise Refused(f"keep_aspect_ratio_policy {policy!r} with sizes that depend on dims")
    ratios = [w / o for o, w in zip(static(old), static(wanted))]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    return [int(np.floor(scale * o + 0.5)) for o in static(old)]


Rule = Callable[[int, int, float], Any]


def _places(node: Node) -> Rule:
    """(old size, new size, scale) to the place in the old axis of each element of the new one."""
    name = node.attr("coordinate_transformation_mode", "half_pixel")
    if node.op == "Upsample" or node.version == 10:
        name = "asymmetric"

    def rule(old: int, new: int, scale: float) -> Any:
        i = np.arange(new, dtype=np.float64)
        if name == "asymmetric":
            return i / scale
        if name == "align_corners":
            length = scale * old  # which need not be whole
            return i * ((old - 1) / (length - 1)) if length != 1 else i * 0
        if name == "pytorch_half_pixel" and new <= 1:
            return i * 0
        if name in ("half_pixel", "pytorch_half_pixel"):
            return (i + 0.5) / scale - 0.5
        if name == "half_pixel_symmetric":
            adjustment = new / (scale * old)
            centre = old / 2
            return centre * (1 - adjustment) + (i + 0.5) / scale - 0.5
        raise Refused(f"the coordinate_transformation_mode {name!r}")

    return rule


_ROUNDINGS: dict[str, Callable[[Any], Any]] = {
    "round_prefer_floor": lambda p: np.ceil(p - 0.5),
    "round_prefer_ceil": lambda p: np.floor(p + 0.5),
    "floor": lambda p: np.floor(p),
    "ceil": lambda p: np.ceil(p),
}


def _nearest(node: Node, rule: Rule, old: int, new: int, scale: float) -> Any:
    default = "floor" if node.op == "Upsample" or node.version == 10 else "round_prefer_floor"
    name = node.attr("nearest_mode", default)
    if name not in _ROUNDINGS:
        raise Refused(f"the nearest_mode {name!r}")
    places = np.round(rule(old, new, scale), 10)
    return np.clip(_ROUNDINGS[name](places), 0, old - 1).astype(np.int64)


def _is_library(node: Node, rule: Rule, old: Dim, new: Dim, scale: float, mode: str) -> str | None:
    """How the library's `resize` says the same, or None: "" or its option for aligned corners."""
    if isinstance(old, int) and isinstance(new, int):
        return _agrees(node, rule, old, new, scale, mode)
    # Of any size: what holds for a few is the rule.
    samples = _ANY if np.isnan(scale) else [(n, int(n * scale)) for n in (_SAMPLE, _SAMPLE + 1)]
    found = {_agrees(node, rule, a, b, b / a, mode) for a, b in samples}
    return found.pop() if len(found) == 1 else None


def _agrees(node: Node, rule: Rule, old: int, new: int, scale: float, mode: str) -> str | None:
    """`_is_library` for sizes that are numbers."""
    if mode == "nearest":
        ours = np.arange(new) * old // new
        return "" if np.array_equal(ours, _nearest(node, rule, old, new, scale)) else None
    theirs = np.clip(rule(old, new, scale), 0, old - 1)
    i = np.arange(new)
    plain = np.clip((i + 0.5) * (old / new) - 0.5, 0, old - 1)
    if np.allclose(theirs, plain, rtol=0, atol=1e-6):
        return ""
    aligned = i * ((old - 1) / max(new - 1, 1))
    return ", align_corners=true" if np.allclose(theirs, aligned, rtol=0, atol=1e-6) else None


def _upsampled(
    g: Writer,
    node: Node,
    x: Value,
    mode: str,
    moved: Sequence[int],
    sizes: Sequence[Dim],
    scales: Sequence[float],
    rule: Rule,
) -> Value | None:
    """`upsample2d`, where an image is so many times as large."""
    whole = all(scales[i] >= 1 and scales[i] == int(scales[i]) for i in moved)
    if x.rank != 4 or list(moved) != [2, 3] or not whole:
        return None
    options = [_is_library(node, rule, x.dims[i], sizes[i], scales[i], mode) for i in moved]
    if options != ["", ""]:
        return None
    h, w = (int(scales[i]) for i in moved)
    scale = f"{h}" if h == w else f"({h}, {w})"
    option = "" if mode == "nearest" else ', mode="bilinear"'
    return g.call("upsample2d", [x], with_dims(x, sizes), scale + option)


def _along(
    g: Writer, node: Node, x: Value, axis: int, size: Dim, scale: float, mode: str, rule: Rule
) -> Value:
    old = x.dims[axis]
    dims = list(x.dims)
    dims[axis] = size
    type = with_dims(x, dims)
    option = _is_library(node, rule, old, size, scale, mode)
    if option is not None:
        return g.call("resize", [x], type, f'{size}, axis={axis}, mode="{mode}"{option}')
    if not isinstance(old, int) or not isinstance(size, int):
        raise Refused(f"where it reads along the dim {old} is not the library's rule")
    hint = f"{node.outputs[0]}_places"
    if mode == "nearest":
        table = of_array(_nearest(node, rule, old, size, scale), hint)
        g.read(table)
        return g.call("take", [x, table], type, f"axis={axis}")
    places = rule(old, size, scale)
    low = np.floor(places)
    below = of_array(np.clip(low, 0, old - 1).astype(np.int64), hint)
    above = of_array(np.clip(low + 1, 0, old - 1).astype(np.int64), hint)
    shape = [1] * x.rank
    shape[axis] = size
    part = of_array((places - low).astype(np.float32).reshape(shape), f"{hint}_part")
    x = g.atom(x)
    near, far = (f"take[axis={axis}]({x.text}, {g.read(t)})" for t in (below, above))
    weight = g.atom(part if x.dtype == "f32" else g.cast(part, x.dtype)).text
    return Value(type, f"{near} * (1 - {weight}) + {far} * {weight}", SUM)


def _product(
    g: Writer, node: Node, x: Value, axis: int, size: Dim, scale: float, place: tuple[int, int]
) -> Value:
    """An axis times a matrix: the node's result on unit vectors. `place` is the axis's place
    among those that the node's inputs speak of, and how many these are."""
    old = x.dims[axis]
    if not isinstance(old, int) or not isinstance(size, int):
        raise Refused(f"its weights depend on the dim {old}")
    if old * size > _LARGEST:
        raise Refused(f"it takes {old} x {size} weights")
    roi = [0.0, 0.0, 1.0, 1.0]
    if node.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        index, count = place
        whole = np.asarray(node.known(1, "roi"), dtype=np.float64).reshape(-1)
        roi = [0.0, float(whole[index]), 1.0, float(whole[index + count])]
    # What is read outside of the image adds a constant.
    outside = _reference(node, np.zeros((1, old), np.float32), size, scale, roi)
    matrix = _reference(node, np.eye(old, dtype=np.float32), size, scale, roi) - outside
    hint = f"{node.outputs[0]}_matrix"
    back = [i for i in range(x.rank) if i != axis] + [axis]
    y = g.transpose(x, back)
    weights = of_array(matrix.astype(np.float32), hint)
    g.read(weights)
    if x.dtype != "f32":
        weights = g.cast(weights, x.dtype)
    y = g.binary("@", y, weights, with_dims(y, (*y.dims[:-1], size)))
    if outside.any():
        constant = of_array(outside.reshape(-1).astype(np.float32), f"{hint}_outside")
        g.read(constant)
        y = g.binary("+", y, constant if x.dtype == "f32" else g.cast(constant, x.dtype), y.type)
    return g.transpose(y, list(np.argsort(back)))


def _reference(node: Node, rows: Any, size: int, scale: float, roi: Sequence[float]) -> Any:
    """The node's result on rows, resized along them."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:], proto.attribute[:]
    given = node.input(2) is not None and node.need(2).dims != (0,)
    proto.input.extend(["x", "roi", "scales" if given else "", "" if given else "sizes"])
    dropped = ("axes", "keep_aspect_ratio_policy")
    proto.attribute.extend(a for a in node.proto.attribute if a.name not in dropped)
    feeds = {
        "x": rows,
        "roi": np.asarray(roi, np.float32),
        "scales": np.asarray([1, scale], np.float32),
        "sizes": np.asarray([len(rows), size], np.int64),
    }
    del feeds["sizes" if given else "scales"]
    empty = onnx.TypeProto()
    infos = [helper.make_value_info(name, empty) for name in feeds]
    outputs = [helper.make_value_info(proto.output[0], empty)]
    graph = helper.make_graph([proto], "resize", infos, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.version)])
    (result,) = ReferenceEvaluator(model).run(None, feeds)
    return np.asarray(result, dtype=np.float64)


_SAMPLED = {"linear": "bilinear", "cubic": "bicubic"}  # the names from opset 20 on


def grid_sample(g: Writer, node: Node) -> Value:
    x, grid = node.need(0), node.need(1)
    if x.rank != 4:
        raise Refused(f"it reads {x.type}; images of two directions can be read")
    if not is_float(x.dtype) or x.dtype != grid.dtype:
        raise Refused(f"it reads {x.type} at {grid.type}; both must be floats of one dtype")
    mode = node.attr("mode", "linear")
    statics = [f'mode="{_SAMPLED.get(mode, mode)}"']
    if (padding := node.attr("padding_mode", "zeros")) != "zeros":
        statics.append(f'padding="{padding}"')
    if node.attr("align_corners", 0):
        statics.append("align_corners=true")
    g.assume(x.dims[0], grid.dims[0])
    g.read(x), g.read(grid)
    dims = (*x.dims[:2], *grid.dims[1:3])
    return g.call("grid_sample", [x, grid], TensorType(x.dtype, dims), ", ".join(statics))


TABLE = {"GridSample": grid_sample, "Resize": resize, "Upsample": resize}
