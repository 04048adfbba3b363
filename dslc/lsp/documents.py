"""The files that an editor has open, and what is known of them and of those beside them.

Input: texts as they are opened and changed. Output: an `Analysis` of any file, made when it is
asked for and kept until its text, or that of a file it imports, changes. Non-goals: the protocol's
messages (`server.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import field
from itertools import islice

from lsprotocol import types
from pygls.uris import from_fs_path, to_fs_path

from dslc._frozen import dataclass
from dslc.lsp.positions import Lines
from dslc.semantics.analysis import Analysis, Memory, analyse
from dslc.semantics.scope import canonical, library_path
from dslc.source import SourceFile, Span
from dslc.syntax import ast

MOST_FILES = 1000
MOST_FOLDERS = 5000
_PASSED_OVER = frozenset({"node_modules", "__pycache__", "build", "dist"})


@dataclass(slots=True, eq=False)
class Document:
    """A file that the editor has open."""

    uri: str
    path: str
    lines: Lines
    version: int | None = None


@dataclass(slots=True, eq=False)
class Workspace:
    """All open documents, and analyses by the path of the file."""

    unit: str = "utf-16"
    folders: list[str] = field(default_factory=list)
    documents: dict[str, Document] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    analyses: dict[str, Analysis] = field(default_factory=dict)
    overlay: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.memory.store.overlay = self.overlay

    # --- documents ----------------------------------------------------------------------------

    def open(self, uri: str, text: str, version: int | None) -> Document:
        """Take up a document."""
        document = Document(uri, path_of(uri), Lines(text, self.unit), version)
        self.documents[uri] = document
        self._changed(document.path, text)
        return document

    def change(
        self,
        uri: str,
        changes: Sequence[types.TextDocumentContentChangeEvent],
        version: int | None,
    ) -> None:
        """Edit a document."""
        document = self.documents[uri]
        for change in changes:
            document.lines = Lines(document.lines.edit(change), self.unit)
        document.version = version
        self._changed(document.path, document.lines.text)

    def close(self, uri: str) -> None:
        """Let a document go: its file is what is on disk."""
        document = self.documents.pop(uri, None)
        if document is not None:
            self.overlay.pop(document.path, None)
            self.forget(document.path)
            self.memory.units.pop(document.path, None)

    def _changed(self, path: str, text: str) -> None:
        self.overlay[path] = text
        self.forget(path)

    def forget(self, path: str) -> None:
        """A file has changed: what was known of it and of the files that import it is void."""
        for known in [path, *self.dependents(path)]:
            self.analyses.pop(known, None)

    def dependents(self, path: str) -> list[str]:
        """The analysed files that import a file, directly or through others."""
        found: list[str] = []
        pending = [path]
        while pending:
            wanted = pending.pop()
            for other, analysis in self.analyses.items():
                if wanted in analysis.files and other not in found and other != path:
                    found.append(other)
                    pending.append(other)
        return found

    # --- analyses -----------------------------------------------------------------------------

    def analysis(self, uri: str) -> Analysis:
        """What is known of an open document."""
        document = self.documents[uri]
        return self._analysis(document.path, document.lines.text)

    def of_path(self, path: str) -> Analysis | None:
        """What is known of a file, open or not; nothing if it can't be read."""
        try:
            text = self.memory.store.text(path)
        except (OSError, UnicodeDecodeError):
            return None
        return self._analysis(path, text)

    def tree(self, path: str) -> ast.File | None:
        """What a file declares, which is quicker found than all that is known of it."""
        try:
            return self.memory.store.parse(path, self.memory.store.text(path)).tree
        except (OSError, UnicodeDecodeError):
            return None

    def _analysis(self, path: str, text: str) -> Analysis:
        known = self.analyses.get(path)
        if known is None or known.source.text != text:
            known = self.analyses[path] = analyse(SourceFile(path, text), self.memory)
        return known

    def files(self) -> Iterator[str]:
        """The paths of open documents, then of the other `.dl` files in the workspace's folders."""
        seen = {document.path for document in self.documents.values()}
        yield from list(seen)
        for folder in self.folders:
            for path in _files_under(folder):
                if path not in seen and len(seen) < MOST_FILES:
                    seen.add(path)
                    yield path

    # --- places -------------------------------------------------------------------------------

    def lines(self, source: SourceFile) -> Lines:
        """The lines of a file, for positions in it."""
        return Lines(source.text, self.unit)

    def location(self, span: Span) -> types.Location:
        """A span as a place that the editor can open."""
        path = real_path(span.file)
        uri = next((d.uri for d in self.documents.values() if d.path == path), None)
        range = self.lines(span.file).range(span.start, span.end)
        return types.Location(uri or from_fs_path(path) or path, range)


def path_of(uri: str) -> str:
    """The path of a document; one that is no file has its address for a path."""
    path = to_fs_path(uri) if uri.startswith("file:") else None
    return canonical(path) if path else uri


def real_path(source: SourceFile) -> str:
    """Where a file is on this machine; files of the library are shown as `std/...`."""
    return library_path(source.path) or canonical(source.path)


def _files_under(folder: str) -> Iterator[str]:
    for place, folders, names in islice(os.walk(folder), MOST_FOLDERS):
        folders[:] = sorted(f for f in folders if f[0] != "." and f not in _PASSED_OVER)
        for name in sorted(names):
            if name.endswith(".dl"):
                yield canonical(os.path.join(place, name))
