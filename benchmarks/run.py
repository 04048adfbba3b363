"""Prints the table of all workloads and writes it to `benchmarks/results/` as JSON and Markdown.

    python -m benchmarks.run [--threads 1,2] [--seconds 4] [--only ResNet,LSTM] [--output NAME]

Each thread count runs in a process of its own, because libraries fix their pools at start; within
it, ours and the peers alternate. Ratio = best peer's time / ours: above 1, ours is faster. Rows of
other thread counts stay as they were in the results; with `--only`, all other rows.

Results of a CPU without AVX-512 lie in a folder of their own there, `avx2`; those of one with
tiles of products beside it (Intel's AMX), in `amx`.

A race that met a busy core or memory is run again, up to `--tries` times (race.Core).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
OURS = "dslc"
Row = dict[str, Any]


def worker(
    threads: int, seconds: float, tries: int, only: Sequence[str], wanted: Sequence[str]
) -> None:
    """Runs the workloads with `threads` threads in this process; prints a line of JSON for each."""
    # Imported here: the parent process needs none of this, and the pools read the environment.
    from benchmarks.race import pin

    pin(threads)
    import torch

    from benchmarks.race import Core
    from benchmarks.workloads import CASES

    torch.set_num_threads(threads)
    core = Core()
    for case in CASES:
        if only and not any(part in case.name for part in only):
            continue
        work = case.make(threads, wanted)
        timings, share = core.race({OURS: work.ours, **work.peers}, seconds, tries)
        row = {
            "workload": case.name,
            "kind": case.kind,
            "threads": threads,
            **asdict(share),
            "seconds": {name: asdict(timing) for name, timing in timings.items()},
            "relative difference": work.errors,
            "missing": work.missing,
        }
        print(json.dumps(row), flush=True)
        torch._dynamo.reset()


def vectors() -> str:
    """The widest that this CPU multiplies: "AMX", "AVX-512", "AVX2" or "narrow"."""
    flags = set(_cpuinfo("flags").split())
    if "amx_tile" in flags:
        return "AMX"
    return "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "narrow"


def cpu_name() -> str:
    """With its vectors: names that hypervisors give say nothing of them."""
    return f"{_cpuinfo('model name') or platform.processor() or 'unknown CPU'}, {vectors()}"


def _cpuinfo(key: str) -> str:
    lines = (line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines())
    return next((line[1].strip() for line in lines if line[0].strip() == key), "")


def results_folder() -> Path:
    """Where results of this CPU's vectors lie; those of AVX-512 on top."""
    folder = RESULTS if vectors() == "AVX-512" else RESULTS / vectors().lower()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def best(row: Row, which: str) -> tuple[str, float]:
    """The fastest peer and its seconds."""
    times = {name: t[which] for name, t in row["seconds"].items() if name != OURS}
    if not times:
        return "-", math.nan
    name = min(times, key=times.__getitem__)
    return name, times[name]


def ratio(row: Row, which: str) -> float:
    return best(row, which)[1] / row["seconds"][OURS][which]


def mean(numbers: Sequence[float]) -> float:
    """The geometric one."""
    return math.exp(sum(map(math.log, numbers)) / len(numbers)) if numbers else math.nan


def markdown(rows: Sequence[Row]) -> str:
    """A table for each thread count, and the geometric means."""
    out = []
    for threads in dict.fromkeys(row["threads"] for row in rows):
        part = [row for row in rows if row["threads"] == threads]
        names = list(dict.fromkeys(name for row in part for name in row["seconds"]))
        out += [
            f"## {threads} thread{'s' * (threads > 1)}",
            "",
            "Milliseconds, minimum / median; core: the share of its multiply-adds that we all had;",
            "GB/s: what one thread read from memory beside the race.",
            "",
        ]
        heads = [*names, "ratio min", "ratio median", "core", "GB/s"]
        out += ["| workload | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(heads)]
        for row in part:
            cells = [_cell(row["seconds"].get(name)) for name in names]
            ratios = [f"{ratio(row, which):.2f}" for which in ("minimum", "median")]
            ratios.append(f"{row['core']:.0%}")
            ratios.append(f"{row['memory']:.0f}" if "memory" in row else "-")
            out.append(f"| {row['workload']} | " + " | ".join(cells + ratios) + " |")
        out.append("")
        for kind in sorted({row["kind"] for row in part}):
            chosen = [row for row in part if row["kind"] == kind]
            least, median = (mean([ratio(r, w) for r in chosen]) for w in ("minimum", "median"))
            out.append(f"Geometric mean, {kind}: {least:.2f} by minimum, {median:.2f} by median.")
        out.append("")
    missing = [
        f"- {name} does not run {row['workload']!r}: {why}"
        for row in rows if row["threads"] == rows[0]["threads"]
        for name, why in row["missing"].items()
    ]  # fmt: skip
    return "\n".join(out + missing).rstrip() + "\n"


def _cell(timing: dict[str, float] | None) -> str:
    if timing is None:
        return "-"
    digits = 3 if timing["minimum"] < 1e-3 else 2
    return f"{timing['minimum'] * 1e3:.{digits}f} / {timing['median'] * 1e3:.{digits}f}"


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("dslc", "torch", "onnxruntime", "openvino", "jax"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def start(args: argparse.Namespace, threads: int) -> list[Row]:
    """The rows of one thread count; those that were measured, if its process dies."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TVM_NUM_THREADS": str(threads)}
    # As PyTorch and ours do by themselves: what was compiled once is kept for the next run.
    environment["JAX_COMPILATION_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / "dslc-bench-jax")
    environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    command = [sys.executable, "-m", "benchmarks.run", "--worker", str(threads)]
    command += ["--seconds", str(args.seconds), "--tries", str(args.tries)]
    command += ["--only", args.only, "--peers", args.peers]
    rows = []
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, stderr=args.errors
    ) as process:
        for line in process.stdout or ():
            if not line.startswith("{"):
                continue
            row = json.loads(line)
            rows.append(row)
            (peer, _), ours = best(row, "minimum"), row["seconds"][OURS]
            error = max(row["relative difference"].values(), default=0)
            print(
                f"  {row['workload']:52} {ours['minimum'] * 1e3:9.3f} ms"
                f"  {ratio(row, 'minimum'):6.2f} min {ratio(row, 'median'):6.2f} median"
                f"  of {peer}; core {row['core']:.0%}, memory {row['memory']:.0f} GB/s"
                f"; differs {error:.0e}",
                flush=True,
            )
    if process.returncode:
        print(f"  the process ended with {process.returncode}", file=sys.stderr)
    return rows


def recorded(name: str) -> list[Row]:
    """The rows of an earlier run on this CPU with these versions; none, if there was none."""
    path = results_folder() / f"{name}.json"
    data = json.loads(path.read_text()) if path.exists() else {}
    same = data.get("cpu") == cpu_name() and data.get("versions") == versions()
    return data["rows"] if same else []


def record(name: str, rows: Sequence[Row], table: str) -> None:
    """Writes the rows and their table, with the CPU and the versions that they are of."""
    data = {"cpu": cpu_name(), "versions": versions(), "rows": rows}
    (results_folder() / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    told = ", ".join(f"{library} {number}" for library, number in versions().items())
    (results_folder() / f"{name}.md").write_text(f"# {cpu_name()}\n\n{told}\n\n{table}")


def rows_of(module: str, *words: str) -> list[Row]:
    """The rows that a benchmark's worker, a process of its own, prints as lines of JSON."""
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def tell(name: str, rows: Sequence[Row], table: str) -> None:
    """Prints the table, and records it under a name."""
    print(f"{cpu_name()}\n\n{table}")
    if name:
        record(name, rows, table)


def joined(old: Sequence[Row], new: Sequence[Row]) -> list[Row]:
    """The new rows in the places of the old ones; those that are new to the table, at the end."""
    found = {(row["threads"], row["workload"]): row for row in (*old, *new)}
    return sorted(found.values(), key=lambda row: row["threads"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="1,2", help="thread counts, e.g. 1,2")
    parser.add_argument("--seconds", type=float, default=4.0, help="per workload")
    parser.add_argument("--tries", type=int, default=3, help="to find the core quiet")
    parser.add_argument("--only", default="", help="parts of names of workloads, by commas")
    parser.add_argument("--peers", default="", help="parts of names of peers (default: all)")
    parser.add_argument("--output", default="cpu", help="name of the results; '' writes none")
    parser.add_argument("--verbose", action="store_true", help="what the workers say, too")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    only = [part for part in args.only.split(",") if part]
    if args.worker:
        from benchmarks.peers import NAMES

        parts = [part for part in args.peers.split(",") if part]
        wanted = [n for n in NAMES if not parts or any(part in n for part in parts)]
        worker(args.worker, args.seconds, args.tries, only, wanted)
        return
    args.errors = None if args.verbose else subprocess.DEVNULL
    rows: list[Row] = []
    for threads in map(int, args.threads.split(",")):
        print(f"{threads} thread{'s' * (threads > 1)}:", flush=True)
        rows += start(args, threads)
    print(f"\n{cpu_name()}\n\n{markdown(rows)}")
    if args.output and rows:
        raced = {row["threads"] for row in rows}
        old = [r for r in recorded(args.output) if only or r["threads"] not in raced]
        rows = joined(old, rows)
        record(args.output, rows, markdown(rows))


if __name__ == "__main__":
    main()
