"""A renamed program says the same: whatever is renamed, in any program that is right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dslc.lsp.documents import Workspace
from dslc.lsp.navigation import RenameError, key_of, rename
from tests.language.test_language import CASES
from tests.lsp.session import edited

URI = "file:///project/main.dl"
ROOT = Path(__file__).parent.parent.parent


def programs() -> list[str]:
    """Right programs that stand alone."""
    files = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("examples/*/*.dl"))]
    cases = [case.program for case in CASES if not case.expected]
    return [text for text in (*files, *cases) if "import" not in text]


def renamed(text: str, made: Workspace) -> Iterator[tuple[str, str]]:
    """The program with each of its names changed, and that name."""
    made.open(URI, text, 1)
    seen = set()
    for occurrence in made.analysis(URI).names.occurrences:
        name, key = occurrence.symbol.name, key_of(occurrence.symbol)
        if key in seen or name.startswith("_"):
            continue
        seen.add(key)
        try:
            edit = rename(made, URI, occurrence.span.start, "Zz" if name[0].isupper() else "zz")
        except RenameError:
            continue
        assert edit.changes is not None
        yield edited(text, edit.changes[URI]), name


def test_a_renamed_program_is_right() -> None:
    made = Workspace()
    count = 0
    for text in programs():
        made.open(URI, text, 1)
        before = [d.code for d in made.analysis(URI).diagnostics]
        for changed, name in list(renamed(text, made))[:: 1 + len(text) // 100]:
            made.open(URI, changed, 2)
            after = made.analysis(URI).diagnostics
            assert [d.code for d in after] == before, (name, changed)
            count += 1
    assert count > 100
