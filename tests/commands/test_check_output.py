"""What `dslc check` prints and how it ends: errors, warnings, JSON, colour."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import pytest

from dslc.commands import check
from dslc.commands.source import use_colour

WARNS = "fn f(x: f32[N]) -> f32[N] {\n    y = 2 * x\n    return x\n}\n"
FAILS = "fn f(x: f32[N]) -> f32[N] {\n    return y\n}\n"
FINE = "fn f(x: f32[N]) -> f32[N] { return x }\n"


def told(
    folder: Path, capsys: pytest.CaptureFixture[str], *programs: str, format: str = "text"
) -> tuple[int, str, str]:
    """The exit status, the output and the summary for some files."""
    files = []
    for number, program in enumerate(programs):
        files.append(folder / f"{number}.dl")
        files[-1].write_text(program, encoding="utf-8")
    status = check.run(argparse.Namespace(files=files, format=format))
    return status, *capsys.readouterr()


def test_warnings_are_told_and_do_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, summary = told(tmp_path, capsys, WARNS, FINE)
    assert status == 0
    assert out.startswith("warning[W0101]: the value `y` is never used")
    assert summary == "no errors and 1 warning in 2 files\n"


def test_an_error_fails_whatever_else_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, summary = told(tmp_path, capsys, WARNS, FAILS)
    assert status == 1
    assert out.count("[W0101]") == out.count("[E0101]") == 1
    assert summary == "1 error and 1 warning in 2 files\n"


def test_json_is_one_list_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, summary = told(tmp_path, capsys, WARNS, FAILS, format="json")
    assert [(d["severity"], d["code"]) for d in json.loads(out)] == [
        ("warning", "W0101"),
        ("error", "E0101"),
    ]
    assert (status, summary) == (1, "")
    assert told(tmp_path, capsys, FINE, format="json") == (0, "[]\n", "")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "no_color", "colour"),
    [
        (Terminal(), None, True),
        (Terminal(), "", True),
        (Terminal(), "1", False),
        (io.StringIO(), None, False),
    ],
)
def test_colour_is_for_terminals_that_want_it(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, no_color: str | None, colour: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if no_color is not None:
        monkeypatch.setenv("NO_COLOR", no_color)
    assert use_colour(stream) is colour
