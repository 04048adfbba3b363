"""What the parser does with wrong text; the words are in tests/language/syntax.md."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dslc.diagnostics import render_all
from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax.parser import MAX_DIAGNOSTICS, parse

EVERYTHING = (Path(__file__).parent / "everything.dl").read_text(encoding="utf-8")
PIECES = [
    *"()[]{},.:=*-~#@|\"'\n\t$é\\",
    "|>",
    "->",
    "<-",
    "..",
    " else ",
    " if ",
    " in ",
    "scan x in y along 0 {",
    "\nlayer f(",
    "\nmodel M {\n",
    "\ntrain M {\n",
    "1.5",
    " x ",
]


def codes(text: str) -> list[str]:
    return [d.code for d in parse(SourceFile("a.dl", text))[1]]


def check_total(text: str) -> None:
    """Any text gives a tree and diagnostics that lie in it and can be shown."""
    source = SourceFile("a.dl", text)
    file, diagnostics = parse(source)
    assert isinstance(file, ast.File)
    assert len(diagnostics) <= MAX_DIAGNOSTICS
    render_all(diagnostics, color=True)
    for diagnostic in diagnostics:
        for label in diagnostic.labels:
            assert 0 <= label.span.start <= label.span.end <= len(text)


@given(st.text(max_size=200))
@settings(max_examples=150)
def test_any_text_is_read(text: str) -> None:
    check_total(text)


@given(st.lists(st.sampled_from([*PIECES, "fn f() -> f32 {\n", "return x\n", "}\n"]), max_size=40))
@settings(max_examples=150)
def test_any_tokens_are_read(pieces: list[str]) -> None:
    check_total("".join(pieces))


@given(
    st.lists(
        st.tuples(
            st.integers(0, len(EVERYTHING)), st.integers(0, 8), st.sampled_from(["", *PIECES])
        ),
        min_size=1,
        max_size=6,
    )
)
@settings(max_examples=100)
def test_changed_programs_are_read(edits: list[tuple[int, int, str]]) -> None:
    text = EVERYTHING
    for place, length, piece in edits:
        text = text[:place] + piece + text[place + length :]
    check_total(text)


@pytest.mark.parametrize("position", range(0, len(EVERYTHING), 97))
def test_cut_off_programs_are_read(position: int) -> None:
    check_total(EVERYTHING[:position])


def test_declarations_beside_a_wrong_one_are_kept() -> None:
    text = "const a = 1\nconst b = = 2\nconst c = 3\nlayer l(\nconst d = 4\n"
    file, _ = parse(SourceFile("a.dl", text))
    names = [decl.name.name for decl in file.decls if isinstance(decl, ast.ConstDecl)]
    assert names == ["a", "c", "d"]


def test_statements_beside_a_wrong_one_are_kept() -> None:
    text = "fn f() -> f32 {\n    a = 1\n    b = = 2\n    c = 3 3\n    return a\n}\n"
    file, diagnostics = parse(SourceFile("a.dl", text))
    (decl,) = file.decls
    assert isinstance(decl, ast.FnDecl)
    assert [type(s) for s in decl.body] == [ast.Assign, ast.Assign, ast.Return]
    assert len(diagnostics) == 2


def test_mistakes_under_a_wrong_head_are_found() -> None:
    text = "layer f(x f32) -> f32 {\n    if = {\n        y = = 1\n    }\n    z = = 2\n}\n"
    assert [d.span and d.span.position[0] for d in parse(SourceFile("a.dl", text))[1]] == [
        1,
        2,
        3,
        5,
    ]


def test_reports_stop_in_the_end() -> None:
    assert len(codes("layer\n" * 500)) == MAX_DIAGNOSTICS


@pytest.mark.parametrize(
    "text",
    [
        "(" * 5000,
        "[" * 200 + "]" * 200,
        "fn f() -> f32 {\n" + "if a {\n" * 500,
        "const a = " + "-" * 5000 + "1",
        "const a = " + " + ".join("a" * 5000),
        "const a = " + " ** ".join("a" * 1000),
        "const a = x" + " |> f" * 5000,
        "const a = x" + ".y" * 5000,
        "const a = x" + "[0]" * 5000,
        "fn f() -> f32 {\n" + "if a { } else " * 500 + "{ }\n}",
        "const a = " + "if a { b } else { " * 200 + "c" + " }" * 200,
        "const a = " + "if a { b } else " * 500 + "{ c }",
    ],
    ids=lambda text: text[10:30].strip(),
)
def test_deep_nesting_is_reported_not_followed(text: str) -> None:
    file, diagnostics = parse(SourceFile("a.dl", text))
    assert "E0006" in [d.code for d in diagnostics]
    assert file.decls == ()


def test_long_but_flat_programs_are_not_too_deep() -> None:
    text = "const a = (" + ", ".join("1" * 5000) + ")\nconst b = x" + " |> f" * 90
    assert codes(text) == []
