"""The Markdown files beside this one: programs, and the whole text of what is said about them.

A case is a `dl` fence, in a section of its own heading. If an `error` fence follows it, that is
the rendered text of all diagnostics; if none does, the program is right. `--update` rewrites the
expected texts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from dslc.diagnostics import render_all
from dslc.semantics.check import check
from dslc.source import SourceFile

FOLDER = Path(__file__).parent
CASE = re.compile(
    r"^```dl\n(?P<program>.*?)^```\n(?:\n*^```error\n(?P<expected>.*?)^```\n)?", re.M | re.S
)
HEADING = re.compile(r"^#+ (.*)$", re.M)


@dataclass(frozen=True)
class Case:
    """The `number`-th program of a file and what is expected to be said about it."""

    path: Path
    number: int
    title: str
    program: str
    expected: str


def read_cases(path: Path) -> list[Case]:
    text = path.read_text(encoding="utf-8")
    cases = []
    for number, match in enumerate(CASE.finditer(text)):
        title = HEADING.findall(text[: match.start()])[-1]
        expected = match["expected"] or ""
        cases.append(Case(path, number, title, match["program"], expected.rstrip("\n")))
    return cases


CASES = [case for path in sorted(FOLDER.glob("*.md")) for case in read_cases(path)]


def rewrite(case: Case, actual: str) -> None:
    """Put the actual text in place of the expected one."""
    text = case.path.read_text(encoding="utf-8")
    match = list(CASE.finditer(text))[case.number]
    fence = f"\n```error\n{actual}\n```\n" if actual else ""
    new = f"```dl\n{case.program}```\n{fence}"
    case.path.write_text(text[: match.start()] + new + text[match.end() :], encoding="utf-8")


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.path.stem}-{c.number}-{c.title}")
def test_diagnostics(case: Case, request: pytest.FixtureRequest) -> None:
    source = SourceFile("example.dl", case.program)
    actual = render_all(check(source))
    if request.config.getoption("--update") and actual != case.expected:
        rewrite(case, actual)
        return
    assert actual == case.expected
