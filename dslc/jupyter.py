"""`%%dl` in a notebook: a cell of `.dl` is checked, compiled, and bound to a Python name.

    %load_ext dslc

    %%dl --train
    model Net(x: f32[N, 4]) -> f32[N, 3] { return x |> fc: dense[3] }
    train Net { ... }

Then `Net` is what `dslc.compile` gives. A mistake is shown in place as `dslc check` shows it, and
the cell fails, so that "run all" stops there. Non-goals: cells that import from other cells (import
from files), completion.
"""

from __future__ import annotations

import argparse
import html
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import dslc
from dslc.cli import UserError, known_status
from dslc.commands.source import add_dims, add_model, parse_dims, parse_settings, use_colour
from dslc.diagnostics import CompileError, Diagnostic, render_all
from dslc.semantics.elaborate import Setting
from dslc.source import SourceFile

# The colours of `render_text` as CSS that reads well on a light and on a dark page.
_STYLES = {
    "1": "font-weight:bold",
    "1;31": "font-weight:bold;color:#d1242f",
    "1;33": "font-weight:bold;color:#b07d00",
    "1;34": "font-weight:bold;color:#4078c0",
}
_ESCAPE = re.compile(r"\x1b\[([\d;]*)m")


class CellError(Exception):
    """Ends a cell that has failed; what is wrong has been shown, so there is no traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class _Usage(Exception):
    """The line behind `%%dl` is wrong."""


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would end the process."""

    def error(self, message: str) -> NoReturn:
        raise _Usage(message)


def load_ipython_extension(shell: Any) -> None:
    """`%load_ext dslc`: adds the cell magic `%%dl` to an IPython shell."""

    def dl(line: str, cell: str) -> None:
        run_cell(shell, line, cell)

    dl.__doc__ = _parser().format_help()
    shell.register_magic_function(dl, magic_kind="cell", magic_name="dl")


def _parser() -> _Parser:
    parser = _Parser(prog="%%dl", add_help=False, description="Compiles a cell of .dl source.")
    parser.add_argument("name", nargs="?", help="the Python name; the model's name if left out")
    parser.add_argument("--check", action="store_true", help="only check, compile nothing")
    parser.add_argument("--train", action="store_true", help="bind a trainer (needs a train block)")
    parser.add_argument("--target", default="cpu", choices=("cpu", "cuda"), help="what to run on")
    add_model(parser, "cell")
    add_dims(parser)
    parser.add_argument("--weights", metavar="W.safetensors", help="the weights")
    parser.add_argument("--seed", type=int, default=0, help="of first weights and of training")
    return parser


def run_cell(shell: Any, line: str, cell: str) -> None:
    """One cell: shows what is wrong and raises CellError, or binds the model."""
    try:
        args = _parser().parse_args(shlex.split(line))
        settings, sizes = parse_settings(args.set), parse_dims(args.dim)
        if args.name is not None and not args.name.isidentifier():
            raise _Usage(f"{args.name!r} is no Python name")
    except (_Usage, UserError, ValueError) as error:
        raise CellError(f"%%dl: {error} (%%dl? lists the options)") from None
    # The line of `%%dl` is line 1, as editors number the lines of a cell.
    source = SourceFile(f"In[{shell.execution_count}]", f"\n{cell}")
    found = dslc.check(source)
    if found:
        show(found)
    if any(d.severity == "error" for d in found):
        raise CellError(_count(found))
    if args.check:
        print("no errors")
        return
    model = _compiled(source, args, set=settings, dims=sizes)
    name = args.name or model.name
    shell.push({name: model})
    print(f"{name}: {model!r}" if args.name else repr(model))


def _compiled(
    source: SourceFile,
    args: argparse.Namespace,
    *,
    set: Mapping[str, Setting],
    dims: Mapping[str, tuple[int, ...]],
) -> Any:
    """The model; CellError after showing why there is none."""
    try:
        return dslc.compile(
            source,
            target=args.target,
            model=args.model,
            train=args.train,
            set=set,
            dims=dims,
            weights=args.weights,
            seed=args.seed,
        )
    except CompileError as error:
        show(error.diagnostics)
        raise CellError(_count(error.diagnostics)) from None
    except Exception as error:
        if known_status(error) is None:
            raise
        raise CellError(f"error: {error}") from None


def _count(found: Sequence[Diagnostic]) -> str:
    errors = sum(d.severity == "error" for d in found)
    return f"{errors} error{'s' * (errors != 1)}: nothing was compiled"


def show(found: Sequence[Diagnostic]) -> None:
    """Displays diagnostics, as HTML where the front end can show it."""
    from IPython.display import display

    coloured = render_all(found, color=True)
    plain = coloured if use_colour(sys.stdout) else render_all(found)
    display({"text/plain": plain, "text/html": as_html(coloured)}, raw=True)


def as_html(coloured: str) -> str:
    """Text with the escapes of `render_text` as one HTML element."""
    parts = _ESCAPE.split(coloured)
    out = [html.escape(parts[0])]
    for style, text in zip(parts[1::2], parts[2::2]):
        escaped = html.escape(text)
        css = _STYLES.get(style)
        out.append(f'<span style="{css}">{escaped}</span>' if css else escaped)
    return f'<pre style="line-height:1.25;white-space:pre">{"".join(out)}</pre>'
