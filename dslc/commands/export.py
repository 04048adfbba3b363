"""`dslc export FILE -o OUT.onnx`: writes a model as ONNX, for other runtimes and viewers."""

from __future__ import annotations

import argparse
from pathlib import Path

from dslc.api import export_onnx
from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import (
    add_dims,
    add_model,
    check_output,
    parse_dims,
    parse_settings,
    read_source,
)
from dslc.commands.weights import add_weights, tell_weights


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the .dl file")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT.onnx", help="beside FILE if left out"
    )
    add_model(parser)
    parser.add_argument("--entry", help="which entry, where the model has several (forward)")
    add_dims(parser, "fix a dynamic dim at one size; may be given again for others")
    add_weights(parser)
    parser.add_argument("--seed", type=int, default=0, help="of first weights without --weights")
    parser.add_argument("--opset", type=int, metavar="K", help="the version of operators (18)")
    parser.add_argument("--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    source = read_source(args.file)
    output = args.output or args.file.with_suffix(".onnx")
    check_output(output)
    if output.resolve() == args.file.resolve():
        raise UserError(f"-o {output} would overwrite the source", EXIT_USAGE)
    made = export_onnx(
        source,
        output,
        weights=args.weights,
        model=args.model,
        set=parse_settings(args.set),
        entry=args.entry,
        dims=_fixed(parse_dims(args.dim)),
        missing=args.missing,
        seed=args.seed,
        opset=args.opset,
    )
    if not args.quiet:
        tell_weights(made.report, whole=args.report)
        print(f"{', '.join(made.inputs)} -> {', '.join(made.outputs)}: {made.nodes} nodes")
        for path in made.files:
            print(f"wrote {path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _fixed(sizes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """The size of each dim; UserError where there are several."""
    for name, several in sizes.items():
        if len(set(several)) > 1:
            raise UserError(f"--dim fixes {name} at one size, not at {len(several)}", EXIT_USAGE)
    return {name: size for name, (size, *_) in sizes.items()}
