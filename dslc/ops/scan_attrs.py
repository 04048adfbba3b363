"""The attributes of a `scan`: its body, how many of its inputs are what, and how it is run; and
which values of the body change from step to step."""

from __future__ import annotations

from typing import Literal

from dslc._frozen import dataclass
from dslc.ir.core import Function, Value
from dslc.ir.dims import Dim
from dslc.ir.op import Attrs

Keep = Literal["all", "carries"]


@dataclass(frozen=True, slots=True)
class ScanAttrs(Attrs):
    """How many of the inputs are scanned, how many are carries; `length` is the number of steps.

    `keep` says what the gradient keeps of each step: `all` that it needs, or the carries alone, of
    which it computes the rest again. The steps of a scan of `chunks` are long stretches of another
    one: what a step does stays in it, because all steps' values at once are too many.
    """

    body: Function
    length: Dim
    elements: int
    carries: int
    reverse: bool = False
    keep: Keep = "all"
    chunks: bool = False

    @property
    def yields(self) -> int:
        """How many results are stacks."""
        return len(self.body.results) - self.carries

    @property
    def carried(self) -> tuple[Value, ...]:
        """The body's parameters that are carries."""
        return self.body.params[self.elements : self.elements + self.carries]

    @property
    def following(self) -> tuple[Value, ...]:
        """The carries' next values, as the body computes them."""
        return self.body.results[self.yields :]


def fixed_values(attrs: ScanAttrs) -> set[Value]:
    """The values of the body that are the same at each step."""
    fixed = set(attrs.body.params[attrs.elements + attrs.carries :])
    for eqn in attrs.body.eqns:
        if all(value in fixed for value in eqn.inputs):
            fixed.update(eqn.outputs)
    return fixed


def carried_values(attrs: ScanAttrs) -> set[Value]:
    """The values of the body that depend on a carry, the carries included."""
    carried = set(attrs.carried)
    for eqn in attrs.body.eqns:
        if any(value in carried for value in eqn.inputs):
            carried.update(eqn.outputs)
    return carried
