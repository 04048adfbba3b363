"""What a path of names such as `net.blocks` stands for at a place, even where nothing parses.

Input: an analysis, names, an offset. Output: a `Target`: the symbol, the values it was found to
have, what it is a call of, what stands behind its dot. Non-goals: the cursor (`cursor.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import field

from dslc._frozen import dataclass
from dslc.ir.op import Surface
from dslc.ops import SURFACES
from dslc.semantics.analysis import Analysis
from dslc.semantics.references import built_in, made_by, member, members
from dslc.semantics.scope import Module
from dslc.semantics.symbols import Kind, Symbol, top_symbol
from dslc.semantics.values import Builtin, Code, Instance, Tensor, Thing, TupleOf
from dslc.syntax import ast

Owner = ast.FnDecl | ast.LayerDecl


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """What a path stands for; `things` are the values that it was found to have."""

    symbol: Symbol
    things: Sequence[Thing] = ()
    module: Module | None = None
    home: Module | None = field(default=None)

    @property
    def code(self) -> Owner | None:
        """The function or layer that a call of it would run."""
        node = self.symbol.node
        if isinstance(node, Owner):
            return node
        for thing in self.things:
            code = thing.code if isinstance(thing, Instance) else thing
            if isinstance(code, Code):
                return code.decl
        return None

    @property
    def surface(self) -> Surface | None:
        """The built-in function that it is."""
        if self.symbol.kind == "built-in":
            return SURFACES.get(self.symbol.name)
        return next((t.surface for t in self.things if isinstance(t, Builtin)), None)


def target_of(analysis: Analysis, path: Sequence[str], offset: int) -> Target | None:
    """What `path` stands for at an offset."""
    if not path:
        return None
    for count in range(len(path), 1, -1):
        module = analysis.module.modules.get(".".join(path[:count]))
        if module is not None:
            return _behind(_of_module(module), path[count:])
    symbol = _first(analysis, path[0], offset)
    if symbol is None:
        return None
    return _behind(_whole(analysis, symbol, offset), path[1:])


def _first(analysis: Analysis, name: str, offset: int) -> Symbol | None:
    scope = analysis.names.scope.at(offset)
    found = scope.find(name, offset)
    if found is not None:
        return found
    for module in (analysis.module, analysis.prelude):
        there = module.lookup(name)
        if isinstance(there, Module):
            return _of_module(there).symbol
        if there is not None:
            return top_symbol(*there)
    return scope.later(name) or built_in(name)


def _of_module(module: Module) -> Target:
    return Target(Symbol(module.name, "module", module=module), module=module)


def _whole(analysis: Analysis, symbol: Symbol, offset: int) -> Target:
    """A symbol with the values that it has at an offset."""
    behind = symbol.target or symbol
    if behind.module is not None and behind.kind == "module":
        return _of_module(behind.module)
    span = symbol.definition(offset)
    things: Sequence[Thing] = ()
    if span is not None and span.file is analysis.source:
        things = analysis.facts.things(span.start, span.end)
    return Target(behind, things, home=behind.module or analysis.module)


def _behind(target: Target, path: Sequence[str]) -> Target | None:
    """What stands behind the dots."""
    found: Target | None = target
    for name in path:
        if found is None:
            return None
        found = _member(found, name)
    return found


def _member(target: Target, name: str) -> Target | None:
    if target.module is not None:
        there = target.module.lookup(name)
        return Target(top_symbol(*there), home=there[0]) if isinstance(there, tuple) else None
    elements = [t.elements for t in target.things if isinstance(t, TupleOf)]
    if name.isdigit() and elements and int(name) < len(elements[0]):
        return Target(Symbol(name, "local"), [elements[0][int(name)]])
    owner = target.code
    found = None if owner is None else member(owner, name)
    if found is None:
        return None
    kind, ident, node = found
    made = made_by(node)
    if made is not None and target.home is not None:
        there = target.home.lookup(made)
        if isinstance(there, tuple):
            return Target(Symbol(name, kind, ident.span, there[1]), home=there[0])
    return Target(Symbol(name, kind, ident.span, node), home=target.home)


def behind_dot(target: Target) -> Iterator[tuple[str, Kind, ast.Node | None]]:
    """What may stand behind the dot: names, kinds, and what declares them."""
    if target.module is not None:
        for name in target.module.names():
            there = target.module.lookup(name)
            if isinstance(there, tuple):
                yield name, top_symbol(*there).kind, there[1]
        return
    for thing in target.things:
        if isinstance(thing, Tensor):
            yield "T", "built-in", None
        elif isinstance(thing, TupleOf):
            for index in range(len(thing.elements)):
                yield str(index), "local", None
        break
    instance = any(isinstance(thing, Instance) for thing in target.things)
    if (instance or target.symbol.kind == "instance") and target.code is not None:
        for kind, ident, node in members(target.code):
            yield ident.name, kind, node
