"""The whole size: `python -m tests.fuzz [KIND ...] [--start 0] [--count 20000] [--keep DIR]`.

Prints for each kind of program how many parse, check and are compared (their IR, or what they
compute), the slowest, and each failure once by its kind and place; the texts that fail are written
to DIR. A file in place of a kind is tried again. Programs run in a process of their own, since
wrong code may end it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

from tests.fuzz import networks
from tests.fuzz.kinds import KINDS, attempt
from tests.fuzz.properties import Outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, help="seeds for each kind")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), metavar="DIR")
    args = parser.parse_args()
    files = [Path(kind) for kind in args.kinds if kind not in KINDS]
    for path in files:
        text = path.read_text(encoding="utf-8")
        kind = "networks" if text.startswith(networks.HEAD) else "typed"
        print(f"{path}: {KINDS[kind].examine(text)}")
    kinds = [kind for kind in args.kinds if kind in KINDS] or ([] if files else [*KINDS])
    return 1 if sum(run(kind, args) for kind in kinds) else 0


def run(name: str, args: argparse.Namespace) -> int:
    """Tries programs of a kind; how many fail."""
    kind = KINDS[name]
    count = kind.count if args.count is None else args.count
    outcomes: list[tuple[Outcome, int]] = []
    failures: Counter[str] = Counter()
    process = _process()
    for seed in range(args.start, args.start + count):
        try:
            found = process.submit(attempt, name, seed).result()
        except BrokenProcessPool:
            found = "it ends the process"
            process = _process()
        if isinstance(found, Outcome):
            outcomes.append((found, seed))
            continue
        failures[found] += 1
        if failures[found] == 1:
            print(f"{name} {seed}: {found}", flush=True)
            args.keep.mkdir(parents=True, exist_ok=True)
            path = args.keep / f"{name}-{seed}.dl"
            path.write_text(kind.program(seed), encoding="utf-8", newline="")
    process.shutdown()
    slowest, seed = max(((o.seconds, seed) for o, seed in outcomes), default=(0.0, 0))
    print(
        f"{name}: {count} texts, {sum(o.parses for o, _ in outcomes)} parse, "
        f"{sum(o.checks for o, _ in outcomes)} check, {sum(o.models for o, _ in outcomes)} models "
        f"compared; slowest {slowest:.2f} s (seed {seed}); {sum(failures.values())} failures of "
        f"{len(failures)} kinds"
    )
    return sum(failures.values())


def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"))


if __name__ == "__main__":
    sys.exit(main())
