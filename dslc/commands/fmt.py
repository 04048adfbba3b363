"""`dslc fmt FILE...`: the one style of `.dl` files, written in place.

A file that does not parse is left as it is and its errors are shown; the others are still written.
Exit status 1: some file does not parse, or, with `--check` or `--diff`, some would change.
"""

from __future__ import annotations

import argparse
import difflib
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import read_source, use_colour
from dslc.diagnostics import CompileError, render_all
from dslc.source import SourceFile
from dslc.syntax.format import format_source

_COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="- reads standard input and writes to the output"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; list the files that would change"
    )
    parser.add_argument("--diff", action="store_true", help="write nothing; show what would change")


def run(args: argparse.Namespace) -> int:
    changed, wrong = 0, 0
    for name in args.files:
        source = _read(name)
        try:
            text = format_source(source)
        except CompileError as error:
            print(render_all(error.diagnostics, use_colour(sys.stderr)), file=sys.stderr)
            wrong += 1
            continue
        changed += text != source.text
        if args.diff:
            _print_diff(source, text)
        elif args.check:
            if text != source.text:
                print(source.path)
        elif name == "-":
            sys.stdout.write(text)
        elif text != source.text:
            _write(Path(name), text)
    dry = args.check or args.diff
    if dry or args.files != ["-"]:
        print(_told(len(args.files), changed, wrong, dry), file=sys.stderr)
    return 1 if wrong or (changed and dry) else 0


def _read(name: str) -> SourceFile:
    """A file, or standard input, with its own line ends."""
    if name != "-":
        return read_source(Path(name), newline="")
    try:
        return SourceFile("<stdin>", sys.stdin.buffer.read().decode("utf-8"))
    except UnicodeDecodeError:
        raise UserError("standard input is not UTF-8 text") from None


def _told(files: int, changed: int, wrong: int, dry: bool) -> str:
    """What was done, in one line."""
    counts = [
        (changed, "would change" if dry else "formatted"),
        (files - changed - wrong, "already in style"),
        (wrong, "with errors"),
    ]
    return ", ".join(f"{count} file{'s' * (count != 1)} {what}" for count, what in counts if count)


def _write(path: Path, text: str) -> None:
    """Replace a file's content, whole or not at all; links stay and the mode stays."""
    target = os.path.realpath(path)
    temporary = f"{target}.{os.getpid()}.tmp"
    try:
        mode = stat.S_IMODE(os.stat(target).st_mode)
        with open(temporary, "x", encoding="utf-8", newline="") as file:
            os.fchmod(file.fileno(), mode)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}", EXIT_USAGE) from None
    finally:
        with suppress(OSError):
            os.unlink(temporary)


def _print_diff(source: SourceFile, text: str) -> None:
    colour = use_colour(sys.stdout)
    for line in _diff(source, text):
        paint = _COLOURS.get(line[:1]) if colour else None
        print(f"{paint}{line}\x1b[0m" if paint else line)


def _diff(source: SourceFile, text: str) -> Iterator[str]:
    """A unified diff, line by line; a line that differs in its end only is shown with it."""
    old = [line.replace("\r", "\\r") for line in source.text.split("\n")]
    new = text.split("\n")
    names = (f"{source.path} (as it is)", f"{source.path} (formatted)")
    return difflib.unified_diff(old, new, *names, lineterm="")
