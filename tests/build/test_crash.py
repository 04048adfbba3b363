"""A crash of the compiler ends a process of its own, and what it was compiling is named; a build
that is killed leaves no process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAM = """
import os, signal, sys
from pathlib import Path
import tvm
from dslc.build import units
from dslc.build.codegen import llvm_target
from dslc.build.target import cpu_target
from dslc.diagnostics import InternalError
from dslc.lowering.host.entry import make_copy

def dies(module, target):
    if "bad" in str(module):
        os.kill(os.getpid(), signal.SIGSEGV)
    return compile_module(module, target)

compile_module = units.compile_module
units.compile_module = dies
made = units.Units(llvm_target(cpu_target("x86-64-v2", 1)), Path(sys.argv[1]))
made.add("good", make_copy("good"))
made.add_entry("bad", tvm.IRModule({"bad": units.exported(make_copy("bad"), "bad")}))
try:
    made.finish()
except InternalError as error:
    print(error)
"""


def test_the_kernel_that_crashes_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env={**os.environ, "DSLC_CACHE": "0"},
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == f"compiling bad ended with signal {signal.SIGSEGV:d}"


@pytest.mark.skipif(sys.platform != "linux", reason="another system lets them go on")
def test_a_killed_build_leaves_no_process(tmp_path: Path) -> None:
    source = tmp_path / "net.dl"
    source.write_text("model Net(x: f32[N in 1..9, 4]) -> f32[N, 8] { return x |> dense[8] }\n")
    with subprocess.Popen(
        [sys.executable, "-m", "dslc", "build", str(source), "--quiet"],
        env={**os.environ, "DSLC_CACHE": "0"},
    ) as build:
        (worker,) = _within(60, lambda: _children(build.pid))
        try:
            _within(60, lambda: "libtvm_compiler" in Path(f"/proc/{worker}/maps").read_text())
            os.kill(worker, signal.SIGSTOP)  # it can't end by itself now
            build.kill()
            build.wait()
            _within(60, lambda: _state(worker) in ("", "Z"))
        finally:
            if _state(worker) not in ("", "Z"):
                os.kill(worker, signal.SIGKILL)


def _within(seconds: float, found: Callable[[], Any]) -> Any:
    """What is found as soon as it is something."""
    for _ in range(int(seconds / 0.02)):
        if something := found():
            return something
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


def _children(process: int) -> list[int]:
    every = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return [other for other in every if _stat(other)[1:2] == [str(process)]]


def _state(process: int) -> str:
    """Its letter in /proc; "" for a process that is gone."""
    return (_stat(process) or [""])[0]


def _stat(process: int) -> list[str]:
    """State, parent and more; nothing of a process that is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
