"""From names to what they refer to, and back: definition, references, rename.

Input: a workspace and a place in an open file. Output: locations and edits. Non-goals: finding out
what names refer to (`semantics/names.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lsprotocol import types

from dslc.lsp.documents import Workspace, real_path
from dslc.semantics.analysis import Analysis
from dslc.semantics.scope import canonical, library_path
from dslc.semantics.symbols import Occurrence, Symbol
from dslc.source import Span
from dslc.syntax.grammar import tables

_IMPORTED_FILE = re.compile(r'^[ \t]*from[ \t]+"([^"\n]*)"', re.MULTILINE)
_NO_NAMES = frozenset({"module", "dtype", "built-in", "output"})


class RenameError(Exception):
    """A name that can't be changed, or not to this one; the text says why."""


def definition(workspace: Workspace, uri: str, offset: int) -> types.Location | None:
    """Where the name at an offset was given its meaning."""
    analysis = workspace.analysis(uri)
    found = analysis.names.at(offset)
    if found is None:
        return _imported_file(workspace, analysis, offset)
    span = found.symbol.definition(offset)
    if found.binds and span is not None and found.span.start != span.start:
        span = found.span
    return None if span is None else workspace.location(span)


def _imported_file(workspace: Workspace, analysis: Analysis, offset: int) -> types.Location | None:
    """The file that an import names, for a place in its path."""
    for match in _IMPORTED_FILE.finditer(analysis.source.text):
        if match.start(1) - 1 <= offset <= match.end(1) + 1:
            folder = analysis.source.path.rpartition("/")[0]
            other = workspace.of_path(canonical(f"{folder}/{match[1]}"))
            return None if other is None else workspace.location(Span(other.source, 0, 0))
    return None


# --- references ---------------------------------------------------------------------------------

Key = tuple[str, int]


def key_of(symbol: Symbol) -> Key | None:
    """A symbol's place, the same in every analysis that speaks of it."""
    if symbol.span is None or symbol.kind == "module":
        return None
    return real_path(symbol.span.file), symbol.span.start


def references(
    workspace: Workspace, uri: str, offset: int, *, declaration: bool
) -> list[types.Location]:
    """Every place in open files and in those of the workspace that says the same name."""
    found = workspace.analysis(uri).names.at(offset)
    if found is None:
        return []
    places = _places(workspace, uri, found.symbol)
    return [workspace.location(o.span) for _, o in places if declaration or not o.binds]


def highlights(analysis: Analysis, offset: int) -> Iterator[Occurrence]:
    """The places in one file that say the same name."""
    found = analysis.names.at(offset)
    if found is not None:
        yield from _same(analysis, found.symbol)


def _same(analysis: Analysis, symbol: Symbol) -> Iterator[Occurrence]:
    key = key_of(symbol)
    for occurrence in analysis.names.occurrences:
        other = occurrence.symbol
        same_place = key is not None and key_of(other) == key
        of_language = symbol.span is None and other.span is None and other.name == symbol.name
        if other is symbol or same_place or of_language:
            yield occurrence


def _places(
    workspace: Workspace, uri: str, symbol: Symbol
) -> Iterator[tuple[Analysis, Occurrence]]:
    own = workspace.analysis(uri)
    home = None if symbol.span is None else real_path(symbol.span.file)
    paths = [own.source.path, *([home] if home else []), *workspace.files()]
    word = re.compile(rf"\b{re.escape(symbol.name)}\b")
    for path in dict.fromkeys(paths):
        # A name of one function stands nowhere else.
        if symbol.kind in ("local", "index", "dim", "metric", "input") and path != home:
            continue
        try:
            mentioned = word.search(workspace.memory.store.text(path)) is not None
        except (OSError, UnicodeDecodeError):
            continue
        analysis = workspace.of_path(path) if mentioned else None
        if analysis is not None:
            yield from ((analysis, o) for o in _same(analysis, symbol))


# --- rename -------------------------------------------------------------------------------------


def renamable(workspace: Workspace, uri: str, offset: int) -> Occurrence:
    """The name at an offset; RenameError when it can't be changed."""
    found = workspace.analysis(uri).names.at(offset)
    if found is None:
        raise RenameError("there is no name here")
    symbol = found.symbol
    if symbol.kind in _NO_NAMES or symbol.span is None:
        raise RenameError(f"`{symbol.name}` is a name of the language")
    if library_path(symbol.span.file.path) or real_path(symbol.span.file).startswith(_LIBRARY):
        raise RenameError(f"`{symbol.name}` is a name of the library")
    return found


_LIBRARY = (library_path("std/prelude.dl") or "/").rpartition("/")[0] + "/"


def rename(workspace: Workspace, uri: str, offset: int, new: str) -> types.WorkspaceEdit:
    """The edits that give the name at an offset another; RenameError when that can't be."""
    found = renamable(workspace, uri, offset)
    _check_name(new)
    changes: dict[str, dict[tuple[int, int], types.TextEdit]] = {}
    if new == found.symbol.name:
        return types.WorkspaceEdit(changes={})
    for analysis, occurrence in _places(workspace, uri, found.symbol):
        if occurrence.span.text != found.symbol.name:
            continue
        _check_free(analysis, occurrence, new)
        place = workspace.location(occurrence.span)
        span = occurrence.span.start, occurrence.span.end
        changes.setdefault(place.uri, {})[span] = types.TextEdit(place.range, new)
    return types.WorkspaceEdit(changes={u: list(edits.values()) for u, edits in changes.items()})


def _check_name(new: str) -> None:
    table = tables()
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", new):
        raise RenameError(f"`{new}` is no name: letters, digits and `_`, a digit not first")
    if new in table.reserved:
        raise RenameError(f"`{new}` is a keyword")


def _check_free(analysis: Analysis, occurrence: Occurrence, new: str) -> None:
    """RenameError when another name of the same scope would be hidden or meant instead."""
    start = occurrence.span.start
    taken = analysis.names.scope.at(start).later(new) is not None
    taken = taken or new in analysis.module.decls or new in analysis.module.imported
    for decl in analysis.tree.decls:
        # A name of the file may hide one of the library in all of it, another in its declaration.
        if occurrence.symbol.module is None and not decl.span.start <= start < decl.span.end:
            continue
        taken = taken or any(
            other.span.text == new and (other.symbol.span is None or other.symbol.module)
            for other in analysis.names.occurrences
            if decl.span.start <= other.span.start < decl.span.end
        )
    if taken:
        place = analysis.source.position(start)[0]
        raise RenameError(f"there is a `{new}` already where line {place} says the name")
