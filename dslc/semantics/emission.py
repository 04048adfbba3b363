"""What an elaboration has built: IR functions under construction, the model's weights and states.

`Emission` is one function (an entry, an initialiser, the body of a scan, the scalars of a formula),
`Variables` what all of them share, `Adapters` what stands between weights and those who read them.
Non-goals: the walk that fills them (`context.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Argument, Entry, Function, Value, Variable, VariableKind
from dslc.ir.dims import Dim
from dslc.ir.types import TensorType
from dslc.semantics.patterns import selects
from dslc.semantics.values import Code, Instance, Tensor, View
from dslc.syntax import ast


@dataclass(slots=True, eq=False)
class Emission:
    """An IR function under construction, and its arguments beside the builder's params."""

    builder: Builder = field(default_factory=Builder)
    arguments: list[Argument] = field(default_factory=list)
    variables: dict[str, Value] = field(default_factory=dict)
    # Weights as adapters change them, by their names and the views that they are seen through.
    adapted: dict[tuple[str, tuple[View, ...]], Value] = field(default_factory=dict)
    # What calls read instead of a weight; nothing of those in a scan.
    replaced: dict[str, list[Value]] = field(default_factory=dict)
    updates: dict[str, Tensor] = field(default_factory=dict)
    training: bool = False
    seed: Value | None = None
    step: Value | None = None
    # The next Philox stream; each use of random numbers draws from its own.
    stream: int = 0
    fixed_stream: bool = False
    # In the body of a scan: the function around it, the number of steps, and what the body takes
    # from there, as parameters of the body: slice by slice (`fed`), or whole (`captured`).
    outer: Emission | None = None
    length: Dim = 0
    fed: dict[Value, Value] = field(default_factory=dict)
    captured: dict[Value, Value] = field(default_factory=dict)
    is_formula: bool = False  # the scalars of a formula of index notation

    @property
    def root(self) -> Emission:
        """The entry or initialiser that all scans around are in."""
        return self if self.outer is None else self.outer.root

    def bring(self, value: Value, home: Builder) -> Value | None:
        """A value of the function that `home` builds, as one of this function's; None if that is
        not a function around this one."""
        if home is self.builder:
            return value
        outside = None if self.outer is None else self.outer.bring(value, home)
        if outside is None:
            return None
        if outside not in self.captured:
            self.captured[outside] = self.builder.param(outside.name, outside.type)
        return self.captured[outside]

    def feed(self, value: Value) -> Value:
        """The step's slice of a value of the function around."""
        slice_type = value.type.with_dims(value.type.dims[1:])
        self.fed[value] = self.builder.param(value.name, slice_type)
        return self.fed[value]

    def input(self, name: str, type: TensorType) -> Value:
        """A parameter that the caller hands in."""
        value = self.builder.param(name, type)
        self.arguments.append(Argument(name, "input"))
        return value

    def entry(self, name: str, outputs: Sequence[tuple[str, Value]]) -> Entry:
        """The finished entry: inputs, then weights, then states, as the order of first use."""
        order = {"input": 0, "weight": 1, "state": 2, "prepared": 3}
        pairs = sorted(
            zip(self.arguments, self.builder.params), key=lambda pair: order[pair[0].role]
        )
        results = [v for _, v in outputs] + [t.value for t in self.updates.values()]
        function = Function(
            name, tuple(v for _, v in pairs), tuple(self.builder.eqns), tuple(results)
        )
        return Entry(
            name,
            function,
            tuple(a for a, _ in pairs),
            tuple(n for n, _ in outputs),
            tuple(self.updates),
        )


@dataclass(slots=True, eq=False)
class Variables:
    """The weights and states found so far, by full name, in the order of their first use."""

    found: dict[str, Variable] = field(default_factory=dict)
    # Those whose first value was a mistake.
    broken: set[str] = field(default_factory=set)
    kind: VariableKind | None = None
    prefix: str = ""


@dataclass(slots=True, eq=False)
class Adapters:
    """The `adapt` lines of a `train` block, each with its layer or function, and the instances made
    of the layers, by the weights they are for."""

    lines: list[tuple[ast.Adapt, Code]] = field(default_factory=list)
    made: dict[str, Instance] = field(default_factory=dict)

    def line_of(self, weight: str) -> tuple[ast.Adapt, Code] | None:
        """The line that names a weight; none for the adapters' own weights."""
        if self.owns(weight):
            return None
        return next((pair for pair in self.lines if selects(pair[0].weights, weight)), None)

    def owns(self, weight: str) -> bool:
        """Whether a weight is of an adapter."""
        return any(weight.startswith(f"{adapted}.") for adapted in self.made)
