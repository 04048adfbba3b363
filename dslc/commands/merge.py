"""`dslc merge FILE --weights lora.safetensors -o plain.safetensors`: weights that adapters change
(`lora` layers, `adapt` lines) become weights of the model without them."""

from __future__ import annotations

import argparse
from pathlib import Path

from dslc.build.merging import merge
from dslc.commands.source import add_model, check_output, parse_settings, read_source
from dslc_runtime import safetensors


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the .dl file")
    parser.add_argument(
        "--weights", type=Path, required=True, metavar="W.safetensors", help="what training wrote"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PLAIN.safetensors", help="where to"
    )
    add_model(parser)
    parser.add_argument("--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    source = read_source(args.file)
    check_output(args.output)
    weights, merged = merge(source, args.weights, args.model, parse_settings(args.set))
    safetensors.save(args.output, weights, {})
    if not args.quiet:
        count = f"{len(merged)} weight{'s' * (len(merged) != 1)}"
        print(f"merged {count} of {len(weights)}; wrote {args.output}")
    return 0
