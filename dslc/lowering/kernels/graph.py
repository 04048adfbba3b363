"""Readers of a group: from an index into a value to the expression of the element there.

Equations inside the group are evaluated by their own `compute`, each at most once per index and
scope; values from outside are loaded. Composing readers is all that fusion is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.op import Expr, Index, NoFacet, Ranking, Reader, Scatter
from dslc.ir.types import TensorType
from dslc.lowering.kernels.buffers import Memory
from dslc.lowering.kernels.expressions import identity
from dslc.lowering.kernels.scalar import ScalarKernels


class Element:
    """An operand: called with an index, it gives the element there."""

    __slots__ = ("_graph", "_value", "type")

    def __init__(self, graph: Graph, value: Value) -> None:
        self._graph, self._value, self.type = graph, value, value.type

    def __call__(self, index: Index) -> Expr:
        return self._graph.at(self._value, index)


class Graph:
    """The values that a kernel can compute or load. One per kernel."""

    def __init__(
        self, k: ScalarKernels, eqns: Iterable[Eqn], memory: Mapping[Value, Memory]
    ) -> None:
        self.k = k
        self.memory = memory
        self._eqns = {output: eqn for eqn in eqns for output in eqn.outputs}
        self._readers: dict[Value, Reader] = {}

    def at(self, value: Value, index: Index) -> Expr:
        """The element of `value` at `index`."""
        key = (value, *map(identity, index))
        known = self.k.recall(key)
        if known is not None:
            return known
        if value in self._eqns:
            result = self.reader(value)(index)
        elif value in self.memory:
            result = self.memory[value].load(self.k, index)
        else:
            raise InternalError(f"{value} is neither computed nor stored where it is read")
        return self.k.remember(key, self.k.bind(result))

    def pin(self, value: Value, index: Index, result: Expr) -> None:
        """In this scope, `value` is `result` at `index`."""
        self.k.remember((value, *map(identity, index)), result)

    def reader(self, value: Value) -> Reader:
        """The `compute` of the equation that makes `value`."""
        if value not in self._readers:
            eqn = self._eqns[value]
            readers = self.computed(eqn)
            if isinstance(readers, Scatter | Ranking):
                raise InternalError(f"{eqn.op.name} has no reader: it scatters or ranks")
            each = readers if isinstance(readers, tuple) else (readers,)
            self._readers.update(zip(eqn.outputs, each))
        return self._readers[value]

    def computed(self, eqn: Eqn) -> Reader | tuple[Reader, ...] | Scatter | Ranking:
        """What the op's `compute` gives over this graph."""
        if isinstance(eqn.op.compute, NoFacet):
            raise InternalError(f"{eqn.op.name} can't be compiled: {eqn.op.compute.reason}")
        operands = [Element(self, value) for value in eqn.inputs]
        types: list[TensorType] = [value.type for value in eqn.outputs]
        return eqn.op.compute(self.k, eqn.attrs, operands, types)
