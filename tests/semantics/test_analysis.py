"""What an editor is told of a file: whole or broken, at first and after each change."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from dslc.diagnostics import render_all
from dslc.semantics.analysis import Analysis, Memory, analyse
from dslc.semantics.check import check
from dslc.semantics.scope import Store
from dslc.source import SourceFile
from dslc.syntax.lexer import lex
from tests.language.test_language import CASES

ROOT = Path(__file__).parent.parent.parent
EVERYTHING = (ROOT / "tests/syntax/everything.dl").read_text(encoding="utf-8")

TEXT = """\
const SIZE = 8

## Doubles its argument.
fn twice(x: float[*S]) -> float[*S] {
    return x + x
}

layer block[width, act: fn = relu](x: float[N, C]) -> float[N, width] {
    param scale: float[width] = 1
    y = x |> fc: dense[width] |> act
    y = y * scale
    return twice(y)
}

model M[classes=3](x: f32[N, 4]) -> f32[N, classes] {
    first = block[SIZE]
    a = first(x)
    for i in 0..2 {
        a = a |> block[width=SIZE, act=tanh]
    }
    b = a + first.scale + first.fc.bias
    return b |> block[classes]
}

train M {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
}
"""


def of(text: str, memory: Memory | None = None, path: str = "m.dl") -> Analysis:
    return analyse(SourceFile(path, text), memory)


def refers(analysis: Analysis, words: str, part: str) -> tuple[str, int | str]:
    """The kind of what `part` of `words` refers to, and the line where it is defined, or a word."""
    start = analysis.source.text.index(words) + words.index(part)
    found = analysis.names.at(start)
    assert found is not None, part
    span = found.symbol.definition(start)
    if span is None:
        return found.symbol.kind, "language"
    own = span.file.path == analysis.source.path or not span.file.path.startswith("std/")
    return found.symbol.kind, span.position[0] if own else "library"


@pytest.mark.parametrize(
    ("words", "part", "expected"),
    [
        ("block[SIZE]", "SIZE", ("const", 1)),
        ("return twice(y)", "twice", ("function", 4)),
        ("return x + x", "x", ("argument", 4)),
        ("-> float[*S]", "S", ("dim", 4)),
        ("y * scale", "y", ("local", 10)),
        ("return twice(y)", "y)", ("local", 11)),
        ("y * scale", "scale", ("weight", 9)),
        ("> act", "act", ("static", 8)),
        ("first(x)", "first", ("local", 16)),
        ("width=SIZE", "width", ("static", 8)),
        ("act=tanh", "tanh", ("built-in", "language")),
        ("first.scale", "scale", ("weight", 9)),
        ("first.fc.bias", "fc", ("instance", 10)),
        ("train M", "M", ("model", 15)),
        ("(output, label)", "output", ("output", 15)),
        ("(output, label)", "label", ("input", 26)),
        ("i64[N]", "N", ("dim", 15)),
        ("dense[width]", "dense", ("layer", "library")),
        ("sgd[lr=0.1]", "lr", ("static", "library")),
    ],
)
def test_what_a_name_refers_to(words: str, part: str, expected: tuple[str, int | str]) -> None:
    assert refers(of(TEXT), words, part) == expected


FORMULA = """\
fn smooth[r](x: float[N, T]) -> float[N, T] {
    y[n, t]: float[N, T] = mean[k in 0..r](
        x[n, t + k] else 0
    )
    return y
}
"""


@pytest.mark.parametrize(
    ("words", "part", "expected"),
    [
        ("x[n, t + k]", "n", ("index", 2)),
        ("x[n, t + k]", "k", ("index", 2)),
        ("0..r", "r", ("static", 1)),
        ("return y", "y", ("local", 2)),
    ],
)
def test_what_an_index_refers_to(words: str, part: str, expected: tuple[str, int | str]) -> None:
    assert refers(of(FORMULA), words, part) == expected


BLOCK_WORDS = frozenset(
    ("layer", "param", "state", "train", "import", "from", "const", "along", "reversed")
)


def test_every_name_of_the_library_refers_to_something() -> None:
    labels = re.compile(r"\s*=(?!=)")
    for path in sorted((ROOT / "dslc/std").glob("*.dl")):
        text = path.read_text(encoding="utf-8")
        analysis = of(text, path=str(path))
        said = {
            offset for o in analysis.names.occurrences for offset in range(o.span.start, o.span.end)
        }
        lost = [
            (analysis.source.position(token.start), token.text)
            for token in lex(analysis.source).tokens
            if token.type == "NAME"
            and token.start not in said
            and not labels.match(text, token.end)  # statics of built-ins
            and token.text not in BLOCK_WORDS
            and token.text != "None"  # of an index: a new dim
            and text[token.start - 1] != "."
            and not text[: token.start].rstrip().endswith(":")  # kinds
        ]
        assert not lost, path


def told(analysis: Analysis) -> tuple[object, ...]:
    """All that is known of a file, to be compared."""
    diagnostics = [
        (d.code, d.title, [(str(s.span), s.span.end, s.message, s.primary) for s in d.labels])
        for d in analysis.diagnostics
    ]
    facts = {span: analysis.facts.text(*span) for span in analysis.facts.found}
    names = [
        (str(o.span), o.symbol.kind, str(o.symbol.definition(o.span.start)))
        for o in analysis.names.occurrences
    ]
    return diagnostics, facts, names


def test_a_whole_file_is_told_what_check_tells() -> None:
    wrong = TEXT.replace("a + first.scale", "a + missing").replace("dense[width]", "dense[0 - 1]")
    for text in (TEXT, wrong):
        expected = [(d.code, d.title) for d in check(SourceFile("m.dl", text))]
        assert [(d.code, d.title) for d in of(text).diagnostics] == expected


def test_an_editor_is_told_what_check_tells_of_every_case_of_the_language() -> None:
    memory = Memory()
    for case in CASES:
        if case.files or case.command is not None:
            continue
        found = of(case.program, memory, "example.dl").diagnostics
        assert render_all(found) == case.expected, case.title


def test_after_any_change_it_is_as_if_read_for_the_first_time() -> None:
    """Changes at random places, one after another, each compared with a fresh analysis."""
    draw = random.Random(7)
    pieces = ["x", "width", "\n", "2", " ", "# note\n", "[", "}", "y = 3\n", "", "", "SIZE", "tanh"]
    memory, text = Memory(), TEXT
    for turn in range(60):
        if turn % 12 == 0:
            text = TEXT
        start = draw.randrange(len(text))
        text = text[:start] + draw.choice(pieces) + text[start + draw.randrange(3) :]
        if draw.random() < 0.3:
            text = f"# one more line\n{text}"
        assert told(of(text, memory)) == told(of(text)), text


def test_any_text_is_analysed() -> None:
    for end in range(0, len(EVERYTHING), 41):
        assert of(EVERYTHING[:end]).names is not None
    for text in ("", "}", "model", "model M[", "train M {", '"', "import \n", "from std.x import"):
        assert of(text).names is not None


@pytest.mark.parametrize(
    ("whole", "broken"),
    [
        ("    return twice(y)\n", "    return twice(\n"),
        ("    y = y * scale\n", "    y = y *\n"),
        ("    y = x |> fc: dense[width] |> act\n", "    y = x |> fc: dense[width |> act\n"),
        ("    param scale: float[width] = 1\n", "    param scale:\n"),
        ("fn twice(x: float[*S])", "fn twice(x: float["),
        ("const SIZE = 8\n", "const SIZE =\n"),
        ("    a = first(x)\n", "    a =\n"),
        ("    input label: i64[N]\n", "    input label\n"),
        ("    first = block[SIZE]\n", "    first = block[SIZE].\n"),
        ("-> float[N, width] {", "-> float[N, width]"),
    ],
)
def test_what_does_not_parse_causes_no_other_errors(whole: str, broken: str) -> None:
    assert whole in TEXT
    found = of(TEXT.replace(whole, broken)).diagnostics
    assert found
    assert [d.code for d in found if not d.code.startswith("E00")] == []


def test_other_declarations_are_checked_beside_a_broken_one() -> None:
    text = TEXT + "fn wrong(x: f32[2], y: f32[3]) -> f32[2] {\n    return x + y\n}\n"
    found = of(text.replace("y * scale", "y *")).diagnostics
    assert [d.code[:3] for d in found] == ["E00", "E02"]


def test_broken_declarations_keep_their_facts() -> None:
    analysis = of(TEXT.replace("    return b |>", "    c = a |>\n    return b |>"))
    start = analysis.source.text.index("a = first")
    assert analysis.facts.text(start, start + 1) == "f32[N, 8]"


def test_texts_that_are_not_written_yet(tmp_path: Path) -> None:
    (tmp_path / "blocks.dl").write_text("fn half(x: f32) -> f32 { return x / 2 }\n")
    main = 'from "blocks.dl" import third\n\nfn f(x: f32) -> f32 { return third(x) }\n'
    path = str(tmp_path / "main.dl")
    assert [d.code for d in of(main, path=path).diagnostics] == ["E0402"]
    changed = {str(tmp_path / "blocks.dl"): "fn third(x: f32) -> f32 { return x / 3 }\n"}
    memory = Memory(Store(overlay=changed))
    analysis = of(main, memory, path)
    assert not analysis.diagnostics
    assert analysis.files == (str(tmp_path / "blocks.dl"),)
    assert refers(analysis, "return third", "third") == ("function", 1)
    changed[str(tmp_path / "blocks.dl")] = "fn third(x: i64) -> i64 { return x }\n"
    assert [d.code for d in of(main, memory, path).diagnostics] == ["E0201"]


def test_a_change_behind_two_imports(tmp_path: Path) -> None:
    base, middle = str(tmp_path / "base.dl"), str(tmp_path / "middle.dl")
    changed = {
        base: "const WIDTH = 4\n",
        middle: 'from "base.dl" import WIDTH\n\nlayer wide(x: float[N, C]) -> float[N, WIDTH] {\n'
        "    return x |> dense[WIDTH]\n}\n",
    }
    main = 'from "middle.dl" import wide\n\nmodel M(x: f32[N, 3]) -> f32[N, 4] {\n'
    main += "    return wide(x)\n}\n"
    path = str(tmp_path / "main.dl")
    memory = Memory(Store(overlay=changed))
    assert not of(main, memory, path).diagnostics
    changed[base] = "const WIDTH = 5\n"
    analysis = of(main, memory, path)
    assert [d.code for d in analysis.diagnostics] == ["E0202"]
    assert set(analysis.files) == {base, middle}
