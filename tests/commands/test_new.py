"""`dslc new`: what it writes works by the commands that it tells, and nothing is overwritten."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dslc.cli import UserError
from dslc.commands.new import FILES, model_name

pytestmark = pytest.mark.usefixtures("one_cpu")


def shell(command: str, folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_the_commands_of_the_readme_work(tmp_path, dslc) -> None:
    told = dslc("new", "two-spirals", cwd=tmp_path).stdout
    folder = tmp_path / "two-spirals"
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES.values())
    assert "model TwoSpirals[" in (folder / "model.dl").read_text()
    assert "\n  cd two-spirals\n  python data.py\n  dslc check model.dl\n" in told
    dslc("fmt", "--check", "model.dl", cwd=folder)
    readme = (folder / "README.md").read_text()
    outputs = {}
    for command in "".join(re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)).splitlines():
        outputs[command.split()[1]] = shell(command, folder)
    accuracy = re.search(r"accuracy (\S+)", outputs["eval"])
    assert accuracy is not None
    assert float(accuracy[1]) > 0.97
    (program,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (folder / "example.py").write_text(program)
    assert shell("python example.py", folder).startswith("(x: f32[N, 2]) -> f32[N, 2] [")
    (folder / "example.py").unlink()
    ignored = (folder / ".gitignore").read_text().split("\n")
    made = {p.name for p in folder.iterdir()} - set(FILES.values())
    assert made == {"train.npz", "test.npz", "model.dlc", "run"}
    assert {"*.npz", "*.dlc", "/run/"} <= set(ignored)


def test_an_empty_folder_is_filled(tmp_path, dslc) -> None:
    folder = tmp_path / "Net"
    folder.mkdir()
    told = dslc("new", ".", cwd=folder).stdout
    assert "cd " not in told
    assert "model Net[" in (folder / "model.dl").read_text()


@pytest.mark.parametrize("name", ["3net", "-net", "net!", "été"])
def test_a_name_that_no_model_can_have(tmp_path, dslc, name: str) -> None:
    done = dslc("new", "--", name, cwd=tmp_path, status=2)
    assert "a name starts with a letter" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path, dslc) -> None:
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "model.dl").write_text("mine")
    assert (
        "net is not empty; nothing was written" in dslc("new", "net", cwd=tmp_path, status=2).stderr
    )
    assert [p.read_text() for p in folder.iterdir()] == ["mine"]
    assert "model.dl is no folder" in dslc("new", "model.dl", cwd=folder, status=2).stderr


def test_model_names() -> None:
    assert model_name("net") == "Net"
    assert model_name("my_first-net") == "MyFirstNet"
    assert model_name("GPT2 small") == "GPT2Small"
    with pytest.raises(UserError):
        model_name("")
