"""`dslc bench OUT.dlc`: what a call takes, and each of its kernels, beside what the machine can do.

Input: an artifact, or a .dl file that is compiled first. Inputs are random numbers (integers are 0,
which any table has). Percentages are of peaks that are measured in the same run (`build/peaks.py`).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

import dslc_runtime
from dslc._frozen import dataclass
from dslc.build import session
from dslc.build.errors import BuildError
from dslc.build.peaks import Peaks, measure
from dslc.build.target import parse_targets
from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import (
    add_dims,
    add_exact,
    add_model,
    add_precision,
    parse_dims,
    parse_settings,
    read_source,
)
from dslc_runtime import dims
from dslc_runtime.dtypes import Array, numpy_dtype
from dslc_runtime.entry import Entry, StepTime
from dslc_runtime.manifest import TensorInfo
from dslc_runtime.session import Model

SAMPLE = 0.002  # seconds that a sample lasts at least, or the clock shows in it


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="an artifact (.dlc), or a .dl file")
    parser.add_argument("--entry", help="which entry to call (default: forward, or the first)")
    parser.add_argument("--seconds", type=float, default=3.0, help="to measure for")
    parser.add_argument("--threads", type=int, help="of the compiled code (default: all CPUs)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add_dims(parser, "the size of a dynamic dim (default: its least, or 1)")
    add_model(parser)
    add_precision(parser)
    add_exact(parser)
    parser.add_argument("--train", action="store_true", help="of a .dl file: the training step too")


def run(args: argparse.Namespace) -> int:
    if not args.seconds > 0:
        raise UserError(f"--seconds must be greater than 0, not {args.seconds}", EXIT_USAGE)
    sizes = {}
    for name, given in parse_dims(args.dim).items():
        if len(given) != 1:
            raise UserError(f"--dim {name} takes one size here", EXIT_USAGE)
        sizes[name] = given[0]
    model = opened(args, sizes)
    entry = chosen(model, args.entry)
    values = bound(entry, sizes)
    arrays = {info.name: random(info, values) for info in entry.signature.inputs}
    found = measured(entry, arrays, args.seconds)
    steps = by_step(entry, arrays, args.seconds) if model.device is None else ()
    try:
        peaks = measure()
    except BuildError:
        peaks = None
    threads = model.threads or dslc_runtime.get_num_threads()
    if args.json:
        told = {
            "model": model.name, "entry": entry.info.name, "sizes": values, "threads": threads,
            "target": model.target.name, "seconds": asdict(found),
            "steps": [asdict(step) for step in steps],
            "peaks": None if peaks is None else asdict(peaks),
        }  # fmt: skip
        print(json.dumps(told, indent=1))
    else:
        print("\n".join(table(model, entry, values, threads, found, steps, peaks)))
    return 0


# --- what is called -------------------------------------------------------------------------------


def opened(args: argparse.Namespace, sizes: Mapping[str, int]) -> Model:
    """The artifact, or the file compiled for the sizes asked for."""
    if args.file.suffix != ".dl":
        for option in ("model", "set", "exact", "train"):
            if getattr(args, option):
                raise UserError(f"--{option} is for a .dl file; an artifact is built", EXIT_USAGE)
        return dslc_runtime.load(args.file, threads=args.threads)
    built = session.build_source(
        read_source(args.file),
        parse_targets("cpu", None, None, args.threads, args.exact),
        model=args.model,
        settings=parse_settings(args.set),
        training=args.train,
        sizes={name: (size,) for name, size in sizes.items()},
        precision=args.precision,
    )
    return session.load_built(built, None, 0, args.threads)


def chosen(model: Model, name: str | None) -> Entry:
    if name is not None:
        return model.entry(name)
    return model.entries.get("forward") or next(iter(model.entries.values()))


def bound(entry: Entry, sizes: Mapping[str, int]) -> dict[str, int]:
    """A size of each dynamic dim."""
    known = [dim.name for dim in entry.info.dims]
    for name in sizes:
        if name not in known:
            held = f"; they are {', '.join(known)}" if known else ""
            raise UserError(f"{entry.info.name} has no dynamic dim {name}{held}", EXIT_USAGE)
    return {dim.name: sizes.get(dim.name, max(dim.low, 1)) for dim in entry.info.dims}


def random(info: TensorInfo, values: Mapping[str, int]) -> Array:
    shape = [dims.evaluate(dim, values) for dim in info.dims]
    dtype = numpy_dtype(info.dtype)
    if not info.dtype.startswith(("f", "bf")):
        return np.zeros(shape, dtype)
    return np.random.default_rng(0).standard_normal(shape, np.float32).astype(dtype)


# --- measuring ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds of a call; `low` and `high` are the tenth and the ninetieth of a hundred."""

    minimum: float
    median: float
    low: float
    high: float
    samples: int


def measured(entry: Entry, arrays: Mapping[str, Array], seconds: float) -> Measured:
    def call() -> None:
        entry(**arrays)

    call()
    repeats = max(1, int(SAMPLE / max(timed(call), 1e-7)))
    samples: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(samples) < 5:
        samples.append(timed(call, repeats))
    tenths = statistics.quantiles(samples, n=10)
    return Measured(min(samples), statistics.median(samples), tenths[0], tenths[-1], len(samples))


def timed(call: Callable[[], None], repeats: int = 1) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def by_step(entry: Entry, arrays: Mapping[str, Array], seconds: float) -> tuple[StepTime, ...]:
    """The steps with the medians of what they took."""
    runs = [entry.times(**arrays)]
    end = time.perf_counter() + seconds / 2
    while time.perf_counter() < end and len(runs) < 1000:
        runs.append(entry.times(**arrays))
    return tuple(
        StepTime(first.name, statistics.median(step.seconds for step in each), first.flops,
                 first.moved)
        for first, *each in zip(runs[0], *runs)
    )  # fmt: skip


# --- telling --------------------------------------------------------------------------------------


def table(
    model: Model, entry: Entry, values: Mapping[str, int], threads: int, found: Measured,
    steps: Sequence[StepTime], peaks: Peaks | None,
) -> list[str]:  # fmt: skip
    sizes = "".join(f", {name} = {size}" for name, size in values.items())
    lines = [
        f"{model.name}.{entry.info.name}{sizes}, {model.target.name}, "
        f"{threads} thread{'s' * (threads != 1)}",
        f"{shown(found.median)} median, {shown(found.minimum)} least, "
        f"{shown(found.low)} to {shown(found.high)} in 80 of 100 calls; {found.samples} samples",
    ]
    flops = sum(step.flops for step in steps)
    if flops:
        rate = flops / found.median
        of = "" if peaks is None else f", {rate / peaks.flops / threads:.0%} of the peak"
        lines.append(f"{flops:,} FLOPs: {rate / 1e9:.1f} GFLOP/s{of}")
    if peaks is not None:
        lines.append(
            f"peaks of a core: {peaks.flops / 1e9:.1f} GFLOP/s in f32, "
            f"{peaks.bytes / 1e9:.1f} GB/s read from memory"
        )
    return [*lines, *_rows(steps, threads, peaks)] if steps else lines


def _rows(steps: Sequence[StepTime], threads: int, peaks: Peaks | None) -> list[str]:
    """A line for each step, the longest first."""
    width = max(len("kernel"), *(len(step.name) for step in steps))
    total = sum(step.seconds for step in steps) or 1.0
    lines = [
        "",
        f"{'kernel':{width}} {'time':>9} {'share':>6} {'GFLOP/s':>8} {'peak':>5} {'GB/s':>7}",
    ]
    for step in sorted(steps, key=lambda step: -step.seconds):
        seconds = max(step.seconds, 1e-9)
        peak = "" if peaks is None else f"{step.flops / seconds / peaks.flops / threads:.0%}"
        lines.append(
            f"{step.name:{width}} {shown(step.seconds):>9} {step.seconds / total:6.1%} "
            f"{step.flops / seconds / 1e9:8.1f} {peak:>5} {step.moved / seconds / 1e9:7.1f}"
        )
    return lines


def shown(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e6:.1f} µs"
