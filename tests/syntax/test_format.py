"""The formatter: its golden texts (format.md, docs/language/style.md), and what it promises."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.check import source as generated
from dslc.diagnostics import CompileError, InternalError
from dslc.source import SourceFile
from dslc.syntax import format as formatting
from dslc.syntax.document import LINE, SOFT, behind, concat, group, nest, render
from dslc.syntax.format import WIDTH, Replacement, format_range, format_source
from dslc.syntax.parser import parse
from tests.effort import at_most

ROOT = Path(__file__).parents[2]
PAGES = [Path(__file__).parent / "format.md", ROOT / "docs" / "language" / "style.md"]
CASE = re.compile(
    r"^```text\n(?P<before>.*?)^```\n"
    r"(?:(?P<between>\n*)^```dl\n(?P<after>.*?)^```\n)?",
    re.M | re.S,
)
FENCE = re.compile(r"^```dl(?: right)?\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Case:
    """The `number`-th pair of a page."""

    page: Path
    number: int
    title: str
    before: str
    after: str


def cases() -> Iterator[Case]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for number, match in enumerate(CASE.finditer(text)):
            title = re.findall(r"^#+ (.*)$", text[: match.start()], re.M)[-1]
            yield Case(page, number, title, match["before"], match["after"] or "")


def written(text: str) -> str:
    return format_source(SourceFile("a.dl", text))


def rewrite(case: Case, after: str) -> None:
    """Put the actual text in place of the expected one."""
    text = case.page.read_text(encoding="utf-8")
    match = list(CASE.finditer(text))[case.number]
    new = f"```text\n{case.before}```\n"
    new += f"{match['between'] or chr(10)}```dl\n{after}```\n"
    case.page.write_text(text[: match.start()] + new + text[match.end() :], encoding="utf-8")


@pytest.mark.parametrize("case", list(cases()), ids=lambda c: f"{c.page.stem}-{c.number}-{c.title}")
def test_golden_texts(case: Case, request: pytest.FixtureRequest) -> None:
    after = written(case.before)
    if request.config.getoption("--update") and after != case.after:
        rewrite(case, after)
        return
    assert after == case.after
    assert written(after) == after


# --- the repository's own programs --------------------------------------------------------------

FILES = [
    path
    for folder in ("dslc", "examples", "tests", "benchmarks", "docs")
    for path in sorted((ROOT / folder).rglob("*.dl"))
]
MARKDOWN = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "dslc" / "explain").glob("*.md")),
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_in_the_one_style(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert written(text) == text, f"run `dslc fmt {path.relative_to(ROOT)}`"


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_programs_in_pages_are_in_the_one_style(page: Path, request: pytest.FixtureRequest) -> None:
    """Those that parse; `--update` rewrites them."""
    text = new = page.read_text(encoding="utf-8")
    for program in FENCE.findall(text):
        if not parse(SourceFile("a.dl", program))[1]:
            new = new.replace(f"\n{program}```", f"\n{written(program)}```")
    if request.config.getoption("--update") and new != text:
        page.write_text(new, encoding="utf-8")
        return
    assert new == text, "run this test with --update"


# --- what it promises ---------------------------------------------------------------------------


def test_windows_line_ends_become_line_ends() -> None:
    assert written("# a\r\nfn f() -> f32 {\r\n    return 1 # b\r\n}\r\n") == (
        "# a\nfn f() -> f32 {\n    return 1  # b\n}\n"
    )


@pytest.mark.parametrize("text", ["", "\n\n", " \n\t\n", "\ufeff"])
def test_an_empty_file_is_empty(text: str) -> None:
    assert written(text) == ""


@pytest.mark.parametrize("text", ["# a", "\n\n# a\n\n", "\ufeff# a\n"])
def test_a_file_of_comments(text: str) -> None:
    assert written(text) == "# a\n"


def test_a_file_that_does_not_parse_is_refused() -> None:
    with pytest.raises(CompileError) as caught:
        written("fn f() -> f32 {\n    return 1 +\n}\n")
    assert [d.severity for d in caught.value.diagnostics] == ["error"]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("fn f() -> f32 { return 2 }\n", "would change what a.dl means"),
        ("fn f() -> f32 { return 1 }\n", "would change the comments of a.dl"),
        ("fn f() -> f32 { return 1 + } # a\n", "does not parse"),
    ],
)
def test_a_text_that_says_something_else_is_never_given(
    made: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formatting, "render", lambda doc, width: made)
    with pytest.raises(InternalError, match=told):
        written("fn f() -> f32 { return 1 } # a\n")


def test_a_thousand_lines_are_little_work() -> None:
    text = generated(1000)
    with at_most(6_000_000):
        written(text)


def test_work_grows_with_the_text() -> None:
    text = "fn f() -> f32 {\n" + "    y = (x)  # c\n" * 1500 + "    return y\n}\n"
    with at_most(4_500_000):
        written(text)


def test_deep_and_long_programs() -> None:
    deep = "(" * 60 + "x" + ")" * 60
    chain = " + ".join(["x"] * 150)
    text = f"fn f() -> f32 {{\n    y = g{deep}\n    return {chain}\n}}\n"
    after = written(text)
    assert after.count("\n") > 100
    assert written(after) == after


def test_no_brackets_are_added_where_none_can_be() -> None:
    text = f"fn f(by: f32) -> f32 {{\n    return by * {'(' * 62}by{')' * 62}\n}}\n"
    after = written(text)
    assert after.count("(") == text.count("(")
    assert written(after) == after


def test_a_list_of_many_items_takes_no_quadratic_time() -> None:
    parts = ".".join(["a"] * 3000)
    with at_most(4_500_000, "line"):  # 1,500,000; 10,500,000 with the list copied at each item
        written(f'weights M {{\n    {parts} <- "a"\n}}\n')


# --- ranges ---------------------------------------------------------------------------------------

TWO = "fn f() -> f32 {\n    x=1 # a\n\n    y =  2\n    return x\n}\nfn g() -> f32 {return 1}\n"


def replaced(text: str, start: int, end: int) -> tuple[Replacement, str]:
    part = format_range(SourceFile("a.dl", text), start, end)
    return part, text[: part.start] + part.text + text[part.end :]


def test_a_range_changes_its_lines_only() -> None:
    place = TWO.index("y =")
    part, after = replaced(TWO, place, place + 1)
    assert part.text == "\n    y = 2\n"
    assert after == TWO.replace("y =  2", "y = 2")


def test_a_range_in_a_block_whose_value_gets_brackets() -> None:
    body = "scan x_t in x along 0, h = z {\n        h  =  h + x_t\n        yield h\n    }"
    terms = " + ".join(f"a_long_name_{i}" for i in range(8))
    text = f"fn f() -> f32 {{\n    y = {terms} + {body}\n    return y\n}}\n"
    whole = written(text)
    assert "(" in whole.split("\n")[1]
    start = text.index("h  =")
    _, mixed = replaced(text, start, text.index("return y"))
    assert written(mixed) == whole


@pytest.mark.parametrize("start", range(0, len(TWO), 3))
def test_ranges_end_where_statements_do(start: int) -> None:
    for end in range(start, len(TWO) + 1, 4):
        after = replaced(TWO, start, end)[1]
        assert written(after) == written(TWO)
    assert replaced(TWO, 0, len(TWO))[1] == written(TWO)


# --- documents ------------------------------------------------------------------------------------


def test_a_group_breaks_where_it_does_not_fit() -> None:
    doc = group(concat("f(", nest(concat(SOFT, "a,", LINE, "b")), SOFT, ")"))
    assert render(doc, 7) == "f(a, b)\n"
    assert render(doc, 6) == "f(\n    a,\n    b\n)\n"


def test_a_comment_takes_no_width_and_breaks_what_goes_on_after_it() -> None:
    last = group(concat("f(", SOFT, "a", SOFT, ")", behind("# long")))
    assert render(last, 4) == "f(a)  # long\n"
    inner = group(concat("f(", SOFT, "a", behind("# long"), SOFT, ")"))
    assert render(inner, WIDTH) == "f(\na  # long\n)\n"
