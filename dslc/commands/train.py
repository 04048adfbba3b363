"""`dslc train FILE --data train.npz ...`: trains with progress, metrics, a loss curve, checkpoints.

The folder given by `-o` gets `weights.safetensors`, `checkpoint.safetensors`, `history.json`,
`loss.svg` (and `loss.png` where matplotlib is installed). Ctrl-C finishes the step, writes a
checkpoint and stops; `--resume` goes on from it.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dslc
from dslc.build import session
from dslc.cli import EXIT_INTERRUPTED, EXIT_USAGE, UserError
from dslc.commands.progress import Display
from dslc.commands.source import (
    add_data,
    add_dims,
    add_exact,
    add_memory,
    add_model,
    add_precision,
    parse_dims,
    parse_settings,
    read_source,
)
from dslc.commands.weights import add_weights, tell_weights
from dslc.ir.core import Program
from dslc.training import curve
from dslc.training.data import load
from dslc.training.loop import Outcome, Plan, fit, saved_plan

BATCH = 64


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the .dl file")
    add_data(parser)
    parser.add_argument("--val", type=Path, help="the same, to measure after each epoch")
    parser.add_argument("--epochs", type=int, default=10, help="how often all examples are seen")
    parser.add_argument("--batch", type=int, help=f"examples in one step (default: {BATCH})")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="DIR", help="for results"
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from DIR's checkpoint, with its --batch and --seed",
    )
    parser.add_argument("--seed", type=int, help="of first weights, order and dropout (default: 0)")
    add_weights(parser)
    add_model(parser)
    add_precision(parser)
    add_exact(parser)
    add_memory(parser)
    add_dims(parser)
    parser.add_argument("--threads", type=int, help="of the compiled code (default: all CPUs)")
    parser.add_argument("--quiet", action="store_true", help="print errors only")


def planned(args: argparse.Namespace) -> Plan:
    """What the command line says; what it leaves out is as it was where a run is resumed."""
    before = saved_plan(args.output) if args.resume else Plan(args.epochs, BATCH)
    batch = before.batch if args.batch is None else args.batch
    seed = before.seed if args.seed is None else args.seed
    if args.epochs < 1 or batch < 1:
        raise UserError("--epochs and --batch must be at least 1", EXIT_USAGE)
    return Plan(args.epochs, batch, seed)


def sizes(args: argparse.Namespace, program: Program, batch: int) -> dict[str, tuple[int, ...]]:
    """Sizes that get code of their own; with `--memory` the batch's, which is fitted into it."""
    given = parse_dims(args.dim)
    dims = program.entries[0].function.params[0].type.dims
    if args.memory is None or not dims or isinstance(dims[0], int):
        return given
    return {str(dims[0]): (batch,), **given}


def run(args: argparse.Namespace) -> int:
    plan = planned(args)
    if args.output.exists() and not args.output.is_dir():
        raise UserError(f"{args.output} is no folder; -o names one for the results", EXIT_USAGE)
    source = read_source(args.file)
    settings = parse_settings(args.set)
    # What is wrong with the data is told before the model is compiled, which may take long.
    program = session.program_of(source, args.model, settings, training=True)
    step = program.entry("evaluate")
    names = tuple(argument.name for argument in step.arguments if argument.role == "input")
    data = load(args.data, names)
    validation = load(args.val, names) if args.val else None
    started = time.perf_counter()
    model = dslc.compile(
        source,
        model=args.model,
        train=True,
        seed=plan.seed,
        weights=args.weights,
        missing=args.missing,
        set=settings,
        threads=args.threads,
        precision=args.precision,
        exact=args.exact,
        memory=args.memory,
        dims=sizes(args, program, plan.batch),
    )
    compiled = time.perf_counter() - started
    if not args.quiet:
        tell_weights(model.model.report, whole=args.report)
    with Display(args.epochs, quiet=args.quiet) as display, interrupts() as interrupted:
        display.say(
            f"{model.name}: {model.parameter_count:,} parameters, compiled in {compiled:.1f} s; "
            f"{data.count:,} examples in batches of {plan.batch}"
        )
        outcome = fit(
            model,
            data,
            plan,
            args.output,
            validation=validation,
            resume=args.resume,
            on_event=display.event,
            stop=lambda: bool(interrupted),
        )
    draw(outcome, args.output, f"Training of {model.name}")
    if outcome.interrupted:
        print(f"stopped; `--resume` goes on from {args.output}", file=sys.stderr)
        return EXIT_INTERRUPTED
    if not args.quiet:
        print(f"trained in {outcome.seconds:.1f} s; wrote {args.output / 'weights.safetensors'}")
    return 0


@contextmanager
def interrupts() -> Iterator[list[int]]:
    """A list that the first Ctrl-C fills; a second one interrupts at once."""
    seen: list[int] = []

    def note(number: int, frame: object) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def draw(outcome: Outcome, folder: Path, title: str) -> None:
    """The loss per step and, where there is validation, per epoch; `loss.svg` and `loss.png`."""
    steps = [(float(i + 1), loss) for i, loss in enumerate(outcome.losses)]
    series: dict[str, list[tuple[float, float]]] = {"training loss": steps}
    records = [r for r in outcome.history if "val_loss" in r]
    if records:
        per_epoch = len(steps) / max(len(outcome.history), 1)
        series["validation loss"] = [(r["epoch"] * per_epoch, r["val_loss"]) for r in records]
    write(folder / "loss.svg", curve.svg(series, title, "step").encode())
    if importlib.util.find_spec("matplotlib"):
        from dslc.training.png import png

        write(folder / "loss.png", png(series, title, "step"))


def write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
