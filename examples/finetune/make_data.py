"""What functions of Python's standard library are about: three .npz files, from its sources.

Every machine with Python has the data: the names of functions and classes and the first paragraphs
of their documentation; the topic of each is that of its module. train.npz, val.npz (to choose
learning rates by) and test.npz are of different modules. Also writes the encoder's weights, in this
project's names.

    python make_data.py [FOLDER]            needs build/minilm (make minilm)
"""

from __future__ import annotations

import ast
import random
import re
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

import dslc_runtime

ROOT = Path(__file__).resolve().parents[2]
MINILM = ROOT / "build" / "minilm"
LONGEST = 32  # tokens of an example
MOST = {"train": 140, "val": 40, "test": 100}  # examples of a topic

# Topics: modules to train on, to choose by, to test on. What a Python doesn't have is passed over.
TOPICS = {
    "numbers": ("numbers cmath _pydecimal colorsys", "random", "statistics fractions"),
    "files": (
        "pathlib posixpath ntpath genericpath stat glob fnmatch linecache gzip lzma",
        "filecmp tarfile",
        "shutil zipfile tempfile fileinput bz2",
    ),
    "concurrency": (
        "asyncio",
        "multiprocessing",
        "threading queue concurrent subprocess sched",
    ),
    "network": (
        "socket selectors urllib poplib smtplib ipaddress nntplib telnetlib wsgiref smtpd",
        "imaplib socketserver",
        "http ftplib ssl xmlrpc",
    ),
    "mail and markup": ("email xml", "mimetypes quopri base64", "mailbox html"),
    "windows": ("tkinter", "tkinter/ttk", "turtle turtledemo"),
    "testing": (
        "unittest cProfile profile pstats",
        "bdb trace tracemalloc",
        "doctest pdb timeit",
    ),
    "code": (
        "importlib pkgutil distutils lib2to3 token",
        "zipimport tokenize modulefinder",
        "ast inspect symtable dis pyclbr",
    ),
    "time": ("datetime _pydatetime", "zoneinfo _strptime", "calendar"),
}


def sources(modules: str, library: Path) -> list[Path]:
    """The files of the modules."""
    found: list[Path] = []
    for module in modules.split():
        single, package = library / f"{module}.py", library / module
        files = [single] if single.exists() else sorted(package.rglob("*.py"))
        found += [f for f in files if not {"test", "tests", "idle_test"} & set(f.parts)]
    return found


def examples(part: int, modules: tuple[str, ...], library: Path) -> list[str]:
    """Texts of one part of a topic, each once; a file is in the last part that names it."""
    later = {path for others in modules[part + 1 :] for path in sources(others, library)}
    own = [path for path in sources(modules[part], library) if path not in later]
    return list(dict.fromkeys(text for path in own for text in texts(path)))


def texts(path: Path) -> Iterator[str]:
    """`read until: Read until a given string is encountered or until timeout.`"""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            told = (ast.get_docstring(node) or "").split("\n\n")[0]
            words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|_", " ", node.name).lower().split()
            if len(told.split()) >= 4:
                yield f"{' '.join(words)}: {' '.join(told.split())}"


def arrays(tokenizer: Any, labelled: list[tuple[str, int]]) -> dict[str, Any]:
    """The inputs of the training step."""
    encodings = tokenizer.encode_batch([text for text, _ in labelled])
    return {
        "tokens": np.array([e.ids for e in encodings], np.int64),
        "mask": np.array([e.attention_mask for e in encodings], np.bool_),
        "label": np.array([label for _, label in labelled], np.int64),
    }


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    library = Path(sysconfig.get_paths()["stdlib"])
    tokenizer = Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding(length=LONGEST)
    rng = random.Random(0)
    seen: set[str] = set()
    for part, name in enumerate(MOST):
        labelled: list[tuple[str, int]] = []
        for label, (topic, modules) in enumerate(TOPICS.items()):
            new = [text for text in examples(part, modules, library) if text not in seen]
            chosen = rng.sample(new, min(len(new), MOST[name]))
            labelled += [(text, label) for text in chosen]
            print(f"{name}: {topic}: {len(chosen)} of {len(new)} examples")
        rng.shuffle(labelled)
        seen |= {text for text, _ in labelled}
        np.savez(folder / f"{name}.npz", **arrays(tokenizer, labelled))
    weights = folder / "encoder.safetensors"
    dslc_runtime.load(MINILM / "minilm.dlc").save_weights(weights)
    print(f"wrote {', '.join(f'{name}.npz' for name in MOST)} and {weights.name} to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "finetune")
