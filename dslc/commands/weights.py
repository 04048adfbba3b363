"""Weights from a file, for several commands: `--weights`, `--missing`, and what became of each."""

from __future__ import annotations

import argparse
from pathlib import Path

from dslc_runtime import LoadReport


def add_weights(parser: argparse.ArgumentParser) -> None:
    """`--weights`, `--missing` and `--report`: numbers from a file."""
    parser.add_argument("--weights", type=Path, metavar="W.safetensors", help="the weights")
    parser.add_argument(
        "--missing",
        action="append",
        default=[],
        metavar="PATTERN",
        help="weights that W may lack, such as 'head.*'; may be given again",
    )
    parser.add_argument("--report", action="store_true", help="list what became of each weight")


def tell_weights(report: LoadReport | None, *, whole: bool) -> None:
    """Prints what was loaded: a line of counts and what is missing, or `whole` lists."""
    if report is None:
        return
    print(report if whole else report.summary)
    if not whole and report.missing:
        print(report.notes[-1])
