"""What each operator of ONNX is in `.dl`: one table, put together from those of the families.

An entry is `(domain, operator): handler`; a handler takes the `Writer` and the `Node`, and gives
the node's results, or raises `Refused`. To add an operator, add one entry to its family's `TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dslc.onnx.reading.nodes import Node
from dslc.onnx.reading.operators import (
    activation,
    attention,
    conv,
    elementwise,
    index,
    linear,
    norm,
    patches,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
    scatter,
    sequence,
    shape,
    softmax,
)
from dslc.onnx.reading.values import Value
from dslc.onnx.reading.writer import Writer

Handler = Callable[[Writer, Node], "Value | Sequence[Value]"]

_FAMILIES = (
    activation,
    attention,
    conv,
    elementwise,
    index,
    linear,
    norm,
    patches,
    pool,
    quantize,
    recurrent,
    reduce,
    resize,
    scatter,
    sequence,
    shape,
    softmax,
)

HANDLERS: dict[tuple[str, str], Handler] = {
    ("", name): handler for family in _FAMILIES for name, handler in family.TABLE.items()
}
