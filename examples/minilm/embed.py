"""Sentences to vectors with the built model: all that a shipped program needs.

    python embed.py build/minilm "a model is a text file" "cats like warm milk"

The folder holds `minilm.dlc` and `tokenizer.json`. Needs dslc_runtime and tokenizers: no compiler,
no framework.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

import dslc_runtime

Vectors = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
LONGEST = 256  # tokens of a sentence; what is behind them is cut off


class Embedder:
    """`embedder(["a sentence", ...])` gives a vector of length 1 for each."""

    def __init__(self, folder: Path, threads: int | None = None, batch: int = 32) -> None:
        self.tokenizer = tokenizer_of(folder / "tokenizer.json")
        self.model = dslc_runtime.load(folder / "minilm.dlc", threads=threads)
        self.batch = batch

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """One row for each text. Texts of about one length share a batch, so little is padded."""
        rows = [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        size = self.model.signature.outputs[0].dims[-1]
        assert isinstance(size, int)
        vectors = np.empty((len(rows), size), np.float32)
        for start in range(0, len(order), self.batch):
            chosen = order[start : start + self.batch]
            vectors[chosen] = self.model(*padded([rows[i] for i in chosen]))
        return vectors


def tokenizer_of(path: Path) -> Any:
    """The tokenizer of a `tokenizer.json`, which gives each text its own length."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return tokenizer


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tokens, Mask]:
    """Sequences of tokens as one array, and which of its places hold one."""
    tokens = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros(tokens.shape, np.bool_)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = True
    return tokens, mask


def main(folder: str, *texts: str) -> None:
    started = time.perf_counter()
    embedder = Embedder(Path(folder))
    loaded = time.perf_counter() - started
    embedder(texts)  # the first call starts threads and reads the weights from the disk
    started = time.perf_counter()
    vectors = embedder(texts)
    seconds = time.perf_counter() - started
    print(f"{embedder.model.signature}")
    print(f"loaded in {loaded * 1e3:.0f} ms; {seconds * 1e3 / len(texts):.1f} ms a sentence")
    for text, vector in zip(texts, vectors):
        numbers = ", ".join(f"{x:.6f}" for x in vector[:5])
        print(f"[{numbers}, ...]  {vector @ vectors[0]:7.4f}  {text}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
