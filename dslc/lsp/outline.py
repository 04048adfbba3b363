"""The outline of a file: its declarations and what they own; stretches to fold; all of a workspace.

Input: an analysis. Output: document symbols, folding ranges, workspace symbols.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lsprotocol import types

from dslc.lsp.documents import Workspace
from dslc.lsp.positions import Lines, span_range
from dslc.semantics.analysis import Analysis
from dslc.semantics.references import members
from dslc.semantics.scope import Named
from dslc.semantics.symbols import KINDS, Kind
from dslc.syntax import ast
from dslc.syntax.lexer import lex

SYMBOL_KINDS: dict[Kind, types.SymbolKind] = {
    "function": types.SymbolKind.Function,
    "layer": types.SymbolKind.Class,
    "model": types.SymbolKind.Class,
    "const": types.SymbolKind.Constant,
    "entry": types.SymbolKind.Method,
    "weight": types.SymbolKind.Field,
    "state": types.SymbolKind.Field,
    "instance": types.SymbolKind.Field,
    "local": types.SymbolKind.Field,
}


def document_symbols(analysis: Analysis, lines: Lines) -> list[types.DocumentSymbol]:
    """The declarations of a file, with their weights, states, instances and entries inside."""
    return [symbol for decl in analysis.tree.decls if (symbol := _symbol(decl, lines)) is not None]


def _symbol(decl: ast.Decl, lines: Lines) -> types.DocumentSymbol | None:
    match decl:
        case ast.FnDecl():
            return _made(decl.name, decl, "function", lines, ())
        case ast.LayerDecl():
            return _made(decl.name, decl, "layer", lines, _inside(decl, lines))
        case ast.ConstDecl():
            return _made(decl.name, decl, "const", lines, ())
        case ast.ModelDecl():
            inside = list(_inside(decl, lines))
            if not decl.short:
                inside += [_made(e.name, e, "entry", lines, ()) for e in decl.entries]
            return _made(decl.name, decl, "model", lines, inside)
        case ast.TrainDecl() | ast.WeightsDecl():
            word = "train" if isinstance(decl, ast.TrainDecl) else "weights"
            name = ast.Ident(decl.name.span, f"{word} {decl.name.name}")
            return _made(name, decl, "entry", lines, ())
    return None


def _inside(decl: ast.Node, lines: Lines) -> Iterator[types.DocumentSymbol]:
    for kind, name, node in members(decl):
        whole = name if isinstance(node, ast.Pipe) else node
        yield _made(name, whole, kind, lines, ())


def _made(
    name: ast.Ident,
    node: ast.Node,
    kind: Kind,
    lines: Lines,
    inside: Sequence[types.DocumentSymbol] | Iterator[types.DocumentSymbol],
) -> types.DocumentSymbol:
    return types.DocumentSymbol(
        name=name.name,
        kind=SYMBOL_KINDS[kind],
        range=span_range(lines, node.span),
        selection_range=span_range(lines, name.span),
        children=list(inside),
    )


def workspace_symbols(workspace: Workspace, query: str) -> Iterator[types.WorkspaceSymbol]:
    """The declarations of all files whose name holds the letters of `query` in their order."""
    for path in workspace.files():
        tree = workspace.tree(path)
        for decl in tree.decls if tree is not None else ():
            if isinstance(decl, Named) and _fits(query.lower(), decl.name.name.lower()):
                kind = SYMBOL_KINDS[KINDS[type(decl)]]
                place = workspace.location(decl.name.span)
                yield types.WorkspaceSymbol(place, decl.name.name, kind)


def _fits(query: str, name: str) -> bool:
    letters = iter(name)
    return all(letter in letters for letter in query)


def folding_ranges(analysis: Analysis) -> Iterator[types.FoldingRange]:
    """Blocks in braces, brackets over several lines, runs of comment lines."""
    source = analysis.source
    open_lines: list[int] = []
    for token in lex(source).tokens:
        line = source.position(token.start)[0] - 1
        if token.type in ("LEFT_BRACE", "LEFT_PAREN", "LEFT_BRACKET"):
            open_lines.append(line)
        elif token.type in ("RIGHT_BRACE", "RIGHT_PAREN", "RIGHT_BRACKET") and open_lines:
            first = open_lines.pop()
            if line - 1 > first:
                yield types.FoldingRange(first, line - 1)
    first = last = -2
    for comment in (*analysis.tree.comments, None):
        line = -2 if comment is None else source.position(comment.span.start)[0] - 1
        if comment is not None and line == last + 1:
            last = line
            continue
        if last > first:
            yield types.FoldingRange(first, last, kind=types.FoldingRangeKind.Comment)
        first = last = line
