"""A search by meaning over the project's own documentation.

    python search.py "how do I freeze layers"

Passages of the pages are embedded once and kept beside the model; a question is embedded, and the
passages nearest to it are the answer.
"""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from embed import Embedder, Vectors

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "minilm"
PAGES = ("README.md", "docs/**/*.md", "dslc/explain/*.md", "examples/*/README.md")
SHOWN = 5


@dataclass(frozen=True)
class Passage:
    """A paragraph of a page, with the headings above it."""

    page: str
    line: int
    heading: str
    text: str

    @property
    def whole(self) -> str:
        return f"{self.heading}. {self.text}"


def passages(root: Path = ROOT) -> list[Passage]:
    """Every paragraph of the pages, tables and lists included."""
    pages = sorted({path for pattern in PAGES for path in root.glob(pattern)})
    return [passage for path in pages for passage in _of_page(path, root)]


def _of_page(path: Path, root: Path) -> Iterator[Passage]:
    headings: list[str] = []
    lines: list[str] = []
    begin, fenced = 1, False
    for number, line in enumerate([*path.read_text(encoding="utf-8").splitlines(), ""], 1):
        fence = line.lstrip().startswith("```")
        fenced ^= fence
        if fence or fenced:
            continue  # programs are no prose
        heading = re.match(r"(#+) (.*)", line)
        if line.strip() and not heading:
            begin = begin if lines else number
            lines.append(line.strip())
            continue
        text = " ".join(lines)
        if len(text) > 40:
            yield Passage(str(path.relative_to(root)), begin, ": ".join(headings), text)
        lines = []
        if heading:
            headings = [*headings[: len(heading[1]) - 1], heading[2]]


def embedded(embedder: Embedder, found: list[Passage], kept: Path) -> Vectors:
    """The passages' vectors: those of the file `kept` if it is of the same passages."""
    texts = [passage.whole for passage in found]
    digest = hashlib.sha256("\n".join(texts).encode()).hexdigest()
    if kept.exists():
        with np.load(kept) as data:
            if str(data["digest"]) == digest:
                vectors: Vectors = data["vectors"]
                return vectors
    started = time.perf_counter()
    vectors = embedder(texts)
    seconds = time.perf_counter() - started
    print(f"embedded {len(texts)} passages in {seconds:.1f} s", file=sys.stderr)
    np.savez(kept, vectors=vectors, digest=np.array(digest))
    return vectors


def search(embedder: Embedder, question: str, found: list[Passage], vectors: Vectors) -> list[int]:
    """The passages nearest to the question, the best first."""
    (asked,) = embedder([question])
    return [int(i) for i in np.argsort(-(vectors @ asked), kind="stable")[:SHOWN]]


def main(question: str) -> None:
    embedder = Embedder(FOLDER)
    found = passages()
    vectors = embedded(embedder, found, FOLDER / "docs.npz")
    (asked,) = embedder([question])
    for i in search(embedder, question, found, vectors):
        passage = found[i]
        print(f"{vectors[i] @ asked:.3f}  {passage.page}:{passage.line}  {passage.heading}")
        print(f"       {passage.text[:160]}{'...' * (len(passage.text) > 160)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
