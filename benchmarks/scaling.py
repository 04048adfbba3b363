"""What a second thread gains: workloads compiled for one thread and for two, in alternating calls.

    python -m benchmarks.scaling [--seconds 2] [--only LSTM,ResNet] [--output scaling]

Ratio = one thread's time / two threads'. Two rows of the races (`run.py`) don't tell it: they are
of different minutes. Workloads that take less than 2 ms on one thread are left out. With `--only`,
the other rows of the results stay as they were.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.run import Row, joined, mean, recorded, rows_of, tell

LEAST = 2e-3  # seconds on one thread
NAMES = {1: "one thread", 2: "two threads"}


def worker(seconds: float, only: Sequence[str]) -> None:
    """Times all workloads in this process; prints a line of JSON for each."""
    # Imported here: the parent process needs none of this.
    from benchmarks.race import Core, pin
    from benchmarks.workloads import CASES

    pin(max(NAMES))
    core = Core()
    for case in CASES:
        if only and not any(part in case.name for part in only):
            continue
        calls = {name: case.make(threads, ()).ours for threads, name in NAMES.items()}
        timings, share = core.race(calls, seconds, tries=3)
        if timings[NAMES[1]].minimum < LEAST:
            continue
        row = {"workload": case.name, "threads": 2, "kind": case.kind, **asdict(share)}
        row["seconds"] = {name: asdict(timing) for name, timing in timings.items()}
        print(json.dumps(row), flush=True)


def gain(row: Row, which: str) -> float:
    one, two = (row["seconds"][name][which] for name in NAMES.values())
    return float(one / two)


def markdown(rows: Sequence[Row]) -> str:
    lines = [
        "Milliseconds, minimum / median. Ratio: one thread's / two threads'; core: the share of",
        "its multiply-adds that both had; GB/s: what one thread read from memory beside the race.",
        "",
        "| workload | one thread | two threads | ratio min | ratio median | core | GB/s |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        times = (row["seconds"][name] for name in NAMES.values())
        cells = [f"{t['minimum'] * 1e3:#.4g} / {t['median'] * 1e3:#.4g}" for t in times]
        cells += [f"{gain(row, which):.2f}" for which in ("minimum", "median")]
        cells += [f"{row['core']:.0%}", f"{row['memory']:.0f}"]
        lines.append(f"| {row['workload']} | " + " | ".join(cells) + " |")
    least, median = (mean([gain(row, which) for row in rows]) for which in ("minimum", "median"))
    lines += ["", f"Geometric mean: {least:.2f} by minimum, {median:.2f} by median."]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each workload")
    parser.add_argument("--only", default="", help="parts of names of workloads, by commas")
    parser.add_argument("--output", default="scaling", help="name of the results; '' writes none")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.seconds, [part for part in args.only.split(",") if part])
        return
    words = ("--worker", "--only", args.only, "--seconds", str(args.seconds))
    rows = rows_of("benchmarks.scaling", *words)
    rows = joined(recorded(args.output) if args.only and args.output else [], rows)
    tell(args.output, rows, markdown(rows))


if __name__ == "__main__":
    main()
