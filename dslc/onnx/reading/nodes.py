"""A node as handlers see it: its attributes with plain Python values, its inputs as `Value`s.

What a handler can't say in `.dl` it refuses (`Refused`), with a sentence for the user.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.dims import Dim, Poly
from dslc.onnx.reading.model_file import STANDARD, array_of
from dslc.onnx.reading.problems import Refused
from dslc.onnx.reading.values import Value

if TYPE_CHECKING:
    import numpy as np
    import onnx
else:
    np = lazy("numpy")
    onnx = lazy("onnx")


class Node:
    """One node of a graph; `version` is that of its operator's meaning, not of the model."""

    def __init__(self, proto: Any, version: int, inputs: Sequence[Value | None], file: str) -> None:
        self.proto = proto
        self.op: str = proto.op_type
        self.domain: str = "" if proto.domain in STANDARD else proto.domain
        self.version = version
        self.inputs = list(inputs)
        while self.inputs and self.inputs[-1] is None:
            self.inputs.pop()
        self.outputs: list[str] = list(proto.output)
        self._attributes = {attribute.name: attribute for attribute in proto.attribute}
        self._file = file

    # --- attributes -----------------------------------------------------------------------------

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute: an int, float, text, list of them, or a NumPy array of a tensor."""
        if name not in self._attributes:
            return default
        attribute = self._attributes[name]
        if attribute.type == onnx.AttributeProto.TENSOR:
            return array_of(attribute.t, self._file)
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, int | float):
            return value
        if attribute.type == onnx.AttributeProto.STRINGS:
            return [text.decode("utf-8", "replace") for text in value]
        return list(value) if attribute.type != onnx.AttributeProto.GRAPH else value

    def has(self, name: str) -> bool:
        return name in self._attributes

    # --- inputs ---------------------------------------------------------------------------------

    def input(self, index: int) -> Value | None:
        """An input that may be left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def need(self, index: int) -> Value:
        """An input that must be there."""
        value = self.input(index)
        if value is None:
            raise Refused(f"its input {index} is missing", "E0501")
        return value

    def given(self) -> list[Value]:
        return [self.need(i) for i in range(len(self.inputs))]

    def wants(self, index: int) -> bool:
        """Whether an output is read."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def known(self, index: int, what: str) -> Any:
        """The numbers of an input that no call's data may change: an array, maybe of dims."""
        value = self.need(index)
        if value.known is None:
            why = f"its {what} is computed from the data of a call"
            raise Refused(f"{why}; sizes and places must follow from dims", "E0504")
        return value.known

    def dims(self, index: int, what: str) -> list[Dim]:
        """A known list of integers or dims."""
        array = self.known(index, what)
        return [n if isinstance(n, Poly) else int(n) for n in np.asarray(array).reshape(-1)]

    def ints(self, index: int, what: str) -> list[int]:
        """A known list of integers, none of which depends on a dim."""
        found = self.dims(index, what)
        if any(isinstance(n, Poly) for n in found):
            raise Refused(f"its {what} depends on a dim: {', '.join(map(str, found))}")
        return [n for n in found if isinstance(n, int)]

    def scalar(self, index: int, what: str, default: Any = None) -> Any:
        """A known number; `default` where the input is left out."""
        if self.input(index) is None:
            return default
        array = np.asarray(self.known(index, what))
        if array.size != 1:
            raise Refused(f"its {what} is no single number")
        return array.reshape(-1)[0]

    def axis(self, default: int, rank: int, *, end: bool = False) -> int:
        """The attribute `axis`, counted from 0; `end` allows the place behind the last."""
        return normal(int(self.attr("axis", default)), rank + end)

    def axes(self, index: int, rank: int) -> list[int] | None:
        """Axes from the attribute of older versions or the input of newer ones, counted from 0."""
        given = self.attr("axes")
        if given is None and self.input(index) is not None:
            given = self.ints(index, "axes")
        return None if given is None else [normal(int(axis), rank) for axis in given]


def normal(axis: int, rank: int) -> int:
    """An axis counted from 0; Refused where there is none."""
    if not -max(rank, 1) <= axis < max(rank, 1):
        raise Refused(f"there is no axis {axis} among {rank}", "E0501")
    return axis % max(rank, 1)
