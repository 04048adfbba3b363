"""Every program and command of the pages in docs/ and of README.md does what the page says.

A page's fences are followed in order, in an empty folder:

- ```dl that opens with `# file: NAME`, and ```python that does: written to that file.
- ```dl: checked. A ```error fence behind it is what is said about it; without one it is right.
- ```python: run, after those before it on the page. A ```output fence behind it is what it prints.
- ```console: `$ command`, each followed by what it prints.

`...` alone on a line stands for any lines, `…` for any text within a line; in a console a number
with a decimal point may be another one (seconds, losses). `pytest --update` rewrites what is
printed. ```text and fences with a title are not followed; README.md's other fences neither.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import dslc
from dslc.diagnostics import render_all
from dslc.source import SourceFile
from dslc.syntax.format import format_source
from dslc.syntax.parser import parse

ROOT = Path(__file__).parents[2]
# tests/syntax/test_format.py runs the page on style, whose programs are there for their looks.
DOCS = sorted({*(ROOT / "docs").rglob("*.md")} - {ROOT / "docs" / "language" / "style.md"})
PAGES = [ROOT / "README.md", *DOCS]
FENCE = re.compile(
    r"^```(?P<language>[\w-]*)(?P<options>[^\n`]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)
_DECIMAL = re.compile(r"\d+\.\d+")
NAMED = re.compile(r"# file: (\S+)\n")
RESULTS = {"dl": "error", "python": "output"}
FOLLOWED = {"dl", "error", "python", "output", "console"}


@dataclass
class Block:
    """A fence, and the fence behind it that says what comes of it."""

    language: str
    body: str
    result: str | None = None
    # Where the text stands in the page that `--update` rewrites: the result's, or a console's own.
    span: tuple[int, int] = (0, 0)


def blocks(text: str) -> Iterator[Block]:
    fences = list(FENCE.finditer(text))
    for fence, after in zip(fences, [*fences[1:], None]):
        if fence["options"]:
            continue
        language = fence["language"]
        block = Block(language, fence["body"], None, fence.span("body"))
        gap = text[fence.end() : after.start()] if after is not None else "-"
        if after is not None and after["language"] == RESULTS.get(language) and not gap.strip():
            block = Block(language, fence["body"], after["body"], after.span("body"))
        yield block


@dataclass
class Page:
    """A run through one page."""

    folder: Path
    executes_python: bool
    namespace: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})

    def result(self, block: Block) -> str | None:
        """What the page should say comes of a block; None when it says nothing."""
        named = NAMED.match(block.body)
        if named and block.language in ("dl", "python"):
            (self.folder / named[1]).write_text(block.body)
            return None
        if block.language == "dl":
            return render_all(dslc.check(SourceFile("example.dl", block.body)))
        if block.language == "python" and self.executes_python:
            return self.printed(block.body)
        if block.language == "console":
            return "".join(f"$ {c}\n{self.shell(c, told)}" for c, told in commands(block.body))
        return None

    def printed(self, program: str) -> str:
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(program, "<page>", "exec"), self.namespace)
        finally:
            os.chdir(before)
        return out.getvalue()

    def shell(self, command: str, told: str) -> str:
        """What a command prints; what the page says, where that is the same."""
        got = execute(command, self.folder)
        return told if matches(_DECIMAL.sub("0.0", told), _DECIMAL.sub("0.0", got)) else got


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
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.stdout


def matches(expected: str, got: str) -> bool:
    """Equal line by line, where a line `...` stands for any lines and `…` for any text in one."""
    pattern = "\n".join(
        r"(?:.*\n)*?.*" if line.strip() == "..." else re.escape(line).replace("…", ".*")
        for line in expected.rstrip("\n").split("\n")
    )
    return re.fullmatch(pattern, got.rstrip("\n")) is not None


def commands(text: str) -> list[tuple[str, str]]:
    """(command, expected output) pairs of a console fence."""
    parts = re.split(r"^\$ (.*)\n", text, flags=re.MULTILINE)
    assert not parts[0].strip(), f"a console fence starts with `$ command`: {text!r}"
    return list(zip(parts[1::2], parts[2::2]))


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PAGES, ids=page_name)
@pytest.mark.usefixtures("one_cpu")
def test_page_tells_what_happens(path: Path, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    text = new = path.read_text()
    page = Page(tmp_path, executes_python=path in DOCS)
    for block in reversed(list(follow(page, text))):
        start, end = block.span
        new = new[:start] + (block.result or "") + new[end:]
    if new == text:
        return
    if pytestconfig.getoption("--update"):
        path.write_text(new)
        return
    assert new == text, f"{page_name(path)} tells something else; pytest --update rewrites it"


def follow(page: Page, text: str) -> Iterator[Block]:
    """The blocks whose result is not what the page says, with the result that it should tell."""
    for block in blocks(text):
        got = page.result(block)
        if got is None:
            continue
        expected = block.body if block.language == "console" else block.result
        if expected is None:
            said = "is wrong" if block.language == "dl" else None
            assert not (said and got), f"a program of the page {said}:\n{block.body}\n{got}"
        elif expected != got and (block.language == "console" or not matches(expected, got)):
            ended = got if got.endswith("\n") or not got else f"{got}\n"
            yield Block(block.language, block.body, ended, block.span)


@pytest.mark.parametrize("path", DOCS, ids=page_name)
def test_every_fence_is_followed(path: Path) -> None:
    """`text` is for what is no program; a fence without a language is an oversight."""
    languages = {fence["language"] for fence in FENCE.finditer(path.read_text())}
    assert languages <= {*FOLLOWED, "text"}


@pytest.mark.parametrize("path", DOCS, ids=page_name)
def test_programs_are_in_the_one_style(path: Path) -> None:
    for block in blocks(path.read_text()):
        source = SourceFile("example.dl", block.body)
        if block.language == "dl" and not parse(source)[1]:
            assert format_source(source) == block.body


def test_the_runner_finds_what_differs(tmp_path: Path) -> None:
    text = (
        "```python\nprint(1)\n```\n\n```output\n2\n```\n"
        "```dl\nfn f(x: f32) -> f32 { return y }\n```\n\n```error\nall is well\n```\n"
        "```console\n$ echo a b\na …\n$ echo c\nd\n```\n"
    )
    found = list(follow(Page(tmp_path, executes_python=True), text))
    assert [b.language for b in found] == ["python", "dl", "console"]
    assert found[0].result == "1\n"
    assert str(found[1].result).startswith("error[E0")
    assert found[2].result == "$ echo a b\na …\n$ echo c\nc\n"
    with pytest.raises(AssertionError, match="a program of the page is wrong"):
        list(follow(Page(tmp_path, executes_python=True), text.replace("```error", "```text")))
