"""Every declaration of the library is used by a program of the tests, and the prelude is whole."""

from __future__ import annotations

import ast as python
import re
from pathlib import Path

import pytest

from dslc.semantics.scope import library_module, library_names, prelude_names
from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax.parser import parse

# A call or a static argument, a stage of a pipe, an initialiser, a constant, a text of its own.
USE = r"(?<=adapted\[)\w+|"
USE += r"\w+(?=[\[(])|(?<=\|> )\w+|(?<=: )\w+(?= \|>)|(?<=~ )\w+|\b[A-Z]+\b|^\w+$|(?<==)\w+"
TESTS = Path(__file__).parents[1]
MODULES = [name for name in library_names() if name != "prelude"]


def public(module: str) -> list[str]:
    """The names that a module declares for others."""
    found = library_module(module)
    assert found is not None
    tree, _ = parse(SourceFile(module, found.source.text))
    named = (d for d in tree.decls if isinstance(d, ast.FnDecl | ast.LayerDecl | ast.ConstDecl))
    return [d.name.name for d in named if not d.name.name.startswith("_")]


@pytest.fixture(scope="module")
def programs() -> str:
    """All texts within the tests: what stands in a test's code does not count, only its strings."""
    texts = [path.read_text() for path in TESTS.rglob("*.md")]
    for path in TESTS.rglob("*.py"):
        for node in python.walk(python.parse(path.read_text())):
            if isinstance(node, python.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


@pytest.mark.parametrize("module", MODULES)
def test_every_declaration_is_used_by_a_test(module: str, programs: str) -> None:
    without_imports = re.sub(r"from std\.\w+ import (\([^)]*\)|[\w, ]+)", "", programs)
    used = set(re.findall(USE, without_imports, re.MULTILINE))
    assert [name for name in public(module) if name not in used] == []


def test_the_prelude_lists_its_modules_whole() -> None:
    prelude = library_module("prelude")
    assert prelude is not None
    tree, found = parse(prelude.source)
    assert found == []
    listed = {
        str(d.module).removeprefix("std."): [item.name.name for item in d.names]
        for d in tree.decls
        if isinstance(d, ast.FromImport)
    }
    assert list(listed) == prelude_names()
    assert listed == {module: public(module) for module in listed}


def test_no_name_is_declared_twice() -> None:
    names = [name for module in MODULES for name in public(module)]
    assert sorted(names) == sorted(set(names))
