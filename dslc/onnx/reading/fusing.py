"""Two nodes that are one layer: a product with a weight and the bias that is added to it.

Input: the nodes of a graph, before any of them is said. Output: for each such product the node that
adds, which then needs no saying of its own (`DONE`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dslc.onnx.reading.model_file import STANDARD
from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators import linear
from dslc.onnx.reading.values import Value
from dslc.onnx.reading.writer import Writer

DONE = object()


def find(
    nodes: Sequence[Any], values: Mapping[str, Value | None], uses: Counter[str]
) -> dict[int, Any]:
    """By the id of a node: its partner, or `DONE` where it is one."""
    products = {
        node.output[0]: node
        for node in nodes
        if node.op_type == "MatMul" and node.domain in STANDARD and uses[node.output[0]] == 1
    }
    found: dict[int, Any] = {}
    for node in nodes:
        if node.op_type != "Add" or node.domain not in STANDARD or len(node.input) != 2:
            continue
        for product, bias in (tuple(node.input), tuple(node.input)[::-1]):
            value = values.get(bias)
            is_bias = value is not None and value.known is not None and value.rank == 1
            if product in products and is_bias and id(products[product]) not in found:
                found[id(products[product])] = node
                found[id(node)] = DONE
                break
    return found


def say(writer: Writer, node: Node, partner: Any, values: Mapping[str, Value | None]) -> Value:
    """The product and the sum, as a layer `dense` if the weight is known."""
    name = next(name for name in partner.input if name != node.outputs[0])
    bias = values[name]
    assert bias is not None
    return linear.matmul_and_bias(writer, node, bias, partner.output[0])
