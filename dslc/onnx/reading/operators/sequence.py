"""Sequences of tensors that exporters make and take apart again: lists, while the text is written.

They never come to run time, so their lengths and places must be numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dslc._lazy import lazy
from dslc.ir.types import TensorType
from dslc.onnx.reading.nodes import Node, normal
from dslc.onnx.reading.operators.common import with_dims
from dslc.onnx.reading.operators.shape import indexed
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Growing, Value, dtype_of, of_array
from dslc.onnx.reading.writer import Writer

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    np = lazy("numpy")
    onnx = lazy("onnx")

_MOST = 1000


def _sequence(items: list[Value]) -> Value:
    if not items:
        raise Refused("a sequence of nothing")
    return Value(items[0].type, items=tuple(items))


def _items(node: Node) -> tuple[Value, ...]:
    value = node.need(0)
    if value.items is None or value.stack is not None or isinstance(value.items, Growing):
        raise Refused("it reads a sequence that is not made of known parts")
    return value.items


def split_to_sequence(g: Writer, node: Node) -> Value:
    x = g.atom(node.need(0))
    axis = node.axis(0, x.rank)
    whole = x.dims[axis]
    if not isinstance(whole, int) or whole > _MOST:
        raise Refused(f"the length of its sequence is {whole}", "E0504")
    sizes, kept = [1] * whole, bool(node.attr("keepdims", 1))
    if node.input(1) is not None:
        given = node.ints(1, "sizes")
        step = max(given[0], 1) if given else 1
        by_step = [min(step, whole - start) for start in range(0, whole, step)]
        sizes, kept = given if node.need(1).dims else by_step, True
    g.assume(sum(sizes), whole)
    front = [":"] * axis
    items, start = [], 0
    for size in sizes:
        dims = list(x.dims)
        dims[axis : axis + 1] = [size] if kept else []
        part = f"{start}:{start + size}" if kept else str(start)
        items.append(indexed(g, x, [*front, part], dims))
        start += size
    return _sequence(items)


def sequence_at(g: Writer, node: Node) -> Value:
    stack = node.need(0).stack
    if stack is not None:
        at = int(node.scalar(1, "position"))
        g.assume_at_least(stack.dims[0], at + 1 if at >= 0 else -at)
        return indexed(g, stack, [str(at)], stack.dims[1:])
    items = _items(node)
    item = items[normal(int(node.scalar(1, "position")), len(items))]
    return Value(item.type, item.text, item.strength, item.known, item.hint)


def sequence_empty(g: Writer, node: Node) -> Value:
    dtype = dtype_of(onnx.helper.tensor_dtype_to_np_dtype(node.attr("dtype", 1)))
    return Value(TensorType(dtype), items=())


def sequence_insert(g: Writer, node: Node) -> Value:
    grown = node.need(0).items
    if isinstance(grown, Growing) and node.input(2) is None:
        item = node.need(1)
        return Value(item.type, items=Growing((*grown, item)))
    items = list(_items(node))
    if len(items) == _MOST:
        raise Refused(f"its sequence has more than {_MOST} tensors")
    at = len(items)
    if node.input(2) is not None:
        given = int(node.scalar(2, "position"))
        at = given if given == at else normal(given, len(items))
    return _sequence([*items[:at], g.atom(node.need(1)), *items[at:]])


def sequence_erase(g: Writer, node: Node) -> Value:
    items = list(_items(node))
    at = -1 if node.input(1) is None else int(node.scalar(1, "position"))
    del items[normal(at, len(items))]
    return Value(node.need(0).type, items=tuple(items))


def sequence_length(g: Writer, node: Node) -> Value:
    stack = node.need(0).stack
    if stack is not None:
        return of_array(np.asarray(stack.dims[0], dtype=object), dtype="i64")
    return of_array(np.asarray(len(_items(node)), dtype=np.int64))


def concat_from_sequence(g: Writer, node: Node) -> Value:
    stack = node.need(0).stack
    if stack is not None:
        return _joined(g, node, stack)
    items = _items(node)
    if not items:
        raise Refused("a sequence of nothing")
    first = items[0]
    new = bool(node.attr("new_axis", 0))
    axis = normal(int(node.attr("axis", 0)), first.rank + new)
    dims = list(first.dims)
    if new:
        dims.insert(axis, len(items))
    else:
        dims[axis] = sum((item.dims[axis] for item in items), start=0)
    for item in items:
        g.read(item)
    name = "stack" if new else "concat"
    return g.call(name, items, with_dims(first, dims), f"axis={axis}")


def _joined(g: Writer, node: Node, stack: Value) -> Value:
    """The parts of a stack, which are its first dim, along another."""
    new = bool(node.attr("new_axis", 0))
    axis = normal(int(node.attr("axis", 0)), stack.rank - (not new))
    perm = list(range(1, stack.rank))
    perm.insert(axis, 0)
    y = g.transpose(stack, perm)
    if new:
        return y
    return g.reshape(y, (*y.dims[:axis], y.dims[axis] * y.dims[axis + 1], *y.dims[axis + 2 :]))


TABLE: dict[str, Callable[[Writer, Node], Value]] = {
    "SplitToSequence": split_to_sequence,
    "SequenceConstruct": lambda g, node: _sequence([g.atom(value) for value in node.given()]),
    "SequenceAt": sequence_at,
    "SequenceEmpty": sequence_empty,
    "SequenceErase": sequence_erase,
    "SequenceInsert": sequence_insert,
    "SequenceLength": sequence_length,
    "ConcatFromSequence": concat_from_sequence,
}
