"""The cases cover the language: their number, each code, each function that words a mistake.

A function that no case reaches is either dead, and goes, or lacks a case, and gets one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dslc.diagnostics import Diagnostic
from dslc.semantics import errors
from dslc.syntax import builder, hints, lexer, lexical_errors, parser
from tests.language.cases import FOLDER, Case, diagnose, read_cases

ROOT = FOLDER.parent.parent
CASES = [case for path in sorted(FOLDER.glob("*.md")) for case in read_cases(path)]
WRONG = [case for case in CASES if case.is_wrong]


def test_how_many_cases_there_are() -> None:
    assert len({case.program for case in CASES}) >= 250
    assert len({case.program for case in WRONG}) >= 120
    assert sum(case.facts is not None for case in CASES) >= 50


def test_every_code_is_shown() -> None:
    shown = set(
        re.findall(r"^(?:error|warning)\[(\w+)\]", "\n".join(c.expected for c in CASES), re.M)
    )
    pages = {page.stem for page in (ROOT / "dslc" / "explain").glob("*.md")}
    # Those are about ONNX files.
    told = (ROOT / "tests" / "onnx" / "test_onnx_import.py").read_text(encoding="utf-8")
    foreign = {code for code in pages if code.startswith("E05")}
    assert pages - foreign == shown
    assert all(code in told for code in foreign)


def test_every_function_that_words_a_mistake_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: set[str] = set()
    for name in error_functions():
        watch(monkeypatch, errors, name, called)
    for name in functions(lexical_errors):
        for module in (lexical_errors, parser):
            if hasattr(module, name):
                watch(monkeypatch, module, name, called)
    assert lexer.errors is lexical_errors
    for name in ("else_without_read", "train_word_assigned"):
        watch(monkeypatch, builder, name, called)
    for table in ("_HINTS", "_HELPS"):
        monkeypatch.setattr(hints, table, tuple(answering(getattr(hints, table), called)))
    for case in CASES:
        run(case, tmp_path, monkeypatch)
    expected = {
        *error_functions(),
        *functions(lexical_errors),
        *(hint.__name__ for hint in (*hints._HINTS, *hints._HELPS)),
        "else_without_read",
        "train_word_assigned",
    }
    assert expected - called == set()


def run(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Diagnostic]:
    for name, text in case.files.items():
        (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(folder)
    return diagnose(case)


def error_functions() -> list[str]:
    """What words the mistakes of the checker, but for the tools that all of it is made with."""
    tools = set(functions_of(ROOT / "dslc" / "semantics" / "errors" / "make.py"))
    return [name for name in errors.__all__ if name not in tools]


def functions(module: ModuleType) -> list[str]:
    """The public functions that a module defines."""
    return functions_of(Path(str(module.__file__)))


def functions_of(path: Path) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    defined = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    return [name for name in defined if not name.startswith("_")]


def watch(monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, called: set[str]) -> None:
    original: Callable[..., Any] = getattr(module, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        called.add(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, watched)


def answering(
    table: tuple[Callable[..., Any], ...], called: set[str]
) -> Iterator[Callable[..., Any]]:
    """The hints, each noting when it has something to say."""
    for hint in table:

        def answered(situation: Any, hint: Callable[..., Any] = hint) -> Any:
            answer = hint(situation)
            if answer is not None:
                called.add(hint.__name__)
            return answer

        answered.__name__ = hint.__name__
        yield answered
