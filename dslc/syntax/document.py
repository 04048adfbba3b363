"""A document algebra: text with the places where lines may break, and the printer that breaks them.

Input: a `Doc`. Output: its lines, as few as fit the width: a group stands on one line if it can;
otherwise all of its own breaks are taken and the groups inside it are tried again (Oppen 1980,
Wadler 2003). A comment behind a token is held back to the end of its line and takes no width.
Non-goals: knowing anything of the language (layout.py).

>>> render(group(concat("f(", nest(concat(SOFT, "a,", LINE, "b")), SOFT, ")")), 6)
'f(\\n    a,\\n    b\\n)\\n'
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

from dslc._frozen import dataclass
from dslc.diagnostics import unreachable

INDENT = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Parts:
    """What all but text have.

    `forced`: a line must break inside. `breaks`: there is a break that is not a smaller group's.
    `head`: it begins with comments on lines of their own. `tail`: a comment is held back at its
    end, so the next break must be taken.
    """

    forced: bool
    breaks: bool
    head: bool
    tail: bool


@dataclass(frozen=True, slots=True, eq=False)
class Break(_Parts):
    """A line break where the group around it is broken, else `flat`; `blank` adds an empty line."""

    flat: str
    blank: bool


@dataclass(frozen=True, slots=True, eq=False)
class Concat(_Parts):
    """One after the other."""

    docs: Sequence[Doc]


@dataclass(frozen=True, slots=True, eq=False)
class Nest(_Parts):
    """Lines inside are indented one step more."""

    doc: Doc


@dataclass(frozen=True, slots=True, eq=False)
class Group(_Parts):
    """On one line if that fits and nothing inside forces a break."""

    doc: Doc


@dataclass(frozen=True, slots=True, eq=False)
class IfBroken(_Parts):
    """Text that is there only where the group around it is broken."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Above(_Parts):
    """Comments on lines of their own before what follows, each with whether a blank line is above
    it; `blank` is the same for what follows."""

    lines: Sequence[tuple[str, bool]]
    blank: bool


@dataclass(frozen=True, slots=True, eq=False)
class Behind(_Parts):
    """A comment at the end of the line."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Overhang(_Parts):
    """What may stick out: it takes no width when lines are broken."""

    doc: Doc


Doc: TypeAlias = str | Break | Concat | Nest | Group | IfBroken | Above | Behind | Overhang

LINE = Break(False, True, False, False, " ", False)
SOFT = Break(False, True, False, False, "", False)
# Before a closing bracket that is there only if it breaks: no reason to break by itself.
SOFT_END = Break(False, False, False, False, "", False)
HARD = Break(True, True, False, False, "", False)
BLANK = Break(True, True, False, False, "", True)
COMMA = IfBroken(False, False, False, False, ",")
EMPTY = Concat(False, False, False, False, ())


def concat(*docs: Doc) -> Doc:
    """One after the other; comments between two of them force the groups around to break."""
    return joined(docs)


def joined(docs: Iterable[Doc]) -> Doc:
    """`concat` of a sequence."""
    kept = [doc for doc in docs if doc != "" and doc is not EMPTY]
    if not kept:
        return EMPTY
    if len(kept) == 1:
        return kept[0]
    forced = breaks = tail = False
    for index, doc in enumerate(kept):
        if not isinstance(doc, str):
            forced |= doc.forced or (tail and doc.breaks) or (doc.head and index > 0)
            tail = doc.tail or (tail and not doc.breaks)
            breaks |= doc.breaks
    first = kept[0]
    return Concat(forced, breaks, not isinstance(first, str) and first.head, tail, kept)


def nest(doc: Doc) -> Doc:
    """The same, indented one step more."""
    if isinstance(doc, str):
        return doc
    return Nest(doc.forced, doc.breaks, doc.head, doc.tail, doc)


def group(doc: Doc, forced: bool = False) -> Doc:
    """On one line if that fits, `forced` to break."""
    if isinstance(doc, str):
        return doc
    forced |= doc.forced
    return Group(forced, forced, doc.head, doc.tail, doc)


def if_broken(text: str) -> Doc:
    """Text where the group around it is broken."""
    return IfBroken(False, False, False, False, text)


def overhang(doc: Doc) -> Doc:
    """The same, taking no width."""
    if isinstance(doc, str):
        return Overhang(False, False, False, False, doc)
    return Overhang(doc.forced, doc.breaks, doc.head, doc.tail, doc)


def above(lines: Sequence[tuple[str, bool]], blank: bool) -> Doc:
    """Comments on lines of their own."""
    return Above(False, True, True, False, lines, blank)


def behind(text: str) -> Doc:
    """A comment at the end of the line."""
    return Behind(False, False, False, True, text)


# --- printing ---------------------------------------------------------------------------------


class _Command(NamedTuple):
    """A document to print at an indent, broken or flat."""

    indent: int
    broken: bool
    doc: Doc


class _Row(NamedTuple):
    """A finished line and the comment at its end."""

    text: str
    comment: str


def render(doc: Doc, width: int) -> str:
    """The text of a document, each line ended by a line break."""
    printer = _Printer(width)
    printer.run(doc)
    return "".join(f"{line}\n" for line in _aligned(printer.rows, width))


class _Printer:
    """One run over a document."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows: list[_Row] = []
        self.line: list[str] = []
        self.column = 0
        self.indent = 0
        self.comments: list[str] = []

    def run(self, doc: Doc) -> None:
        """Print a document; `pending` is what is still to be printed, the next thing last."""
        pending = [_Command(0, True, doc)]
        while pending:
            indent, broken, doc = pending.pop()
            match doc:
                case str():
                    self._text(doc)
                case Concat():
                    pending.extend([_Command(indent, broken, d) for d in reversed(doc.docs)])
                case Nest():
                    pending.append(_Command(indent + INDENT, broken, doc.doc))
                case Group():
                    flat = _Command(indent, False, doc.doc)
                    breaks = broken and (doc.forced or not self._fits(flat, pending))
                    pending.append(_Command(indent, breaks, doc.doc))
                case Break():
                    if broken or doc.forced:
                        self._newline(indent, doc.blank)
                    else:
                        self._text(doc.flat)
                case IfBroken():
                    if broken:
                        self._text(doc.text)
                case Overhang():
                    pending.append(_Command(indent, broken, doc.doc))
                case Above():
                    self._above(indent, doc)
                case Behind():
                    self.comments.append(doc.text)
                case _:
                    unreachable(doc)
        self._newline(0, False)

    def _text(self, text: str) -> None:
        if not self.line:
            self.column = self.indent
        self.line.append(text)
        self.column += len(text)

    def _newline(self, indent: int, blank: bool) -> None:
        """End the line, if there is anything on it."""
        if self.line or self.comments:
            text = " " * self.indent + "".join(self.line)
            self.rows.append(_Row(text.rstrip(), " ".join(self.comments)))
            self.line.clear()
            self.comments.clear()
        if blank and self.rows and self.rows[-1] != ("", ""):
            self.rows.append(_Row("", ""))
        self.indent = self.column = indent

    def _above(self, indent: int, doc: Above) -> None:
        for number, (text, blank) in enumerate(doc.lines):
            if number or self.line:
                self._newline(indent, blank and number > 0)
            self._text(text)
        self._newline(indent, doc.blank)

    def _fits(self, command: _Command, rest: Sequence[_Command]) -> bool:
        """Whether the line stays within the width up to the next break that may be taken."""
        left = self.width - (self.column if self.line else self.indent)
        pending, below = [command], len(rest)
        while left >= 0:
            if not pending:
                if below == 0:
                    return True
                below -= 1
                pending.append(rest[below])
            indent, broken, doc = pending.pop()
            match doc:
                case str():
                    left -= len(doc)
                case Concat():
                    pending.extend([_Command(indent, broken, d) for d in reversed(doc.docs)])
                case Nest() | Group():
                    pending.append(_Command(indent, broken, doc.doc))
                case Break():
                    if broken or doc.forced:
                        return True
                    left -= len(doc.flat)
                case IfBroken():
                    left -= len(doc.text) if broken else 0
                case Above() | Behind() | Overhang():
                    pass
                case _:
                    unreachable(doc)
        return False


# --- comments at the ends of lines ------------------------------------------------------------


def _aligned(rows: Sequence[_Row], width: int) -> list[str]:
    """The lines; comments of neighbouring lines of one indent stand under each other."""
    lines: list[str] = []
    start = 0
    while start < len(rows):
        stop = start + 1
        while stop < len(rows) and _goes_on(rows[stop - 1], rows[stop]):
            stop += 1
        lines += _column(rows[start:stop], width)
        start = stop
    return lines


def _goes_on(above: _Row, row: _Row) -> bool:
    """Whether two lines' comments stand under each other: not behind the opening of a block."""
    if not above.comment or not row.comment or above.text[-1:] in "{[(" or row.text[-1:] in "{[(":
        return False
    return _indent(above.text) == _indent(row.text)


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _column(rows: Sequence[_Row], width: int) -> list[str]:
    """Lines with their comments in one column, or each on its own where that is too wide."""
    column = max(len(row.text) for row in rows)
    longest = max(len(row.comment) for row in rows)
    if column + 2 + longest > width and len(rows) > 1:
        return [line for row in rows for line in _column([row], width)]
    return [f"{row.text:{column}}  {row.comment}" if row.comment else row.text for row in rows]
