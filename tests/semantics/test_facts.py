"""What the checker tells an editor about the places of a file."""

from __future__ import annotations

from dslc._recursion import deep_recursion
from dslc.semantics.check import check
from dslc.semantics.elaborate import elaborate_model, new_context
from dslc.semantics.facts import Facts, Recorder
from dslc.source import SourceFile
from dslc.syntax import ast

TEXT = """\
layer block[width](x: float[N, C]) -> float[N, width] {
    y = x |> fc: dense[width] |> relu
    return y
}

model M[classes=3](x: f32[N, 4]) -> f32[N, classes] {
    a = x |> block[8]
    b, c = (a, classes)
    return b |> block[classes]
}
"""


def facts_of(text: str) -> tuple[str, Facts]:
    source = SourceFile("m.dl", text)
    ctx = new_context(source)
    ctx.facts = Recorder(source)
    module = ctx.frame.module
    model = next(d for d in module.decls.values() if isinstance(d, ast.ModelDecl))
    with deep_recursion():
        elaborate_model(ctx, module, model, {}, training=False)
    assert not ctx.reporter.diagnostics
    return text, Facts(ctx.facts.found)


def test_places_have_types() -> None:
    text, facts = facts_of(TEXT)

    def at(words: str, part: str) -> str | None:
        start = text.index(words) + words.index(part)
        return facts.text(start, start + len(part))

    assert at("a = x", "a") == "f32[N, 8]"
    assert at("b, c =", "c") == "3"
    assert at("y = x", "y") == "f32[N, 8] | f32[N, 3]"
    assert at("x: float[N, C]", "C") == "4 | 8"
    assert at("fc: dense", "fc") == "dense[units=8, bias=true] | dense[units=3, bias=true]"
    assert at("x |> fc: dense[width] |> relu", "x |> fc: dense[width]") == "f32[N, 8] | f32[N, 3]"


def test_second_model_is_checked_after_a_mistake_in_the_first() -> None:
    wrong = "model {}(x: f32[N, 4]) -> f32[N, 4] {{\n    return x + missing{}\n}}\n"
    found = check(SourceFile("m.dl", wrong.format("A", 1) + wrong.format("B", 2)))
    assert [d.title for d in found] == [
        "there is no `missing1` here",
        "there is no `missing2` here",
    ]
