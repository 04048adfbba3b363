"""Equal jobs are compiled once; what is damaged in the cache is compiled again."""

from __future__ import annotations

from pathlib import Path

import pytest

from dslc import api
from dslc.build import cache, driver
from dslc.build.target import cpu_target
from dslc.build.worker import Job

SOURCE = "model M(x: f32[N, 3]) -> f32[N, 3] {\n    return x * 2.0 + 1.0\n}\n"


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """One small job, with a cache of its own; compiling it is recorded in `calls`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    target = cpu_target("x86-64-v3", 1)
    program = driver.optimise(api.lower(SOURCE), target)
    folder = tmp_path / "objects"
    folder.mkdir()
    return driver.make_jobs(program, target, folder)[0]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that were really compiled."""
    seen: list[Job] = []
    run = driver._compile

    def watch(jobs):
        seen.extend(jobs)
        return run(jobs)

    monkeypatch.setattr(driver, "_compile", watch)
    return seen


def test_the_second_time_nothing_is_compiled(job: Job, compiled: list[Job]) -> None:
    (first,) = driver.run_jobs([job])
    content = [Path(p).read_bytes() for p in first.objects]
    (second,) = driver.run_jobs([job])
    assert compiled == [job]
    assert second.entries == first.entries
    assert [Path(p).read_bytes() for p in second.objects] == content


def test_a_damaged_object_is_compiled_again(job: Job, compiled: list[Job]) -> None:
    driver.run_jobs([job])
    entry = cache._entry(job)
    assert entry is not None
    (entry / "0.o").write_bytes(b"damaged")
    driver.run_jobs([job])
    assert compiled == [job, job]


def test_a_damaged_report_is_compiled_again(job: Job, compiled: list[Job]) -> None:
    driver.run_jobs([job])
    entry = cache._entry(job)
    assert entry is not None
    (entry / "report.json").write_text("{}")
    driver.run_jobs([job])
    assert compiled == [job, job]


def test_another_target_is_another_entry(job: Job) -> None:
    other = Job(job.program, job.entries, cpu_target("x86-64-v2", 1), job.folder)
    assert cache._entry(job) != cache._entry(other)


def test_it_can_be_switched_off(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSLC_CACHE", "0")
    assert cache._entry(job) is None
    assert cache.find(job) is None


def test_old_entries_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "MOST", 2)
    for name in "abc":
        (tmp_path / name).mkdir()
    cache._prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
