"""Equal kernels and libraries are compiled once; what is damaged in the cache is compiled again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dslc import api
from dslc.build import cache, driver
from dslc.build.target import cpu_target
from dslc.build.worker import Job

SOURCE = "model M(x: f32[N, 3]) -> f32[N, 3] {\n    return x * 2.0 + 1.0\n}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a folder to build in."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "objects"
    folder.mkdir()
    return folder


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that were not found in the cache."""
    seen: list[Job] = []
    run = driver.run_job

    def watch(job: Job, ahead: None = None):
        seen.append(job)
        return run(job, ahead)

    monkeypatch.setattr(driver, "run_job", watch)
    return seen


def compiled(folder: Path, source: str = SOURCE, level: str = "x86-64-v3") -> driver.Compiled:
    target = cpu_target(level, 1)
    return driver.compile_target(driver.optimise(api.lower(source), target), target, folder)


def kept(folder: Path) -> dict[str, bytes]:
    """What is in the cache."""
    where = folder.parent / "cache" / "dslc" / "code"
    return {path.name: path.read_bytes() for path in where.iterdir()}


def test_the_second_time_nothing_is_compiled(folder: Path, jobs: list[Job]) -> None:
    first = compiled(folder)
    second = compiled(folder)
    assert len(jobs) == 1
    assert second == first


def test_what_is_damaged_is_compiled_again(folder: Path, jobs: list[Job]) -> None:
    first = compiled(folder)
    for name in kept(folder):
        (folder.parent / "cache" / "dslc" / "code" / name).write_bytes(b"damaged")
    assert compiled(folder) == first
    assert len(jobs) == 2
    assert compiled(folder) == first
    assert len(jobs) == 2


def test_a_kernel_is_taken_from_another_program(folder: Path) -> None:
    compiled(folder)
    before = set(kept(folder))
    compiled(folder, SOURCE.replace("M(", "Other("))  # the same kernel, and the same entry
    added = set(kept(folder)) - before
    assert len(before) == 3  # the kernel, the entry, the library
    assert len(added) == 1


def test_another_target_has_other_kernels(folder: Path) -> None:
    compiled(folder)
    before = set(kept(folder))
    compiled(folder, level="x86-64-v2")
    assert len(set(kept(folder)) - before) == 3


def test_it_can_be_switched_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSLC_CACHE", "0")
    compiled(folder)
    assert not (folder.parent / "cache" / "dslc" / "code").exists()


def test_a_folder_that_cannot_be_written_costs_nothing_else(folder: Path) -> None:
    (folder.parent / "cache").write_text("no folder")
    assert compiled(folder).library


def test_a_folder_that_can_only_be_read_is_read(
    folder: Path, jobs: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compiled(folder)

    def refuse(*_: object) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr(os, "utime", refuse)
    assert compiled(folder) == first
    assert len(jobs) == 1


def test_processes_that_build_at_once_do_not_disturb_each_other(folder: Path) -> None:
    source = folder / "m.dl"
    source.write_text(SOURCE)
    command = [sys.executable, "-m", "dslc", "build", str(source), "--threads", "1", "-o"]
    started = [subprocess.Popen([*command, str(folder / f"{i}.dlc")]) for i in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    assert (folder / "0.dlc").read_bytes() == (folder / "1.dlc").read_bytes()
    assert not [name for name in kept(folder) if name.startswith(".new-")]


def test_what_was_not_used_for_longest_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "MOST", 300)
    monkeypatch.setattr(cache, "LEFT", 250)
    for age, key in enumerate("abc"):
        cache.keep(key, b"x" * 100)
        path = folder.parent / "cache" / "dslc" / "code" / key
        os.utime(path, (100 - age, 100 - age))
    assert cache.find("c") is not None  # it is new again
    cache.prune()
    assert set(kept(folder)) == {"c"}
