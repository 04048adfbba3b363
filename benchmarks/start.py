"""How long models take to be built and to be loaded, each time by a process of its own.

    python -m benchmarks.start [--only ResNet,CNN] [--runs 7] [--output start]

With `--only`, the other rows of the results stay as they were.

Built with an empty cache, then again with what the first build left there. Loaded with one thread
and two: opening (the file mapped, its manifest read, checksums compared, its code linked), then
packing (weights into the layout that the kernels read), beside a plain copy of as many bytes as
packing writes, into memory as fresh. The first call finds caches cold and makes its working memory.

The system gives out memory that nobody has used for long many times as slowly: minimum and median.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.run import Row, joined, recorded, tell

EXAMPLES = Path(__file__).parent.parent / "examples"
MODELS = (
    ("ResNet-50", "models/resnet50.dl", ()),
    ("encoder 6 x 384", "models/encoder.dl", ("D=384", "layers=6", "heads=12")),
    ("article CNN", "article/cnn.dl", ()),
    ("GPT-2 small", "models/gpt2.dl", ()),
)
THREADS = (1, 2)
PARTS = ("import", "manifest and tensors", "checksum", "code", "packing", "load", "first call")


# --- built ----------------------------------------------------------------------------------------


def built(file: str, settings: Sequence[str], threads: int, folder: Path) -> tuple[Path, Row]:
    """The artifact, and seconds of `dslc build`: with an empty cache, then with what that left."""
    path = folder / f"{threads}.dlc"
    command = [Path(sys.executable).with_name("dslc"), "build", EXAMPLES / file, "--quiet"]
    command += [word for setting in settings for word in ("--set", setting)]
    command += ["--threads", str(threads), "-o", path]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / f"cache{threads}")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # a package that pip installs has its own

    def build() -> float:
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True)
        return time.perf_counter() - began

    row = {"cold": build(), "warm": min(build() for _ in range(2))}
    return path, {**row, "bytes": path.stat().st_size}


# --- loaded ---------------------------------------------------------------------------------------


def worker(path: str, threads: int) -> None:
    """Loads an artifact in this process; prints what each part took as a line of JSON."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    began = time.perf_counter()
    from dslc_runtime import artifact, session
    from dslc_runtime.session import Model, load

    took: dict[str, float] = {"import": time.perf_counter() - began}

    def timed(owner: Any, function: str, part: str) -> None:
        found: Callable[..., Any] = getattr(owner, function)

        def call(*args: Any, **named: Any) -> Any:
            started = time.perf_counter()
            result = found(*args, **named)
            took[part] = took.get(part, 0.0) + time.perf_counter() - started
            return result

        setattr(owner, function, call)

    timed(session, "read_artifact", "manifest and tensors")
    timed(artifact, "crc32", "checksum")
    timed(session, "load_library", "code")
    timed(Model, "_prepare", "packing")
    began = time.perf_counter()
    model = load(path, threads=threads)
    took["load"] = time.perf_counter() - began
    took["manifest and tensors"] -= took["checksum"]

    from dslc.commands.bench import bound, random

    entry = next(iter(model.entries.values()))
    arrays = {info.name: random(info, bound(entry, {})) for info in entry.signature.inputs}
    began = time.perf_counter()
    entry(**arrays)
    took["first call"] = time.perf_counter() - began
    held, prepare = model.store.arrays, model.target.prepare
    written = sum(held[info.name].nbytes for info in model.target.prepared)
    read = sum(held[name].nbytes for name in prepare.variables) - written if prepare else 0
    took["copy"] = copied(written)
    print(json.dumps({"seconds": took, "read": read, "written": written}))


def copied(size: int) -> float:
    """Seconds of a plain copy of `size` bytes into fresh memory."""
    import numpy as np

    from dslc_runtime.arrays import zeros_together

    source = np.ones(size, np.uint8)
    (target,) = zeros_together([((size,), source.dtype, size)])
    began = time.perf_counter()
    target[...] = source
    return time.perf_counter() - began


def loaded(path: Path, threads: int, runs: int) -> Row:
    """What the parts took: minimum and median of several processes."""
    command = [sys.executable, "-m", "benchmarks.start", "--worker", str(path)]
    command += ["--threads", str(threads)]
    found = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(runs + 1)
    ][1:]  # the first finds the file on the disk
    times = {part: [run["seconds"].get(part, 0.0) for run in found] for part in (*PARTS, "copy")}
    times["opening"] = [whole - pack for whole, pack in zip(times["load"], times["packing"])]
    seconds = {
        part: {"minimum": min(each), "median": statistics.median(each)}
        for part, each in times.items()
    }
    return {"seconds": seconds, "read": found[0]["read"], "written": found[0]["written"]}


# --- told -----------------------------------------------------------------------------------------

TITLES = (
    "built cold", "warm", "artifact", "opened", "packed", "read", "written", "GB/s", "plain copy",
    "first call",
)  # fmt: skip


def markdown(rows: Sequence[Row]) -> str:
    lines = [
        "`dslc build` in seconds; `dslc_runtime.load` (opened, packed), a plain copy of what is",
        "packed and the first call in milliseconds, minimum / median. GB/s: of what packing reads",
        "and writes, each byte once.",
        "",
        "| model | threads | " + " | ".join(TITLES) + " |",
        "|---|" + "--:|" * (len(TITLES) + 1),
    ]
    lines += [f"| {row['workload']} | {row['threads']} | {_cells(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> str:
    def both(part: str) -> str:
        found = row["seconds"][part]
        return f"{found['minimum'] * 1e3:.1f} / {found['median'] * 1e3:.1f}"

    def size(key: str) -> str:
        return f"{row[key] / 1e6:.1f} MB"

    moved = row["read"] + row["written"]
    rate = f"{moved / row['seconds']['packing']['minimum'] / 1e9:.1f}" if moved else "-"
    return " | ".join((
        f"{row['cold']:.1f}", f"{row['warm']:.2f}", size("bytes"), both("opening"),
        both("packing"), size("read"), size("written"), rate, both("copy"), both("first call"),
    ))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="parts of names of models, by commas")
    parser.add_argument("--runs", type=int, default=7, help="processes that load each")
    parser.add_argument("--output", default="start", help="name of the results; '' writes none")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.threads)
        return
    rows: list[Row] = []
    for name, file, settings in MODELS:
        if not any(part in name for part in args.only.split(",")):
            continue
        for threads in THREADS:
            with tempfile.TemporaryDirectory() as folder:
                path, built_ = built(file, settings, threads, Path(folder))
                loaded_ = loaded(path, threads, args.runs)
            rows.append({"workload": name, "threads": threads, **built_, **loaded_})
    rows = joined(recorded(args.output) if args.only and args.output else [], rows)
    tell(args.output, rows, markdown(rows))


if __name__ == "__main__":
    main()
