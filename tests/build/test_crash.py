"""A crash of the compiler ends a process of its own, and what it was compiling is named."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, signal, sys
from pathlib import Path
import tvm
from dslc.build import units
from dslc.build.codegen import llvm_target
from dslc.build.target import cpu_target
from dslc.diagnostics import InternalError
from dslc.lowering.entry import make_copy

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
