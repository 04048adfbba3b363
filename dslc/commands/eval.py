"""`dslc eval FILE|OUT.dlc --data test.npz --weights W`: loss and metrics over all examples."""

from __future__ import annotations

import argparse
from pathlib import Path

import dslc
from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import (
    add_data,
    add_exact,
    add_model,
    add_precision,
    parse_settings,
    read_source,
    tell_notes,
)
from dslc.training.data import load
from dslc.training.loop import evaluate


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE|OUT.dlc", help="source, or what build --train wrote"
    )
    add_data(parser)
    parser.add_argument("--weights", type=Path, help="a .safetensors file")
    parser.add_argument("--batch", type=int, default=256, help="examples in one call")
    add_model(parser)
    add_precision(parser)
    add_exact(parser)
    parser.add_argument("--threads", type=int, help="of the compiled code (default: all CPUs)")


def run(args: argparse.Namespace) -> int:
    if args.batch < 1:
        raise UserError("--batch must be at least 1", EXIT_USAGE)
    if args.file.suffix == ".dlc":
        if args.precision != "f32" or args.exact:
            option = "--exact" if args.exact else "--precision"
            raise UserError(f"{option} is for a source file: a built model has its own", EXIT_USAGE)
        model = dslc.Trainer(dslc.load(args.file, threads=args.threads))
        if args.weights is not None:
            model.load_weights(args.weights)
    else:
        if args.weights is None:
            raise UserError("--weights is needed to evaluate a source file", EXIT_USAGE)
        model = dslc.compile(
            read_source(args.file),
            model=args.model,
            train=True,
            weights=args.weights,
            set=parse_settings(args.set),
            threads=args.threads,
            precision=args.precision,
            exact=args.exact,
        )
    report = model.model.report
    tell_notes(() if report is None else report.notes)
    data = load(args.data, model.input_names)
    for name, value in evaluate(model, data, args.batch).items():
        print(f"{name} {value:.6f}")
    return 0
