"""What a formula of index notation is made of, while it is elaborated.

A `Formula` holds a function of scalars under construction (`scratch`) and what each parameter of it
means: an `Index`, a `Read` of a tensor, whether a read is `Inside`, a `Reduction` of another scalar
of the function, or a scalar of the function around. Non-goals: finding any of it out.
"""

from __future__ import annotations

from dataclasses import field
from typing import TypeAlias

from dslc._frozen import dataclass
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim
from dslc.semantics.emission import Emission
from dslc.semantics.values import Tensor, Thing
from dslc.source import Span


@dataclass(slots=True, eq=False)
class Index:
    """`i`: `symbol` stands for it in positions, `value` is it as an i64. It runs through `extent`
    numbers from `low`; `why` says what its range follows from. `range` is what `k in low..high`
    gives, `declared` what the declared type does; `parts` are the two indices in its place, if it
    was split."""

    name: str
    span: Span
    symbol: str
    value: Value
    range: tuple[Dim, Dim] | None = None
    declared: tuple[Dim, Span] | None = None
    low: Dim = 0
    extent: Dim | None = None
    why: str = ""
    is_left: bool = False
    parts: tuple[Index, Index] | None = None

    @property
    def size(self) -> Dim:
        """The number of its values, once its range is known."""
        return 0 if self.extent is None else self.extent


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """Where a read is along one axis: an index expression, or a scalar of the function."""

    span: Span
    at: Dim | Value


@dataclass(slots=True, eq=False)
class Read:
    """An element of a tensor of the function around. `outside` is what stands for elements that are
    none (None: there must be no such reads), `guarded` the axes along which there may be some."""

    tensor: Tensor
    source: Value
    positions: tuple[Position, ...]
    span: Span
    outside: int | float | bool | None = None
    guarded: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Inside:
    """Whether a read is inside of its tensor."""

    read: Read


@dataclass(frozen=True, slots=True, eq=False)
class Reduction:
    """`kind[indices](body)`."""

    kind: str
    indices: tuple[Index, ...]
    body: Value
    span: Span


Meaning: TypeAlias = "Index | Read | Inside | Reduction | Value"


@dataclass(slots=True, eq=False)
class Formula:
    """One statement of index notation. `visible` are the indices by name, those of the reductions
    around included; `env` what their names stood for outside."""

    target: str
    span: Span
    outer: Emission
    scratch: Emission
    visible: dict[str, Index] = field(default_factory=dict)
    indices: list[Index] = field(default_factory=list)
    meanings: dict[Value, Meaning] = field(default_factory=dict)
    # Scalars of the function around that were taken in, and indices as things.
    taken: dict[Value, Tensor] = field(default_factory=dict)
    things: dict[str, Thing] = field(default_factory=dict)

    @property
    def reads(self) -> list[Read]:
        return [m for m in self.meanings.values() if isinstance(m, Read)]

    def producers(self) -> dict[Value, Eqn]:
        """The equation that makes each scalar that is no parameter."""
        return {out: eqn for eqn in self.scratch.builder.eqns for out in eqn.outputs}
