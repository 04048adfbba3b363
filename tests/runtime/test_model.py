"""Loading and calling models: results, signatures, weights, states, prepared weights."""

from __future__ import annotations

import ctypes
import os
import pickle
import shutil
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc_runtime
from dslc_runtime import (
    ArgumentError,
    ArtifactError,
    DeviceError,
    Model,
    Trainer,
    _ffi,
    safetensors,
)
from dslc_runtime._ffi import load_library
from dslc_runtime.arrays import SMALL, aligned_copy, result_empty
from dslc_runtime.dtypes import Array
from dslc_runtime.weight_files import given_weights

X = np.arange(12, dtype=np.float32).reshape(3, 4)


def expected(x: Array, weight: Array) -> Array:
    result: Array = x * weight * 2 + 1
    return result


@pytest.fixture
def model(toy_path: Path) -> Model:
    return dslc_runtime.load(toy_path)


def test_forward(model: Model, toy: Any) -> None:
    np.testing.assert_array_equal(model(X), expected(X, toy.weights["weight"]))
    np.testing.assert_array_equal(model(x=X), model.entry("forward")(X))


def test_a_model_is_not_pickled(model: Model) -> None:
    with pytest.raises(TypeError, match="another process loads the artifact itself"):
        pickle.dumps(model)


def test_signature_reads_as_in_the_language(model: Model) -> None:
    assert str(model.signature) == "(x: f32[N in 1..4096, 4]) -> f32[N, 4]"
    assert str(model.pair.signature) == (
        "(a: f32[N, K], b: f32[N + K], c: i32) -> (f32[N], i32[N + K])"
    )
    assert str(model.train_step.signature) == "(x: f32[N in 1..4096, 4]) -> (f32, f32)"
    assert repr(model) == ("<model Toy(x: f32[N in 1..4096, 4]) -> f32[N, 4] on cpu-native>")


def test_several_results_and_a_scalar(model: Model) -> None:
    a, b = np.ones((3, 2), np.float32), np.arange(5, dtype=np.float32)
    for c in (7, np.int32(7), np.array(7, np.int32)):
        y, z = model.pair(a, b, c)
        np.testing.assert_array_equal(y, [2, 2, 2])
        np.testing.assert_array_equal(z, [7, 8, 9, 10, 11])
        assert z.dtype == np.int32


def test_dims_of_zero(model: Model) -> None:
    y, z = model.pair(np.ones((2, 0), np.float32), np.ones(2, np.float32), 1)
    np.testing.assert_array_equal(y, [0, 0])
    y, z = model.pair(np.ones((0, 2), np.float32), np.ones(2, np.float32), 1)
    assert (y.shape, z.shape) == ((0,), (2,))


def test_results_are_fresh_and_large_ones_aligned(model: Model) -> None:
    first, second = model(X), model(X)
    assert not np.shares_memory(first, second)
    assert first.flags.writeable
    sizes = [(SMALL // 4 + n,) for n in range(1, 9)]
    large = [result_empty(size, np.dtype("f4"), 4 * size[0], []) for size in sizes]
    assert all(array.ctypes.data % 64 == 0 for array in large)


def test_read_only_and_sliced_inputs_are_read_in_place(model: Model, toy: Any) -> None:
    frozen = X.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(model(frozen), expected(X, toy.weights["weight"]))
    np.testing.assert_array_equal(model(X[1:]), expected(X[1:], toy.weights["weight"]))
    odd = np.ndarray((1, 4), np.float32, bytes(4) + X[0].tobytes(), 4)  # 4-byte alignment
    np.testing.assert_array_equal(model(odd), expected(X[:1], toy.weights["weight"]))


def test_a_memory_mapped_input(model: Model, toy: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(model(mapped), expected(X, toy.weights["weight"]))


def test_out_takes_the_result(model: Model, toy: Any) -> None:
    out = np.empty((3, 4), np.float32)
    assert model(X, out=out) is out
    np.testing.assert_array_equal(out, expected(X, toy.weights["weight"]))


def test_tensors_of_other_libraries(model: Model, toy: Any) -> None:
    class Foreign:
        """What a tensor of another library shows."""

        def __dlpack_device__(self) -> tuple[int, int]:
            return X.__dlpack_device__()

        def __dlpack__(self, **options: Any) -> Any:
            return X.__dlpack__()

    result = model(Foreign())
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, expected(X, toy.weights["weight"]))


@pytest.mark.torch
def test_torch_tensors(model: Model, toy: Any) -> None:
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(model(torch.from_numpy(X)), expected(X, toy.weights["weight"]))
    with pytest.raises(ArgumentError, match=r"x must be f32.*a torch Tensor bf16.* dtype is bf16"):
        model(torch.zeros(3, 4, dtype=torch.bfloat16))


def test_states_change_when_the_call_ends(model: Model) -> None:
    x = np.array([1, 2], np.float32)
    assert model.count(x).tolist() == [0, 0]
    assert model.count(x).tolist() == [1, 2]
    assert model.weights["total"].tolist() == [2, 4]


def test_two_models_of_one_file_share_nothing(toy_path: Path) -> None:
    first, second = dslc_runtime.load(toy_path), dslc_runtime.load(toy_path)
    first.count(np.ones(2, np.float32))
    assert second.weights["total"].tolist() == [0, 0]


def test_weights_are_views_by_name(model: Model, toy: Any) -> None:
    assert list(model.weights) == ["weight", "total"]
    assert len(model.weights) == 2
    np.testing.assert_array_equal(model.weights["weight"], toy.weights["weight"])
    with pytest.raises(ValueError, match="read-only"):
        model.weights["weight"][0] = 1
    with pytest.raises(KeyError, match="there is no weight 'wieght': 'weight'"):
        model.weights["wieght"]


def test_a_model_that_does_not_train(model: Model) -> None:
    with pytest.raises(AttributeError, match=r"'save_checkpoint': what trains is dslc.compile\("):
        model.save_checkpoint("c.safetensors")
    with pytest.raises(FileNotFoundError, match="No such file or directory: '/no'"):
        model.save_weights("/no/w.safetensors")


def test_saved_weights_load_again_and_are_prepared(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    model.save_weights(path)
    arrays, metadata = safetensors.load(path)
    assert arrays.keys() == {"weight"}, "the total is of what was handed in"
    assert metadata == {"model": "Toy"}
    new = np.full(4, 5, np.float32)
    safetensors.save(path, {"weight": new}, {})
    model.load_weights(path)
    np.testing.assert_array_equal(model(X), expected(X, new))
    np.testing.assert_array_equal(model.weights["weight"], new)


def test_weights_from_arrays_are_copied(model: Model) -> None:
    new = np.full(4, 5, np.float32)
    model.load_weights({"weight": new})
    new[:] = 0
    np.testing.assert_array_equal(model(X), expected(X, np.full(4, 5, np.float32)))


def test_weights_without_dims_may_be_scalars_of_numpy() -> None:
    """What NumPy makes of arithmetic with arrays without dims."""
    arrays, _ = given_weights({"scale": np.float32(2) * np.asarray(3, np.float32)})
    assert arrays["scale"].shape == ()
    assert arrays["scale"].dtype == np.float32


def test_weights_that_do_not_fit_are_all_listed(model: Model, toy: Any) -> None:
    given = {"wieght": np.zeros(4, np.float32), "total": np.zeros(3, np.float32)}
    with pytest.raises(ArgumentError) as caught:
        model.load_weights(given)
    assert str(caught.value).splitlines() == [
        "what was given does not fit the model Toy:",
        "  missing: weight: f32[4] (the file has 'wieght')",
        "  extra: wieght: f32[4] (the model has 'weight')",
        "  total: f32[3] where f32[2] is needed",
    ]
    np.testing.assert_array_equal(model(X), expected(X, toy.weights["weight"]))


@pytest.mark.parametrize(
    ("given", "missing", "told"),
    [
        (None, (), "weights must be a file or arrays by name, not None"),
        ([1], (), r"weights must be a file or arrays by name, not \[1\]"),
        ({3: np.zeros(4)}, (), "weights must be arrays by name, and 3 is no name"),
        ({"weight": [1.0]}, (), "weight must be a NumPy array or a tensor, but a list was given"),
        ({"weight": np.zeros(4)}, "total", "missing must be a list of patterns, not 'total'"),
        ({"weight": np.zeros(4)}, 3, "missing must be a list of patterns, not 3"),
    ],
)
def test_what_is_no_weights(model: Model, given: Any, missing: Any, told: str) -> None:
    with pytest.raises(ArgumentError, match=told):
        model.load_weights(given, missing=missing)


def test_a_damaged_weights_file_is_one_sentence(model: Model, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ArgumentError, match=r"is not a whole .safetensors file"):
        model.load_weights(tmp_path / "w.safetensors")
    with pytest.raises(ArgumentError, match=r"cannot read .*none"):
        model.load_weights(tmp_path / "none")


def test_facts_about_the_model(model: Model) -> None:
    info = model.info
    assert (info.name, info.target, info.kind, info.parameters) == ("Toy", "cpu-native", "cpu", 4)
    assert info.weight_bytes == 24
    assert info.arena["forward"] == "16 * N"
    assert model.entry("forward").arena_bytes((10, 4)) == 160


def test_entries_that_are_not_there(model: Model) -> None:
    with pytest.raises(ArgumentError, match="no entry 'decode'; it has: forward, count"):
        model.entry("decode")
    with pytest.raises(AttributeError, match="decode"):
        model.decode(X)


def test_libraries_opened_one_after_the_other_are_not_mixed_up(tmp_path: Path) -> None:
    """Numbers of closed descriptors come again; the system must not take a library for one that
    was opened under the same path."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    libraries = []
    for answer in (1, 2):
        (tmp_path / "x.c").write_text(f"int answer(void) {{ return {answer}; }}")
        out = tmp_path / "x.so"
        subprocess.run([compiler, "-shared", "-o", out, tmp_path / "x.c"], check=True)
        libraries.append(out.read_bytes())
    opened: list[ctypes.CDLL] = []

    def note(path: str) -> ctypes.CDLL:
        opened.append(ctypes.CDLL(path))
        return opened[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_ffi, "_open", note)
        for image in libraries * 3:
            load_library(image, "x")
    assert [library.answer() for library in opened] == [1, 2] * 3


def test_without_memfd_a_private_file_serves(toy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    model = Model.from_parts(toy.manifest, load_library(toy.library, "toy"), toy.weights)
    np.testing.assert_array_equal(model(X), expected(X, toy.weights["weight"]))


def test_a_library_that_does_not_open(toy: Any, tmp_path: Path) -> None:
    path = toy.write(tmp_path / "toy.dlc", library=b"no elf")
    with pytest.raises(DeviceError, match=r"the code for cpu-native in .*toy\.dlc can't be opened"):
        dslc_runtime.load(path)


def test_a_library_without_a_symbol(toy: Any, tmp_path: Path) -> None:
    target = toy.manifest.targets[0]
    codes = (*target.codes[:-1], replace(target.codes[-1], symbol="no_such_symbol"))
    changed = _with_target(toy.manifest, codes=codes)
    path = toy.write(tmp_path / "toy.dlc", manifest=changed)
    with pytest.raises(ArtifactError, match="no_such_symbol"):
        dslc_runtime.load(path)


def test_code_for_another_cpu_is_refused_by_name(toy: Any, tmp_path: Path) -> None:
    changed = _with_target(toy.manifest, features=("avx9000",), arch="znver9")
    path = toy.write(tmp_path / "toy.dlc", manifest=changed)
    with pytest.raises(DeviceError, match=r"this CPU lacks avx9000 \(it was built for znver9\)"):
        dslc_runtime.load(path)


def test_a_device_that_the_artifact_has_no_code_for(toy_path: Path) -> None:
    with pytest.raises(DeviceError, match="no code for 'cuda'; it has code for: cpu"):
        dslc_runtime.load(toy_path, device="cuda")
    with pytest.raises(DeviceError, match="'cpu' or 'cuda', not 'tpu'"):
        dslc_runtime.load(toy_path, device="tpu")


def test_from_parts_in_process(toy: Any) -> None:
    module = load_library(toy.library, "toy")
    weights = {"weight": aligned_copy(toy.weights["weight"])}
    model = Model.from_parts(toy.manifest, module, weights)
    np.testing.assert_array_equal(model(X), expected(X, toy.weights["weight"]))
    Trainer(model).train_step(x=X)
    np.testing.assert_array_equal(weights["weight"], toy.weights["weight"])
    with pytest.raises(ArtifactError, match="its weight 'weight' is missing"):
        Model.from_parts(toy.manifest, module, {})


def test_a_process_without_a_compiler_runs_it(toy_path: Path) -> None:
    program = f"""
        import sys
        import numpy as np
        import dslc_runtime
        model = dslc_runtime.load({str(toy_path)!r})
        print(model(np.ones((2, 4), np.float32)).sum())
        print(sorted({{"dslc", "tvm", "torch", "lark"}} & set(sys.modules)))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True
    )
    assert done.stdout == "32.0\n[]\n", done.stderr


def _with_target(manifest: Any, **changes: Any) -> Any:
    return replace(manifest, targets=(replace(manifest.targets[0], **changes),))
