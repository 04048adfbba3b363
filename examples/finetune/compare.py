"""Trains the classifier from scratch, a new head only, all of it, and LoRA; prints what came out.

Each way is trained with several learning rates; the one that is best on val.npz is measured on
test.npz, which nothing is chosen by.

    python examples/finetune/compare.py [NAME ...]      needs build/minilm (make minilm)

Every step is the command that a user would type; it is printed before it runs. The folders
build/finetune/NAME-RATE get the weights and the history of each run.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.path.relpath(Path(__file__).parent))
FOLDER = Path(os.path.relpath(Path(__file__).resolve().parents[2] / "build" / "finetune"))
BIN = Path(sys.executable).parent
PRETRAINED = ("--weights", str(FOLDER / "encoder.safetensors"), "--missing", "head.*")
# The model of classify.dl, the learning rates to choose from, and how training begins.
RUNS = {
    "scratch": ("Classify", ("0.0002", "0.0005"), ()),
    "head": ("ClassifyHead", ("0.003", "0.01"), PRETRAINED),
    "full": ("Classify", ("0.00005", "0.0002"), PRETRAINED),
    "lora": (
        "ClassifyLora",
        ("0.001", "0.002"),
        (*PRETRAINED, "--missing", "encode.blocks.*.attention.*.weight.*"),
    ),
}


def command(*words: str | Path) -> str:
    """Prints and runs one command; what it printed."""
    told = [str(word) for word in words]
    print(f"\n$ {shlex.join(told)}", flush=True)
    made = subprocess.run([BIN / told[0], *told[1:]], check=True, text=True, stdout=subprocess.PIPE)
    print(made.stdout, end="", flush=True)
    return made.stdout


def train(name: str, rate: str) -> tuple[float, float, str]:
    """Loss and accuracy on val.npz at the end, and the learning rate."""
    model, _, begin = RUNS[name]
    folder = FOLDER / f"{name}-{rate}"
    command(
        *("dslc", "train", HERE / "classify.dl", "--model", model, "--set", f"lr={rate}"),
        *("--data", FOLDER / "train.npz", "--val", FOLDER / "val.npz"),
        *("--epochs", "4", "--batch", "32", *begin, "-o", folder),
    )
    last = json.loads((folder / "history.json").read_text())[-1]
    return last["val_loss"], last["val_accuracy"], rate


def test(name: str, rate: str) -> str:
    """Loss and accuracy on test.npz, as `dslc eval` prints them."""
    weights = FOLDER / f"{name}-{rate}" / "weights.safetensors"
    return (
        command(
            *("dslc", "eval", HERE / "classify.dl", "--model", RUNS[name][0]),
            *("--data", FOLDER / "test.npz", "--weights", weights),
        )
        .strip()
        .replace("\n", ", ")
    )


def main(names: list[str]) -> None:
    if not set(names) <= RUNS.keys():
        sys.exit(f"usage: compare.py [NAME ...], of {', '.join(RUNS)}")
    if not (FOLDER / "encoder.safetensors").exists():
        command("python", HERE / "make_data.py", FOLDER)
    lines = []
    for name in names or RUNS:
        started = time.perf_counter()
        _, accuracy, rate = min(train(name, rate) for rate in RUNS[name][1])
        seconds = time.perf_counter() - started
        lines.append(
            f"{name:8} lr {rate:7} val accuracy {accuracy:.3f}; test {test(name, rate)}; "
            f"{seconds:.0f} s in all"
        )
    print("\n" + "\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1:])
