"""The grammar itself, and the file that keeps its tables."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import lark
import pytest

from dslc import _cache
from dslc.syntax import grammar
from dslc.syntax.builder import Builder


def test_grammar_has_no_conflicts(caplog: pytest.LogCaptureFixture) -> None:
    lark.logger.addHandler(caplog.handler)
    lark.logger.setLevel(logging.DEBUG)
    try:
        # Reduce/reduce conflicts raise; shift/reduce conflicts are only logged.
        lark.Lark(grammar.grammar_text(), parser="lalr", start="file", debug=True)
    finally:
        lark.logger.setLevel(logging.CRITICAL)
        lark.logger.removeHandler(caplog.handler)
    assert [r for r in caplog.records if "onflict" in r.getMessage()] == []


def test_every_rule_has_a_method() -> None:
    methods = {rule.method for rule in grammar.tables().rules} - {grammar.SAME, grammar.LIST}
    assert {name for name in methods if not callable(getattr(Builder, name, None))} == set()


def test_every_method_has_a_rule() -> None:
    methods = {rule.method for rule in grammar.tables().rules}
    assert {n for n in vars(Builder) if not n.startswith("_")} <= methods


def test_lark_is_not_imported_where_the_tables_are_kept(tmp_path: Path) -> None:
    parse_apart(str(tmp_path))
    parse_apart(str(tmp_path), "import sys; assert 'lark' not in sys.modules")


def test_kept_tables_are_the_built_ones(tmp_path: Path) -> None:
    text = grammar.grammar_text()
    built = grammar.build(text)
    path = str(tmp_path / "tables.json")
    grammar._write(path, text, built)
    assert grammar._read(path, text) == built
    assert grammar._read(path, text + " ") is None
    assert os.listdir(tmp_path) == ["tables.json"]


def test_reserved_words_are_listed_in_their_error_page() -> None:
    page = Path(grammar.__file__).parent.parent / "explain" / "E0022.md"
    text = page.read_text(encoding="utf-8")
    assert all(f"`{word}`" in text for word in grammar.tables().reserved)


def test_cache_folder_is_the_users_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = _cache.folder("grammar")
    assert folder is not None
    assert os.stat(folder).st_mode & 0o777 == 0o700


def test_open_cache_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = _cache.folder("grammar")
    assert folder is not None
    os.chmod(folder, 0o777)
    assert _cache.folder("grammar") is None


def test_link_for_a_cache_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "dslc").mkdir()
    (tmp_path / "dslc" / "grammar").symlink_to(tmp_path / "elsewhere")
    assert _cache.folder("grammar") is None


@pytest.mark.parametrize("place", ["relative/path", "/dev/null"])
def test_no_cache_where_there_can_be_none(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", place)
    assert _cache.folder("grammar") is None


def parse_apart(cache: str, more: str = "") -> None:
    """Parse in another process, whose cache is in a folder of its own."""
    program = (
        "from dslc.source import SourceFile; from dslc.syntax.parser import parse; "
        f"assert parse(SourceFile('a.dl', 'const a = 1'))[1] == []; {more}"
    )
    env = {**os.environ, "XDG_CACHE_HOME": cache}
    result = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_parses_without_a_cache() -> None:
    parse_apart("/dev/null")


def test_broken_cache_file_is_made_anew(tmp_path: Path) -> None:
    parse_apart(str(tmp_path))
    (file,) = (tmp_path / "dslc" / "grammar").iterdir()
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"[]", b'{"format": 1}', b"\xff\xfe"):
        file.write_bytes(broken)
        assert grammar._read(str(file), grammar.grammar_text()) is None
    parse_apart(str(tmp_path))
    assert file.stat().st_size > 0.9 * len(whole)
