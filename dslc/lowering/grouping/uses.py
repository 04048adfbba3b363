"""Who makes the values of a function, who reads them, and how.

Input: a Function. Output: what `group.py` asks of its values: their users, also through views, what
must be in memory, what starts from an anchor. Non-goals: which group computes what.
"""

from __future__ import annotations

from dslc.ir.core import Eqn, Function, Value
from dslc.ir.types import ITEMSIZE
from dslc.lowering.grouping.cost import CONTRACTIONS, Cost, cost_of
from dslc.lowering.grouping.operands import epilogues, reads_from_memory
from dslc.ops.broadcast import ReduceAttrs


class Uses:
    """Of one function. `views` are added while groups are made (from the last equation to the
    first): values that are another one's memory. `anchored` are results of anchors and what is
    computed from them, `contracted` what can be computed while a contraction is."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.costs: dict[Eqn, Cost] = {eqn: cost_of(eqn) for eqn in function.eqns}
        self.producer = {out: eqn for eqn in function.eqns for out in eqn.outputs}
        self.order = {eqn: i for i, eqn in enumerate(function.eqns)}
        self.users: dict[Value, list[Eqn]] = {}
        for eqn in function.eqns:
            for value in dict.fromkeys(eqn.inputs):
                self.users.setdefault(value, []).append(eqn)
        self.results = set(function.results)
        self.views: dict[Value, Value] = {}
        self.anchored = self._find_anchored()
        self.contracted = epilogues(function)

    def is_anchor(self, eqn: Eqn) -> bool:
        cost = self.costs[eqn]
        if eqn.op.name in CONTRACTIONS or cost.scatters:
            return True
        return cost.reduction is not None and cost.window is None

    def _find_anchored(self) -> set[Value]:
        """Results of anchors and what is computed from them element by element. What starts from
        a result that is in memory anyway, as it is reduced, doesn't count."""
        anchored: set[Value] = set()
        for eqn in self.function.eqns:
            dims = eqn.outputs[0].type.dims
            if self.is_anchor(eqn) or (
                eqn.op.elementwise
                and any(
                    v in anchored and v.type.dims == dims and not self.is_reduced(v)
                    for v in eqn.inputs
                )
            ):
                anchored.update(eqn.outputs)
        return anchored

    def is_reduced(self, value: Value) -> bool:
        """Whether sums (or the like) are taken over the value, which is in memory for that."""
        return any(
            self.costs[user].reduction is not None
            and (self.costs[user].window is None or isinstance(user.attrs, ReduceAttrs))
            and not user.op.elementwise
            for user in self.users.get(value, ())
        )

    def must_be_stored(self, value: Value) -> bool:
        return value in self.results or any(
            reads_from_memory(eqn, value) for eqn in self.users.get(value, ())
        )

    def all_users(self, value: Value) -> list[Eqn]:
        """Users of the value and of its views, without the views themselves."""
        users: list[Eqn] = []
        for eqn in self.users.get(value, ()):
            if eqn.outputs[0] in self.views:
                users.extend(self.all_users(eqn.outputs[0]))
            else:
                users.append(eqn)
        return users

    def has_view(self, value: Value) -> bool:
        return any(eqn.outputs[0] in self.views for eqn in self.users.get(value, ()))

    def view_is_result(self, value: Value) -> bool:
        return any(
            eqn.outputs[0] in self.views
            and (eqn.outputs[0] in self.results or self.view_is_result(eqn.outputs[0]))
            for eqn in self.users.get(value, ())
        )

    def bytes_for_each(self, value: Value, out: Value) -> float:
        """Bytes of an operand for each element of the result."""
        maker = self.producer.get(value)
        while maker is not None and maker.op.view and maker.inputs:
            value = maker.inputs[0]
            maker = self.producer.get(value)
        item = ITEMSIZE[value.type.dtype]
        size, elements = value.type.size, out.type.size
        if isinstance(size, int) and isinstance(elements, int):
            return item * min(size / max(1, elements), 1.0)
        return item if size == elements else 0.0
