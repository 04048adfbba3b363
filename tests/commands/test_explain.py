"""`dslc explain`: codes however they are written, and the list of all."""

from __future__ import annotations

import argparse

import pytest

from dslc.cli import UserError
from dslc.commands import explain


@pytest.mark.parametrize("written", ["E0203", "e0203", "E203", "203", "[E0203]", "error[E0203]"])
def test_a_code_however_it_is_written(written: str) -> None:
    assert explain.full_code(written) == "E0203"


def test_warnings_have_codes_too() -> None:
    assert explain.full_code("w101") == "W0101"


def test_all_codes_by_family(capsys: pytest.CaptureFixture[str]) -> None:
    pages = explain.read_pages()
    assert explain.run(argparse.Namespace(code=None)) == 0
    told = capsys.readouterr().out
    assert "E02  Types and shapes\n  E0201: " in told
    assert "W01  Warnings\n  W0101: " in told
    assert {line[2:7] for line in told.splitlines() if line.startswith("  ")} == set(pages)


@pytest.mark.parametrize(
    ("written", "proposal"),
    [("E0299", "did you mean E0"), ("shapes", "dslc explain lists them all")],
)
def test_an_unknown_code(written: str, proposal: str) -> None:
    with pytest.raises(UserError, match=proposal):
        explain.run(argparse.Namespace(code=written))
