"""Matrix products, convolutions and pools, as ONNX, which knows images with channels first."""

from __future__ import annotations

from typing import Any, cast

from dslc.ir.core import Eqn
from dslc.ir.dims import Dim
from dslc.ir.types import is_float
from dslc.onnx.writing.elementwise import Rule, computed
from dslc.onnx.writing.graph import Case, Graph, Held
from dslc.onnx.writing.shape import sliced, transposed
from dslc.ops.linalg import MatmulAttrs
from dslc.ops.windows import (
    AveragePoolAttrs,
    ConvAttrs,
    ConvInputGradientAttrs,
    Layout,
    PoolAttrs,
    image_dims,
)


def swapped(graph: Graph, name: str, rank: int, turn: bool) -> str:
    """With the last two dims swapped."""
    perm = [*range(rank - 2), rank - 1, rank - 2]
    return transposed(graph, name, perm) if turn else name


def _matmul(case: Case) -> Held:
    """Of two matrices ONNX multiplies transposed ones as they lie."""
    attrs, rank = cast(MatmulAttrs, case.eqn.attrs), case.types[0].rank
    turned = attrs.transpose_a or attrs.transpose_b
    if rank == 2 and turned and is_float(case.types[0].dtype):
        turns = {"transA": int(attrs.transpose_a), "transB": int(attrs.transpose_b)}
        return case.whole(case.node("Gemm", case.full(0), case.full(1), **turns))
    a = swapped(case.graph, case.full(0), rank, attrs.transpose_a)
    b = swapped(case.graph, case.full(1), rank, attrs.transpose_b)
    return case.whole(case.node("MatMul", a, b))


# --- images ---------------------------------------------------------------------------------------


def _channels_first(graph: Graph, name: str, layout: Layout) -> str:
    return transposed(graph, name, (0, 3, 1, 2)) if layout == "NHWC" else name


def _back(graph: Graph, name: str, layout: Layout) -> str:
    return transposed(graph, name, (0, 2, 3, 1)) if layout == "NHWC" else name


def _pads(attrs: ConvAttrs | PoolAttrs) -> list[int]:
    """ONNX's order: first what stands before, then what stands behind."""
    top, bottom, left, right = attrs.padding
    return [top, left, bottom, right]


def _conv2d(case: Case) -> Held:
    attrs, graph = cast(ConvAttrs, case.eqn.attrs), case.graph
    image = _channels_first(graph, case.full(0), attrs.layout)
    name = case.node("Conv", image, case.full(1), **conv_operands(case.eqn))
    return case.whole(_back(graph, name, attrs.layout))


def conv_operands(eqn: Eqn) -> dict[str, Any]:
    """Attributes of ONNX's `Conv` for a `conv2d`."""
    return _window(cast(ConvAttrs, eqn.attrs), eqn.inputs[1].type.dims[2:])


def _window(attrs: ConvAttrs, kernel: tuple[Dim, ...]) -> dict[str, Any]:
    return {
        "kernel_shape": list(kernel),
        "strides": list(attrs.stride),
        "pads": _pads(attrs),
        "dilations": list(attrs.dilation),
        "group": attrs.groups,
    }


def _conv2d_input_gradient(case: Case) -> Held:
    """A transposed convolution. What its image has beyond the last window's reach is output
    padding; where its size is known only at a call, there is as much as can be, less what is cut.
    """
    attrs, graph = cast(ConvInputGradientAttrs, case.eqn.attrs), case.graph
    n, c, h, w = image_dims(case.results[0], attrs.layout)
    kernel = cast("tuple[int, int]", case.types[1].dims[2:])
    pads, steps = _pads(attrs), attrs.stride
    reach = [
        (size - 1) * steps[i] + (kernel[i] - 1) * attrs.dilation[i] + 1 - pads[i] - pads[i + 2]
        for i, size in enumerate(image_dims(case.types[0], attrs.layout)[2:])
    ]
    rest = [size - end for size, end in zip((h, w), reach)]
    more = [left if isinstance(left, int) else steps[i] - 1 for i, left in enumerate(rest)]
    name = case.node(
        "ConvTranspose",
        _channels_first(graph, case.full(0), attrs.layout),
        case.full(1),
        output_padding=more if any(more) else None,
        **_window(attrs, kernel),
    )
    made = (n, c, *(end + size for end, size in zip(reach, more)))
    name = sliced(graph, name, made, (0, 0, 0, 0), (n, c, h, w))
    return case.whole(_back(graph, name, attrs.layout))


def _pool(case: Case, op_type: str) -> Held:
    attrs, graph = cast(PoolAttrs, case.eqn.attrs), case.graph
    image = _channels_first(graph, case.full(0), attrs.layout)
    name = case.node(op_type, image, **pool_operands(case.eqn))
    return case.whole(_back(graph, name, attrs.layout))


def pool_operands(eqn: Eqn) -> dict[str, Any]:
    """Attributes of ONNX's pools."""
    attrs = cast(PoolAttrs, eqn.attrs)
    told = {
        "kernel_shape": list(attrs.kernel),
        "strides": list(attrs.stride),
        "pads": _pads(attrs),
    }
    if isinstance(attrs, AveragePoolAttrs):
        return {**told, "count_include_pad": int(attrs.count_include_pad)}
    return told


RULES: dict[str, Rule] = {
    "matmul": computed(_matmul),
    "conv2d": computed(_conv2d),
    "conv2d_input_gradient": computed(_conv2d_input_gradient),
    "max_pool2d": computed(lambda case: _pool(case, "MaxPool")),
    "avg_pool2d": computed(lambda case: _pool(case, "AveragePool")),
}
