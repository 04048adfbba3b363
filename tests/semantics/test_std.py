"""The library itself: every declaration is right on its own and documented."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from dslc.diagnostics import render_all
from dslc.semantics.check import check
from dslc.semantics.scope import library_module
from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax.parser import parse

ROOT = Path(__file__).parents[2]
LIBRARY = sorted((ROOT / "dslc" / "std").glob("*.dl"))
TOKEN = re.compile(r"\s+|\w+|[^\w\s]+")


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_the_library_has_no_mistakes(path: Path) -> None:
    assert render_all(check(SourceFile(path.name, path.read_text()))) == ""


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_every_declaration_is_documented(path: Path) -> None:
    tree, _ = parse(SourceFile(path.name, path.read_text()))
    code = [d for d in tree.decls if isinstance(d, ast.FnDecl | ast.LayerDecl)]
    assert [d.name.name for d in code if not d.doc] == []


def test_a_declaration_parsed_alone_keeps_its_place() -> None:
    module = library_module("losses")
    assert module is not None
    found = module.lookup("cross_entropy")
    assert isinstance(found, tuple)
    tree, _ = parse(module.source)
    whole = next(
        d for d in tree.decls if isinstance(d, ast.FnDecl) and d.name.name == "cross_entropy"
    )
    assert found[1] == whole
    assert found[1].span.position == whole.span.position


def mutated(text: str, rng: random.Random) -> str:
    """The text with one to three of its tokens taken out, doubled, or swapped."""
    tokens = TOKEN.findall(text)
    for _ in range(rng.randint(1, 3)):
        i, j = rng.randrange(len(tokens)), rng.randrange(len(tokens))
        match rng.randrange(3):
            case 0:
                del tokens[i]
            case 1:
                tokens[i] = tokens[j]
            case _:
                tokens[i], tokens[j] = tokens[j], tokens[i]
    return "".join(tokens)


@pytest.mark.parametrize("seed", range(40))
def test_wrong_programs_are_diagnosed_not_crashed_on(seed: int) -> None:
    rng = random.Random(seed)
    example = rng.choice(sorted((ROOT / "examples").rglob("*.dl")))
    found = check(SourceFile("example.dl", mutated(example.read_text(), rng)))
    assert all(d.span is not None and d.span.file.path == "example.dl" for d in found)
