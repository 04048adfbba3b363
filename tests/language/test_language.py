"""The Markdown files beside this one: programs, and the whole text of what is said about them.

Together they follow the language's design line by line and can be read as its specification. How a
case is written is said in cases.py; `--update` rewrites the expected texts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from dslc.diagnostics import render_all
from tests.language.cases import (
    FOLDER,
    Case,
    chosen,
    diagnose,
    facts_of,
    read_back,
    read_cases,
    rewrite,
)

CASES = [case for path in sorted(FOLDER.glob("*.md")) for case in read_cases(path)]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.path.stem}-{c.number}-{c.title}")
def test_case(
    case: Case, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in case.files.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    diagnostics = diagnose(case)
    actual = render_all(diagnostics)
    assert render_all(read_back(diagnostics)) == actual, "JSON holds all that the text shows"
    facts = case.facts
    if facts is not None:
        facts = chosen(facts, facts_of(case.program))
    if request.config.getoption("--update"):
        if (actual, facts) != (case.expected, case.facts):
            rewrite(case, actual, facts)
        return
    assert actual == case.expected
    assert facts == case.facts
    assert facts != "", "a `types` fence without facts"
