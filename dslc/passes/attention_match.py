"""Reads a product of matrices as attention: weights, which are a softmax of scores, times values.

Input: a simplified Function. Output: for each such product what its scores and weights are made of.
Only shapes of equations are looked at here, from the product upwards; what an equation between it
and the product of queries and keys makes, nothing else may use. Non-goals: what masks mean
(`conditions.py`), what takes the product's place (`attention.py`).
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

from dslc._frozen import dataclass
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.op import Op
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.constants import stop_gradient
from dslc.ops.elementwise import add, div, exp, mul, sub
from dslc.ops.linalg import matmul
from dslc.ops.logic import select
from dslc.ops.reduce import reduce_max
from dslc.ops.shape import reshape
from dslc.passes.conditions import Placed, conditions, number_of

Term = tuple[Value, float]  # what is added to the scores, and the number it is multiplied by


@dataclass(frozen=True, slots=True)
class Scores:
    """q @ k.T * scale + bias, where the conditions hold, else `fill`. `bias`: what is added, each
    times a number. `inside`: the values on the way, which nothing else may use."""

    product: Eqn
    inside: tuple[Value, ...]
    scale: float = 1.0
    bias: tuple[Term, ...] = ()
    hidden: tuple[Placed, ...] = ()
    fill: float | None = None


@dataclass(frozen=True, slots=True)
class Weights:
    """softmax(scores), times `number` where the conditions hold and else 0."""

    scores: Scores
    number: float
    kept: tuple[Placed, ...]


@dataclass(slots=True)
class Finder:
    function: Function
    producers: dict[Value, Eqn] = field(init=False)
    users: dict[Value, list[Eqn]] = field(init=False)

    def __post_init__(self) -> None:
        self.producers = {out: eqn for eqn in self.function.eqns for out in eqn.outputs}
        self.users = {}
        for eqn in self.function.eqns:
            for value in eqn.inputs:
                self.users.setdefault(value, []).append(eqn)

    def found(self) -> dict[Eqn, Weights]:
        """The products that are attention, and the weights in each."""
        products = ((eqn, self.product(eqn)) for eqn in self.function.eqns if eqn.op is matmul)
        return {eqn: weights for eqn, weights in products if weights is not None}

    def product(self, eqn: Eqn) -> Weights | None:
        attrs: Any = eqn.attrs
        if attrs.transpose_a or eqn.inputs[0] is eqn.inputs[1]:
            return None
        inside: list[Value] = []
        weights = self.weights(eqn.inputs[0], inside)
        if weights is None:
            return None
        made = {self.producers[value] for value in (*inside, *weights.scores.inside)}
        for value in (*inside, *weights.scores.inside):
            if value in self.function.results:
                return None
            if any(user is not eqn and user not in made for user in self.users[value]):
                return None
        return weights

    def made_by(self, value: Value, op: Op) -> Eqn | None:
        eqn = self.producers.get(value)
        return eqn if eqn is not None and eqn.op is op else None

    # --- the weights --------------------------------------------------------------------------

    def weights(self, value: Value, inside: list[Value]) -> Weights | None:
        """What `value` is; adds to `inside` the values on the way."""
        number, kept = 1.0, list[Placed]()
        while (eqn := self.producers.get(value)) is not None:
            inside.append(value)
            chosen = self.choice(eqn)
            scaled = self.scaled(eqn)
            if chosen is not None and chosen[2] == 0:
                kept += chosen[0]
                value = chosen[1]
            elif scaled is not None:
                value, number = scaled[0], number * scaled[1]
            else:
                scores = self.softmax(eqn, inside)
                return None if scores is None else Weights(scores, number, tuple(kept))
        return None

    def choice(self, eqn: Eqn) -> tuple[list[Placed], Value, float] | None:
        """A select between a value and a number: the conditions of the value, and both."""
        if eqn.op is not select:
            return None
        condition, x, y = eqn.inputs
        for value, other, negated in ((x, y, False), (y, x, True)):
            number = number_of(other, self.producers)
            if number is not None:
                return conditions(condition, self.producers, negated), value, number
        return None

    def scaled(self, eqn: Eqn) -> tuple[Value, float] | None:
        """A value times a number."""
        if eqn.op is mul:
            for value, other in (eqn.inputs, eqn.inputs[::-1]):
                number = number_of(other, self.producers)
                if number is not None:
                    return value, number
        if eqn.op is div and (number := number_of(eqn.inputs[1], self.producers)):
            return eqn.inputs[0], 1 / number
        return None

    def softmax(self, eqn: Eqn, inside: list[Value]) -> Scores | None:
        """The scores, of which the equation divides the exponentials by their sum."""
        if eqn.op is not div:
            return None
        power, total = eqn.inputs
        sums = self.along_rows(total, reduce_sum, inside)
        top = self.made_by(power, exp)
        if sums is not power or top is None:
            return None
        inside.append(power)
        (value,) = top.inputs
        down = self.made_by(value, sub)
        if down is not None and self.along_rows(down.inputs[1], reduce_max, []) is down.inputs[0]:
            self.along_rows(down.inputs[1], reduce_max, inside)
            inside.append(value)
            value = down.inputs[0]
        return self.scores(value, 1.0)

    def along_rows(self, value: Value, op: Op, inside: list[Value]) -> Value | None:
        """What `value` is a reduction of, along the last axis, spread out along it again."""
        rank = value.type.rank
        while (eqn := self.producers.get(value)) is not None:
            inside.append(value)
            if eqn.op is op:
                whole: Any = eqn.attrs
                return eqn.inputs[0] if whole.axes == (rank - 1,) else None
            if eqn.op not in (broadcast, reshape, stop_gradient) or not _keeps_rows(eqn):
                return None
            value = eqn.inputs[0]
        return None

    # --- the scores ---------------------------------------------------------------------------

    def scores(self, value: Value, outer: float) -> Scores | None:
        """What `value` is, which is multiplied by `outer` after all."""
        eqn = self.producers.get(value)
        if eqn is None:
            return None
        if eqn.op is matmul:
            return Scores(eqn, (value,), outer)
        scaled, chosen = self.scaled(eqn), self.choice(eqn)
        found: Scores | None = None
        if scaled is not None:
            found = self.scores(scaled[0], outer * scaled[1])
        elif chosen is not None and outer == 1:
            hidden, x, fill = chosen
            found = self.scores(x, outer)
            if found is not None and found.fill in (None, fill):
                found = replace(found, hidden=(*hidden, *found.hidden), fill=fill)
            else:
                found = None
        elif eqn.op in (add, sub):
            found = self.biased(eqn, outer)
        return None if found is None else replace(found, inside=(value, *found.inside))

    def biased(self, eqn: Eqn, outer: float) -> Scores | None:
        x, y = eqn.inputs
        sides = [(x, y, -outer if eqn.op is sub else outer)]
        if eqn.op is add:
            sides.append((y, x, outer))
        for value, bias, factor in sides:
            found = self.scores(value, outer)
            if found is not None and found.fill is None:
                return replace(found, bias=(*found.bias, (bias, factor)))
        return None


def _keeps_rows(eqn: Eqn) -> bool:
    """Whether a broadcast or reshape only spreads out along a new last axis, or puts that in."""
    before, after = eqn.inputs[0].type.dims, eqn.outputs[0].type.dims
    if eqn.op is stop_gradient:
        return True
    axes = getattr(eqn.attrs, "axes", None)
    if eqn.op is broadcast:
        rows = len(after) - 1
        kept = axes in (tuple(range(rows)), tuple(range(rows + 1)))
        return kept and before[:rows] == after[:rows]
    return after == (*before, 1)
