"""How diagnostics are shown, collected and written as JSON; places in files."""

from __future__ import annotations

import json
import re

import pytest

from dslc.diagnostics import (
    CompileError,
    Diagnostic,
    Label,
    Reporter,
    nearest_name,
    render_all,
    render_json,
    render_text,
)
from dslc.source import SourceFile, Span
from tests.effort import at_most


def mark(source: SourceFile, text: str, message: str = "", primary: bool = True) -> Label:
    start = source.text.index(text)
    return Label(Span(source, start, start + len(text)), message, primary)


def shown(source: SourceFile, *labels: Label) -> list[str]:
    return render_text(Diagnostic("E0001", "t", labels)).split("\n")[3:]


def test_whole_diagnostic() -> None:
    source = SourceFile(
        "examples/resnet.dl", "\n" * 7 + "    shortcut = x\n\n\n\n    return relu(y + also)\n"
    )
    diagnostic = Diagnostic(
        "E0203",
        "cannot add f32[N, 64, 28, 28] and f32[N, 32, 56, 56]",
        (
            mark(source, "y", "f32[N, 64, 28, 28], from conv2d[64, stride=2] at 9:12"),
            mark(source, "also", "", primary=False),
            mark(source, "x", "f32[N, 32, 56, 56], the argument x", primary=False),
        ),
        ("dim 1 differs (64 and 32); dim 2 differs (28 and 56)",),
        ("give the shortcut the same change:\nx |> conv2d[64, kernel=1, stride=2]",),
    )
    assert render_text(diagnostic) == (
        "error[E0203]: cannot add f32[N, 64, 28, 28] and f32[N, 32, 56, 56]\n"
        "  ┌─ examples/resnet.dl:12:17\n"
        "  │\n"
        " 8 │     shortcut = x\n"
        "   │                - f32[N, 32, 56, 56], the argument x\n"
        "12 │     return relu(y + also)\n"
        "   │                 ^   ----\n"
        "   │                 f32[N, 64, 28, 28], from conv2d[64, stride=2] at 9:12\n"
        "  │\n"
        "  = note: dim 1 differs (64 and 32); dim 2 differs (28 and 56)\n"
        "  = help: give the shortcut the same change:\n"
        "          x |> conv2d[64, kernel=1, stride=2]"
    )


def test_several_messages_on_one_line_stand_below_each_other() -> None:
    source = SourceFile("a.dl", "aa bb cc")
    labels = (
        mark(source, "aa", "first"),
        mark(source, "bb", "second"),
        mark(source, "cc", "third"),
    )
    assert shown(source, *labels) == [
        " 1 │ aa bb cc",
        "   │ ^^ ^^ ^^ third",
        "   │ │  second",
        "   │ first",
    ]


def test_tabs_take_four_columns() -> None:
    source = SourceFile("a.dl", "\tx\t= y")
    assert shown(source, mark(source, "y")) == [" 1 │     x    = y", "   │            ^"]


def test_a_span_over_lines_is_marked_on_its_first() -> None:
    source = SourceFile("a.dl", "f(a,\n  b)")
    assert shown(source, Label(source.span())) == [" 1 │ f(a,", "   │ ^^^^"]


def test_the_end_of_a_file_is_marked() -> None:
    source = SourceFile("a.dl", "x\n")
    assert shown(source, Label(source.span(2, 2))) == [" 2 │", "   │ ^"]


def test_a_very_long_line_is_cut_to_what_matters() -> None:
    source = SourceFile("a.dl", "a" * 500 + "X" + "b" * 500)
    line, marks = shown(source, mark(source, "X"))
    assert len(line) < 180
    assert line[marks.index("^")] == "X"


def test_wide_gutter() -> None:
    source = SourceFile("a.dl", "\n" * 1233 + "x")
    assert shown(source, mark(source, "x"))[0] == "1234 │ x"


def test_labels_of_other_files_have_a_head_of_their_own() -> None:
    one, two = SourceFile("one.dl", "x"), SourceFile("two.dl", "\ny")
    text = render_text(
        Diagnostic("E0001", "t", (mark(two, "y", "there", primary=False), mark(one, "x", "here")))
    )
    assert text.split("\n")[1::4] == ["  ┌─ one.dl:1:1", "  ┌─ two.dl:2:1"]


def test_control_characters_do_not_reach_the_terminal() -> None:
    source = SourceFile("a.dl", "x \x1b[31m y")
    text = render_text(Diagnostic("E0001", "\x1b[2J", (mark(source, "y", "\x07"),)))
    assert "\x1b" not in text
    assert "\x07" not in text


def test_a_diagnostic_without_a_place() -> None:
    text = render_text(Diagnostic("E0100", "no file", help=("give one",)))
    assert text == "error[E0100]: no file\n  = help: give one"


def test_colour_adds_only_colour() -> None:
    source = SourceFile("a.dl", "aa bb")
    diagnostic = Diagnostic(
        "W0001", "t", (mark(source, "aa", "m"), mark(source, "bb", "n")), ("o",), (), "warning"
    )
    colored = render_text(diagnostic, color=True)
    assert colored != render_text(diagnostic)
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == render_text(diagnostic)


def test_json_holds_everything() -> None:
    source = SourceFile("a.dl", "x = 1\ny = 2\n")
    (data,) = json.loads(render_json([Diagnostic("E1", "t", (mark(source, "y", "m"),), ("n",))]))
    assert data == {
        "code": "E1",
        "severity": "error",
        "title": "t",
        "labels": [
            {
                "path": "a.dl",
                "start": {"line": 2, "column": 1, "offset": 6},
                "end": {"line": 2, "column": 2, "offset": 7},
                "message": "m",
                "primary": True,
            }
        ],
        "notes": ["n"],
        "help": [],
    }


def test_reporter_keeps_each_once_in_the_order_of_the_text() -> None:
    source = SourceFile("a.dl", "x y")
    first = Diagnostic("E1", "t", (mark(source, "x"),))
    second = Diagnostic("E1", "t", (mark(source, "y"),), severity="warning")
    reporter = Reporter()
    reporter.extend([second, first, second])
    assert reporter.diagnostics == (first, second)


def test_reporter_tells_errors_from_warnings() -> None:
    reporter = Reporter()
    reporter.report(Diagnostic("W1", "t", severity="warning"))
    assert not reporter.has_errors
    reporter.report(Diagnostic("E1", "t"))
    assert reporter.has_errors


def test_compile_error_shows_its_diagnostics() -> None:
    diagnostics = [Diagnostic("E1", "one"), Diagnostic("E2", "two")]
    error = CompileError(diagnostics)
    assert str(error) == render_all(diagnostics) == "error[E1]: one\n\nerror[E2]: two"
    assert error.diagnostics == tuple(diagnostics)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kernal", "kernel"),
        ("kenrel", "kernel"),
        ("Kernel_size", None),
        ("strid", "stride"),
        ("xyz", None),
        ("kernel", None),
    ],
)
def test_nearest_name(name: str, expected: str | None) -> None:
    assert nearest_name(name, ["kernel", "stride"]) == expected


def test_positions_count_from_one() -> None:
    source = SourceFile("a.dl", "ab\ncd")
    assert [source.position(i) for i in (0, 2, 3, 5)] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert source.line(2) == "cd"


def test_nearest_name_of_many_and_of_long_names() -> None:
    many = [f"function_{i}" for i in range(3000)]
    with at_most(2_700_000):  # 50 times that where none is ruled out by its length
        for i in range(100):
            assert nearest_name(f"relu_{i}", many) is None
    with at_most(10):
        assert nearest_name("a" * 100_000, ["b" * 100_000]) is None
    assert nearest_name("functoin_7", many) == "function_7"
    assert nearest_name("rellu", ["reglu", "relu"]) == "relu"  # both are one slip away
