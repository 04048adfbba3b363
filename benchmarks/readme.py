"""The table of README.md: the most telling workloads of the recorded results.

Input: rows of `results/cpu.json`. Output: Markdown. Each workload in which a peer is ahead is in
it, whether it is chosen or not. Non-goal: writing the page; `pytest tests/docs/test_speed.py
--update` does that.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.run import OURS, Row, best, mean, ratio

THREADS = (1, 2)
CHOSEN = (
    "article CNN, batch 1",
    "article CNN, training step of 32",
    "RNN 10-50, 20 steps, batch 1",
    "LSTM 128-256-256, 64 steps, batch 16",
    "encoder 6 x 384, 128 positions, batch 1",
    "encoder 6 x 384, training step of 4, AdamW",
    "GPT-2 small, one token behind 256",
    "GPT-2 small, first 128 tokens",
    "ResNet-18, batch 1",
    "ResNet-50, batch 1",
    "MobileNetV2, batch 1",
    "MLP 784-512-512-10, batch 64",
    "U-Net, width 16, 256 x 256, training step of 2",
)
TITLES = ("1 thread: dslc", "best peer", "ratio", "2 threads: dslc", "best peer", "ratio")


def table(rows: Sequence[Row]) -> str:
    """The chosen workloads and those where we are behind; then the means of all."""
    lines = ["| milliseconds | " + " | ".join(TITLES) + " |", "|---|" + "--:|" * len(TITLES)]
    for name in dict.fromkeys(row["workload"] for row in rows):
        timed = [row for row in rows if row["workload"] == name]
        if name in CHOSEN or any(ratio(row, "minimum") < 1 for row in timed):
            lines.append(f"| {name} | " + " | ".join(_cells(timed)) + " |")
    for kind in ("inference", "training"):
        lines.append(
            f"| **geometric mean of all, {kind}** | " + " | ".join(_means(rows, kind)) + " |"
        )
    return "\n".join(lines) + "\n"


def _cells(timed: Sequence[Row]) -> Iterator[str]:
    for threads in THREADS:
        for row in timed:
            if row["threads"] == threads:
                peer, seconds = best(row, "minimum")
                yield _milliseconds(row["seconds"][OURS]["minimum"])
                yield f"{_milliseconds(seconds)} {peer}"
                yield f"{ratio(row, 'minimum'):.2f}"


def _means(rows: Sequence[Row], kind: str) -> Iterator[str]:
    for threads in THREADS:
        chosen = [row for row in rows if row["threads"] == threads and row["kind"] == kind]
        yield from ("", "", f"**{mean([ratio(row, 'minimum') for row in chosen]):.2f}**")


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:#.3g}".rstrip(".")
