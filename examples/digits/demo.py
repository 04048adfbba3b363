"""`make demo`: real data, training, one file, a process without a compiler, and a CUDA build.

Every step is the command that a user would type; it is printed before it runs.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(os.path.relpath(Path(__file__).parent))
RUN = Path("build") / "digits"
BIN = Path(sys.executable).parent


def step(title: str, *command: str | Path) -> str:
    """Prints and runs one command; its output is shown, and returned where it goes to a pipe."""
    words = [str(word) for word in command]
    print(f"\n== {title}\n$ {shlex.join(words)}", flush=True)
    program = [str(BIN / words[0]), *words[1:]]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if words[0] == "dslc" and words[1] == "train":
        # Straight to the terminal, for the progress bar.
        subprocess.run(program, check=True, env=environment)
        return ""
    done = subprocess.run(program, check=True, env=environment, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    return done.stdout


def accuracy(text: str) -> str:
    """The accuracy that a program printed."""
    found = re.findall(r"accuracy\s+(?:\d+/\d+ = )?([0-9.]+)", text)
    if not found:
        raise SystemExit(f"no accuracy was printed in:\n{text}")
    return str(found[-1])


def main() -> None:
    source, weights = HERE / "digits.dl", RUN / "weights.safetensors"
    train, test = RUN / "train.npz", RUN / "test.npz"
    step("The data: scikit-learn's real handwritten digits", "python", HERE / "make_data.py", RUN)
    step("Check every shape", "dslc", "check", source)
    started = time.perf_counter()
    step(
        "Train",
        *("dslc", "train", source, "--data", train, "--val", test),
        *("--epochs", "30", "--batch", "64", "--seed", "0", "-o", RUN),
    )
    seconds = time.perf_counter() - started
    told = step("Evaluate", "dslc", "eval", source, "--data", test, "--weights", weights)
    compiled = accuracy(told)
    step(
        "Build one file",
        *("dslc", "build", source, "--weights", weights, "-o", RUN / "digits.dlc"),
    )
    told = step(
        "Run it in a process without a compiler",
        *("python", HERE / "classify.py", RUN / "digits.dlc", test),
    )
    shipped = accuracy(told)
    step(
        "Build the same model, with its training step, for CUDA",
        *("dslc", "build", source, "--target", "cuda", "--train", "-o", RUN / "digits-cuda.dlc"),
    )
    print(
        f"\nTrained in {seconds:.0f} s (with compilation); accuracy on 360 held-out images "
        f"{compiled} in the compiler's process, {shipped} from the artifact."
    )
    if float(compiled) != float(shipped):
        raise SystemExit("the two accuracies differ: that is a bug")
    if float(shipped) < 0.98:
        raise SystemExit("the accuracy is under 98 %: that is a bug")


if __name__ == "__main__":
    main()
