"""Warnings are for slips: the library and the examples, which have none, show no warning."""

from __future__ import annotations

from pathlib import Path

import pytest

from dslc.semantics.elaborate import new_context
from dslc.semantics.warnings import warnings
from dslc.source import SourceFile

ROOT = Path(__file__).parent.parent.parent
FILES = sorted([*(ROOT / "dslc" / "std").glob("*.dl"), *(ROOT / "examples").rglob("*.dl")])


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_warnings_about_what_is_meant(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)
    source = SourceFile(path.name, path.read_text(encoding="utf-8"))
    ctx = new_context(source)
    found = warnings(ctx.frame.module, ctx.prelude)
    assert [(d.code, d.title) for d in found] == []
