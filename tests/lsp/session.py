"""A client that drives `dslc lsp` in tests: opens texts, finds places in them by words."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from lsprotocol import types
from pytest_lsp import LanguageClient

from dslc.lsp.positions import Lines


class Session:
    """A client with its open documents and the folder they are in."""

    def __init__(self, client: LanguageClient, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.texts: dict[str, str] = {}
        self.versions: dict[str, int] = {}

    def uri(self, name: str) -> str:
        return (self.folder / name).as_uri()

    async def open(self, name: str, text: str) -> list[types.Diagnostic]:
        """Open a document and wait for its diagnostics."""
        uri = self.uri(name)
        self.texts[name], self.versions[name] = text, 1
        item = types.TextDocumentItem(uri, "dl", 1, text)
        self.client.diagnostics.pop(uri, None)
        self.client.text_document_did_open(types.DidOpenTextDocumentParams(item))
        return await self.diagnostics(name)

    async def replace(self, name: str, old: str, new: str) -> list[types.Diagnostic]:
        """Change a part of a document and wait for the diagnostics."""
        uri, text = self.uri(name), self.texts[name]
        start = text.index(old)
        change = types.TextDocumentContentChangePartial(
            Lines(text).range(start, start + len(old)), new
        )
        self.texts[name] = text[:start] + new + text[start + len(old) :]
        self.versions[name] += 1
        document = types.VersionedTextDocumentIdentifier(self.versions[name], uri)
        self.client.diagnostics.pop(uri, None)
        self.client.text_document_did_change(types.DidChangeTextDocumentParams(document, [change]))
        return await self.diagnostics(name)

    async def reset(self, name: str, text: str) -> None:
        """Bring a document back to its text."""
        if self.texts.get(name, text) != text:
            await self.replace(name, self.texts[name], text)

    async def diagnostics(self, name: str) -> list[types.Diagnostic]:
        """The next diagnostics of a document."""
        for _ in range(400):
            found = self.client.diagnostics.get(self.uri(name))
            if found is not None:
                return list(found)
            await asyncio.sleep(0.02)
        raise AssertionError(f"no diagnostics for {name}")

    def close(self, name: str) -> None:
        document = self.document(name)
        self.client.text_document_did_close(types.DidCloseTextDocumentParams(document))

    def document(self, name: str) -> types.TextDocumentIdentifier:
        return types.TextDocumentIdentifier(self.uri(name))

    def position(self, name: str, words: str, part: str | None = None) -> types.Position:
        """The first place of `part` in `words`, or the end of `words`."""
        text = self.texts[name]
        start = text.index(words)
        offset = start + (len(words) if part is None else words.index(part))
        return Lines(text).position(offset)

    def at(self, name: str, words: str, part: str | None = None) -> dict[str, object]:
        """The parameters of a request about a place."""
        position = self.position(name, words, part)
        return {"text_document": self.document(name), "position": position}

    def text_at(self, location: types.Location) -> str:
        """What stands at a location of an open document."""
        name = location.uri.rpartition("/")[2]
        lines = Lines(self.texts[name])
        return self.texts[name][lines.offset(location.range.start) :].partition("\n")[0]


def edited(text: str, edits: Sequence[types.TextEdit]) -> str:
    """The text after edits that do not overlap."""
    lines = Lines(text)
    for edit in sorted(edits, key=lambda e: (e.range.start.line, e.range.start.character))[::-1]:
        start, end = lines.offset(edit.range.start), lines.offset(edit.range.end)
        text = text[:start] + edit.new_text + text[end:]
    return text
