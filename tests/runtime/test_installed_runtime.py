"""The runtime by itself: what it imports, what it costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import time
import timeit
import zipfile
from pathlib import Path

import numpy as np
import pytest

import dslc_runtime

ROOT = Path(__file__).parents[2]
RUNTIME = ROOT / "runtime"
ALLOWED = {*sys.stdlib_module_names, "numpy", "tvm_ffi", "dslc_runtime"}


def test_it_imports_numpy_and_tvm_ffi_only() -> None:
    for path in (RUNTIME / "dslc_runtime").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= ALLOWED, path.name


def test_it_does_not_bring_pytorch_in() -> None:
    program = "import sys, dslc_runtime; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of `pip install ./runtime`, built with what is installed."""
    pytest.importorskip("setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "runtime"
    for path in (*RUNTIME.glob("*.*"), *(RUNTIME / "dslc_runtime").glob("*.*")):
        if path.is_file() and path.suffix in (".py", ".toml", ".c", ".typed"):
            target = copy / path.relative_to(RUNTIME)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (copy / "dslc_runtime" / "py.typed").touch()
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "-w", str(folder), str(copy)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0 and "setuptools" in done.stderr:
        pytest.skip("setuptools here is too old to build with")
    assert done.returncode == 0, done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_the_wheel_holds_the_launcher_and_fits_any_python_3(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        metadata = next(n for n in names if n.endswith("METADATA"))
        needs = [x for x in file.read(metadata).decode().splitlines() if "Requires-Dist" in x]
    for name in ("_launcher.so", "_launcher.c", "py.typed", "session.py"):
        assert f"dslc_runtime/{name}" in names
    assert "-py3-none-" in wheel.name
    assert not wheel.name.endswith("-any.whl")
    assert [x for x in needs if "extra" not in x] == [
        "Requires-Dist: apache-tvm-ffi==0.1.14.post1",
        "Requires-Dist: numpy>=1.26",
    ]


def test_the_installed_size_beside_numpy(wheel: Path) -> None:
    import tvm_ffi

    with zipfile.ZipFile(wheel) as file:
        ours = sum(info.file_size for info in file.infolist())
    folder = Path(tvm_ffi.__file__).parent
    theirs = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert ours + theirs < 20_000_000


def test_load_and_call_are_quick(toy_path: Path) -> None:
    """CPU time, because other work on the machine must not fail this."""
    clock = time.thread_time
    load = min(timeit.repeat(lambda: dslc_runtime.load(toy_path), timer=clock, number=1, repeat=10))
    assert load < 0.020
    model = dslc_runtime.load(toy_path, threads=1)
    x = np.ones((2, 4), np.float32)
    call = min(timeit.repeat(lambda: model(x), timer=clock, number=500, repeat=20)) / 500
    assert call < 15e-6
