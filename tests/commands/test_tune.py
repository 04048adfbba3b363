"""`dslc tune`: what it measures is used by builds, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import dslc_runtime
from dslc import api
from dslc.build import driver, tuned
from dslc.build.target import cpu_target
from dslc.build.worker import Job
from dslc.cli import main
from dslc.lowering.measured import measured_key
from dslc.lowering.program import layout_of, template_of
from dslc.schedules.cpu.choices import choices, chosen
from dslc.schedules.cpu.tiles.contract import Machine

SOURCE = "model M(a: f32[40, 21], b: f32[21, 70]) -> f32[40, 70] { return a @ b |> relu }\n"
# Too big for the registers; no order that can be packed for.
WRONG = [(30, 8, 0), (0, 1, 0)]
WRONG_TO_PACK = (4, 2, 1)  # panels are packed one at a time
NATIVE = cpu_target("native", 1)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The program, beside a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "m.dl"
    path.write_text(SOURCE)
    return path


def shown(file: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """How the product is run."""
    assert main(["show", str(file), "--stage", "kernels", "--threads", "1"]) == 0
    return capsys.readouterr().out


def test_builds_use_what_was_measured(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", str(file), "--seconds", "0.3", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("forward_0_matmul_relu: ")
    assert "1 kernels measured" in out
    entry = driver.optimise(api.lower(SOURCE), NATIVE).entry("forward")
    machine = Machine(NATIVE.vector_bits, 1)
    (group,) = layout_of(entry, machine).grouping.groups
    key = measured_key(group, machine)
    assert set(tuned.read(NATIVE).choices) <= {key}
    choice = (("rows", 5), ("vectors", 2), ("rows_outside", 0))
    assert "rows=5, vectors=2" not in shown(file, capsys)
    tuned.keep(NATIVE, {key: choice})
    assert "rows=5, vectors=2" in shown(file, capsys)
    output = file.with_suffix(".dlc")
    assert main(["build", str(file), "--threads", "1", "-o", str(output)]) == 0
    a, b = np.ones((40, 21), np.float32), np.ones((21, 70), np.float32)
    np.testing.assert_array_equal(dslc_runtime.load(output)(a, b), np.full((40, 70), 21))


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 1}', '{"format": 1, "cpu": 3}'])
def test_a_file_that_is_damaged_or_foreign_is_not_used(file: Path, content: str) -> None:
    path = tuned.keep(NATIVE, {"key": (("rows", 3),)})
    assert path is not None
    path.write_text(content)
    assert not tuned.read(NATIVE).choices
    assert "it is not used" in tuned.read(NATIVE).note
    tuned.keep(NATIVE, {"key": (("rows", 3),)})
    assert tuned.read(NATIVE).choices


def test_a_build_tells_of_a_damaged_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tuned.keep(NATIVE, {})
    assert path is not None
    path.write_text("{")
    assert main(["build", str(file), "--threads", "1", "-o", str(file.with_suffix(".dlc"))]) == 0
    assert "choices.json is damaged: it is not used" in capsys.readouterr().err


def test_other_cpus_use_nothing_of_it(file: Path) -> None:
    tuned.keep(NATIVE, {"key": (("rows", 3),)})
    assert tuned.read(NATIVE).choices == {"key": (("rows", 3),)}
    assert not tuned.read(cpu_target("x86-64-v3", 1)).choices


def test_a_job_keeps_its_choices() -> None:
    job = Job("text", ("forward",), NATIVE, "", choices=(("key", (("rows", 3),)),))
    assert Job.from_json(job.to_json()) == job


@pytest.mark.parametrize("bits", [128, 256, 512])
def test_choices_fit_the_registers(bits: int) -> None:
    machine = Machine(bits, 1)
    entry = driver.optimise(api.lower(SOURCE), NATIVE).entry("forward")
    (group,) = layout_of(entry, machine).grouping.groups
    plan = template_of(group, machine)
    found = choices(plan, machine)
    assert len(found) > 5
    for choice in found:
        other = chosen(plan, machine, choice)
        assert other.rows * other.vectors < machine.registers
        assert other.rows <= 40
    wrong_ones = [(("rows", 99),)]
    tiles = [*WRONG, WRONG_TO_PACK] if plan.source == "pack" else WRONG
    wrong_ones += [(("rows", r), ("vectors", v), ("rows_outside", o)) for r, v, o in tiles]
    for wrong in wrong_ones:
        assert chosen(plan, machine, wrong) == plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "0"], "--seconds must be greater than 0"),
        (["--dim", "N=1,2"], "--dim takes one size here"),
    ],
)
def test_wrong_options(
    file: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["tune", str(file), *options]) == 2
    assert message in capsys.readouterr().err


def test_the_file_is_json_that_can_be_read(file: Path) -> None:
    path = tuned.keep(NATIVE, {"key": (("rows", 3),)})
    assert path is not None
    assert json.loads(path.read_text())["choices"] == {"key": {"rows": 3}}
