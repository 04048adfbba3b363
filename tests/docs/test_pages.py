"""The commands in README.md and docs/*.md are run and print what the page says.

A page's ```dl fences that open with `# file: NAME` are written to an empty folder; then its
```console fences run there in order: a line `$ command` is followed by what it prints. `...` alone
on a line stands for any lines. `pytest --update` rewrites what is printed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CANDIDATES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [p for p in CANDIDATES if "```console" in p.read_text()]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# file: (\S+)\n")


def execute(command: str, folder: Path) -> str:
    """Standard output and error of a shell command, with this environment's programs."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout


def matches(expected: str, got: str) -> bool:
    """Equal line by line, where a line `...` stands for any lines."""
    pattern = "\n".join(
        r"(?:.*\n)*?.*" if line.strip() == "..." else re.escape(line)
        for line in expected.rstrip("\n").split("\n")
    )
    return re.fullmatch(pattern, got.rstrip("\n")) is not None


def console(text: str) -> list[tuple[str, str]]:
    """(command, expected output) pairs of a console fence."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    assert not parts[0].strip(), f"a console fence starts with `$ command`: {text!r}"
    return list(zip(parts[1::2], parts[2::2]))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_page_tells_what_happens(page: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    text = page.read_text()
    new = text
    for language, body in FENCE.findall(text):
        if language == "dl" and (named := NAMED.match(body)):
            (tmp_path / named[1]).write_text(body)
        if language != "console":
            continue
        pairs = [(c, expected, execute(c, tmp_path)) for c, expected in console(body)]
        if pytestconfig.getoption("--update"):
            told = "".join(
                f"$ {c}\n{expected if matches(expected, got) else got}"
                for c, expected, got in pairs
            )
            new = new.replace(body, told)
            continue
        for command, expected, got in pairs:
            assert matches(expected, got), (
                f"$ {command}\nprinted:\n{got}\nthe page says:\n{expected}"
            )
    if new != text:
        page.write_text(new)
