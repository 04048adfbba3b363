"""Programs that would exhaust the checker: each ends soon, with a report."""

from __future__ import annotations

import pytest

from dslc.diagnostics import Diagnostic
from dslc.semantics.check import check
from dslc.source import SourceFile
from tests.effort import at_most

DEEP = 190


def found(text: str, calls: int = 1_700_000) -> list[Diagnostic]:
    with at_most(calls):
        return check(SourceFile("test.dl", text))


def codes(text: str) -> set[str]:
    return {diagnostic.code for diagnostic in found(text)}


@pytest.mark.parametrize(
    "value",
    [
        "-" * DEEP + "f(x)",
        "-(" * 60 + "f(x)" + ")" * 60,
        "f(x)" + " + x" * DEEP,
        "x ** " * DEEP + "f(x)",
        "relu(" * 60 + "f(x)" + ")" * 60,
        "f(x)" + ".T" * DEEP,
    ],
    ids=["signs", "brackets", "sum", "powers", "calls", "attributes"],
)
def test_calls_without_an_end_in_deep_expressions(value: str) -> None:
    assert codes(f"fn f(x: f32[A, A]) -> f32[A, A] {{ return {value} }}\n") == {"E0221"}


def test_deep_expressions_in_deep_calls() -> None:
    lines = [f"fn f{i}(x: f32) -> f32 {{ return {'-' * DEEP}f{i + 1}(x) }}" for i in range(46)]
    assert codes("\n".join([*lines, "fn f46(x: f32) -> f32 { return x }\n"])) == {"E0221"}


def test_calls_without_an_end_that_double() -> None:
    twice = "fn f(x: f32) -> f32 {\n    a = f(x)\n    b = g(a)\n    return a + b\n}\n"
    (only,) = found(f"{twice}fn g(x: f32) -> f32 {{ return f(x) + f(-x) }}\n", 90_000)
    assert only.code == "E0221"


def test_calls_that_double() -> None:
    lines = ["fn f0(x: f32) -> f32 { return x }"]
    lines += [
        f"fn f{i}(x: f32) -> f32 {{ return f{i - 1}(x) + f{i - 1}(x) }}" for i in range(1, 40)
    ]
    text = "\n".join(lines) + "\nmodel M(x: f32) -> f32 { return f39(x) }\n"
    # It ends: 2**40 calls would not.
    assert {d.code for d in check(SourceFile("test.dl", text))} == {"E0309"}


def test_loops_in_loops() -> None:
    loops = "for i in 0..1000 {\n" * 5 + "}\n" * 5
    assert codes(f"model M(x: f32) -> f32 {{\n{loops}return x }}\n") == {"E0309"}


def test_defaults_that_need_others() -> None:
    lines = ["fn f0[g: fn = relu](x: f32) -> f32 { return g(x) }"]
    lines += [f"fn f{i}[g = f{i - 1}[]](x: f32) -> f32 {{ return g(x) }}" for i in range(1, 30)]
    assert found("\n".join(lines)) == []
