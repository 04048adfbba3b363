"""`dslc fmt` on files: what is written, what is not, and the exit status."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.check import seconds, source

LOOSE = "fn f(x:f32)->f32{return(x+1)} # one\n"
TIDY = "fn f(x: f32) -> f32 { return x + 1 }  # one\n"
BROKEN = "fn f(x: f32) -> f32 { return x + }\n"


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    path = tmp_path / "loose.dl"
    path.write_text(LOOSE)
    return path


@pytest.fixture
def tidy(tmp_path: Path) -> Path:
    path = tmp_path / "tidy.dl"
    path.write_text(TIDY)
    return path


def test_files_are_written_in_place(loose: Path, tidy: Path, dslc) -> None:
    before = tidy.stat()
    done = dslc("fmt", loose, tidy)
    assert loose.read_text() == TIDY
    assert (done.stdout, done.stderr) == ("", "1 file formatted, 1 file already in style\n")
    assert (tidy.stat().st_mtime_ns, tidy.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert sorted(p.name for p in loose.parent.iterdir()) == ["loose.dl", "tidy.dl"]


def test_check_lists_what_would_change(loose: Path, tidy: Path, dslc) -> None:
    done = dslc("fmt", "--check", loose, tidy, status=1)
    assert done.stdout == f"{loose}\n"
    assert done.stderr == "1 file would change, 1 file already in style\n"
    assert loose.read_text() == LOOSE
    assert dslc("fmt", "--check", tidy).stdout == ""


def test_diff_shows_what_would_change(loose: Path, tidy: Path, dslc) -> None:
    done = dslc("fmt", "--diff", loose, tidy, status=1)
    head, rest = done.stdout.split("@@ -1,2 +1,2 @@\n")
    assert head == f"--- {loose} (as it is)\n+++ {loose} (formatted)\n"
    assert rest.rstrip() == f"-{LOOSE}+{TIDY}".rstrip()
    assert loose.read_text() == LOOSE


def run(*args: str, given: bytes) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "dslc", "fmt", *args], input=given, capture_output=True
    )


def test_standard_input_goes_to_standard_output() -> None:
    done = run("-", given=LOOSE.encode())
    assert (done.returncode, done.stdout, done.stderr) == (0, TIDY.encode(), b"")
    done = run("--check", "-", given=LOOSE.encode())
    assert (done.returncode, done.stdout) == (1, b"<stdin>\n")
    done = run("-", given=b"\xff")
    assert (done.returncode, done.stderr) == (1, b"error: standard input is not UTF-8 text\n")
    done = run("-", given=BROKEN.encode())
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error[E00")


def test_a_file_with_errors_is_left_and_the_others_are_written(
    tmp_path: Path, loose: Path, dslc
) -> None:
    broken = tmp_path / "broken.dl"
    broken.write_text(BROKEN)
    done = dslc("fmt", broken, loose, status=1)
    assert broken.read_text() == BROKEN
    assert loose.read_text() == TIDY
    assert "error[E00" in done.stderr
    assert "1 file formatted, 1 file with errors" in done.stderr


def test_windows_line_ends_are_a_change(tidy: Path, dslc) -> None:
    tidy.write_bytes(TIDY.replace("\n", "\r\n").encode())
    assert dslc("fmt", "--diff", tidy, status=1).stdout.count("\\r") == 1
    dslc("fmt", tidy)
    assert tidy.read_bytes() == TIDY.encode()


def test_links_and_modes_stay(tmp_path: Path, loose: Path, dslc) -> None:
    link = tmp_path / "link.dl"
    link.symlink_to(loose)
    loose.chmod(0o640)
    dslc("fmt", link)
    assert link.is_symlink()
    assert loose.read_text() == TIDY
    assert loose.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(loose: Path, dslc) -> None:
    loose.parent.chmod(0o500)
    try:
        assert f"cannot write {loose}" in dslc("fmt", loose, status=2).stderr
    finally:
        loose.parent.chmod(0o700)
    assert loose.read_text() == LOOSE


def test_a_file_that_is_not_there(dslc) -> None:
    assert "there is no file none.dl" in dslc("fmt", "none.dl", status=2).stderr


def test_processor_time_and_imports(tmp_path: Path) -> None:
    """As for `dslc check`: a bound that only a mistake in kind breaks (benchmarks/check.py)."""
    path = tmp_path / "models.dl"
    path.write_text(source(1000), encoding="utf-8")
    command = [sys.executable, "-m", "dslc", "fmt", str(path)]
    assert min(seconds(command)[1] for _ in range(2)) < 3.0
    program = (
        "import sys; from dslc.cli import main; main(sys.argv[1:]);"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "fmt", path], check=True, capture_output=True, text=True
    )
    heavy = {"numpy", "tvm", "tvm_ffi", "lark", "onnx", "ml_dtypes", "rich", "dslc_runtime"}
    assert heavy.isdisjoint(done.stdout.split())
