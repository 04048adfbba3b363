"""`dslc check FILE...`: all errors and warnings, without running or building anything."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dslc.commands.source import read_source, use_colour
from dslc.diagnostics import Diagnostic, render_all, render_json
from dslc.semantics.check import check


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a .dl file")
    parser.add_argument(
        "--format", choices=("text", "json"), default="text", help="for a person or for a program"
    )


def run(args: argparse.Namespace) -> int:
    found: list[Diagnostic] = []
    for path in args.files:
        found += check(read_source(path))
    if args.format == "json":
        print(render_json(found))
    elif found:
        print(render_all(found, color=use_colour(sys.stdout)))
    errors = sum(d.severity == "error" for d in found)
    if args.format == "text":
        told = _counted(errors, "error")
        if len(found) > errors:
            told += f" and {_counted(len(found) - errors, 'warning')}"
        print(f"{told} in {_counted(len(args.files), 'file')}", file=sys.stderr)
    return 1 if errors else 0


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'s' * (count != 1)}"
