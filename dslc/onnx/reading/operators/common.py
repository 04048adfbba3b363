"""What several families share: shapes that broadcast, arguments that were given as numbers."""

from __future__ import annotations

from collections.abc import Sequence

from dslc.ir.dims import Dim
from dslc.ir.types import DType, TensorType
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Value
from dslc.onnx.reading.writer import Writer


def broadcast_dims(g: Writer, shapes: Sequence[Sequence[Dim]]) -> tuple[Dim, ...]:
    """The dims that all of them broadcast to. Dims that may differ are asserted to be equal."""
    rank = max(map(len, shapes), default=0)
    out: list[Dim] = []
    for place in range(rank):
        dim: Dim = 1
        for dims in shapes:
            offset = place - (rank - len(dims))
            other = dims[offset] if offset >= 0 else 1
            if other == 1 or other == dim:
                continue
            if dim == 1:
                dim = other
                continue
            g.assume(dim, other)
            dim = dim if isinstance(dim, int) else other
        out.append(dim)
    return tuple(out)


def broadcast_type(g: Writer, values: Sequence[Value], dtype: DType | None = None) -> TensorType:
    """The type of an element-wise result. A known number may be written as a literal only where
    that does not lower the rank, so others are made tensors here."""
    dims = broadcast_dims(g, [value.dims for value in values])
    for value in values:
        others = max((v.rank for v in values if v is not value and v.text), default=0)
        if not value.text and value.rank > others:
            g.read(value)
    return TensorType(dtype or values[0].dtype, dims)


def with_dims(value: Value, dims: Sequence[Dim]) -> TensorType:
    return TensorType(value.dtype, tuple(dims))


def same_padding(
    g: Writer, size: Dim, kernel: int, stride: int, dilation: int, upper: bool
) -> tuple[int, int]:
    """What `auto_pad` SAME adds before and after a dim: a known one, unless the stride is 1."""
    extent = dilation * (kernel - 1) + 1
    if stride == 1:
        total = extent - 1
    elif isinstance(size, int):
        total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    else:
        raise Refused(f"with auto_pad and stride {stride} its padding depends on the dim {size}")
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def windows(
    node: Node, g: Writer, x: Value, kernel: Sequence[int]
) -> tuple[list[int], list[int], list[tuple[int, int]]]:
    """(strides, dilations, (low, high) paddings) of a convolution or pool."""
    count = len(kernel)
    strides = [int(s) for s in node.attr("strides", [1] * count)]
    dilations = [int(d) for d in node.attr("dilations", [1] * count)]
    pads = [int(p) for p in node.attr("pads", [0] * 2 * count)]
    if not len(strides) == len(dilations) == count or len(pads) != 2 * count or x.rank != count + 2:
        raise Refused(f"its attributes do not fit {count} directions", "E0501")
    if min(*strides, *dilations) < 1:
        raise Refused("its strides and dilations must be at least 1", "E0501")
    auto = node.attr("auto_pad", "NOTSET")
    if auto == "VALID":
        return strides, dilations, [(0, 0)] * count
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        upper = auto == "SAME_UPPER"
        sizes = zip(x.dims[2:], kernel, strides, dilations)
        return strides, dilations, [same_padding(g, *size, upper) for size in sizes]
    return strides, dilations, list(zip(pads[:count], pads[count:]))


def statics(*parts: tuple[str, object, object] | str) -> str:
    """`kernel=3, stride=2` from (name, value, default) and texts; defaults are left out."""
    out = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif part[1] != part[2]:
            text = str(part[1]).lower() if isinstance(part[1], bool) else str(part[1])
            out.append(f"{part[0]}={text}")
    return ", ".join(out)
