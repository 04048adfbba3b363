"""Documentation as Markdown pages.

Input: a `FileDoc`. Output: the text of a page; `index` is the page that lists others. Non-goals:
writing files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dslc.doc.data import FileDoc, Item, Section

_KINDS = {"function": "built in", "number function": "of compile-time numbers", "word": "word"}


def page(file: FileDoc, note: str = "") -> str:
    """A whole page: what the file says about itself, a note, every item under its section."""
    parts = [f"# {file.name}", file.doc, note]
    for section in file.sections:
        parts += _section(section)
    return "\n\n".join(part for part in parts if part) + "\n"


def sections(file: FileDoc) -> str:
    """The part of a page below its opening."""
    parts = [part for section in file.sections for part in _section(section) if part]
    return "\n\n".join(parts) + "\n"


def index(files: Iterable[FileDoc], title: str, opening: str) -> str:
    """A page that lists pages, each with all of its names."""
    parts = [f"# {title}", opening]
    for file in files:
        link = f"{file_name(file)}"
        rows = [_row(item, link) for item in file.items]
        parts += [f"## [{file.name}]({link})", file.doc, _table(rows)]
    return "\n\n".join(parts) + "\n"


def file_name(file: FileDoc) -> str:
    """The name of a file's page: `vision.md` for `std.vision`, `net.md` for `models/net.dl`."""
    name = file.name.rpartition("/")[2].removesuffix(".dl")
    return f"{name.removeprefix('std.')}.md"


def _section(section: Section) -> Iterator[str]:
    if section.title:
        yield f"## {_sentence(section.title)}"
    yield section.text
    for item in section.items:
        yield from _item(item, level=3 if section.title else 2)


def _item(item: Item, level: int) -> Iterator[str]:
    kind = _KINDS.get(item.kind, item.kind)
    yield f"{'#' * level} `{item.name}` {{ #{anchor(item)} }}"
    yield f"```dl\n{item.signature}\n```"
    yield item.doc
    if item.variables:
        yield "Its own weights and states:"
        yield "\n".join(f"- `{variable}`" for variable in item.variables)
    for part in item.parts:
        yield from _item(part, level + 1)
    if item.source not in ("", item.signature):
        yield f"<details markdown>\n<summary>Source</summary>\n\n```dl\n{item.source}\n```\n"
        yield "</details>"
    yield f"<small>{kind}{f', {item.place}' if item.place else ''}</small>"


def anchor(item: Item) -> str:
    """The item's place on its page: its name; functions of numbers share names with others."""
    prefix = {"number function": "number-", "train": "train-", "weights": "weights-"}
    return f"{prefix.get(item.kind, '')}{item.name}"


def _row(item: Item, link: str) -> str:
    return f"| [`{item.name}`]({link}#{anchor(item)}) | {item.kind} | {cell(item.summary)} |"


def _table(rows: list[str]) -> str:
    return "\n".join(["| name | kind | what it does |", "|---|---|---|", *rows])


def cell(text: str) -> str:
    """Text for a table: a `|` outside code would end the cell, one in code does not."""
    parts = text.split("`")
    return "`".join(p if i % 2 else p.replace("|", "\\|") for i, p in enumerate(parts))


def _sentence(title: str) -> str:
    """A heading of the source, with a capital."""
    return title[:1].upper() + title[1:]
