"""Formatting, as edits of the lines that change.

Input: an open document, or a stretch of it. Output: text edits, none where the text does not parse.
Non-goals: the style (`syntax/format.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import SequenceMatcher

from lsprotocol import types

from dslc.diagnostics import CompileError
from dslc.lsp.positions import Lines
from dslc.source import SourceFile
from dslc.syntax.format import format_range, format_source


def format_document(source: SourceFile, lines: Lines) -> list[types.TextEdit]:
    """The edits that bring a whole document into the one style."""
    try:
        text = format_source(source)
    except CompileError:
        return []
    return list(_edits(source.text, text, 0, lines))


def format_part(source: SourceFile, lines: Lines, start: int, end: int) -> list[types.TextEdit]:
    """The edits for the statements between two offsets."""
    try:
        new = format_range(source, start, end)
    except CompileError:
        return []
    return list(_edits(source.text[new.start : new.end], new.text, new.start, lines))


def _edits(old: str, new: str, offset: int, lines: Lines) -> Iterator[types.TextEdit]:
    """The lines that differ; `offset` is where `old` stands in the document."""
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    places = [offset]
    for line in before:
        places.append(places[-1] + len(line))
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag != "equal":
            yield types.TextEdit(lines.range(places[a], places[b]), "".join(after[c:d]))
