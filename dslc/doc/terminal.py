"""Documentation as lines of text with styles.

Input: items and files. Output: lists of `Line`s, each of pieces (text, style); the style is a word
of rich's (`bold`, `dim`) or empty, so that plain output is the same text. Non-goals: printing.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from dslc.diagnostics import printable
from dslc.doc.data import FileDoc, Item, Section

Line: TypeAlias = tuple[tuple[str, str], ...]
_INDENT = "    "


def source_lines(item: Item) -> list[Line]:
    """An item's declaration as it stands in its file; nothing for what is built in."""
    return [((line, ""),) for line in item.source.split("\n")] if item.source else []


def item_lines(item: Item, width: int) -> list[Line]:
    """An item, whole: signature, documentation, variables, place."""
    lines = _signature(item)
    for paragraph in _doc_lines(item.doc, width - len(_INDENT)):
        lines.append(((_INDENT + paragraph if paragraph else "", ""),))
    if item.variables:
        lines.append(((f"{_INDENT}its own weights and states:", "dim"),))
        lines += [((f"{_INDENT * 2}{variable}", ""),) for variable in item.variables]
    for part in item.parts:
        lines += [((_INDENT, ""), *line) for line in item_lines(part, width - len(_INDENT))]
    if ":" in item.section:
        # A heading that says what holds for all that stands under it.
        lines += [((_INDENT + t, "dim"),) for t in textwrap.wrap(f"({item.section})", width - 4)]
    lines.append(((_INDENT + _origin(item), "dim"),))
    return lines


def _origin(item: Item) -> str:
    if not item.place:
        return "built in, of compile-time numbers" if item.kind == "number function" else "built in"
    return item.place if item.place.startswith(item.module) else f"{item.module}, {item.place}"


def _signature(item: Item) -> list[Line]:
    return [((text, "bold cyan"),) for text in item.signature.split("\n")]


def _doc_lines(doc: str, width: int) -> list[str]:
    """The documentation filled to the width; fenced and indented lines stay as they are."""
    if not doc:
        return []
    lines: list[str] = []
    paragraph: list[str] = []
    fenced = False

    def flush() -> None:
        lines.extend(textwrap.wrap(" ".join(paragraph), max(width, 20)))
        paragraph.clear()

    for line in doc.split("\n"):
        fence = line.startswith("```")
        if fenced or fence or not line.strip() or line.startswith((" ", "- ", "|")):
            flush()
            if not fence:
                lines.append(_INDENT + line if fenced else line)
            fenced ^= fence
        else:
            paragraph.append(line.strip())
    flush()
    return lines


def file_lines(file: FileDoc, width: int, *, title: str | None = None) -> list[Line]:
    """A file: what it opens with, then a line for each item."""
    lines: list[Line] = [((title or file.name, "bold"),)]
    lines += [((_INDENT + line if line else "", ""),) for line in _doc_lines(file.doc, width - 4)]
    column = max((len(item.name) for item in file.items), default=0)
    for section in file.sections:
        lines.append((("", ""),))
        if section.title:
            lines.append(((section.title, "bold"),))
        lines += [_listed(item, column, width) for item in section.items]
    return lines


def _listed(item: Item, column: int, width: int) -> Line:
    room = max(width - column - 4, 20)
    summary = textwrap.shorten(item.summary, room, placeholder=" …")
    return ((f"  {item.name:{column}}", "cyan"), (f"  {summary}".rstrip(), ""))


def names_lines(sections: Iterable[Section], width: int) -> list[Line]:
    """Names alone, under the titles of their sections."""
    lines: list[Line] = []
    for section in sections:
        names = ", ".join(item.name for item in section.items)
        if section.title:
            lines.append(((f"  {section.title}", "dim"),))
        lines += [((f"    {line}", "cyan"),) for line in textwrap.wrap(names, width - 4)]
    return lines


def printable_lines(lines: Sequence[Line]) -> list[Line]:
    """The lines without control characters: a source file must not steer the terminal."""
    return [tuple((printable(text), style) for text, style in line) for line in lines]


def plain(lines: Sequence[Line]) -> str:
    """The lines without their styles."""
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines)
