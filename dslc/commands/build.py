"""`dslc build FILE -o OUT.dlc`: compiles a model into one artifact and tells what it made."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dslc.build import session
from dslc.build.driver import Summary
from dslc.build.target import parse_targets, with_memory
from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import (
    add_dims,
    add_exact,
    add_memory,
    add_model,
    add_precision,
    check_output,
    parse_dims,
    parse_settings,
    read_source,
    tell_notes,
)
from dslc.commands.weights import add_weights, tell_weights
from dslc.ir.core import Program
from dslc.ir.text import print_program


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the .dl file")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT.dlc", help="beside FILE if left out"
    )
    parser.add_argument("--target", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--cpu",
        metavar="LEVELS",
        help="native, x86-64-v2, -v3, -v4, generic-aarch64; several by commas",
    )
    parser.add_argument("--arch", metavar="SM", help="GPU architectures, such as sm_80,sm_90")
    add_model(parser)
    add_dims(parser)
    add_weights(parser)
    add_precision(parser)
    add_exact(parser)
    add_memory(parser)
    parser.add_argument("--seed", type=int, default=0, help="of first weights without --weights")
    parser.add_argument("--train", action="store_true", help="the training step too")
    parser.add_argument("--threads", type=int, help="how many big kernels are cut for")
    parser.add_argument("--dump-ir", type=Path, metavar="DIR", help="write every stage, numbered")
    parser.add_argument("--quiet", action="store_true", help="print errors only")


def run(args: argparse.Namespace) -> int:
    started = time.perf_counter()
    source = read_source(args.file)
    output = args.output or args.file.with_suffix(".dlc")
    if output.resolve() == args.file.resolve():
        raise UserError(f"-o {output} would overwrite the source", EXIT_USAGE)
    check_output(output)
    targets = parse_targets(args.target, args.cpu, args.arch, args.threads, args.exact)
    targets = with_memory(targets, args.memory, parse_dims(args.dim))
    dump = Dumper(args.dump_ir) if args.dump_ir else None
    built = session.build_source(
        source,
        targets,
        model=args.model,
        settings=parse_settings(args.set),
        training=args.train,
        dump=dump,
        sizes=parse_dims(args.dim),
        weights=args.weights,
        missing=args.missing,
        precision=args.precision,
    )
    report = session.write(built, output, source, args.weights, args.seed, args.missing)
    if not args.quiet:
        told(built.summary)
        tell_weights(report, whole=args.report)
        size = output.stat().st_size
        seconds = time.perf_counter() - started
        print(f"wrote {output}: {size / 1e6:.2f} MB in {seconds:.1f} s")
    return 0


def told(summary: Summary) -> None:
    """Prints what was built."""
    print(f"{summary.parameters:,} parameters")
    for entry in summary.entries:
        kernels = f"{entry.kernels} kernel{'s' * (entry.kernels != 1)}"
        if entry.distinct != entry.kernels:
            kernels += f" ({entry.distinct} distinct)"
        if entry.calls != str(entry.kernels):
            kernels += f" called {number(entry.calls)} times"
        print(
            f"{entry.target} {entry.name}: {kernels}, {number(entry.flops)} FLOPs, "
            f"{number(entry.arena)} bytes of arena"
            + (f", {number(entry.live)} live at once" if entry.live != "0" else "")
        )
    for line in kernel_table(summary.gpu_kernels):
        print(line)
    for way, layers in (("Winograd", summary.winograd), ("Strassen", summary.strassen)):
        if layers:
            print(f"by {way}, unless --exact: {', '.join(layers)}")
    tell_notes(summary.notes)


def kernel_table(kernels: Sequence[Mapping[str, Any]]) -> list[str]:
    """The GPU's kernels, one line each: registers and bytes of code for every architecture."""
    names = dict.fromkeys(kernel["name"] for kernel in kernels)
    width = max(map(len, names), default=0)
    lines = [f"{len(names)} GPU kernels:"] if names else []
    for name in names:
        each = [
            f"{k['architecture']} {k['registers']:3} registers {k['code_bytes']:6,} bytes"
            for k in kernels
            if k["name"] == name
        ]
        lines.append(f"  {name:{width}}  {', '.join(each)}")
    return lines


def number(text: str) -> str:
    """A number with separators; a size of dynamic dims stays as it is."""
    return f"{int(text):,}" if text.isdecimal() else text


class Dumper:
    """Writes programs as numbered files of IR text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, program: Program) -> None:
        path = self.folder / f"{self.count:02}-{name}.dlir"
        path.write_text(print_program(program, origins=True) + "\n")
        self.count += 1
