"""`dslc show FILE --stage S`: what the compiler makes of a program at a stage, as text."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from dslc.autodiff.train_step import add_train_step
from dslc.build import driver, session
from dslc.build.scratch import scratch_folder
from dslc.build.special import check_sizes
from dslc.build.target import parse_targets, with_memory
from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import (
    add_dims,
    add_exact,
    add_memory,
    add_model,
    add_precision,
    parse_dims,
    parse_settings,
    read_source,
)
from dslc.ir.core import Program
from dslc.ir.page import page
from dslc.ir.picture import pictures_of
from dslc.ir.text import print_function, print_program

DRAWN = ("ir", "grad", "optimised", "kernels")
STAGES = ("source", "ir", "grad", "optimised", "kernels", "tir", "cuda", "asm")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the .dl file")
    parser.add_argument("--stage", choices=STAGES, default="ir", help="how far to compile")
    parser.add_argument(
        "--html", action="store_true", help="a page with the graph, to look at in a browser"
    )
    parser.add_argument("--entry", help="only this entry, such as forward or train_step")
    parser.add_argument("--target", default="cpu", help="cpu or cuda, from the stage optimised on")
    parser.add_argument(
        "--cpu", metavar="LEVEL", help="native, x86-64-v2, -v3, -v4, generic-aarch64"
    )
    parser.add_argument("--arch", metavar="SM", help="a GPU architecture, such as sm_80")
    add_model(parser)
    add_dims(parser)
    add_precision(parser)
    add_exact(parser)
    add_memory(parser)
    parser.add_argument("--train", action="store_true", help="the training step too")
    parser.add_argument("--threads", type=int, help="of the compiled code (default: all CPUs)")


def run(args: argparse.Namespace) -> int:
    source = read_source(args.file)
    if args.html and args.stage not in DRAWN:
        raise UserError(f"--html draws the stages {', '.join(DRAWN)}", EXIT_USAGE)
    if args.stage == "source":
        print(source.text, end="" if source.text.endswith("\n") else "\n")
        return 0
    training = args.train or args.stage == "grad"
    targets = parse_targets(args.target, args.cpu, args.arch, args.threads)
    session.check_precision(args.precision, training, targets)
    program = session.program_of(source, args.model, parse_settings(args.set), training=training)
    if args.stage == "ir":
        if args.precision != "f32":
            program = driver.for_gradients(program, args.precision)
        print(shown(program, args, args.entry))
    elif args.stage == "grad":
        program = add_train_step(driver.for_gradients(program, args.precision))
        print(shown(program, args, args.entry or "train_step"))
    else:
        print(later(program, args))
    return 0


def later(program: Program, args: argparse.Namespace) -> str:
    """The stages after the optimiser, for one target."""
    kind = "cuda" if args.stage == "cuda" else args.target
    sizes = parse_dims(args.dim)
    targets = parse_targets(kind, args.cpu, args.arch, args.threads, args.exact)
    (target, *_) = with_memory(targets, args.memory, sizes)
    check_sizes(program, sizes)
    optimised = driver.optimise(program, target, sizes=sizes, precision=args.precision)
    if args.stage == "optimised":
        return shown(optimised, args, args.entry)
    program = only(optimised, args.entry)
    wanted = "asm" if args.stage == "cuda" else "page" if args.html else args.stage
    with scratch_folder("show") as folder:
        job = driver.make_job(program, target, folder, wanted)
        return driver.run_job(job).text.rstrip()


def only(program: Program, entry: str | None) -> Program:
    """The program with one entry, if one was asked for."""
    if entry is None:
        return program
    names = [e.name for e in program.entries]
    if entry not in names:
        raise UserError(f"there is no entry {entry!r}; there are {', '.join(names)}", EXIT_USAGE)
    return replace(program, entries=(program.entry(entry),))


def shown(program: Program, args: argparse.Namespace, entry: str | None) -> str:
    """One function when an entry was asked for, else the whole program but for the functions that
    make first values; or a page with the pictures of its entries."""
    program = only(program, entry)
    if args.html:
        pictures = (picture for each in program.entries for picture in pictures_of(each))
        return page(f"{program.name}: {args.stage}", pictures).rstrip()
    if entry is not None:
        return print_function(program.entry(entry).function)
    variables = tuple(replace(v, init=None) for v in program.variables)
    return print_program(replace(program, variables=variables))
