"""`dslc lsp`: the language server, on stdin and stdout or on a TCP port."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from importlib.util import find_spec

from dslc.cli import EXIT_MACHINE, UserError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tcp", type=int, metavar="PORT", help="listen on this port of 127.0.0.1, not on stdin"
    )
    parser.add_argument(
        "--stdio", action="store_true", help="speak on stdin and stdout, which is what it does"
    )


def run(args: argparse.Namespace) -> int:
    if find_spec("pygls") is None:
        raise UserError(
            "the language server needs the package pygls: pip install 'dslc[lsp]'", EXIT_MACHINE
        )
    from dslc.lsp.server import make_server

    server = make_server(version("dslc"))
    if args.tcp is not None:
        server.start_tcp("127.0.0.1", args.tcp)
    else:
        server.start_io()
    return 0
