"""`dslc explain E0203`: the page of an error code."""

from __future__ import annotations

import argparse
from importlib.resources import files

from dslc.cli import EXIT_USAGE, UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("code", help="an error code such as E0203; `list` lists them all")


def run(args: argparse.Namespace) -> int:
    pages = {
        entry.name.removesuffix(".md"): entry
        for entry in files("dslc.explain").iterdir()
        if entry.name.endswith(".md")
    }
    if args.code == "list":
        for code in sorted(pages):
            title = pages[code].read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
            print(title if title.startswith(code) else f"{code}: {title}")
        return 0
    code = args.code.upper()
    if code not in pages:
        raise UserError(
            f"there is no error code {args.code!r} (dslc explain list lists them)", EXIT_USAGE
        )
    print(pages[code].read_text(encoding="utf-8").rstrip())
    return 0
