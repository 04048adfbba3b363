"""A tiny model, its data, and `dslc` run as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

TINY = """\
model Tiny[hidden=8, drop=0.25](x: f32[N, 4]) -> f32[N, 3] {
    return x |> fc1: dense[hidden] |> relu |> dropout[drop] |> fc2: dense[3]
}

train Tiny {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer adamw[lr=0.01]
    metric accuracy = mean(argmax[axis=-1](output) == label)
}
"""

Dslc = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny.dl, train.npz (50 examples) and test.npz (20)."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.dl").write_text(TINY)
    rng = np.random.default_rng(0)
    for name, count in (("train", 50), ("test", 20)):
        x = rng.normal(size=(count, 4)).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, label=x[:, :3].argmax(axis=1))
    return folder


@pytest.fixture(scope="session")
def dslc() -> Dslc:
    """Runs `dslc ARGS` in a process of its own; `cwd`, `check` as keywords."""

    def run(
        *args: str | Path, cwd: Path | None = None, status: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "dslc", *map(str, args)],
            cwd=cwd,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def artifact(tiny: Path, dslc: Dslc) -> Path:
    """tiny.dlc, with its training step."""
    dslc("build", tiny / "tiny.dl", "--train", "-o", tiny / "tiny.dlc")
    return tiny / "tiny.dlc"
