"""`dslc explain E0203`: the page of a code; without one, all codes by family."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files

from dslc.cli import EXIT_USAGE, UserError
from dslc.diagnostics import nearest_name

FAMILIES = {
    "E00": "Syntax",
    "E01": "Names",
    "E02": "Types and shapes",
    "E03": "Static arguments and compile-time numbers",
    "E04": "Imports, models and training",
    "E05": "ONNX",
    "W01": "Warnings",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", nargs="?", help="a code such as E0203; without it, all are listed")


def run(args: argparse.Namespace) -> int:
    pages = read_pages()
    if args.code is None or args.code == "list":
        print("\n".join(listing(pages)))
        return 0
    code = full_code(args.code)
    if code not in pages:
        raise UserError(f"there is no code {args.code!r}{_proposal(code, pages)}", EXIT_USAGE)
    print(pages[code].rstrip())
    return 0


def read_pages() -> dict[str, str]:
    """The text of each page by its code."""
    return {
        entry.name.removesuffix(".md"): entry.read_text(encoding="utf-8")
        for entry in sorted(files("dslc.explain").iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".md")
    }


def listing(pages: Mapping[str, str]) -> list[str]:
    """The first lines of all pages, under the names of their families."""
    lines: list[str] = []
    family = ""
    for code, text in pages.items():
        if code[:3] != family:
            family = code[:3]
            lines += [""] * bool(lines) + [f"{family}  {FAMILIES[family]}"]
        lines.append(f"  {text.splitlines()[0].removeprefix('# ')}")
    return lines


def full_code(written: str) -> str:
    """`e203`, `203` and `[E203]` as `E0203`."""
    match = re.fullmatch(r"(?:error|warning)?\W*([EeWw]?)0*(\d{1,4})\W*", written)
    if match is None:
        return written.upper()
    return f"{match[1].upper() or 'E'}{int(match[2]):04}"


def _proposal(code: str, pages: Iterable[str]) -> str:
    near = nearest_name(code, pages)
    return f"; did you mean {near}?" if near else " (dslc explain lists them all)"
