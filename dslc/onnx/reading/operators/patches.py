"""Patches of images: Col2Im, which adds them up, and RoiAlign, which reads boxes."""

from __future__ import annotations

from dslc.ir.dims import Dim, product
from dslc.ir.types import TensorType
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators.common import statics
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Value, tuple_text
from dslc.onnx.reading.writer import Writer
from dslc.ops.windows import window_count


def col2im(g: Writer, node: Node) -> Value:
    """Each pixel is the sum of what all windows that see it say of it."""
    x = node.need(0)
    sizes = node.dims(1, "image_shape")
    kernel = node.ints(2, "block_shape")
    count = len(kernel)
    strides = [int(s) for s in node.attr("strides", [1] * count)]
    dilations = [int(d) for d in node.attr("dilations", [1] * count)]
    pads = [int(p) for p in node.attr("pads", [0] * 2 * count)]
    if x.rank != 3 or not len(sizes) == len(strides) == len(dilations) == len(pads) // 2 == count:
        raise Refused("its attributes do not fit each other", "E0501")
    windows = [
        window_count(size, k, s, low, high, d)
        for size, k, s, low, high, d in zip(
            sizes, kernel, strides, pads[:count], pads[count:], dilations, strict=True
        )
    ]
    taps = product(kernel)
    assert isinstance(taps, int)
    channels = g.exact_quotient(x.dims[1], taps)
    whole = (x.dims[0], channels, *kernel, *windows)
    parts = g.atom(g.reshape(x, whole))
    pixels = [f"i{axis}" for axis in range(count)]
    reads, met = [], []
    for i, s, d, low in zip(pixels, strides, dilations, pads):
        place = f"{i} + {low} - k{i} * {d}"
        met += [f"({place}) % {s} == 0"] if s > 1 else []
        reads.append(f"({place}) // {s}" if s > 1 else place)
    ranges = ", ".join(f"k{i} in 0..{k}" for i, k in zip(pixels, kernel))
    places = ", ".join(["n", "c", *(f"k{i}" for i in pixels), *reads])
    read = f"({parts.text}[{places}] else 0)"
    read = f"where({' and '.join(met)}, {read}, 0)" if met else read
    type = TensorType(x.dtype, (x.dims[0], channels, *sizes))
    y = Value(type, hint=node.outputs[0])
    return g.formula(y, ["n", "c", *pixels], f"sum[{ranges}]({read})")


def roi_align(g: Writer, node: Node) -> Value:
    x, boxes, image = node.need(0), node.need(1), node.need(2)
    if x.rank != 4 or boxes.rank != 2 or image.rank != 1:
        raise Refused(f"it reads {x.type} at {boxes.type} of {image.type}", "E0501")
    kind = node.attr("mode", "avg")
    if kind not in ("avg", "max"):
        raise Refused(f"the mode {kind!r}", "E0501")
    samples = int(node.attr("sampling_ratio", 0))
    if samples < 1:
        raise Refused(
            "how many samples it takes depends on the boxes of a call (sampling_ratio is 0); "
            "export the model with a sampling_ratio of 1 or more"
        )
    usual = "half_pixel" if node.version >= 16 else "output_half_pixel"
    half = node.attr("coordinate_transformation_mode", usual) == "half_pixel"
    sizes = [int(node.attr(f"output_{side}", 1)) for side in ("height", "width")]
    g.assume(boxes.dims[0], image.dims[0])
    dims: tuple[Dim, ...] = (boxes.dims[0], x.dims[1], *sizes)
    for value in (x, boxes, image):
        g.read(value)
    if image.dtype != "i64":
        image = g.cast(image, "i64")
    options = statics(
        tuple_text(sizes),
        ("scale", float(node.attr("spatial_scale", 1.0)), 1.0),
        ("samples", samples, 2),
        ("aligned", half, False),
        *(['mode="max"'] if kind == "max" else []),
    )
    name = g.use("std.vision", "roi_align")
    return g.call(name, [x, boxes, image], TensorType(x.dtype, dims), options)


TABLE = {"Col2Im": col2im, "RoiAlign": roi_align}
