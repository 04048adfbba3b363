"""`dslc bench`: every step of an entry is counted, and the sums are those of the call."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc
from dslc.build.link import find_linker
from dslc.build.peaks import FLAGS, measure
from dslc.build.peaks import SOURCE as PEAKS
from dslc.cli import main
from dslc_runtime import ArgumentError

SOURCE = """
model Net(x: f32[N in 2..999, 8], at: i64[N]) -> f32[N, 4] {
    table = embedding[5, 8]
    return x + table(at) |> fc: dense[16] |> relu |> out: dense[4] |> softmax
}
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("bench") / "net.dl"
    path.write_text(SOURCE)
    assert main(["build", str(path), "--quiet", "--threads", "1"]) == 0
    return path.with_suffix(".dlc")


def test_each_step_is_counted(artifact: Path, capsys: Any) -> None:
    model = dslc.load(artifact)
    steps = model.forward.times(np.zeros((64, 8), np.float32), np.zeros(64, np.int64))
    names = [step.name for step in steps]
    assert len(set(names)) == len(names) >= 2
    assert all(step.seconds > 0 and step.moved > 0 for step in steps)
    # Two products: 64 x 8 x 16 and 64 x 16 x 4 multiply-adds.
    assert sum(step.flops for step in steps) >= 2 * 64 * (8 * 16 + 16 * 4)
    status = main(["bench", str(artifact), "--seconds", "0.05", "--dim", "N=64", "--json"])
    assert status == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sizes"] == {"N": 64}
    assert [step["name"] for step in told["steps"]] == names
    assert 0 < told["seconds"]["minimum"] <= told["seconds"]["median"]


def test_the_table_names_every_kernel(artifact: Path, capsys: Any) -> None:
    assert main(["bench", str(artifact), "--seconds", "0.05"]) == 0
    out = capsys.readouterr().out
    assert "Net.forward, N = 2, cpu-native" in out  # the least that the model takes
    assert "GFLOP/s" in out
    model = dslc.load(artifact)
    for step in model.forward.times(np.zeros((2, 8), np.float32), np.zeros(2, np.int64)):
        assert step.name in out


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--dim", "M=3"], "forward has no dynamic dim M; they are N"),
        (["--dim", "N=3,4"], "--dim N takes one size here"),
        (["--entry", "backward"], "no entry 'backward'"),
        (["--seconds", "0"], "--seconds must be greater than 0"),
        (["--train"], "--train is for a .dl file"),
        (["--dim", "N=1"], "N is 1"),
    ],
)
def test_what_can_not_be_measured(
    artifact: Path, capsys: Any, options: list[str], told: str
) -> None:
    assert main(["bench", str(artifact), "--seconds", "0.05", *options]) in (1, 2)
    assert told in capsys.readouterr().err


def test_a_source_is_compiled_first(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "net.dl"
    path.write_text("model Twice(x: f32[N]) -> f32[N] {\n    return x + x\n}\n")
    assert main(["bench", str(path), "--seconds", "0.05", "--dim", "N=9", "--threads", "1"]) == 0
    assert "Twice.forward, N = 9, cpu-native, 1 thread" in capsys.readouterr().out


def test_arguments_are_checked_as_in_a_call(artifact: Path) -> None:
    model = dslc.load(artifact)
    with pytest.raises(ArgumentError, match="x must be"):
        model.forward.times(np.zeros((2, 9), np.float32), np.zeros(2, np.int64))


def test_peaks_are_of_this_machine() -> None:
    """Bounds that only a mistake in kind breaks."""
    peaks = measure()
    assert 1e9 < peaks.flops < 1e12
    assert 1e8 < peaks.bytes < 1e12


def test_measuring_peaks_leaves_subnormal_numbers_what_they_are() -> None:
    """In a process of its own: what -ffast-math links changed its thread for good."""
    code = (
        "import numpy as np; from dslc.build.peaks import flops_now; flops_now(); "
        "assert (np.full(64, 2e-38, np.float32) * np.float32(0.25)).all()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64")
@pytest.mark.parametrize(("level", "fused"), [("v2", False), ("v3", True), ("v4", True)])
def test_peaks_are_measured_in_registers_of_every_level(
    level: str, fused: bool, tmp_path: Path
) -> None:
    """Vectors of 64 bytes did not compile where there is no AVX-512."""
    (tmp_path / "peaks.c").write_text(PEAKS)
    compiler = find_linker()
    assert compiler is not None
    flags = [*FLAGS, f"-march=x86-64-{level}", "-S", "-o", "-", "peaks.c"]
    told = subprocess.run([*compiler, *flags], cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert ("vfmadd" in told.stdout) == fused
