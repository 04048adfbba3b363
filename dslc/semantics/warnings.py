"""Warnings about a file without errors: names that nothing uses, statements that nothing reaches.

Input: the module of a file. Output: diagnostics of the severity `warning`. Each stands for what is
hardly ever meant; a name that begins with `_` is not complained about. Non-goals: style, imported
files, the library.

Whether a name is used is asked of a whole declaration, not of each way through it: a value that is
overwritten before it is read is passed over.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise

from dslc.diagnostics import Diagnostic
from dslc.semantics import errors
from dslc.semantics.scope import Module
from dslc.syntax import ast

_Body = ast.FnDecl | ast.LayerDecl | ast.ModelDecl


def warnings(module: Module, prelude: Module) -> list[Diagnostic]:
    """All of them, in the order of the file."""
    tree = module.tree
    if tree is None:
        return []
    attributes: set[str] = set()
    uses = {id(decl): frozenset(_uses(decl, attributes)) for decl in tree.decls}
    found: list[Diagnostic] = []
    for decl in tree.decls:
        match decl:
            case ast.FnDecl() | ast.LayerDecl() | ast.ModelDecl():
                used = uses[id(decl)]
                trained = [uses[id(d)] for d in module.trains if d.name.name == decl.name.name]
                found += _unused_statics(decl, used.union(*trained))
                found += _bodies(decl, used, used | attributes)
                found += _bare_layers(decl, module, prelude)
            case ast.TrainDecl():
                found += _train(decl, uses[id(decl)])
            case _:
                pass
    found += _unused_imports(tree, frozenset().union(*uses.values()))
    return sorted(found, key=lambda d: d.span.start if d.span else 0)


def _uses(decl: ast.Decl, attributes: set[str]) -> Iterator[str]:
    """The names that a declaration reads; `attributes` gets those behind a dot."""
    for node in ast.walk(decl):
        match node:
            case ast.Name(_, name):
                yield name
            case ast.Attribute():
                attributes.add(node.name.name)
            case ast.Spread() | ast.BoundedDim() | ast.NextState():
                yield node.name.name
            case ast.TensorTypeExpr():
                yield node.dtype.name
            case _:
                pass


# --- names --------------------------------------------------------------------------------------


def _is_unused(name: ast.Ident, used: frozenset[str]) -> bool:
    return name.name not in used and not name.name.startswith("_")


def _unused_statics(decl: _Body, used: frozenset[str]) -> Iterator[Diagnostic]:
    for param in decl.statics:
        if _is_unused(param.name, used):
            what = "the static parameter"
            yield errors.unused_name(what, param.name.name, param.name.span)


def _unused_locals(
    body: Sequence[ast.Stmt], used: frozenset[str], read: frozenset[str]
) -> Iterator[Diagnostic]:
    """`read` are the names of weights that are used, here or from outside: `embed.weight`."""
    for stmt in body:
        match stmt:
            case ast.Assign():
                if all(_is_unused(target, used) for target in stmt.targets):
                    for target in stmt.targets:
                        yield errors.unused_name("the value", target.name, target.span)
            case ast.ParamStmt() if _is_unused(stmt.name, read):
                yield errors.unused_name("the weight", stmt.name.name, stmt.name.span)
            case ast.StateStmt() if _is_unused(stmt.name, read):
                yield errors.unused_name("the state", stmt.name.name, stmt.name.span)
            case _:
                pass


def _train(decl: ast.TrainDecl, used: frozenset[str]) -> Iterator[Diagnostic]:
    for item in decl.items:
        match item:
            case ast.TrainInput() if _is_unused(item.name, used):
                yield errors.unused_name("the input", item.name.name, item.name.span, False)
            case ast.Assign():
                yield from _unused_locals([item], used, used)
            case _:
                pass


def _unused_imports(tree: ast.File, used: frozenset[str]) -> Iterator[Diagnostic]:
    """A file of nothing but imports hands them on."""
    if all(isinstance(decl, ast.Import | ast.FromImport) for decl in tree.decls):
        return
    for decl in tree.decls:
        match decl:
            case ast.Import():
                name = decl.alias or decl.module.parts[0]
                if _is_unused(name, used):
                    shown = decl.alias.name if decl.alias else str(decl.module)
                    yield errors.unused_import(shown, decl.module.span)
            case ast.FromImport():
                for item in decl.names:
                    name = item.alias or item.name
                    if _is_unused(name, used):
                        yield errors.unused_import(name.name, name.span)
            case _:
                pass


# --- statements ---------------------------------------------------------------------------------


def _bodies(decl: _Body, used: frozenset[str], read: frozenset[str]) -> Iterator[Diagnostic]:
    entries = decl.entries if isinstance(decl, ast.ModelDecl) else ()
    for body in (decl.body, *(entry.body for entry in entries)):
        for block in _blocks(body):
            yield from _unused_locals(block, used, read)
            yield from _unreachable(block)
        yield from _rebound_states(body)


def _blocks(body: Sequence[ast.Stmt]) -> Iterator[Sequence[ast.Stmt]]:
    """A body and the blocks inside it."""
    yield body
    for stmt in body:
        match stmt:
            case ast.If():
                yield from _blocks(stmt.then)
                yield from _blocks(stmt.orelse)
            case ast.For():
                yield from _blocks(stmt.body)
            case _:
                pass


def _unreachable(block: Sequence[ast.Stmt]) -> Iterator[Diagnostic]:
    for stmt, following in pairwise(block):
        if _leaves(stmt):
            yield errors.unreachable_statements(following.span.to(block[-1].span), stmt.span)
            return


def _leaves(stmt: ast.Stmt) -> bool:
    """Whether nothing behind a statement is reached."""
    if isinstance(stmt, ast.If):
        ways = (stmt.then, stmt.orelse)
        return all(way and any(map(_leaves, way)) for way in ways)
    return isinstance(stmt, ast.Return)


def _rebound_states(body: Sequence[ast.Stmt]) -> Iterator[Diagnostic]:
    """`count = count + 1` where `count <- count + 1` is meant."""
    statements = [stmt for block in _blocks(body) for stmt in block]
    states = {s.name.name: s.name for s in statements if isinstance(s, ast.StateStmt)}
    for stmt in statements:
        if isinstance(stmt, ast.NextState):
            states.pop(stmt.name.name, None)
    for stmt in statements:
        if isinstance(stmt, ast.Assign) and stmt.targets[0].name in states:
            target = stmt.targets[0]
            declared = states.pop(target.name)
            yield errors.state_rebound(target.name, target.span, declared.span)


def _bare_layers(decl: _Body, module: Module, prelude: Module) -> Iterator[Diagnostic]:
    """`net = tower`, used more than once: nothing is shared."""
    nodes = list(ast.walk(decl))
    read = Counter(node.name for node in nodes if isinstance(node, ast.Name))
    bound = Counter(t.name for n in nodes if isinstance(n, ast.Assign) for t in n.targets)
    for node in nodes:
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Name):
            continue
        name, layer = node.targets[0], node.value.name
        once = len(node.targets) == 1 and bound[name.name] == 1
        if once and read[name.name] > 1 and not bound[layer] and _is_layer(layer, module, prelude):
            yield errors.bare_layer(name.name, layer, node.value.span)


def _is_layer(name: str, module: Module, prelude: Module) -> bool:
    found = module.lookup(name) or prelude.lookup(name)
    return isinstance(found, tuple) and isinstance(found[1], ast.LayerDecl)
