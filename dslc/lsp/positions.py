"""Offsets in a text to positions of the protocol, and back.

Input: a text and the unit that columns are counted in (UTF-16 code units unless the client asked
for another). Output: `Position`s and `Range`s. Lines end as the protocol has it: `\\n`, `\\r\\n` or
`\\r`. A position outside the text is moved into it.

>>> Lines("a\\U0001F600b").position(2).character
3
"""

from __future__ import annotations

import re
from bisect import bisect_right

from lsprotocol import types

from dslc.source import Span

_END_OF_LINE = re.compile(r"\r\n|\n|\r")


class Lines:
    """The lines of a text."""

    __slots__ = ("starts", "text", "unit")

    def __init__(self, text: str, unit: str = "utf-16") -> None:
        self.text = text
        self.unit = unit
        self.starts = [0, *(match.end() for match in _END_OF_LINE.finditer(text))]

    def position(self, offset: int) -> types.Position:
        """The position of the character at an offset."""
        offset = min(max(offset, 0), len(self.text))
        line = bisect_right(self.starts, offset) - 1
        return types.Position(line, self._units(self.text[self.starts[line] : offset]))

    def offset(self, position: types.Position) -> int:
        """The offset of a position; one inside a character is at its start."""
        if position.line >= len(self.starts):
            return len(self.text)
        start = self.starts[position.line]
        last = position.line + 1 == len(self.starts)
        line = self.text[start : len(self.text) if last else self.starts[position.line + 1]]
        line = line.rstrip("\r\n")
        if line.isascii() or self.unit == "utf-32":
            return start + min(position.character, len(line))
        left = position.character
        for index, char in enumerate(line):
            left -= self._units(char)
            if left < 0:
                return start + index
        return start + len(line)

    def range(self, start: int, end: int) -> types.Range:
        """The range from one offset to another."""
        return types.Range(self.position(start), self.position(end))

    def _units(self, text: str) -> int:
        if self.unit == "utf-32" or text.isascii():
            return len(text)
        if self.unit == "utf-8":
            return len(text.encode("utf-8", "surrogatepass"))
        return len(text) + sum(char > "\uffff" for char in text)

    def edit(self, change: types.TextDocumentContentChangeEvent) -> str:
        """The text after a change."""
        if isinstance(change, types.TextDocumentContentChangeWholeDocument):
            return change.text
        start, end = self.offset(change.range.start), self.offset(change.range.end)
        return self.text[:start] + change.text + self.text[max(start, end) :]


def span_range(lines: Lines, span: Span) -> types.Range:
    """The range of a span of the text."""
    return lines.range(span.start, span.end)
