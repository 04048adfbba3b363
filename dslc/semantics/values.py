"""What an expression can stand for while a program is elaborated.

Compile-time numbers are plain Python values (`int`, `float`, `bool`, `str`) and `Poly` for a dim
with variables; run-time values are `Tensor`s; the rest is here. `BAD` is the value of a mistake
that was reported: whatever it meets becomes `BAD` too, silently. Non-goals: evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeAlias

from dslc._frozen import dataclass
from dslc.diagnostics import Label
from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import Poly
from dslc.ir.op import Surface
from dslc.ir.types import DType, TensorType
from dslc.semantics.scope import Module
from dslc.source import Span
from dslc.syntax import ast


@dataclass(frozen=True, slots=True)
class Note:
    """Where a tensor came from: a place, and words such as "the argument x"."""

    span: Span
    words: str


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A value known when the program runs. `home` is the function under construction it is in."""

    value: Value
    note: Note
    home: Builder

    @property
    def type(self) -> TensorType:
        return self.value.type

    @property
    def told(self) -> str:
        """Its type and where it came from, in a message."""
        return f"{show_type(self.type)}, {self.note.words}"

    @property
    def origin(self) -> Label:
        """The place it came from, beside a mistake that it is part of."""
        return Label(self.note.span, self.told, primary=False)


@dataclass(frozen=True, slots=True)
class TupleOf:
    """`(a, b)`; also the dims that `*S` stands for."""

    elements: tuple[Thing, ...]


@dataclass(frozen=True, slots=True)
class Dtype:
    """`f32` as a value."""

    dtype: DType


@dataclass(frozen=True, slots=True)
class Code:
    """A `fn` or `layer`, with its static arguments once it has been given them."""

    decl: ast.FnDecl | ast.LayerDecl
    module: Module
    statics: Mapping[str, Thing] | None = None

    @property
    def name(self) -> str:
        return self.decl.name.name


@dataclass(slots=True, eq=False)
class View:
    """What is read in the place of an instance's weights: what the adapter makes of each, or,
    without one, the weight without its gradient.

    `frame` is where it was said, `key` what the adapter's own weights are called below each weight,
    `made` the adapter's instances by the weights they are for.
    """

    adapter: Code | None = None
    key: str = ""
    span: Span | None = None
    frame: Any = None
    made: dict[str, Instance] = field(default_factory=dict)


STILL = View()


@dataclass(slots=True, eq=False)
class Instance:
    """A layer's own weights and states under one path; made by `layer[...]`.

    `params` and `states` map short names to full ones; `children` are the instances inside.
    `key` is its name among `around`, the children of its owner: `blocks.0`. One with `views`, such
    as `stop_gradient(net)`, shares all of that, and reads its weights through them, in order.
    """

    code: Code
    path: str
    span: Span
    params: dict[str, str] = field(default_factory=dict)
    children: dict[str, Instance] = field(default_factory=dict)
    calls: int = 0
    key: str = ""
    around: Mapping[str, Instance] = field(default_factory=dict)
    views: tuple[View, ...] = ()
    # Its views through adapters, by where they are made.
    shown: dict[tuple[int, int], View] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Numbered:
    """Instances of one name made in loops, `blocks.0`, `blocks.1`: found by `key` in `around`."""

    key: str
    around: Mapping[str, Instance]

    def numbers(self) -> list[int]:
        """What may follow the key."""
        start = f"{self.key}."
        rest = [key[len(start) :].split(".")[0] for key in self.around if key.startswith(start)]
        return sorted({int(part) for part in rest if part.isdecimal()})

    def example(self) -> str:
        """How one of them is written."""
        return f"one of them is `{self.key}.{self.numbers()[0]}`"


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in function, with its static arguments once it has been given them."""

    surface: Surface
    statics: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Random:
    """`random_uniform[dims]` and `random_normal[dims]`: numbers from the program's seed."""

    name: str
    dims: tuple[int | Poly, ...] | None = None


@dataclass(frozen=True, slots=True)
class NumberFunction:
    """A function on compile-time numbers that is no built-in on tensors: `len`, `ceil`."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A number where a `fn` is wanted: called with anything, it gives the number."""

    value: int | float


@dataclass(frozen=True, slots=True)
class Unknown:
    """A compile-time number that is not known, because its layer is checked on its own."""


@dataclass(frozen=True, slots=True)
class Bad:
    """The value of a mistake that was reported."""


BAD = Bad()
UNKNOWN = Unknown()

Number: TypeAlias = int | float | Poly
Static: TypeAlias = int | float | str | Poly | Unknown
Thing: TypeAlias = (
    Static
    | Tensor
    | TupleOf
    | Dtype
    | Code
    | Instance
    | Numbered
    | Builtin
    | Random
    | NumberFunction
    | Constant
    | Module
    | Bad
)


@dataclass(frozen=True, slots=True)
class Given:
    """An argument at a call: its name there if it has one, its value and its place."""

    name: ast.Ident | None
    thing: Thing
    span: Span


def is_static(thing: Thing) -> bool:
    """A compile-time number, bool or string."""
    return isinstance(thing, int | float | str | Poly | Unknown)


def is_number(thing: Thing) -> bool:
    """A compile-time number; a bool is none."""
    return isinstance(thing, int | float | Poly | Unknown) and not isinstance(thing, bool)


def describe(thing: Thing) -> str:
    """What it is, in words with an article, for messages."""
    match thing:
        case bool():
            return "true" if thing else "false"
        case Poly():
            return f"the dim {thing}"
        case int() | float():
            return f"the number {thing}"
        case str():
            return f'the text "{thing}"'
        case Tensor():
            return f"a tensor {show_type(thing.type)}"
        case TupleOf(elements):
            if elements and all(isinstance(e, Tensor) for e in elements):
                shown = [show_type(e.type) for e in elements if isinstance(e, Tensor)]
                return f"a tuple ({', '.join(shown)})"
            return f"a tuple of {len(elements)}"
        case Dtype(dtype):
            return f"the dtype {dtype}"
        case Code():
            kind = "layer" if isinstance(thing.decl, ast.LayerDecl) else "function"
            return f"the {kind} {thing.name}"
        case Instance():
            return f"an instance of the layer {thing.code.name}"
        case Numbered():
            return f"the row of instances `{thing.key}`"
        case Builtin(surface):
            return f"the function {surface.name}"
        case Random(name) | NumberFunction(name):
            return f"the function {name}"
        case Constant(value):
            return f"the number {value}"
        case Module():
            return f"the module {thing.name}"
        case Unknown():
            return "a number"
        case Bad():
            return "a mistake"


def show_type(type: TensorType) -> str:
    """The type as the language writes it: a scalar is `f32`."""
    return str(type) if type.dims else type.dtype
