"""What went wrong in a program, as data, and how it is shown.

Input: a code, a sentence and labelled spans. Output: text with the source lines underlined, or JSON
with the same content. Non-goals: deciding what is wrong (each stage does that) and printing (only
the command line does that).

A mistake of the user is a `Diagnostic`; a broken invariant of the compiler is an `InternalError`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Literal, NoReturn

from dslc._frozen import dataclass
from dslc.source import SourceFile, Span

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Label:
    """A span and what is to be said about it; the message may be empty."""

    span: Span
    message: str = ""
    primary: bool = True


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing that is wrong.

    `code` is `E0203` or `W0101`; `title` is one line that can stand alone; `labels` hold at least
    one primary label unless the mistake has no place in a file; `notes` explain, `help` proposes.
    """

    code: str
    title: str
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    help: tuple[str, ...] = ()
    severity: Severity = "error"

    @property
    def span(self) -> Span | None:
        """Where it is: the first primary label's span."""
        return next((label.span for label in self.labels if label.primary), None)


class CompileError(Exception):
    """A program that cannot be compiled; its text is the rendered diagnostics."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__(render_all(self.diagnostics))


class InternalError(Exception):
    """A bug in dslc, not in the user's program."""


def unreachable(value: NoReturn) -> NoReturn:
    """Ends a `match` over all cases (typing.assert_never is newer than Python 3.10)."""
    raise InternalError(f"not expected here: {value!r}")


class Reporter:
    """Collects diagnostics; each root cause is kept once."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, Span | None], Diagnostic] = {}

    def report(self, diagnostic: Diagnostic) -> None:
        """Add a diagnostic unless the same code and title stand at the same span already."""
        key = (diagnostic.code, diagnostic.title, diagnostic.span)
        self._seen.setdefault(key, diagnostic)

    def extend(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Add several."""
        for diagnostic in diagnostics:
            self.report(diagnostic)

    @property
    def has_errors(self) -> bool:
        """Whether anything but warnings was reported."""
        return any(d.severity == "error" for d in self._seen.values())

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """All of them: files in the order first reported, then by position."""
        files: dict[str, int] = {}
        for d in self._seen.values():
            if d.span is not None:
                files.setdefault(d.span.file.path, len(files))

        def place(d: Diagnostic) -> tuple[int, int]:
            return (-1, 0) if d.span is None else (files[d.span.file.path], d.span.start)

        return tuple(_gathered(sorted(self._seen.values(), key=place)))


_UNKNOWN_NAME = "E0101"


def _gathered(diagnostics: Iterable[Diagnostic]) -> list[Diagnostic]:
    """One diagnostic for each unknown name of a file, with all the places where it stands."""
    gathered: list[Diagnostic] = []
    first: dict[tuple[str, SourceFile], int] = {}
    for diagnostic in diagnostics:
        if diagnostic.code == _UNKNOWN_NAME and diagnostic.span is not None:
            key = diagnostic.title, diagnostic.span.file
            index = first.setdefault(key, len(gathered))
            if index < len(gathered):
                before = gathered[index]
                more = [replace(label, primary=False) for label in diagnostic.labels]
                new = tuple(label for label in more if label not in before.labels)
                gathered[index] = replace(before, labels=(*before.labels, *new))
                continue
        gathered.append(diagnostic)
    return gathered


# --- text -------------------------------------------------------------------------------------

_BOLD, _RED, _YELLOW, _BLUE, _RESET = "\x1b[1m", "\x1b[1;31m", "\x1b[1;33m", "\x1b[1;34m", "\x1b[0m"
_TAB = "    "
_LONGEST_LINE = 160


@dataclass(frozen=True, slots=True)
class _Paint:
    """Wraps text in terminal colours, or leaves it as it is."""

    color: bool

    def __call__(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self.color and text else text


def render_text(diagnostic: Diagnostic, color: bool = False) -> str:
    """The diagnostic with its source lines, several lines without a final line break."""
    paint = _Paint(color)
    style = _RED if diagnostic.severity == "error" else _YELLOW
    head = paint(style, f"{diagnostic.severity}[{diagnostic.code}]")
    lines = [f"{head}{paint(_BOLD, ': ' + printable(diagnostic.title))}"]
    width = _gutter_width(diagnostic.labels)
    for file, labels in _by_file(diagnostic.labels):
        lines += _render_file(file, labels, width, paint, style)
    bar = paint(_BLUE, " " * width + "│")
    footers = [("note", n) for n in diagnostic.notes] + [("help", h) for h in diagnostic.help]
    if footers and diagnostic.labels:
        lines.append(bar)
    for kind, text in footers:
        first, *rest = printable(text).split("\n")
        lines.append(f"{' ' * width}{paint(_BLUE, '=')} {paint(_BOLD, kind)}: {first}")
        lines += [f"{' ' * (width + 2 + len(kind) + 2)}{line}" for line in rest]
    return "\n".join(lines)


def render_all(diagnostics: Iterable[Diagnostic], color: bool = False) -> str:
    """Several diagnostics, a blank line between them."""
    return "\n\n".join(render_text(d, color) for d in diagnostics)


def _gutter_width(labels: Sequence[Label]) -> int:
    last = max((label.span.position[0] for label in labels), default=0)
    return max(2, len(str(last)))


def _by_file(labels: Sequence[Label]) -> list[tuple[SourceFile, list[Label]]]:
    """Labels grouped by file, the file of the first primary label first."""
    groups: dict[SourceFile, list[Label]] = {}
    for label in sorted(labels, key=lambda item: not item.primary):
        groups.setdefault(label.span.file, []).append(label)
    return list(groups.items())


def _render_file(
    file: SourceFile, labels: list[Label], width: int, paint: _Paint, style: str
) -> list[str]:
    line, column = labels[0].span.position
    lines = [
        f"{paint(_BLUE, ' ' * width + '┌─')} {file.path}:{line}:{column}",
        paint(_BLUE, " " * width + "│"),
    ]
    numbers: dict[int, list[Label]] = {}
    for label in labels:
        numbers.setdefault(label.span.position[0], []).append(label)
    for number in sorted(numbers):
        source, rows = _render_line(file, number, numbers[number], paint, style)
        lines.append(f"{paint(_BLUE, f'{number:>{width}} │')} {source}".rstrip())
        lines += [f"{paint(_BLUE, ' ' * (width + 1) + '│')} {row}" for row in rows]
    return lines


@dataclass(frozen=True, slots=True)
class _Mark:
    """A label on its line, in columns of the terminal."""

    start: int
    end: int
    label: Label


def _render_line(
    file: SourceFile, number: int, labels: list[Label], paint: _Paint, style: str
) -> tuple[str, list[str]]:
    """A source line as shown, and the rows of marks and messages under it."""
    text = file.line(number)
    offset = file.line_starts[number - 1]
    shown, columns = _expand(text)
    marks = []
    for label in labels:
        start = min(label.span.start - offset, len(text))
        end = min(max(label.span.end - offset, start), len(text))
        marks.append(_Mark(columns[start], max(columns[end], columns[start] + 1), label))
    marks.sort(key=lambda mark: (mark.start, mark.end))
    if len(shown) > _LONGEST_LINE:
        shown, marks = _crop(shown, marks)
    return shown, _mark_rows(marks, paint, style)


def _mark_rows(marks: list[_Mark], paint: _Paint, style: str) -> list[str]:
    """The row of `^^^ ---`, then messages that do not fit on it, rightmost first."""
    row: dict[int, str] = {}
    for mark in sorted(marks, key=lambda item: item.label.primary):
        sign = paint(style, "^") if mark.label.primary else paint(_BLUE, "-")
        row.update(dict.fromkeys(range(mark.start, mark.end), sign))
    width = max(row) + 1
    first = "".join(row.get(column, " ") for column in range(width))
    last = marks[-1]
    pending = [mark for mark in marks if mark.label.message]
    if pending and pending[-1] is last and last.end == width:
        pending.pop()
        first += f" {_message(last, paint, style)}"
    rows = [first]
    while pending:
        mark = pending.pop()
        bars = {left.start for left in pending if left.start < mark.start}
        lead = "".join("│" if column in bars else " " for column in range(mark.start))
        rows.append(f"{paint(_BLUE, lead) if bars else lead}{_message(mark, paint, style)}")
    return rows


def _message(mark: _Mark, paint: _Paint, style: str) -> str:
    text = printable(mark.label.message.replace("\n", " "))
    return paint(style if mark.label.primary else _BLUE, text)


def _expand(text: str) -> tuple[str, list[int]]:
    """The line with tabs as spaces, and the terminal column of each character (and of the end)."""
    if text.isascii() and text.isprintable():
        return text, list(range(len(text) + 1))
    shown: list[str] = []
    columns: list[int] = []
    column = 0
    for char in text:
        columns.append(column)
        piece = _TAB if char == "\t" else printable(char)
        shown.append(piece)
        column += len(piece)
    columns.append(column)
    return "".join(shown), columns


def _crop(shown: str, marks: list[_Mark]) -> tuple[str, list[_Mark]]:
    """A window of a very long line around its first mark; marks outside it lose their place."""
    low = max(0, marks[0].start - _LONGEST_LINE // 2)
    high = low + _LONGEST_LINE
    kept = [
        _Mark(mark.start - low + 1, min(mark.end, high) - low + 1, mark.label)
        for mark in marks
        if mark.start < high
    ]
    return f"{'…' if low else ' '}{shown[low:high]}{'…' if high < len(shown) else ''}", kept


def printable(text: str) -> str:
    """The text without control characters: a source file must not steer the terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


# --- JSON -------------------------------------------------------------------------------------


def to_json(diagnostic: Diagnostic) -> dict[str, object]:
    """The diagnostic as plain JSON values; lines and columns count from 1, offsets from 0."""
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "title": diagnostic.title,
        "labels": [_label_to_json(label) for label in diagnostic.labels],
        "notes": list(diagnostic.notes),
        "help": list(diagnostic.help),
    }


def _label_to_json(label: Label) -> dict[str, object]:
    line, column = label.span.position
    end_line, end_column = label.span.end_position
    return {
        "path": label.span.file.path,
        "start": {"line": line, "column": column, "offset": label.span.start},
        "end": {"line": end_line, "column": end_column, "offset": label.span.end},
        "message": label.message,
        "primary": label.primary,
    }


def render_json(diagnostics: Iterable[Diagnostic]) -> str:
    """A JSON array of diagnostics, one object each, as `dslc check --format json` prints it."""
    return json.dumps([to_json(d) for d in diagnostics], ensure_ascii=False, indent=2)


# --- names ------------------------------------------------------------------------------------


_LONGEST_NAME = 80


def nearest_name(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate that `name` is most likely a slip of, or nothing.

    Edit distance counting a swap of neighbours as one slip (Damerau's); at most a third of the
    name may differ. Of several the one that begins most like it.
    """
    if len(name) > _LONGEST_NAME:
        return None
    limit = max(1, len(name) // 3)
    lower, letters = name.lower(), set(name.lower())
    best: tuple[int, int, str] | None = None
    for candidate in sorted(set(candidates)):
        if abs(len(candidate) - len(name)) > limit or candidate == name:
            continue
        # A slip adds, takes away or replaces one letter: quick to rule out for most candidates.
        if len(letters ^ set(candidate.lower())) > 2 * limit:
            continue
        distance = _edit_distance(lower, candidate.lower())
        if distance <= limit and (best is None or distance <= best[0]):
            begin = sum(
                1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(lower, candidate))
            )
            best = min(best or (limit + 1, 0, ""), (distance, -begin, candidate))
    return None if best is None else best[2]


def _edit_distance(a: str, b: str) -> int:
    before: list[int] = []
    above = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, above = above, row
    return above[-1]
