"""The site builds without a warning, so no link in it leads nowhere, and fetches nothing."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dslc.cli import COMMANDS, command_parser

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("material") is None:
        pytest.skip("mkdocs-material is not installed: pip install '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_there(site: Path) -> None:
    pages = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    written = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
    assert {name.removesuffix(".md") + ".html" for name in written} <= pages
    codes = {path.stem for path in (ROOT / "dslc" / "explain").glob("*.md")}
    assert codes == {p.stem for p in (site / "errors").glob("[EW]*.html")}
    assert {"library/index.html", "library/layers.html", "language/grammar.html"} <= pages
    assert "digits.dl" in (site / "examples" / "digits.html").read_text()
    assert not list(site.rglob("*.py"))


def test_generated_parts_stand_in_their_pages(site: Path) -> None:
    commands = (site / "cli.html").read_text()
    for name in COMMANDS:
        assert f'id="dslc-{name}"' in commands
    assert 'id="argmax"' in (site / "builtins.html").read_text()
    assert 'href="E0203.html"' in (site / "errors" / "index.html").read_text()
    assert "cannot add f32[N, 3] and f32[N, 4]" in (site / "errors" / "E0203.html").read_text()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r"<(?:script|link|img)[^>]*(?:src|href)=\"(https?:[^\"]*)", page.read_text()
        )
        assert fetched == [], page


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_says_what_it_is(name: str) -> None:
    parser = command_parser(name)
    assert [a.dest for a in parser._actions if not a.help] == []
