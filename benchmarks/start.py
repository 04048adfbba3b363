"""How long models take to be built and to be loaded, each time by a process of its own.

    python -m benchmarks.start [--only ResNet,CNN] [--runs 7] [--output start]

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

from benchmarks.run import RESULTS, Row, cpu_name, versions

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


def built(name: str, file: str, settings: Sequence[str], folder: Path) -> Row:
    """Seconds of `dslc build`, cold and warm; leaves an artifact for each number of threads."""
    cache = folder / "cache"
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}

    def build(threads: int) -> float:
        command = [Path(sys.executable).with_name("dslc"), "build", EXAMPLES / file, "--quiet"]
        command += [word for setting in settings for word in ("--set", setting)]
        command += ["--threads", str(threads), "-o", folder / f"{threads}.dlc"]
        began = time.perf_counter()
        subprocess.run(command, env=environment, check=True)
        return time.perf_counter() - began

    cold = build(THREADS[-1])
    warm = min(build(THREADS[-1]) for _ in range(3))
    for threads in THREADS[:-1]:
        build(threads)
    artifact = folder / f"{THREADS[-1]}.dlc"
    return {"model": name, "cold": cold, "warm": warm, "bytes": artifact.stat().st_size}


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
    arrays_ = model.store.arrays
    prepare = model.target.prepare
    written = sum(arrays_[info.name].nbytes for info in model.target.prepared)
    read = sum(arrays_[name].nbytes for name in prepare.variables) - written if prepare else 0
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


def loaded(name: str, threads: int, path: Path, runs: int) -> Row:
    """What the parts took: minimum and median of several processes."""
    command = [sys.executable, "-m", "benchmarks.start", "--worker", str(path)]
    command += ["--threads", str(threads)]
    found = [
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(runs + 1)
    ][1:]  # the first finds the file on the disk
    timed = {part: [run["seconds"].get(part, 0.0) for run in found] for part in (*PARTS, "copy")}
    timed["opening"] = [
        load - pack for load, pack in zip(timed["load"], timed["packing"], strict=True)
    ]
    seconds = {
        part: {"minimum": min(times), "median": statistics.median(times)}
        for part, times in timed.items()
    }
    sizes = {key: found[0][key] for key in ("read", "written")}
    return {"model": name, "threads": threads, "seconds": seconds, **sizes}


# --- told -----------------------------------------------------------------------------------------


def markdown(builds: Sequence[Row], loads: Sequence[Row]) -> str:
    lines = [
        "## `dslc build`, seconds",
        "",
        "| model | cold | warm | artifact |",
        "|---|--:|--:|--:|",
    ]
    lines += [
        f"| {row['model']} | {row['cold']:.1f} | {row['warm']:.2f} | {row['bytes'] / 1e6:.1f} MB |"
        for row in builds
    ]
    titles = ("opening", "packing", "read", "written", "GB/s", "plain copy", "first call")
    lines += [
        "",
        "## `dslc_runtime.load`, milliseconds",
        "",
        "Minimum / median. GB/s: of what packing reads and writes, each byte once.",
        "",
        "| model | threads | " + " | ".join(titles) + " |",
        "|---|" + "--:|" * (len(titles) + 1),
    ]
    lines += [
        f"| {row['model']} | {row['threads']} | " + " | ".join(_cells(row)) + " |" for row in loads
    ]
    return "\n".join(lines) + "\n"


def _cells(row: Row) -> list[str]:
    def both(part: str) -> str:
        found = row["seconds"][part]
        return f"{found['minimum'] * 1e3:.1f} / {found['median'] * 1e3:.1f}"

    sizes = [f"{row[key] / 1e6:.1f} MB" for key in ("read", "written")]
    seconds = row["seconds"]["packing"]["minimum"]
    rate = (row["read"] + row["written"]) / seconds / 1e9 if row["written"] else 0.0
    return [
        both("opening"), both("packing"), *sizes, f"{rate:.1f}" if rate else "-", both("copy"),
        both("first call"),
    ]  # fmt: skip


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
    builds, loads = [], []
    for name, file, settings in MODELS:
        if not any(part in name for part in args.only.split(",")):
            continue
        with tempfile.TemporaryDirectory() as folder:
            builds.append(built(name, file, settings, Path(folder)))
            for threads in THREADS:
                path = Path(folder, f"{threads}.dlc")
                loads.append(loaded(name, threads, path, args.runs))
    table = markdown(builds, loads)
    print(f"{cpu_name()}\n\n{table}")
    if args.output:
        data = {"cpu": cpu_name(), "versions": versions(), "built": builds, "loaded": loads}
        (RESULTS / f"{args.output}.json").write_text(json.dumps(data, indent=1) + "\n")
        (RESULTS / f"{args.output}.md").write_text(f"# {cpu_name()}\n\n{table}")


if __name__ == "__main__":
    main()
