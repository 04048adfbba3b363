"""What functions of Python's standard library are about: train.npz and test.npz, from its sources.

Every machine with Python has the data: the names of functions and classes and the first paragraphs
of their documentation; the topic of each is that of its module. The test set is of modules that no
example of the training set is from. Also writes the encoder's weights, in this project's names.

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
MOST = {"train": 140, "test": 100}  # examples of a topic

# Topics: modules to train on, and modules to test on. What a Python doesn't have is passed over.
TOPICS = {
    "numbers": ("numbers cmath _pydecimal random colorsys", "statistics fractions"),
    "files": (
        "pathlib posixpath ntpath genericpath stat filecmp glob fnmatch linecache tarfile gzip "
        "lzma",
        "shutil zipfile tempfile fileinput bz2",
    ),
    "concurrency": ("asyncio multiprocessing", "threading queue concurrent subprocess sched"),
    "network": (
        "socket selectors urllib poplib imaplib smtplib socketserver ipaddress nntplib telnetlib "
        "wsgiref smtpd",
        "http ftplib ssl xmlrpc",
    ),
    "mail and markup": ("email xml mimetypes quopri base64", "mailbox html"),
    "windows": ("tkinter", "turtle turtledemo"),
    "testing": ("unittest bdb trace tracemalloc cProfile profile pstats", "doctest pdb timeit"),
    "code": (
        "importlib pkgutil distutils lib2to3 zipimport tokenize token modulefinder",
        "ast inspect symtable dis pyclbr",
    ),
    "time": ("datetime _pydatetime zoneinfo _strptime", "calendar"),
}


def examples(modules: str, library: Path) -> list[str]:
    """Texts of the modules, each once."""
    found: dict[str, None] = {}
    for module in modules.split():
        single, package = library / f"{module}.py", library / module
        files = [single] if single.exists() else sorted(package.rglob("*.py"))
        for path in files:
            if not {"test", "tests", "idle_test"} & set(path.parts):
                found.update(dict.fromkeys(texts(path)))
    return list(found)


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
            new = [text for text in examples(modules[part], library) if text not in seen]
            chosen = rng.sample(new, min(len(new), MOST[name]))
            labelled += [(text, label) for text in chosen]
            print(f"{name}: {topic}: {len(chosen)} of {len(new)} examples")
        rng.shuffle(labelled)
        seen |= {text for text, _ in labelled}
        np.savez(folder / f"{name}.npz", **arrays(tokenizer, labelled))
    weights = folder / "encoder.safetensors"
    dslc_runtime.load(MINILM / "minilm.dlc").save_weights(weights)
    print(f"wrote train.npz, test.npz and {weights.name} to {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "finetune")
