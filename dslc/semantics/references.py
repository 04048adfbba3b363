"""What the names that a file says refer to: looked up when all bindings around are known.

Input: uses, as `names.py` finds them: names in a scope, what follows a dot, names of arguments.
Output: `Occurrence`s. Non-goals: walking the tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dslc.ir.types import DTYPES
from dslc.ops import SURFACES
from dslc.semantics import numbers
from dslc.semantics.resolve import RANDOM
from dslc.semantics.scope import Module, Named
from dslc.semantics.symbols import Kind, Occurrence, Scope, Symbol, top_symbol
from dslc.semantics.values import Code, Instance, Thing
from dslc.source import Span
from dslc.syntax import ast

Things = Callable[[int, int], Sequence[Thing]]
Owner = ast.FnDecl | ast.LayerDecl

_OTHER_BUILT_INS = frozenset({"training", *RANDOM})


def built_in(name: str) -> Symbol | None:
    """What the language itself calls `name`."""
    if name in DTYPES or name == "float":
        return Symbol(name, "dtype")
    if name in SURFACES or name in numbers.FUNCTIONS or name in _OTHER_BUILT_INS:
        return Symbol(name, "built-in")
    return None


def member(owner: ast.Node, name: str) -> tuple[Kind, ast.Ident, ast.Node] | None:
    """The weight, state or instance called `name` that a layer or model declares."""
    return next((m for m in members(owner) if m[1].name == name), None)


def members(owner: ast.Node) -> Iterator[tuple[Kind, ast.Ident, ast.Node]]:
    """What an instance of a layer has: weights, states and the instances inside."""
    for node in ast.walk(owner):
        match node:
            case ast.ParamStmt():
                yield "weight", node.name, node
            case ast.StateStmt():
                yield "state", node.name, node
            case ast.Pipe(_, _, ast.Ident() as name):
                yield "instance", name, node
            case ast.Assign(_, (name,), None, ast.Subscript()):
                yield "local", name, node
            case _:
                pass


def made_by(node: ast.Node) -> str | None:
    """The name of the layer that a stage or an assignment makes an instance of."""
    expr: ast.Expr | None = node.function if isinstance(node, ast.Pipe) else None
    if isinstance(node, ast.Assign):
        expr = node.value
    while isinstance(expr, ast.Subscript | ast.Call):
        expr = expr.value if isinstance(expr, ast.Subscript) else expr.function
    return expr.name if isinstance(expr, ast.Name) else None


class References:
    """The names said so far, and the uses that wait to be looked up."""

    def __init__(self, module: Module, prelude: Module, things: Things) -> None:
        self.module = module
        self.prelude = prelude
        self.things = things
        self.occurrences: list[Occurrence] = []
        self.settled: dict[tuple[int, int], Symbol] = {}
        self.declared: dict[int, Symbol] = {}
        self.built_ins: dict[str, Symbol | None] = {}
        self.pending: list[tuple[str, Span, Scope]] = []
        self.labels: list[tuple[ast.Ident, ast.Expr, bool]] = []
        self.paths: list[ast.Attribute] = []
        self.patterns: list[tuple[ast.Pattern, ast.Node | None]] = []

    def of(self, module: Module, decl: Named) -> Symbol:
        """The symbol of a declaration at the top of a file, one for all uses."""
        known = self.declared.get(id(decl))
        if known is None:
            known = self.declared[id(decl)] = top_symbol(module, decl)
        return known

    def of_module(self, module: Module) -> Symbol:
        known = self.declared.get(id(module))
        if known is None:
            top = Span(module.source, 0, 0)
            known = self.declared[id(module)] = Symbol(module.name, "module", top, module=module)
        return known

    def use(self, name: str, span: Span, scope: Scope) -> None:
        self.pending.append((name, span, scope))

    def say(self, span: Span, symbol: Symbol, *, binds: bool = False) -> None:
        self.occurrences.append(Occurrence(span, symbol, binds))
        self.settled[span.start, span.end] = symbol

    def settle(self) -> None:
        """Look up the uses of a declaration, then what follows a dot, then names of arguments."""
        for name, span, scope in self.pending:
            symbol = self.look_up(name, span.start, scope)
            if symbol is not None and (span.start, span.end) not in self.settled:
                self.say(span, symbol)
        for attribute in reversed(self.paths):
            self.attribute(attribute)
        for label, function, static in self.labels:
            self.label(label, function, static)
        for pattern, model in self.patterns:
            self.pattern(pattern, model)
        self.patterns.clear()
        self.pending.clear()
        self.paths.clear()
        self.labels.clear()

    def look_up(self, name: str, at: int, scope: Scope) -> Symbol | None:
        return (
            scope.find(name, at)
            or self.top(self.module, name)
            or scope.later(name)
            or self.top(self.prelude, name)
            or self.language(name)
        )

    def language(self, name: str) -> Symbol | None:
        if name not in self.built_ins:
            self.built_ins[name] = built_in(name)
        return self.built_ins[name]

    def top(self, module: Module, name: str) -> Symbol | None:
        found = module.lookup(name)
        if isinstance(found, Module):
            return self.of_module(found)
        return None if found is None else self.of(*found)

    def attribute(self, expr: ast.Attribute) -> None:
        """`embed.weight`, `net.blocks`, `std.vision.residual`."""
        path = expr.span.text
        whole = self.module.modules.get(path)
        if whole is not None:
            self.say(expr.span, self.of_module(whole))
            return
        module = self.module.modules.get(expr.value.span.text)
        if module is not None:
            symbol = self.top(module, expr.name.name)
            if symbol is not None:
                self.say(expr.name.span, symbol)
            return
        code = self.code(expr.value)
        found = None if code is None else member(code.decl, expr.name.name)
        if code is not None and found is not None:
            kind, name, node = found
            self.say(expr.name.span, self.of_member(kind, name, node))

    def of_member(self, kind: Kind, name: ast.Ident, node: ast.Node) -> Symbol:
        """The symbol of a name inside another declaration; that of this file where it is here."""
        if name.span.file is self.module.source:
            known = self.settled.get((name.span.start, name.span.end))
            if known is not None:
                return known
        return Symbol(name.name, kind, name.span, node)

    def pattern(self, pattern: ast.Pattern, model: ast.Node | None) -> None:
        """`blocks.{0..3}.attention.*` in `freeze` and `weights`: names of a model's parts."""
        module, owner = self.module, model
        for part in pattern.parts:
            if not isinstance(part, ast.Ident) or part.name.isdigit():
                continue
            found = None if owner is None else member(owner, part.name)
            if found is None:
                return
            kind, name, node = found
            self.say(part.span, self.of_member(kind, name, node))
            there = module.lookup(made_by(node) or "") or self.prelude.lookup(made_by(node) or "")
            module, owner = there if isinstance(there, tuple) else (module, None)

    def label(self, label: ast.Ident, function: ast.Expr, static: bool) -> None:
        """`kernel` in `conv2d[32, kernel=3]`, `mask` in `attend(x, mask=m)`."""
        code = self.code(function)
        owner: Owner | None = None if code is None else code.decl
        if owner is None:
            inner = function.value if isinstance(function, ast.Subscript) else function
            symbol = self.settled.get((inner.span.start, inner.span.end))
            node = symbol.node if symbol is not None else None
            owner = node if isinstance(node, ast.FnDecl | ast.LayerDecl) else None
        if owner is None:
            return
        params: Sequence[ast.StaticParam | ast.Arg] = owner.statics if static else owner.args
        for param in params:
            if param.name.name == label.name:
                kind: Kind = "static" if static else "argument"
                self.say(label.span, self.of_member(kind, param.name, param))

    def code(self, expr: ast.Expr) -> Code | None:
        """The function or layer that an expression was found to be, or to be an instance of."""
        for thing in self.things(expr.span.start, expr.span.end):
            code = thing.code if isinstance(thing, Instance) else thing
            if isinstance(code, Code):
                return self.now(code)
        return None

    def now(self, code: Code) -> Code:
        """The code with its declaration as it stands in the file now, if it is of this file."""
        file = code.decl.span.file
        if file is self.module.source or file.path != self.module.source.path:
            return code
        decl = self.module.decls.get(code.name)
        return Code(decl, self.module) if isinstance(decl, Owner) else code
