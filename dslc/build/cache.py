"""Compiled objects by content: equal jobs are compiled once.

Input: a `Job`. Output: its `Report` with object files copied to the job's folder, if the same job
was compiled before by the same compiler on this machine. The key is a hash of the job (the
optimised IR, the target), of the sources of dslc, and of the versions of what compiles. An entry is
a folder that is filled under a temporary name and renamed, and its objects are checked against
their hashes when read, so an interrupted build or a damaged file costs a compilation, no more.
Old entries are removed when there are more than `MOST`. `DSLC_CACHE=0` switches it off.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dslc import _cache
from dslc.build.worker import Job, Report
from dslc_runtime.device import cpu_flags

MOST = 256
_REPORT = "report.json"


def find(job: Job) -> Report | None:
    """What the job gave before, its objects in the job's folder; None when it must be compiled."""
    entry = _entry(job)
    if entry is None or not entry.is_dir():
        return None
    try:
        data = json.loads((entry / _REPORT).read_text())
        report = Report.from_json(json.dumps(data["report"]))
        objects = tuple(
            _copy(entry / name, digest, job) for name, digest in data["objects"].items()
        )
        os.utime(entry)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        shutil.rmtree(entry, ignore_errors=True)
        return None
    return replace(report, objects=objects)


def _copy(source: Path, digest: str, job: Job) -> str:
    """Copies one object; ValueError when it is not what was written."""
    content = source.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{source} is damaged")
    target = Path(job.folder) / f"{'_'.join(job.entries)}-{source.name}"
    target.write_bytes(content)
    return str(target)


def keep(job: Job, report: Report) -> None:
    """Keeps what a job gave; a full disk or a folder that can't be written is no error."""
    entry = _entry(job)
    if entry is None or report.error:
        return
    temporary = ""
    with suppress(OSError):
        temporary = tempfile.mkdtemp(prefix=".new-", dir=entry.parent)
        objects: dict[str, str] = {}
        for number, path in enumerate(report.objects):
            content = Path(path).read_bytes()
            name = f"{number}.o"
            (Path(temporary) / name).write_bytes(content)
            objects[name] = hashlib.sha256(content).hexdigest()
        data: Mapping[str, Any] = {"report": asdict(report), "objects": objects}
        (Path(temporary) / _REPORT).write_text(json.dumps(data))
        os.rename(temporary, entry)
        _prune(entry.parent)
    if temporary:
        shutil.rmtree(temporary, ignore_errors=True)


def _prune(folder: Path) -> None:
    """Removes the entries that were not used for longest."""
    entries = sorted(
        (e for e in folder.iterdir() if not e.name.startswith(".")),
        key=lambda e: e.stat().st_mtime,
        reverse=True,
    )
    for entry in entries[MOST:]:
        shutil.rmtree(entry, ignore_errors=True)


def _entry(job: Job) -> Path | None:
    folder = None if os.environ.get("DSLC_CACHE") == "0" else _cache.folder("build")
    if folder is None:
        return None
    told = replace(job, folder="").to_json() + compiler_identity()
    return Path(folder) / hashlib.sha256(told.encode()).hexdigest()[:40]


@cache
def compiler_identity() -> str:
    """Changes with everything, besides the job, that the objects depend on."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode())
        digest.update(path.read_bytes())
    for name in ("apache-tvm", "apache-tvm-ffi"):
        digest.update(f"{name} {version(name)}".encode())
    digest.update(" ".join(sorted(cpu_flags())).encode())
    return digest.hexdigest()
