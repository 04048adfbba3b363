"""`dslc opt -p canonicalize,cse FILE.dlir`: runs passes on IR text and prints the result."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dslc import ops
from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import read_source
from dslc.ir import text
from dslc.passes import pipeline


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="IR text; - reads standard input")
    parser.add_argument("-p", "--passes", default="", metavar="PASS,...", help="what to run")
    parser.add_argument("--list", action="store_true", help="list the passes instead")


def run(args: argparse.Namespace) -> int:
    passes = pipeline.FUNCTION_PASSES
    if args.list:
        print("\n".join(passes))
        return 0
    names = [name for name in args.passes.split(",") if name]
    for name in names:
        if name not in passes:
            raise UserError(f"there is no pass {name!r}; there are {', '.join(passes)}", EXIT_USAGE)
    given = sys.stdin.read() if args.file == "-" else read_source(Path(args.file)).text
    for function in text.parse_functions(given, ops.BY_NAME):
        for name in names:
            function = passes[name](function)
        print(text.print_function(function))
    return 0
