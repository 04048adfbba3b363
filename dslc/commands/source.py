"""What several commands share: reading a source, `--model`, `--set`, `--dim`, notes, colour."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from dslc.cli import EXIT_USAGE, UserError
from dslc.source import SourceFile

if TYPE_CHECKING:
    from dslc.semantics.elaborate import Setting


def read_source(path: Path, newline: str | None = None) -> SourceFile:
    """The file as source; UserError when it can't be read or is not UTF-8 text.

    newline: as in `open`; `""` keeps the file's own line ends.
    """
    try:
        with open(path, encoding="utf-8", newline=newline) as file:
            return SourceFile(str(path), file.read())
    except FileNotFoundError:
        raise UserError(f"there is no file {path}", EXIT_USAGE) from None
    except UnicodeDecodeError:
        if path.suffix == ".dlc":
            told = f"{path} is a built model; this reads the .dl file it came from"
            raise UserError(told) from None
        raise UserError(f"{path} is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}", EXIT_USAGE) from None


def check_output(path: Path) -> None:
    """UserError where no file can be written to `path`: told before the work, not behind it."""
    if not path.absolute().parent.is_dir():
        raise UserError(f"there is no folder {path.parent} to write {path.name} to")
    if path.is_dir():
        raise UserError(f"{path} is a folder; -o names the file to write", EXIT_USAGE)


def add_model(parser: argparse.ArgumentParser, holder: str = "file") -> None:
    """`--model` and `--set`: which model of the source, with what static parameters."""
    parser.add_argument("--model", help=f"which model, where the {holder} holds several")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a static parameter of the model; may be given again",
    )


def add_precision(parser: argparse.ArgumentParser) -> None:
    """`--precision`: what contractions are computed in."""
    parser.add_argument(
        "--precision",
        choices=("f32", "bf16", "f16", "bf16-weights", "int8-weights"),
        default="f32",
        help="of products, convolutions and attention; weights and results keep their types; "
        "bf16-weights, int8-weights: f32, but the weights of products are kept in 16 or 8 bits",
    )


def add_exact(parser: argparse.ArgumentParser) -> None:
    """`--exact`: no Winograd, no Strassen."""
    parser.add_argument(
        "--exact",
        action="store_true",
        help="sums of convolutions and products as they are written: slower, and up to ten times "
        "more precise",
    )


def add_dims(
    parser: argparse.ArgumentParser,
    told: str = "code of its own for these sizes of a dynamic dim; may be given again",
) -> None:
    """`--dim`: sizes of dynamic dims."""
    parser.add_argument(
        "--dim",
        action="append",
        default=[],
        metavar="N=1,32",
        help=told,
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """`--data`: the examples."""
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="an .npz, one array per input, or a folder of NAME.npy files (larger than memory)",
    )


def add_memory(parser: argparse.ArgumentParser) -> None:
    """`--memory`: what the arena may take."""
    parser.add_argument(
        "--memory",
        metavar="BYTES",
        help="the most memory between kernels, such as 200MiB: what does not fit is computed again",
    )


def parse_settings(settings: Sequence[str]) -> dict[str, Setting]:
    """`name=value` pairs of `--set`; values are integers (several by commas), floats, true, false,
    or text, which is also the name of a function or of a dtype."""
    out: dict[str, Setting] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--set takes name=value, not {setting!r}", EXIT_USAGE)
        out[name] = _value(text)
    return out


def parse_dims(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`N=1,32` of `--dim`, which may be given again for a dim."""
    out: dict[str, tuple[int, ...]] = {}
    for text in given:
        name, equals, sizes = text.partition("=")
        parts = sizes.split(",")
        if not equals or not name.isidentifier() or not all(p.strip().isdecimal() for p in parts):
            raise UserError(f"--dim takes a dim and its sizes, N=1,32, not {text!r}", EXIT_USAGE)
        out[name] = (*out.get(name, ()), *map(int, parts))
    return out


def _value(text: str) -> Setting:
    if text in ("true", "false"):
        return text == "true"
    if "," in text and all(part.strip().lstrip("-").isdecimal() for part in text.split(",")):
        return tuple(map(int, text.split(",")))
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.strip('"')


def tell_notes(notes: Sequence[str]) -> None:
    """Prints what a user should know, beside the output."""
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def use_colour(stream: TextIO) -> bool:
    """Colour only on a terminal, and not where NO_COLOR asks for none (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")
