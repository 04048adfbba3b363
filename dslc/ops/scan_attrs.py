"""The attributes of a `scan`: its body, how many of its inputs are what, and how it is run."""

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
