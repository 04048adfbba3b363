"""Builds of the tests, compiled by forks of a process that has TVM loaded.

A build starts a process to compile in, which takes most of a second to load TVM, as long as all
else of a small build; the tests make hundreds. Here that process is started once for each of
pytest's workers and forks for each job: `dslc.build.worker.main` runs in the child, with the job
on standard input and the caller's environment, folder and CPUs. What `dslc` itself does when it is
run as a command stays as it is, and so do builds for CUDA, which load TVM otherwise.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dslc.build import driver
from dslc.build.worker import Job, Report

_cold_job = driver.run_job
_lock = threading.Lock()


@dataclass
class _Ended:
    """What `driver` asks of the process that it starts."""

    returncode: int
    output: str
    chatter: str

    def communicate(self) -> tuple[str, str]:
        return self.output, self.chatter


class Server:
    """The process that forks; started with the first job."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run_job(self, job: Job, ahead: None = None) -> Report:
        """`driver.run_job`, of builds that start no process `ahead`."""
        if job.target.kind == "cuda":
            return _cold_job(job)
        with tempfile.TemporaryDirectory(prefix="dslc-warm-") as name:
            folder = Path(name)
            (folder / "job").write_text(job.to_json())
            order = {
                "folder": name,
                "environment": dict(os.environ),
                "current": os.getcwd(),
                "cpus": sorted(os.sched_getaffinity(0)),
            }
            code = self._fork(json.dumps(order))
            ended: Any = _Ended(
                code, (folder / "report").read_text(), (folder / "chatter").read_text()
            )
        return driver._collect(ended, job)

    def stop(self) -> None:
        if self._process is not None:
            self._process.communicate()

    def _fork(self, order: str) -> int:
        with _lock:
            if self._process is None:
                pipe = subprocess.PIPE
                self._process = subprocess.Popen(
                    [sys.executable, __file__], stdin=pipe, stdout=pipe, text=True
                )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            print(order, file=self._process.stdin, flush=True)
            return int(self._process.stdout.readline())


def _serve() -> None:
    from dslc.build import lean

    lean.import_tvm()
    from dslc.build import codegen  # noqa: F401

    gc.freeze()
    for order in iter(sys.stdin.readline, ""):
        child = os.fork()
        if child == 0:
            _work(json.loads(order))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _work(order: dict[str, Any]) -> NoReturn:
    from dslc.build import worker

    code = 1
    try:
        folder = Path(order["folder"])
        sys.stdin = (folder / "job").open()
        for number, name in ((1, "report"), (2, "chatter")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), number)
        os.environ.clear()
        os.environ.update(order["environment"])
        os.chdir(order["current"])
        os.sched_setaffinity(0, order["cpus"])
        code = worker.main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
