"""A whole model with its training step, built for CUDA: what the artifact holds, what loading it
does without a GPU, and that it computes what the CPU's artifact does."""

from __future__ import annotations

from pathlib import Path

import pytest
from device_process import prebuilt, run
from emulator import MISSING, compile_kernels, gpu_missing

import dslc_runtime
from dslc.build import driver, session
from dslc.build.cubin import kernels_of
from dslc.build.cuda_toolchain import find_toolchain
from dslc.build.errors import BuildError
from dslc.build.target import cpu_target, cuda_target
from dslc.source import SourceFile
from dslc_runtime.artifact import read_artifact

SOURCE = """
fn smooth(x: float[N, C, H, W]) -> float[N, C, H, W] {
    y[n, c, i, j]: float[N, C, H, W] = mean[k in -1..2]((x[n, c, i + k, j] else 0) * x[n, c, i, j])
    return y
}

model Tiny(image: f32[N, 2, 6, 6]) -> f32[N, 3] {
    return image
        |> conv: conv2d[4, kernel=3, padding=1, bias=false] |> norm: batch_norm[] |> relu
        |> smooth |> max_pool2d[2]
        |> flatten
        |> hidden: dense[300] |> gelu |> dropout[0.25]
        |> out: dense[3]
}

train Tiny {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer adamw[lr=0.01, weight_decay=0.01]
    metric accuracy = mean(argmax[axis=-1](output) == label)
}
"""
ENTRIES = ("evaluate", "forward", "train_step")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cpu.dlc and cuda.dlc, of the same first weights."""
    try:
        find_toolchain()
    except BuildError:
        pytest.skip("needs the packages of the extra `cuda`, or CUDA toolkit 13")
    if (made := prebuilt("models")) is not None:
        return made
    folder, source = tmp_path_factory.mktemp("models"), SourceFile("tiny.dl", SOURCE)
    for name, target in (("cpu", cpu_target(threads=1)), ("cuda", cuda_target())):
        made = session.build_source(source, [target], training=True)
        session.write(made, folder / f"{name}.dlc", source, None, seed=1)
    return folder


@pytest.fixture(scope="module")
def kernels(built: Path) -> Path:
    """The folder, with the kernels compiled for the host."""
    if MISSING:
        pytest.skip(MISSING)
    target = cuda_target()
    program = session.program_of(SourceFile("tiny.dl", SOURCE), training=True)
    optimised = driver.optimise(program, target)
    report = driver.run_job(driver.make_job(optimised, target, built, "asm"))
    compile_kernels(report.text, built / "kernels.so")
    return built


def test_the_artifact_holds_machine_code_of_every_entry(built: Path) -> None:
    artifact = read_artifact(built / "cuda.dlc")
    (target,) = artifact.manifest.targets
    assert (target.kind, target.arch) == ("cuda", "sm_80,sm_90")
    found = kernels_of(bytes(artifact.libraries[target.file]))
    assert {k.architecture for k in found} == {"sm_80", "sm_90"}
    for entry in ENTRIES:
        assert any(k.name.startswith(entry) and k.code_bytes for k in found), entry


def test_no_kernel_spills(built: Path) -> None:
    artifact = read_artifact(built / "cuda.dlc")
    library = bytes(artifact.libraries[artifact.manifest.targets[0].file])
    # ptxas may put a word or two there, so that more threads fit.
    assert [k.name for k in kernels_of(library) if k.stack_bytes > 32] == []


def test_halves_are_multiplied_by_tensor_cores() -> None:
    text = "model Half(x: {0}[N, 64]) -> {0}[N, 40] {{\n    return x |> fc: dense[40]\n}}\n"
    for dtype in ("f16", "bf16"):
        source = SourceFile("half.dl", text.format(dtype))
        made = session.build_source(source, [cuda_target(("sm_80",))])
        (library,) = made.libraries.values()
        assert f"mma.sync.aligned.m16n8k16.row.col.f32.{dtype}.{dtype}.f32".encode() in library


def test_an_architecture_that_the_compiler_does_not_know(built: Path) -> None:
    with pytest.raises(BuildError, match="the CUDA compiler here does not know sm_11"):
        session.build_source(SourceFile("tiny.dl", SOURCE), [cuda_target(("sm_11",))])


@pytest.mark.skipif(not gpu_missing(), reason="this machine has a GPU")
def test_loading_without_a_gpu_is_one_clear_sentence(built: Path) -> None:
    with pytest.raises(dslc_runtime.DeviceError) as caught:
        dslc_runtime.load(built / "cuda.dlc")
    assert "CUDA" in str(caught.value) or "cuda" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_emulated_training_is_the_cpus(kernels: Path) -> None:
    told = run("model_on_device.py", kernels)
    assert len(told) > 8
    assert {name: text for name, text in told.items() if text} == {}
    launches = [line.split() for line in (kernels / "log").read_text().splitlines()]
    ran = {words[1] for words in launches if words[0] == "launch"}
    for entry in ENTRIES:
        assert any(name.startswith(entry) for name in ran), entry


@pytest.mark.cuda
@pytest.mark.skipif(bool(gpu_missing()), reason=gpu_missing() or "there is a GPU")
def test_training_on_a_gpu_is_the_cpus(built: Path) -> None:
    told = run("model_on_device.py", built, "--gpu")
    assert {name: text for name, text in told.items() if text} == {}
