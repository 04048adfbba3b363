"""Folders of builds: gone at the end, removed by the next build where a build was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dslc.build.scratch import scratch_folder

BUILD = """
import sys
from dslc.build.scratch import scratch_folder
with scratch_folder("build") as folder:
    (folder / "kernel.o").write_bytes(bytes(100))
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@contextmanager
def build(temporary: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A build in another process, and its folder."""
    pipe, env = subprocess.PIPE, {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", BUILD]
    with subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip()), process


def test_a_folder_is_gone_at_the_end(temporary: Path) -> None:
    with scratch_folder("build") as folder:
        (folder / "kernel.o").touch()
        assert list(temporary.iterdir()) == [folder]
    with pytest.raises(KeyError), scratch_folder("build"):
        raise KeyError
    assert list(temporary.iterdir()) == []


def test_what_a_killed_build_left_is_removed_by_the_next(temporary: Path) -> None:
    with build(temporary) as (left, process):
        process.kill()
    assert (left / "kernel.o").exists()
    with scratch_folder("build") as folder:
        assert list(temporary.iterdir()) == [folder]


def test_builds_at_once_keep_their_folders(temporary: Path) -> None:
    with build(temporary) as (other, process), scratch_folder("build") as first:
        with scratch_folder("build") as second:
            assert {*temporary.iterdir()} == {other, first, second}
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 0
        assert list(temporary.iterdir()) == [first]


def test_what_is_not_of_a_build_is_left_alone(temporary: Path) -> None:
    mine, elsewhere = temporary / "dslc-build-mine", temporary / "elsewhere"
    for folder in (mine, elsewhere):
        folder.mkdir()
        (folder / "file").touch()
    (elsewhere / ".dslc-lock").touch()
    (temporary / "dslc-build-link").symlink_to(elsewhere)
    (temporary / "dslc-build-file").touch()
    with scratch_folder("build"):
        pass
    assert (mine / "file").exists()
    assert (elsewhere / "file").exists()
    assert (temporary / "dslc-build-file").exists()


def test_many_at_once_take_none_from_each_other(temporary: Path) -> None:
    """Each makes and removes folders while the others look for such as were left."""
    program = (
        "from dslc.build.scratch import scratch_folder\n"
        "for i in range(100):\n"
        "    with scratch_folder('build') as folder:\n"
        "        (folder / 'o').write_text('x')\n"
        "        assert (folder / 'o').read_text() == 'x'\n"
    )
    env = {**os.environ, "TMPDIR": str(temporary)}
    running = [subprocess.Popen([sys.executable, "-c", program], env=env) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert list(temporary.iterdir()) == []
