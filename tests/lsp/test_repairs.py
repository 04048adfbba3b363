"""Every repair that is offered for a case of the language makes its diagnostic go away."""

from __future__ import annotations

from collections import Counter

from dslc.lsp.repairs import repairs
from dslc.semantics.analysis import Analysis, Memory, analyse
from dslc.source import SourceFile
from tests.language.test_language import CASES


def said(analysis: Analysis) -> Counter[tuple[str, str]]:
    return Counter((d.code, d.title) for d in analysis.diagnostics)


def test_a_repair_makes_its_diagnostic_go_away() -> None:
    memory = Memory()
    count = 0
    for case in CASES:
        before = analyse(SourceFile("example.dl", case.program), memory)
        for diagnostic in before.diagnostics:
            span = diagnostic.span
            if span is None or span.file is not before.source:
                continue
            for repair in repairs(before, diagnostic, span):
                text = case.program
                for start, end, new in sorted(repair.edits, reverse=True):
                    text = text[:start] + new + text[end:]
                after = analyse(SourceFile("example.dl", text), memory)
                key = diagnostic.code, diagnostic.title
                assert said(after)[key] < said(before)[key], (case.title, repair.title)
                count += 1
    assert count > 50
