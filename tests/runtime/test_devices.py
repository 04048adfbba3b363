"""Choosing a target, and the path over a device's own memory."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dslc_runtime
from dslc_runtime import ArgumentError, DeviceError, Model, Trainer, cuda, device
from dslc_runtime._ffi import load_library
from dslc_runtime.arrays import Slot, result_on
from dslc_runtime.manifest import TargetInfo, TensorInfo

X = np.arange(12, dtype=np.float32).reshape(3, 4)
WEIGHT = np.arange(4, dtype=np.float32)


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def target(name: str, *features: str, kind: Any = "cpu") -> TargetInfo:
    return TargetInfo(name, kind, f"lib/{name}.so", (), features)


def test_cpu_flags(tmp_path: Path) -> None:
    (tmp_path / "x86").write_text("processor\t: 0\nflags\t\t: fpu avx2 fma\n\nflags\t: other\n")
    (tmp_path / "arm").write_text("processor : 0\nFeatures : fp asimd\n")
    assert device.cpu_flags(str(tmp_path / "x86")) == {"fpu", "avx2", "fma"}
    assert device.cpu_flags(str(tmp_path / "arm")) == {"fp", "asimd"}
    assert device.cpu_flags(str(tmp_path / "none")) == frozenset()


def test_the_target_that_uses_most_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset({"avx", "avx2"}))
    targets = [target("v2"), target("v3", "avx", "avx2"), target("v4", "avx", "avx2", "avx512f")]
    assert device.choose(targets).name == "v3"
    assert device.choose(targets[:1]).name == "v2"
    with pytest.raises(DeviceError, match="v4 can't run because this CPU lacks avx512f"):
        device.choose(targets[2:])


@pytest.mark.skipif(has_driver(), reason="this machine has NVIDIA's driver")
def test_cuda_code_without_a_driver(toy: Any, tmp_path: Path) -> None:
    gpu = replace(toy.manifest.targets[0], kind="cuda", name="cuda", arch="sm_90")
    path = toy.write(tmp_path / "toy.dlc", manifest=replace(toy.manifest, targets=(gpu,)))
    with pytest.raises(DeviceError) as caught:
        dslc_runtime.load(path)
    assert str(caught.value) == (
        "no code of the artifact fits this machine: cuda can't run because libcuda.so.1 "
        "(NVIDIA's driver) is not on this machine"
    )
    both = [gpu, toy.manifest.targets[0]]
    assert device.choose(both).kind == "cpu"


@pytest.mark.parametrize(
    ("names", "capability", "runs"),
    [
        ("sm_90", "9.0", True),
        ("sm_80,sm_90", "8.6", True),
        ("sm_86", "8.0", False),
        ("sm_80", "9.0", True),
        ("sm_90a", "9.0", True),
        ("sm_100a", "10.3", False),
        ("sm_90a", "12.0", False),
        ("sm_100", "10.3", True),
        ("sm_120", "12.0", True),
        ("native", "9.0", False),
    ],
)
def test_architectures(names: str, capability: str, runs: bool) -> None:
    if runs:
        cuda.check_architecture(names, capability)
    else:
        with pytest.raises(DeviceError, match=f"has code for {names}; this GPU is sm_"):
            cuda.check_architecture(names, capability)


@pytest.mark.skipif(has_driver(), reason="this machine has NVIDIA's driver")
def test_a_gpu_that_does_not_answer() -> None:
    with pytest.raises(DeviceError, match="CUDA can't be used: "):
        cuda.open_device()


@pytest.fixture(scope="module")
def memory() -> cuda.Device:
    """The functions that serve a GPU, on the CPU's memory."""
    pytest.importorskip("tvm")
    return cuda.Device("cpu")


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?"])
@pytest.mark.parametrize("shape", [(), (3,), (0, 2)])
def test_a_copy_there_and_back(memory: cuda.Device, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape, dtype)
    made = memory.upload(array)
    back = np.zeros_like(array)
    memory.download(made, back)
    np.testing.assert_array_equal(back, array)
    assert made.numel() == 0 or made.data_ptr() != array.ctypes.data


def test_bf16_there_and_back(memory: cuda.Device) -> None:
    array = np.array([1, 2], ml_dtypes.bfloat16)
    back = np.zeros_like(array)
    memory.download(memory.upload(array), back)
    assert back.tolist() == [1, 2]


@pytest.fixture
def model(toy: Any, memory: cuda.Device) -> Model:
    module = load_library(toy.library, "toy")
    (target,) = toy.manifest.targets
    return Model(toy.manifest, target, module, toy.weights, device=memory)


def test_calls_over_device_memory(model: Model) -> None:
    np.testing.assert_array_equal(model(X), X * WEIGHT * 2 + 1)
    out = np.empty_like(X)
    assert model(X, out=out) is out
    np.testing.assert_array_equal(out, X * WEIGHT * 2 + 1)
    y, z = model.pair(np.ones((3, 2), np.float32), np.arange(5, dtype=np.float32), 7)
    assert (y.tolist(), z.tolist()) == ([2, 2, 2], [7, 8, 9, 10, 11])
    with pytest.raises(ArgumentError, match="its dtype is f64"):
        model(X.astype(np.float64))
    frozen = X.copy()
    frozen.flags.writeable = False  # handed over as a tensor, not as an array
    np.testing.assert_array_equal(model(frozen), X * WEIGHT * 2 + 1)


def test_bf16_inputs_are_read_as_they_are() -> None:
    slot = Slot(TensorInfo("x", "bf16", (2,)))
    made, _ = slot.take(np.array([1, 2], ml_dtypes.bfloat16))
    assert cuda.host_array(made, slot.dtype).tolist() == [1, 2]


def test_memory_of_results_is_used_again_when_nobody_has_it(memory: cuda.Device) -> None:
    kept: list[Any] = []

    def made() -> Any:
        return result_on(memory, (3,), np.dtype(np.float32), kept)

    first = made()
    place, seen = first.data_ptr(), np.from_dlpack(first)
    del first  # the array still has it
    second = made()
    assert second.data_ptr() != place
    del seen
    assert made().data_ptr() == place
    held = [made() for _ in range(5)]
    assert len({tensor.data_ptr() for tensor in (second, *held)}) == 6
    assert len(kept) <= 2


def test_weights_over_device_memory(model: Model, tmp_path: Path) -> None:
    np.testing.assert_array_equal(model.weights["weight"], WEIGHT)
    model.load_weights({"weight": WEIGHT + 1})
    np.testing.assert_array_equal(model(X), X * (WEIGHT + 1) * 2 + 1)
    model.save_weights(tmp_path / "w.safetensors")
    model.load_weights({"weight": WEIGHT})
    model.load_weights(tmp_path / "w.safetensors")
    np.testing.assert_array_equal(model.weights["weight"], WEIGHT + 1)


def test_training_over_device_memory(model: Model, tmp_path: Path) -> None:
    trainer = Trainer(model, seed=1)
    assert trainer.train_step(x=np.ones((2, 4), np.float32)).loss == 108
    np.testing.assert_array_equal(trainer.weights["weight"], WEIGHT - 2)
    np.testing.assert_array_equal(trainer(X), X * (WEIGHT - 2) * 2 + 1)
    trainer.save_checkpoint(tmp_path / "c.safetensors")
    trainer.train_step(x=np.ones((2, 4), np.float32))
    trainer.load_checkpoint(tmp_path / "c.safetensors")
    np.testing.assert_array_equal(trainer.weights["weight"], WEIGHT - 2)


def test_code_for_another_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    targets = [target("x86", "avx"), target("arm", "asimd", "fp")]
    monkeypatch.setattr(device, "architecture", lambda: "aarch64")
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset({"fp", "asimd"}))
    assert device.choose(targets).name == "arm"
    with pytest.raises(DeviceError, match="x86 can't run because it is for x86_64 CPUs"):
        device.choose(targets[:1])
    monkeypatch.setattr(device, "architecture", lambda: "x86_64")
    with pytest.raises(DeviceError, match="it is for aarch64 CPUs and this one is x86_64"):
        device.choose(targets[1:])


def test_registers_that_linux_refuses_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU has AMX, and the process may not use it: other features are not asked for."""
    monkeypatch.setattr(device, "cpu_flags", lambda: frozenset({"amx_tile", "amx_bf16", "avx2"}))
    monkeypatch.setattr(device, "may_use_tiles", lambda: False)
    assert device.lacking(["amx_bf16", "amx_tile", "avx2"]) == ["amx_bf16", "amx_tile"]
    target = TargetInfo("native", "cpu", "a.so", (), ("amx_bf16", "amx_tile"), "native")
    assert device.unfit(target) == (
        "Linux does not let this process use the CPU's amx_bf16, amx_tile (it was built for "
        "native); `dslc build --cpu x86-64-v4` makes code without them"
    )
    assert device.lacking(["avx2"]) == []
    monkeypatch.setattr(device, "may_use_tiles", lambda: True)
    assert device.lacking(["amx_bf16", "amx_tile", "avx2"]) == []
