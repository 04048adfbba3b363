"""The whole size: `python -m tests.fuzz [KIND ...] [--start 0] [--count 20000] [--keep DIR]`.

Prints for each kind of program how many parse, check and have their IR compared, the slowest, and
each failure once by its kind and place; the texts that fail are written to DIR.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import by_grammar, mutated, typed
from tests.fuzz.properties import Broken, Outcome, examine

KINDS: dict[str, Callable[[int], str]] = {
    "grammar": by_grammar.program,
    "typed": typed.program,
    "mutated": mutated.program,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--count", type=int, default=20_000, help="seeds for each kind")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), metavar="DIR")
    args = parser.parse_args()
    failures = sum(run(kind, args) for kind in args.kinds or KINDS)
    return 1 if failures else 0


def run(kind: str, args: argparse.Namespace) -> int:
    outcomes: list[tuple[Outcome, int]] = []
    failures: Counter[str] = Counter()
    for seed in range(args.start, args.start + args.count):
        text = KINDS[kind](seed)
        try:
            outcomes.append((examine(text), seed))
        except Exception as error:
            signature = where(error)
            failures[signature] += 1
            if failures[signature] == 1:
                print(f"{kind} {seed}: {signature}", flush=True)
                args.keep.mkdir(parents=True, exist_ok=True)
                path = args.keep / f"{kind}-{seed}.dl"
                path.write_text(text, encoding="utf-8", newline="")
    slowest, seed = max(((o.seconds, seed) for o, seed in outcomes), default=(0.0, 0))
    print(
        f"{kind}: {args.count} texts, {sum(o.parses for o, _ in outcomes)} parse, "
        f"{sum(o.checks for o, _ in outcomes)} check, {sum(o.models for o, _ in outcomes)} models "
        f"compared; slowest {slowest:.2f} s (seed {seed}); {sum(failures.values())} failures of "
        f"{len(failures)} kinds"
    )
    return sum(failures.values())


def where(error: Exception) -> str:
    """The kind of an error and the place in dslc that raised it."""
    if isinstance(error, Broken):
        return f"Broken: {str(error)[:80]}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/dslc/" in f.filename]
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {place}: {str(error)[:80]}"


if __name__ == "__main__":
    sys.exit(main())
