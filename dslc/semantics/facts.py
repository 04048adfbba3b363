"""What the checker found out about each place of a file, as data for an editor.

Input: values, told by the checker as it walks (`Context.learn`). Output: `Facts`, which answers
what stands at a span and as which text it is shown. A generic layer is walked once for each use, so
a place may have stood for several values; a few distinct ones are kept. Non-goals: what a name
refers to (`names.py`), running the checker (`analysis.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import field

from dslc._frozen import dataclass
from dslc.ir.dims import Poly
from dslc.semantics.values import (
    Builtin,
    Code,
    Constant,
    Dtype,
    Instance,
    NumberFunction,
    Random,
    Tensor,
    Thing,
    TupleOf,
    Unknown,
    show_type,
)
from dslc.source import SourceFile, Span

MOST_VALUES = 4


@dataclass(slots=True, eq=False)
class Recorder:
    """Takes down what the places of one file stand for."""

    source: SourceFile
    found: dict[tuple[int, int], list[Thing]] = field(default_factory=dict)

    def record(self, span: Span, thing: Thing) -> None:
        """`thing` stands at `span`; other files and what was told before are passed over."""
        if span.file is not self.source:
            return
        known = self.found.setdefault((span.start, span.end), [])
        if len(known) < MOST_VALUES and not any(_same(thing, other) for other in known):
            known.append(thing)


def _same(a: Thing, b: Thing) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.type == b.type
    if isinstance(a, Instance) and isinstance(b, Instance):
        return a.code.decl is b.code.decl and a.code.statics == b.code.statics
    if isinstance(a, TupleOf) and isinstance(b, TupleOf):
        same = len(a.elements) == len(b.elements)
        return same and all(_same(x, y) for x, y in zip(a.elements, b.elements))
    return type(a) is type(b) and a == b


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """What was found out about the places of a file; offsets are those of its text."""

    found: dict[tuple[int, int], list[Thing]]

    def things(self, start: int, end: int) -> list[Thing]:
        """The values that stood from `start` to `end`, distinct ones, in the order of the walk."""
        return [t for t in self.found.get((start, end), ()) if show(t) is not None]

    def text(self, start: int, end: int) -> str | None:
        """Their types or values: `f32[N, 64]`, or several with ` | ` between them."""
        texts = dict.fromkeys(show(thing) for thing in self.things(start, end))
        return " | ".join(text for text in texts if text is not None) or None

    def around(self, offset: int) -> Iterator[tuple[int, int]]:
        """The spans that hold an offset, shortest first."""
        inside = (span for span in self.found if span[0] <= offset <= span[1])
        return iter(sorted(inside, key=lambda span: span[1] - span[0]))


def show(thing: Thing) -> str | None:
    """The type or value as the language writes it; nothing for what was wrong or not known."""
    match thing:
        case bool():
            return "true" if thing else "false"
        case str():
            return f'"{thing}"'
        case int() | float() | Poly():
            return str(thing)
        case Tensor():
            return show_type(thing.type)
        case TupleOf(elements):
            parts = [show(element) or "?" for element in elements]
            return f"({', '.join(parts)}{',' if len(parts) == 1 else ''})"
        case Dtype(dtype):
            return dtype
        case Code() | Instance():
            return _layer(thing.code if isinstance(thing, Instance) else thing)
        case Builtin(surface):
            return surface.name
        case Random(name) | NumberFunction(name):
            return name if name.isidentifier() else "fn"
        case Constant(value):
            return str(value)
        case Unknown():
            return "float"
    return None


def _layer(code: Code) -> str:
    """`conv2d[32, kernel=3]`: the name with what its static parameters were given."""
    if code.statics is None:
        return code.name
    shown = [f"{name}={show(value) or '?'}" for name, value in code.statics.items()]
    return f"{code.name}[{', '.join(shown)}]"
