"""Builds for a CPU import little of TVM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dslc.build import driver
from dslc.build.session import program_of
from dslc.build.target import cpu_target
from dslc.source import SourceFile

SOURCE = "model M(x: f32[N, 4]) -> f32[N, 3] { return x |> out: dense[3] |> tanh }"
PROGRAM = """
import sys
from dslc.build.worker import Job, compile_job
report = compile_job(Job.from_json(sys.stdin.read()))
assert "tvm" in sys.modules and report.text
loaded = [name for name in ("tvm.relax.transform", "tvm.topi") if name in sys.modules]
assert not loaded, loaded
"""


def test_relax_is_left_out() -> None:
    target = cpu_target()
    program = driver.optimise(program_of(SourceFile("m.dl", SOURCE)), target)
    job = driver.make_job(program, target, Path(), "asm")
    subprocess.run([sys.executable, "-c", PROGRAM], input=job.to_json(), text=True, check=True)
