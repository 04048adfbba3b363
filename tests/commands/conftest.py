"""A tiny model, its data, and `dslc` run with its output caught."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from dslc.cli import main

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
    """Runs `dslc ARGS` in this process, or, with `process=True` or environment variables as
    keywords, in one of its own, which takes a second more; `cwd`, `status` as keywords."""

    def run(
        *args: str | Path,
        cwd: Path | None = None,
        status: int = 0,
        process: bool = False,
        **environment: str,
    ) -> subprocess.CompletedProcess[str]:
        words = [*map(str, args)]
        run_words = _process if process or environment else _here
        done = run_words(words, cwd, environment)
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def _process(
    words: list[str], cwd: Path | None, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dslc", *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _here(
    words: list[str], cwd: Path | None, _environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    out, err = io.StringIO(), io.StringIO()
    with _inside(cwd or Path.cwd()), redirect_stdout(out), redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as ended:  # argparse's
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def artifact(tiny: Path, dslc: Dslc) -> Path:
    """tiny.dlc, with its training step."""
    words = ("build", tiny / "tiny.dl", "--train", "-o", tiny / "tiny.dlc")
    dslc(*words, process=True)
    return tiny / "tiny.dlc"
