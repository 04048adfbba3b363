"""`dslc tune FILE`: the kernels of a model measured with other parameters, on this machine.

Output: a line for each kernel, and what was found in the user's cache, which later builds for
`native` use. A build needs none of it: the cost model's choice stands where nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dslc.build import driver, session, tuned
from dslc.build.special import check_sizes
from dslc.build.target import cpu_target
from dslc.cli import EXIT_USAGE, UserError
from dslc.commands.source import (
    add_dims,
    add_model,
    add_precision,
    parse_dims,
    parse_settings,
    read_source,
)
from dslc.diagnostics import InternalError


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the .dl file")
    parser.add_argument("--seconds", type=float, default=60.0, help="to measure for (default: 60)")
    parser.add_argument("--threads", type=int, help="how many big kernels are cut for")
    parser.add_argument("--train", action="store_true", help="the training step too")
    add_dims(parser)
    add_model(parser)
    add_precision(parser)


def run(args: argparse.Namespace) -> int:
    if not args.seconds > 0:
        raise UserError(f"--seconds must be greater than 0, not {args.seconds}", EXIT_USAGE)
    sizes = parse_dims(args.dim)
    if any(len(given) != 1 for given in sizes.values()):
        raise UserError("--dim takes one size here: that which is measured", EXIT_USAGE)
    source, target = read_source(args.file), cpu_target("native", args.threads)
    precision = session.check_precision(args.precision, args.train, [target])
    settings = parse_settings(args.set)
    program = session.program_of(source, args.model, settings, training=args.train)
    check_sizes(program, sizes)
    job = driver.make_job(
        driver.optimise(program, target, sizes=sizes, precision=precision), target, Path()
    )
    wanted = {
        "job": job.to_json(),
        "sizes": {name: size for name, (size,) in sizes.items()},
        "seconds": args.seconds,
    }
    found: dict[str, tuple[tuple[str, int], ...]] = {}
    count, before, after = 0, 0.0, 0.0
    for kernel in measured(wanted):
        print(line(kernel), flush=True)
        count, before, after = count + 1, before + kernel["before"], after + kernel["after"]
        if kernel["choice"]:
            found[kernel["key"]] = tuple(kernel["choice"].items())
    if not count:
        print("no kernel has parameters that could be measured")
        return 0
    gain = before / after
    print(f"{count} kernels measured, {len(found)} gain by other parameters: {gain:.2f}x in all")
    if found:
        path = tuned.keep(target, found)
        where = "nothing can be kept in the user's cache" if path is None else f"kept in {path}"
        print(f"{where}: builds for this CPU and {target.tasks} threads use it")
    return 0


def measured(wanted: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the measuring process tells, as soon as it does."""
    command = [sys.executable, "-m", "dslc.build.tune"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            if process.stdin is None or process.stdout is None:
                raise InternalError("the measuring process has no pipes")
            process.stdin.write(json.dumps(wanted))
            process.stdin.close()
            yield from map(json.loads, process.stdout)
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.kill()
    if process.returncode != 0:
        raise InternalError(f"measuring ended with status {process.returncode}")


def line(kernel: Mapping[str, Any]) -> str:
    """`forward_3_matmul: 12.1 -> 10.3 µs (1.17x): rows=8 vectors=3`."""
    before, after = 1e6 * kernel["before"], 1e6 * kernel["after"]
    if not kernel["choice"]:
        return f"{kernel['name']}: {before:.1f} µs, the best of {kernel['tried'] + 1}"
    told = " ".join(f"{name}={value}" for name, value in kernel["choice"].items())
    return f"{kernel['name']}: {before:.1f} -> {after:.1f} µs ({before / after:.2f}x): {told}"
