"""`dslc doc [NAME]`: documentation of the library, of what is built in, and of a file.

NAME is a function or layer (`conv2d`), a module of the library (`std.vision`) or a file
(`model.dl`); without it, an overview. `--markdown -o DIR` writes pages instead: of the whole
library, or of the file.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import read_source, use_colour
from dslc.doc import markdown, terminal
from dslc.doc.builtins import builtins
from dslc.doc.data import FileDoc, file_doc
from dslc.doc.library import find, library, nearest, needs_import

# Names that stand for the whole library.
_EVERYTHING = (None, "std", "prelude", "std.prelude")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="conv2d, std.vision or model.dl; an overview without",
    )
    parser.add_argument("--source", action="store_true", help="show the declaration itself too")
    parser.add_argument("--markdown", action="store_true", help="write Markdown pages (needs -o)")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="the folder for the pages; it is made"
    )


def run(args: argparse.Namespace) -> int:
    if args.markdown != (args.output is not None):
        raise UserError("--markdown and -o DIR go together", EXIT_USAGE)
    if args.markdown:
        for path in write_pages(args.output, args.name):
            print(f"wrote {path}")
        return 0
    width = min(shutil.get_terminal_size((100, 24)).columns, 100)
    name = args.name
    show(overview(width) if name in _EVERYTHING else described(name, width, args.source))
    return 0


def described(name: str, width: int, source: bool) -> list[terminal.Line]:
    """Everything that a name may stand for."""
    if _is_file(name):
        return whole(file_doc(read_source(Path(name))), width)
    found = find(name)
    if isinstance(found, FileDoc):
        return terminal.file_lines(found, width)
    if not found:
        raise UserError(unknown(name), EXIT_USAGE)
    lines: list[terminal.Line] = []
    for item in found:
        lines += [*([(("", ""),)] if lines else []), *terminal.item_lines(item, width)]
        if needs_import(item.module):
            lines.append(((f"    from {item.module} import {item.name}", "dim"),))
        if source and item.source:
            lines += [(("", ""),), *terminal.source_lines(item)]
    return lines


def _is_file(name: str) -> bool:
    return name.endswith(".dl") or os.sep in name


def unknown(name: str) -> str:
    """What to say about a name that nothing has."""
    if re.fullmatch(r"[EW]\d{4}", name):
        return f"{name} is an error code: `dslc explain {name}` tells about it"
    near = nearest(name)
    hint = f"; did you mean {near!r}?" if near else " (dslc doc lists what there is)"
    return f"nothing is called {name!r}{hint}"


def whole(file: FileDoc, width: int) -> list[terminal.Line]:
    """A user's file, every item in full."""
    lines: list[terminal.Line] = [((file.name, "bold"),)]
    lines += [((f"    {line}", ""),) for line in file.doc.split("\n") if line]
    for item in file.items:
        lines += [(("", ""),), *terminal.item_lines(item, width)]
    return lines


def overview(width: int) -> list[terminal.Line]:
    """The modules and what is in them, names alone."""
    lines: list[terminal.Line] = []
    for file in library():
        note = f"from {file.name} import ..." if needs_import(file.name) else ""
        lines += [((file.name, "bold"), (f"  {note}" if note else "  needs no import", "dim"))]
        lines += [*terminal.names_lines(file.sections, width), (("", ""),)]
    lines.append((("built in", "bold"),))
    public = [s for s in builtins().sections if s.title != "Primitives"]
    lines += terminal.names_lines(public, width)
    lines += [(("", ""),), (("dslc doc NAME tells more about one of them.", ""),)]
    return lines


def show(lines: Sequence[terminal.Line]) -> None:
    """Prints lines, with their styles where colour is wanted."""
    lines = terminal.printable_lines(lines)
    if not use_colour(sys.stdout):
        print(terminal.plain(lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for line in lines:
        console.print(Text.assemble(*line), soft_wrap=True)


def library_opening(files: Iterable[FileDoc]) -> str:
    """What the index of the library's pages begins with."""
    common = ", ".join(f"`{file.name}`" for file in files if not needs_import(file.name))
    return (
        "The library is written in `.dl`: reading it is a way to learn the language. What these "
        f"modules declare needs no import: {common}. The rest is imported by name, as in "
        "`from std.vision import residual`."
    )


def library_page(file: FileDoc) -> str:
    """The page of a module of the library, or of a user's file."""
    if not needs_import(file.name):
        return markdown.page(file)
    first = next(file.items).name
    return markdown.page(file, f"Imported by name: `from {file.name} import {first}`.")


def write_pages(folder: Path, name: str | None) -> list[Path]:
    """The library's pages and their index, or the page of one file or module."""
    pages: dict[str, str] = {}
    if name is None:
        files = list(library())
        pages["index.md"] = markdown.index(files, "The library", library_opening(files))
    else:
        found = file_doc(read_source(Path(name))) if _is_file(name) else find(name)
        if not isinstance(found, FileDoc):
            raise UserError(f"{name!r} is no file and no module of the library", EXIT_USAGE)
        files = [found]
    pages |= {markdown.file_name(file): library_page(file) for file in files}
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for page, text in pages.items():
        path = folder / page
        temporary = path.with_name(f".{page}.{os.getpid()}")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
        written.append(path)
    return written
