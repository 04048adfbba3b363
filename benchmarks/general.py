"""Code for any size beside code for one size: the same model, compiled twice, in alternating calls.

    python -m benchmarks.general [--threads 1,2] [--seconds 3] [--output general]

Ratio = general code's time / specialised code's: what `--dim` gains. Above 1.3 is too much.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import numpy as np

from benchmarks.run import Row, rows_of, tell

CASES = (("article CNN", (1, 32)), ("encoder 6 x 384", (1, 8)), ("ResNet-50", (1,)))


def worker(threads: int, seconds: float) -> None:
    """Times all cases with `threads` threads in this process; prints a line of JSON for each."""
    # Imported here: the parent process needs none of this, and the pools read the environment.
    import dslc
    from benchmarks.race import Core, pin
    from benchmarks.workloads import ARTICLE, ENCODER, MODELS

    pin(threads)
    sources = {
        "article CNN": (ARTICLE, (3, 112, 112)),
        "encoder 6 x 384": (ENCODER, (128, 384)),
        "ResNet-50": (MODELS / "resnet50.dl", (3, 224, 224)),
    }
    core = Core()
    for name, batches in CASES:
        source, dims = sources[name]
        general = dslc.compile(source, threads=threads)
        for batch in batches:
            special = dslc.compile(source, threads=threads, dims={"N": (batch,)})
            x = np.random.default_rng(0).standard_normal((batch, *dims), np.float32)
            calls = {"general": partial(general, x), "special": partial(special, x)}
            timings, share = core.race(calls, seconds, tries=3)
            row = {"workload": f"{name}, batch {batch}", "threads": threads, **asdict(share)}
            row["seconds"] = {call: asdict(timing) for call, timing in timings.items()}
            print(json.dumps(row), flush=True)


def markdown(rows: Sequence[Row]) -> str:
    lines = [
        "Milliseconds, minimum / median. Ratio: general / for this batch alone.",
        "",
        "| workload | threads | for any batch | for this batch | ratio min | ratio median |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        found = row["seconds"]
        cells = [row["workload"], str(row["threads"])]
        for call in ("general", "special"):
            times = (f"{found[call][which] * 1e3:#.3g}" for which in ("minimum", "median"))
            cells.append(" / ".join(times))
        for which in ("minimum", "median"):
            cells.append(f"{found['general'][which] / found['special'][which]:.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1,2", help="thread counts, e.g. 1,2")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each batch")
    parser.add_argument("--output", default="general", help="name of the results; '' writes none")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.seconds)
        return
    rows: list[Row] = []
    for threads in args.threads.split(","):
        words = ("--worker", threads, "--seconds", str(args.seconds))
        rows += rows_of("benchmarks.general", *words)
    tell(args.output, rows, markdown(rows))


if __name__ == "__main__":
    main()
