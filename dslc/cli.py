"""The command line: picks a command, runs it, turns what went wrong into one message.

Each command is a module of `dslc.commands` with `arguments(parser)` and `run(args) -> int`; only
the one that is asked for is imported, so that `dslc check` starts in a blink. Exit status: 0 done,
1 the program or its data is wrong, 2 the command line is wrong, 3 the machine lacks something,
70 a bug in dslc, 130 interrupted. No traceback unless `--traceback`.
"""

from __future__ import annotations

import argparse
import importlib
import keyword
import os
import sys
from collections.abc import Sequence
from typing import Any

from dslc.diagnostics import CompileError, InternalError

COMMANDS = {
    "new": "a small project that works: model, data, commands",
    "check": "all errors and warnings of .dl files, in a blink",
    "fmt": "put .dl files into the one style",
    "build": "compile a .dl file into one artifact (.dlc)",
    "run": "call an artifact on arrays from files",
    "bench": "what a call takes, kernel by kernel, beside the machine's peaks",
    "tune": "measure kernels with other parameters, for later builds",
    "train": "train a model on an .npz file",
    "eval": "loss and metrics on an .npz file",
    "export": "write a model as ONNX",
    "import": "an ONNX model as .dl source text and weights",
    "merge": "weights of low rank (LoRA) merged into the plain model's",
    "show": "any stage of the compiler as text",
    "explain": "what an error code means, with examples",
    "doc": "the library, built-in functions and your files, explained",
    "lsp": "the language server, for editors",
    "opt": "run passes on IR text",
}

EXIT_WRONG, EXIT_USAGE, EXIT_MACHINE, EXIT_BUG, EXIT_INTERRUPTED = 1, 2, 3, 70, 130


class UserError(Exception):
    """What the user asked for can't be done; the text is one clear message.

    `status` is the exit status.
    """

    def __init__(self, message: str, status: int = EXIT_WRONG) -> None:
        super().__init__(message)
        self.status = status


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `dslc ARGV`; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if arguments else EXIT_USAGE
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"dslc {version('dslc')}")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        print(unknown_command(name), file=sys.stderr)
        return EXIT_USAGE
    module = command_module(name)
    args = command_parser(name).parse_args(rest)
    try:
        return int(module.run(args))
    except BrokenPipeError:
        # The reader (head, less) has gone; Python would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except Exception as error:
        if args.traceback:
            raise
        return report(error, name)


def command_module(name: str) -> Any:
    """The module of a command; that of one which Python has for itself (`import`) ends with `_`."""
    return importlib.import_module(f"dslc.commands.{name}{'_' * keyword.iskeyword(name)}")


def command_parser(name: str) -> argparse.ArgumentParser:
    """The options of a command."""
    parser = argparse.ArgumentParser(prog=f"dslc {name}", description=COMMANDS[name])
    command_module(name).arguments(parser)
    parser.add_argument(
        "--traceback", action="store_true", help="show where in dslc an error came from"
    )
    return parser


def report(error: Exception, command: str) -> int:
    """Prints an error as one message and says with which status to exit."""
    if isinstance(error, CompileError):
        print(error, file=sys.stderr)
        return EXIT_WRONG
    if isinstance(error, UserError):
        print(f"error: {error}", file=sys.stderr)
        return error.status
    status = known_status(error)
    if status is not None:
        print(f"error: {error}", file=sys.stderr)
        return status
    kind = "" if isinstance(error, InternalError) else f"{type(error).__name__}: "
    print(
        f"error: {kind}{error}\n"
        f"This is a bug in dslc, not in your program. Please report it with the output of\n"
        f"`dslc {command} ... --traceback` and the file that shows it.",
        file=sys.stderr,
    )
    return EXIT_BUG


def known_status(error: Exception) -> int | None:
    """The status of an error that says itself what is wrong; None for what nobody foresaw."""
    by_name = {
        "ArgumentError": EXIT_WRONG,
        "ArtifactError": EXIT_WRONG,
        "DataError": EXIT_WRONG,
        "ExportError": EXIT_WRONG,
        "ResumeError": EXIT_WRONG,
        "Diverged": EXIT_WRONG,
        "TextError": EXIT_WRONG,
        "TargetError": EXIT_USAGE,
        "BuildError": EXIT_MACHINE,
        "DeviceError": EXIT_MACHINE,
    }
    # By name: importing the classes would pull NumPy and TVM into every start.
    for kind in type(error).__mro__:
        if kind.__name__ in by_name and kind.__module__.startswith("dslc"):
            return by_name[kind.__name__]
    return EXIT_MACHINE if isinstance(error, OSError) else None


def overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "dslc: a compiler for neural networks written as text files",
            "",
            "usage: dslc COMMAND ...    (dslc COMMAND --help tells more)",
            "",
            *lines,
        ]
    )


def unknown_command(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, COMMANDS, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"error: there is no command {name!r}{hint} (dslc --help lists them)"


if __name__ == "__main__":
    sys.exit(main())
