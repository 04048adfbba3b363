"""Every op compiled for CUDA gives what its reference gives: kernels emulated on the CPU (the very
source of the GPU's), and on a GPU where there is one."""

from __future__ import annotations

import pytest
from device_process import prebuilt, run
from emulator import MISSING, gpu_missing

from dslc.ops import ALL


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if MISSING:
        pytest.skip(MISSING)
    folder = tmp_path_factory.mktemp("ops")
    run("ops_on_device.py", "build", folder)
    return run("ops_on_device.py", "run", folder)


@pytest.fixture(scope="module")
def on_gpu(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if missing := gpu_missing():
        pytest.skip(missing)
    folder = prebuilt("ops")
    if folder is None:
        folder = tmp_path_factory.mktemp("ops")
        run("ops_on_device.py", "build", folder, "--gpu")
    return run("ops_on_device.py", "run", folder, "--gpu")


def wrong(told: dict[str, str], op: str) -> dict[str, str]:
    of_op = {name: text for name, text in told.items() if name.rpartition("_case_")[0] == op}
    assert of_op, f"no case of {op} ran"
    return {name: text for name, text in of_op.items() if text}


@pytest.mark.parametrize("op", [op.name for op in ALL])
def test_emulated_kernels_give_the_reference(emulated: dict[str, str], op: str) -> None:
    assert not wrong(emulated, op)


def test_emulated_kernels_put_in_place(emulated: dict[str, str]) -> None:
    assert not wrong(emulated, "in_place")


def test_emulated_tiles_of_any_size(emulated: dict[str, str]) -> None:
    assert not wrong(emulated, "tiles")


@pytest.mark.cuda
def test_the_gpu_runs_tiles_of_any_size(on_gpu: dict[str, str]) -> None:
    assert not wrong(on_gpu, "tiles")


@pytest.mark.cuda
def test_the_gpu_puts_in_place(on_gpu: dict[str, str]) -> None:
    assert not wrong(on_gpu, "in_place")


@pytest.mark.cuda
@pytest.mark.parametrize("op", [op.name for op in ALL])
def test_the_gpu_gives_the_reference(on_gpu: dict[str, str], op: str) -> None:
    assert not wrong(on_gpu, op)
