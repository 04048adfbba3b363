"""Byte-pair encoding (Sennrich et al. 2016) in its plainest form: text to tokens and back.

A token is a string of bytes: one of the 256 single bytes, or two tokens that often stand side by
side within a word, joined. Joins are learned from a text, the most frequent pair first.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

# A word with the space before it, digits, signs, or white space: no token reaches across these.
WORD = re.compile(r" ?[^\W\d_]+| ?\d| ?[^\w\s]+|_+|\s+(?!\S)|\s+")


class BPE:
    """`joins[i]` are the two tokens that make token 256 + i."""

    def __init__(self, joins: Iterable[tuple[int, int]]) -> None:
        self.joins = [(a, b) for a, b in joins]
        self.rank = {pair: 256 + i for i, pair in enumerate(self.joins)}
        self.bytes = [bytes([i]) for i in range(256)]
        for a, b in self.joins:
            self.bytes.append(self.bytes[a] + self.bytes[b])
        self.known: dict[str, list[int]] = {}

    @classmethod
    def learn(cls, text: str, size: int) -> BPE:
        """`size` tokens from a text; equally frequent pairs in order."""
        counts = Counter(WORD.findall(text))
        words = [(list(word.encode()), count) for word, count in counts.items()]
        pairs: Counter[tuple[int, int]] = Counter()
        for tokens, count in words:
            for pair in pairwise(tokens):
                pairs[pair] += count
        joins: list[tuple[int, int]] = []
        while len(joins) < size - 256:
            best = max(pairs, key=lambda pair: (pairs[pair], pair))
            for tokens, count in words:
                if best[0] in tokens and best in pairwise(tokens):
                    for pair in pairwise(tokens):
                        pairs[pair] -= count
                    tokens[:] = joined(tokens, best, 256 + len(joins))
                    for pair in pairwise(tokens):
                        pairs[pair] += count
            joins.append(best)
        return cls(joins)

    def encode(self, text: str) -> list[int]:
        return [token for word in WORD.findall(text) for token in self.word(word)]

    def word(self, word: str) -> list[int]:
        """A word's tokens: the earliest joins first."""
        if word not in self.known:
            tokens = list(word.encode())
            while pairs := [p for p in pairwise(tokens) if p in self.rank]:
                first = min(pairs, key=self.rank.__getitem__)
                tokens = joined(tokens, first, self.rank[first])
            self.known[word] = tokens
        return self.known[word]

    def decode(self, tokens: Iterable[int]) -> str:
        return b"".join(self.bytes[token] for token in tokens).decode(errors="replace")

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.joins), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> BPE:
        return cls(json.loads(path.read_text(encoding="utf-8")))


def joined(tokens: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """The tokens with each such pair as one."""
    out: list[int] = []
    for token in tokens:
        if out and (out[-1], token) == pair:
            out[-1] = new
        else:
            out.append(token)
    return out
