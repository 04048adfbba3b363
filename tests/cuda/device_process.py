"""Runs the scripts that load a driver, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def run(script: str, *arguments: str | Path) -> dict[str, str]:
    """The JSON object that a script of this folder prints last."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), *sys.path])}
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return told


def prebuilt(name: str) -> Path | None:
    """The folder of that name where DSLC_CUDA_BUILT says that another machine's builds lie, with
    which the tests run where there is a GPU and no compiler."""
    root = os.environ.get("DSLC_CUDA_BUILT")
    return Path(root) / name if root else None
