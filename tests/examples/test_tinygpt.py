"""The example tinygpt in a small form: its data, tokens, a short training, and what it writes."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import dslc_runtime

FOLDER = Path(__file__).parents[2] / "examples" / "tinygpt"
SMALL = {"layers": 1, "heads": 2, "dim": 32, "vocabulary": 320, "context": 32}


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The example's scripts as modules, which find each other as when they are run."""
    names = ("make_data", "bpe", "train", "sample")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        for name in names:
            patch.delitem(sys.modules, name, raising=False)
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            patch.delitem(sys.modules, name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, scripts: dict[str, ModuleType]) -> Path:
    """A few topics of the language reference."""
    folder = tmp_path_factory.mktemp("tinygpt")
    topics = scripts["make_data"].topics
    texts = [topics[name] for name in sorted(topics)[:24]]
    (folder / "train.txt").write_text("\n".join(texts[2:]), encoding="utf-8")
    (folder / "held_out.txt").write_text("\n".join(texts[:2]), encoding="utf-8")
    return folder


def test_what_is_read_is_prose(scripts: dict[str, ModuleType]) -> None:
    found = list(scripts["make_data"].docstrings_of(Path(argparse.__file__)))
    assert found[0].startswith("Command-line parsing library")
    assert any("command line" in text for text in found[1:])


def test_tokens_hold_the_text(scripts: dict[str, ModuleType], data: Path) -> None:
    text = (data / "train.txt").read_text(encoding="utf-8")
    bpe = scripts["bpe"].BPE.learn(text, 300)
    assert bpe.decode(bpe.encode(text)) == text
    odd = "naïve 漢字 \x00 ___  12.5\n\n\t end "
    assert bpe.decode(bpe.encode(odd)) == odd
    assert len(bpe.encode(text)) < 0.75 * len(text), "44 joins, and a quarter is saved"
    assert b" the" in bpe.bytes
    bpe.save(data / "bpe.json")
    assert scripts["bpe"].BPE.load(data / "bpe.json").encode(text[:999]) == bpe.encode(text[:999])


def test_a_sample_is_printed_as_it_comes(
    scripts: dict[str, ModuleType],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also letters whose bytes are tokens of their own."""
    bpe = scripts["bpe"].BPE([])
    bpe.save(data / "bytes.json")

    class Echo:
        def generate(self, prompt: list[int], **options: Any) -> Iterator[int]:
            assert prompt == bpe.encode("naïve ")
            assert options["max_tokens"] == 7
            yield from bpe.encode("漢字!")

    monkeypatch.setattr(dslc_runtime, "load", lambda path: Echo())
    command = ["sample.py", "naïve ", "--tokens", str(data / "bytes.json"), "--count", "7"]
    monkeypatch.setattr(sys, "argv", command)
    scripts["sample"].main()
    assert capsys.readouterr().out == "naïve 漢字!\n"


def test_it_learns_and_writes(scripts: dict[str, ModuleType], data: Path) -> None:
    """More than which tokens are frequent; and what it writes is drawn from what it learned."""
    options = argparse.Namespace(
        data=data, output=data / "run", minutes=0.0, steps=300, batch=8, length=32, seed=0,
        threads=1, set=SMALL, precision="f32",
    )  # fmt: skip
    trainer, told = scripts["train"].train(options)
    assert told["steps"] == 300
    assert told["held_out_loss"] < told["unigram_entropy"] - 0.5
    bpe = scripts["bpe"].BPE.load(data / "run" / "tokens.json")
    saved, _ = dslc_runtime.safetensors.load(data / "run" / "weights.safetensors")
    np.testing.assert_array_equal(saved["net.token"], trainer.weights["net.token"])
    prompts = [bpe.encode(text) for text in ("The ", "In the following example, a class")]
    drawn = list(trainer.model.generate(prompts, max_tokens=40, seed=1, slide=16))
    assert len(drawn) == 40
    text = np.array(bpe.encode((data / "train.txt").read_text(encoding="utf-8")))
    frequent = set(np.argsort(-np.bincount(text, minlength=320))[:160].tolist())
    tokens = [token for step in drawn for token in step]
    assert sum(token in frequent for token in tokens) > 0.8 * len(tokens)
