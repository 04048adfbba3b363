"""Source text and places in it.

Input: the text of one `.dl` file. Output: `SourceFile`, which knows its lines, and `Span`, a
stretch of it, carried by every token, syntax node, equation and diagnostic. Non-goals: reading
files, lexing.

>>> file = SourceFile("a.dl", "x = 1\\ny = 2\\n")
>>> Span(file, 6, 7).position, Span(file, 6, 7).text
((2, 1), 'y')
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import field

from dslc._frozen import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class SourceFile:
    """The text of one file and the path it is shown under.

    Compared by identity, so that spans hash and compare in constant time; read a file once.
    """

    path: str
    text: str = field(repr=False)
    line_starts: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        starts = [0]
        find = self.text.find
        end = find("\n")
        while end >= 0:
            starts.append(end + 1)
            end = find("\n", end + 1)
        object.__setattr__(self, "line_starts", tuple(starts))

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of a character offset, both counted from 1, as editors count them."""
        line = bisect_right(self.line_starts, offset)
        return line, offset - self.line_starts[line - 1] + 1

    def line(self, number: int) -> str:
        """Text of a line (counted from 1) without its line break."""
        start = self.line_starts[number - 1]
        end = self.line_starts[number] if number < len(self.line_starts) else len(self.text)
        return self.text[start:end].rstrip("\r\n")

    def span(self, start: int = 0, end: int | None = None) -> Span:
        """The span from `start` to `end`, by default the whole file."""
        return Span(self, start, len(self.text) if end is None else end)


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` (included) to `end` (excluded) of a file."""

    file: SourceFile
    start: int
    end: int

    @property
    def position(self) -> tuple[int, int]:
        """Line and column of the first character, counted from 1."""
        return self.file.position(self.start)

    @property
    def end_position(self) -> tuple[int, int]:
        """Line and column just past the last character, counted from 1."""
        return self.file.position(self.end)

    @property
    def text(self) -> str:
        """The characters themselves."""
        return self.file.text[self.start : self.end]

    def to(self, other: Span) -> Span:
        """The span from the start of this one to the end of `other`, in the same file."""
        return Span(self.file, self.start, other.end)

    def __str__(self) -> str:
        line, column = self.position
        return f"{self.file.path}:{line}:{column}"
