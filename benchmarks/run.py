"""Prints the table and writes it to `benchmarks/results/` as JSON and Markdown.

Each thread count runs in a process of its own, because libraries fix their pools at start; within
it, ours and the peers alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def worker(threads: int, seconds: float) -> list[dict[str, Any]]:
    """Runs every workload with `threads` threads, in this process."""
    # Imported here: the parent process needs none of this, and the pools read the environment.
    import torch

    from benchmarks.race import pin, race
    from benchmarks.workloads import ALL

    pin(threads)
    torch.set_num_threads(threads)
    rows = []
    for make in ALL:
        work = make(threads)
        timings = race({"dslc": work.ours, **work.peers}, seconds)
        print(f"  {work.name}", file=sys.stderr, flush=True)
        rows.append(
            {
                "workload": work.name,
                "threads": threads,
                "relative difference": work.error,
                "seconds": {name: asdict(t) for name, t in timings.items()},
            }
        )
    return rows


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown CPU"


def markdown(rows: list[dict[str, Any]]) -> str:
    """Ratio = peer's time / ours: above 1, ours is faster."""
    out = [
        "| workload | threads | dslc min / median ms | peer | min / median ms "
        "| ratio min | ratio median |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = row["seconds"]["dslc"]
        for name, peer in row["seconds"].items():
            if name == "dslc":
                continue
            out.append(
                f"| {row['workload']} | {row['threads']} "
                f"| {ours['minimum'] * 1e3:.2f} / {ours['median'] * 1e3:.2f} | {name} "
                f"| {peer['minimum'] * 1e3:.2f} / {peer['median'] * 1e3:.2f} "
                f"| {peer['minimum'] / ours['minimum']:.2f} "
                f"| {peer['median'] / ours['median']:.2f} |"
            )
    return "\n".join(out) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1,2", help="thread counts, e.g. 1,2")
    parser.add_argument("--seconds", type=float, default=8.0, help="per workload")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(worker(args.worker, args.seconds)))
        return
    rows: list[dict[str, Any]] = []
    for threads in map(int, args.threads.split(",")):
        print(f"{threads} thread{'s' * (threads > 1)}:", file=sys.stderr, flush=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        command = [sys.executable, "-m", "benchmarks.run", "--worker", str(threads)]
        command += ["--seconds", str(args.seconds)]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
        rows += json.loads(done.stdout)
    table = markdown(rows)
    print(f"\n{cpu_name()}\n\n{table}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu.json").write_text(
        json.dumps({"cpu": cpu_name(), "rows": rows}, indent=1) + "\n"
    )
    (RESULTS / "cpu.md").write_text(f"# {cpu_name()}\n\n{table}")


if __name__ == "__main__":
    main()
