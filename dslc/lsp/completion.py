"""What may be typed at the cursor: names, keywords, parameters, members, dims, modules.

Input: an analysis and an offset. Output: completion items, the likeliest sorted first. What could
stand there comes from the parser's tables, so it is right in text that is not whole. Non-goals:
filtering by what is typed already (the editor does that).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile

from lsprotocol import types

from dslc.doc import words
from dslc.lsp import describe
from dslc.lsp.cursor import Bracket, Cursor, cursor_at
from dslc.lsp.documents import Workspace
from dslc.lsp.targets import behind_dot, target_of
from dslc.ops import SURFACES
from dslc.semantics import numbers
from dslc.semantics.analysis import Analysis
from dslc.semantics.references import members
from dslc.semantics.scope import Module, canonical, library_module, library_names
from dslc.semantics.symbols import Kind, Symbol
from dslc.syntax import ast
from dslc.syntax.grammar import tables
from dslc.syntax.lexer import lex

ITEM_KINDS: dict[Kind, types.CompletionItemKind] = {
    "function": types.CompletionItemKind.Function,
    "layer": types.CompletionItemKind.Class,
    "model": types.CompletionItemKind.Class,
    "const": types.CompletionItemKind.Constant,
    "module": types.CompletionItemKind.Module,
    "alias": types.CompletionItemKind.Reference,
    "entry": types.CompletionItemKind.Method,
    "static": types.CompletionItemKind.Constant,
    "argument": types.CompletionItemKind.Variable,
    "dim": types.CompletionItemKind.TypeParameter,
    "local": types.CompletionItemKind.Variable,
    "weight": types.CompletionItemKind.Field,
    "state": types.CompletionItemKind.Field,
    "instance": types.CompletionItemKind.Field,
    "index": types.CompletionItemKind.Variable,
    "input": types.CompletionItemKind.Variable,
    "metric": types.CompletionItemKind.Variable,
    "output": types.CompletionItemKind.Variable,
    "dtype": types.CompletionItemKind.Struct,
    "built-in": types.CompletionItemKind.Function,
}
_MODULE_PATH = re.compile(r"^[ \t]*(?:import|from)[ \t]+([\w.]*)\Z", re.MULTILINE)
_FILE_PATH = re.compile(r'^[ \t]*from[ \t]+"([^"\n]*)\Z', re.MULTILINE)
_NAMES_OF = re.compile(
    r'^[ \t]*from[ \t]+(?:(std\.\w+)|"([^"\n]*)")[ \t]+import\b(?:[^\n(]*|[ \t]*\([^)]*)\Z',
    re.MULTILINE,
)
_OPEN_STRING = "E0002"
_IN_TYPES = frozenset((name,) for name in words.DTYPES)


def completions(
    workspace: Workspace, analysis: Analysis, offset: int
) -> list[types.CompletionItem]:
    """What may be typed at an offset."""
    before = analysis.source.text[:offset]
    if _MODULE_PATH.search(before) or _FILE_PATH.search(before) or _NAMES_OF.search(before):
        return list(_imports(workspace, analysis, before))
    if _in_words(analysis, offset):
        return []
    cursor = cursor_at(analysis, offset)
    found: dict[str, types.CompletionItem] = {}
    for item in _items(analysis, cursor):
        found.setdefault(item.label, item)
    return list(found.values())


def _in_words(analysis: Analysis, offset: int) -> bool:
    """Whether an offset is in a comment or a string."""
    line = analysis.source.text.rfind("\n", 0, offset) + 1
    lexed = lex(analysis.source, line, offset, leave_open=True)
    in_comment = bool(lexed.comments) and lexed.comments[-1].span.end == offset
    return in_comment or any(d.code == _OPEN_STRING for d in lexed.diagnostics)


def _items(analysis: Analysis, cursor: Cursor) -> Iterator[types.CompletionItem]:
    """What fits the terminals that could stand at the cursor."""
    expected = cursor.expected
    if cursor.before == "DOT":
        yield from _members(analysis, cursor)
    elif "INT" in expected and "STAR" in expected and "STRING" not in expected:
        yield from _patterns(analysis, cursor)
    elif "INT" in expected:
        yield from _values(analysis, cursor)
    elif "NAME" in expected and "LEFT_PAREN" in expected:
        yield from _types(analysis, cursor)
    elif "NAME" in expected and "FN" in expected:
        for kind, text in words.STATIC_KINDS.items():
            yield _word(kind, text, "0")
    elif expected == {"NAME"}:
        yield from _models(analysis, cursor)
    else:
        if "RETURN" in expected:
            yield from _bound(analysis, cursor)
        yield from _keywords(cursor)


def _values(analysis: Analysis, cursor: Cursor) -> Iterator[types.CompletionItem]:
    """What an expression may begin with; in the brackets of a type, what a dim may."""
    bracket = cursor.brackets()
    if bracket is not None and bracket.static and bracket.path[-1:] in _IN_TYPES:
        yield from _dims(analysis, cursor)
        return
    if bracket is not None:
        yield from _labels(analysis, cursor, bracket)
    yield from _names(analysis, cursor)
    yield from _keywords(cursor)


# --- names --------------------------------------------------------------------------------------


def _names(analysis: Analysis, cursor: Cursor) -> Iterator[types.CompletionItem]:
    """Everything that an expression may name."""
    yield from _bound(analysis, cursor)
    for name in analysis.module.names():
        if "." not in name:
            yield _of_module(analysis.module, name, "2")
    for name in analysis.prelude.names():
        yield _of_module(analysis.prelude, name, "3")
    for name in (*SURFACES, *numbers.FUNCTIONS, *words.RANDOM, "training"):
        if not name.startswith("prim_"):
            yield _built_in(name)
    for name in words.DTYPES:
        yield _word(name, words.DTYPES[name], "5", types.CompletionItemKind.Struct)


def _bound(analysis: Analysis, cursor: Cursor) -> Iterator[types.CompletionItem]:
    """What is bound in the function around."""
    for symbol in analysis.names.scope.at(cursor.start).visible(cursor.start):
        if symbol.kind != "alias":
            yield _of_symbol(analysis, symbol, cursor.start)


def _dims(analysis: Analysis, cursor: Cursor) -> Iterator[types.CompletionItem]:
    """What a dim may name: dims, whole numbers, functions on them."""
    for symbol in analysis.names.scope.at(cursor.start).visible(cursor.start):
        if symbol.kind in ("dim", "static", "index"):
            yield _of_symbol(analysis, symbol, cursor.start)
    for name, decl in analysis.module.decls.items():
        if isinstance(decl, ast.ConstDecl):
            yield _item(name, "const", "2", decl)
    for name in sorted(numbers.FUNCTIONS):
        yield _built_in(name)


def _models(analysis: Analysis, cursor: Cursor) -> Iterator[types.CompletionItem]:
    """Behind `train` and `weights`; other words are followed by a name that is new."""
    if cursor.tokens and cursor.tokens[-1].text in ("train", "weights"):
        for name, decl in analysis.module.decls.items():
            if isinstance(decl, ast.ModelDecl):
                yield _item(name, "model", "0", decl)


def _types(analysis: Analysis, cursor: Cursor) -> Iterator[types.CompletionItem]:
    for name, text in words.DTYPES.items():
        yield _word(name, text, "0", types.CompletionItemKind.Struct)
    for symbol in analysis.names.scope.at(cursor.start).visible(cursor.start):
        node = symbol.node
        if isinstance(node, ast.StaticParam) and node.kind and node.kind.name == "dtype":
            yield _of_symbol(analysis, symbol, cursor.start)


def _members(analysis: Analysis, cursor: Cursor) -> Iterator[types.CompletionItem]:
    target = target_of(analysis, cursor.path(), cursor.start)
    for name, kind, node in behind_dot(target) if target is not None else ():
        yield _item(name, kind, "0", node)


def _labels(analysis: Analysis, cursor: Cursor, bracket: Bracket) -> Iterator[types.CompletionItem]:
    """`kernel=` in `[ ]`, `mask=` in `( )`: the parameters that are not given yet."""
    target = target_of(analysis, bracket.path, bracket.start)
    if target is None or cursor.before not in ("LEFT_BRACKET", "LEFT_PAREN", "COMMA"):
        return
    code, surface = target.code, target.surface
    shown: list[tuple[str, str]] = []
    if code is not None:
        params: Sequence[ast.StaticParam | ast.Arg] = code.statics if bracket.static else code.args
        shown = [(p.name.name, " ".join(p.span.text.split())) for p in params]
    elif surface is not None and bracket.static:
        shown = [(p.name, describe.static_label(p)) for p in surface.statics]
    for index, (name, detail) in enumerate(shown):
        if name not in bracket.given and (bracket.static or code is not None):
            yield types.CompletionItem(
                label=f"{name}=",
                kind=types.CompletionItemKind.Property,
                detail=detail,
                sort_text=f"0{index:02}",
            )


def _patterns(analysis: Analysis, cursor: Cursor) -> Iterator[types.CompletionItem]:
    """Names of a model's parts, in `freeze` and `weights`."""
    blocks: list[ast.TrainDecl | ast.WeightsDecl] = [
        *analysis.module.trains,
        *analysis.module.weights,
    ]
    for decl in blocks:
        if decl.span.start <= cursor.offset <= decl.span.end:
            model = analysis.module.decls.get(decl.name.name)
            for kind, ident, node in members(model) if model is not None else ():
                yield _item(ident.name, kind, "0", node)


def _keywords(cursor: Cursor) -> Iterator[types.CompletionItem]:
    texts = {name: word for word, name in tables().words.items()}
    for terminal in sorted(cursor.expected & texts.keys()):
        word = texts[terminal]
        yield _word(word, words.KEYWORDS[word].text, "6", types.CompletionItemKind.Keyword)


# --- imports ------------------------------------------------------------------------------------


def _imports(
    workspace: Workspace, analysis: Analysis, before: str
) -> Iterator[types.CompletionItem]:
    """Modules, files, and the names in them, where an import names one."""
    folder = analysis.source.path.rpartition("/")[0]
    if match := _NAMES_OF.search(before):
        module = _imported_module(workspace, match[1], match[2], folder)
        for name in module.names() if module is not None else ():
            if module is not None and not isinstance(module.decls.get(name), ast.ModelDecl):
                yield _of_module(module, name, "0")
    elif match := _MODULE_PATH.search(before):
        for name in library_names():
            item = _word(f"std.{name}", "", "0", types.CompletionItemKind.Module)
            # Behind the dot only what follows it is typed.
            item.insert_text = name if "." in match[1] else None
            item.filter_text = name if "." in match[1] else None
            yield item
    elif match := _FILE_PATH.search(before):
        inner = match[1].rpartition("/")[0]
        place = canonical(f"{folder}/{inner}")
        for entry in sorted(os.listdir(place)) if os.path.isdir(place) else ():
            path = f"{place}/{entry}"
            if os.path.isdir(path) and entry[0] != ".":
                yield _word(f"{entry}/", "", "1", types.CompletionItemKind.Folder)
            elif entry.endswith(".dl") and path != analysis.source.path:
                yield _word(entry, "", "0", types.CompletionItemKind.File)


def _imported_module(
    workspace: Workspace, library: str | None, path: str | None, folder: str
) -> Module | None:
    if library is not None:
        return library_module(library.partition(".")[2])
    found = workspace.of_path(canonical(f"{folder}/{path}"))
    return None if found is None else found.module


# --- items --------------------------------------------------------------------------------------


def _item(name: str, kind: Kind, group: str, node: ast.Node | None) -> types.CompletionItem:
    detail = describe.signature(node) if node is not None else None
    symbol = Symbol(name, kind, node=node)
    text = describe.documentation(symbol)
    return types.CompletionItem(
        label=name,
        kind=ITEM_KINDS[kind],
        detail=None if detail is None else " ".join(detail.split()),
        documentation=types.MarkupContent(types.MarkupKind.Markdown, text) if text else None,
        sort_text=f"{group}{name}",
    )


def _of_symbol(analysis: Analysis, symbol: Symbol, offset: int) -> types.CompletionItem:
    """A name of the function around, with its type."""
    span = symbol.definition(offset)
    text = None if span is None else analysis.facts.text(span.start, span.end)
    named = symbol.kind not in ("output", "index") and text is None
    item = _item(symbol.name, symbol.kind, "1", symbol.node if named else None)
    item.detail = text or item.detail
    return item


def _of_module(module: Module, name: str, group: str) -> types.CompletionItem:
    """A name at the top of a file; one of the library that was not read yet is not read now."""
    if name in module.imported and name not in module.decls:
        module, original = module.imported[name]
        item = _of_module(module, original, group)
        item.label = name
        return item
    if name in module.chunks and name not in module.decls:
        return _unread(name, module.source.text[slice(*module.chunks[name])], group)
    there = module.lookup(name)
    if isinstance(there, Module):
        return _item(name, "module", group, None)
    if there is None:
        return _item(name, "alias", group, None)
    kinds: dict[type[ast.Node], Kind] = {ast.LayerDecl: "layer", ast.ModelDecl: "model"}
    kind = kinds.get(type(there[1]), "const" if isinstance(there[1], ast.ConstDecl) else "function")
    return _item(name, kind, group, there[1])


def _unread(name: str, text: str, group: str) -> types.CompletionItem:
    """A declaration of the library as its text says it: parsing all of them would take long."""
    lines = text.split("\n")
    docs = list(takewhile(lambda line: line.startswith("##"), lines))
    head = "\n".join(lines[len(docs) :]).partition("{")[0].split()
    kinds: dict[str, Kind] = {"layer": "layer", "const": "const"}
    doc = "\n".join(line[2:].removeprefix(" ") for line in docs)
    item = _word(name, doc, group, ITEM_KINDS[kinds.get(head[0], "function")])
    item.detail = " ".join(head)
    return item


def _built_in(name: str) -> types.CompletionItem:
    item = _word(name, describe.built_in_text(name), "4", types.CompletionItemKind.Function)
    if name in SURFACES:
        item.detail = describe.surface_signature(SURFACES[name])
    return item


def _word(
    word: str,
    text: str,
    group: str,
    kind: types.CompletionItemKind = types.CompletionItemKind.Keyword,
) -> types.CompletionItem:
    return types.CompletionItem(
        label=word,
        kind=kind,
        documentation=types.MarkupContent(types.MarkupKind.Markdown, text) if text else None,
        sort_text=f"{group}{word}",
    )
