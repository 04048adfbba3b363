"""Trains the classifier from scratch, a new head only, all of it, and LoRA; prints what came out.

    python examples/finetune/compare.py [NAME ...]      needs build/minilm (make minilm)

Every step is the command that a user would type; it is printed before it runs. The folders
build/finetune/NAME get the weights and the history of each run.
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
# The model of classify.dl, and how its training begins.
RUNS = {
    "scratch": ("Classify", ("--set", "lr=0.0002")),
    "head": ("ClassifyHead", PRETRAINED),
    "full": ("Classify", PRETRAINED),
    "lora": ("ClassifyLora", (*PRETRAINED, "--missing", "encode.blocks.*.attention.*.weight.*")),
}


def command(*words: str | Path) -> None:
    """Prints and runs one command."""
    told = [str(word) for word in words]
    print(f"\n$ {shlex.join(told)}", flush=True)
    subprocess.run([str(BIN / told[0]), *told[1:]], check=True)


def train(name: str) -> None:
    model, begin = RUNS[name]
    command(
        *("dslc", "train", HERE / "classify.dl", "--model", model),
        *("--data", FOLDER / "train.npz", "--val", FOLDER / "test.npz"),
        *("--epochs", "4", "--batch", "32", *begin, "-o", FOLDER / name),
    )


def main(names: list[str]) -> None:
    if not (FOLDER / "encoder.safetensors").exists():
        command("python", HERE / "make_data.py", FOLDER)
    seconds = {}
    for name in names or RUNS:
        started = time.perf_counter()
        train(name)
        seconds[name] = time.perf_counter() - started
    print(f"\n{'run':10} {'accuracy':>9} {'loss':>7} {'seconds':>8}   (on modules not trained on)")
    for name, spent in seconds.items():
        last = json.loads((FOLDER / name / "history.json").read_text())[-1]
        print(f"{name:10} {last['val_accuracy']:9.3f} {last['val_loss']:7.3f} {spent:8.0f}")


if __name__ == "__main__":
    main(sys.argv[1:])
