"""What names stand for, as an editor needs it: symbols, the scopes they are in, where they occur.

`names.py` makes these from a syntax tree; a `Symbol` is one thing under one name (all bindings of a
variable in a function are one symbol), an `Occurrence` a place that says its name. Non-goals:
values and types (`facts.py`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import field
from typing import Literal

from dslc._frozen import dataclass
from dslc.semantics.scope import Module, Named
from dslc.source import Span
from dslc.syntax import ast

Kind = Literal[
    "function",
    "layer",
    "model",
    "const",
    "module",
    "alias",
    "entry",
    "static",
    "argument",
    "dim",
    "local",
    "weight",
    "state",
    "instance",
    "index",
    "input",
    "metric",
    "output",
    "dtype",
    "built-in",
]


@dataclass(slots=True, eq=False)
class Symbol:
    """One thing under one name.

    `span` is where it is bound first, nothing for what is built in; `node` is what declares it;
    `bindings` are the places that bind it, each with the offset from which on it holds. `target` is
    what an alias stands for, or the module itself.
    """

    name: str
    kind: Kind
    span: Span | None = None
    node: ast.Node | None = None
    owner: ast.Node | None = None
    bindings: list[tuple[int, Span]] = field(default_factory=list)
    target: Symbol | None = None
    module: Module | None = None

    def definition(self, at: int) -> Span | None:
        """The binding that holds at an offset of the symbol's file."""
        if self.target is not None:
            return self.target.span
        held = [span for begins, span in self.bindings if begins <= at]
        return held[-1] if held else self.span


KINDS: dict[type[Named], Kind] = {
    ast.FnDecl: "function",
    ast.LayerDecl: "layer",
    ast.ModelDecl: "model",
    ast.ConstDecl: "const",
}


def top_symbol(module: Module, decl: Named) -> Symbol:
    """The symbol of a declaration at the top of a file."""
    return Symbol(decl.name.name, KINDS[type(decl)], decl.name.span, decl, module=module)


@dataclass(frozen=True, slots=True, eq=False)
class Occurrence:
    """A place that says a symbol's name; `binds` where it gives it a value."""

    span: Span
    symbol: Symbol
    binds: bool = False


@dataclass(slots=True, eq=False)
class Scope:
    """A stretch of text and the names bound in it, each with the offset from which on it holds."""

    start: int
    end: int
    parent: Scope | None = None
    names: dict[str, list[tuple[int, Symbol]]] = field(default_factory=dict)
    inner: list[Scope] = field(default_factory=list)

    def nested(self, span: Span) -> Scope:
        """A scope inside this one."""
        scope = Scope(span.start, span.end, self)
        self.inner.append(scope)
        return scope

    def own(self, name: str, at: int) -> Symbol | None:
        """What this scope alone says a name is at an offset."""
        known = self.names.get(name, ())
        held = [symbol for begins, symbol in known if begins <= at]
        return held[-1] if held else None

    def find(self, name: str, at: int) -> Symbol | None:
        """What a name is at an offset, here or in the scopes around."""
        found = self.own(name, at)
        if found is None and self.parent is not None:
            return self.parent.find(name, at)
        return found

    def later(self, name: str) -> Symbol | None:
        """What a name will be: in a loop that is unrolled, a use may stand before its binding."""
        known = self.names.get(name)
        if known:
            return known[0][1]
        return None if self.parent is None else self.parent.later(name)

    def at(self, offset: int) -> Scope:
        """The innermost scope around an offset."""
        for scope in self.inner:
            if scope.start <= offset <= scope.end:
                return scope.at(offset)
        return self

    def visible(self, at: int) -> Iterator[Symbol]:
        """What the names known at an offset stand for, innermost first."""
        seen: set[str] = set()
        scope: Scope | None = self
        while scope is not None:
            for name in scope.names:
                found = scope.own(name, at)
                if found is not None and name not in seen:
                    seen.add(name)
                    yield found
            scope = scope.parent


@dataclass(frozen=True, slots=True, eq=False)
class Names:
    """The names of a file: `occurrences` in the order of the text, `scope` the outermost."""

    occurrences: tuple[Occurrence, ...]
    scope: Scope

    def at(self, offset: int) -> Occurrence | None:
        """The name under, or right before, an offset."""
        starts = [o.span.start for o in self.occurrences]
        index = bisect_right(starts, offset) - 1
        while index >= 0 and self.occurrences[index].span.start >= offset - 256:
            found = self.occurrences[index]
            if found.span.start <= offset <= found.span.end:
                return found
            index -= 1
        return None
