"""`dslc export` and `dslc.export_onnx`: files, names, sizes, and what is said when it can't be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from exported import run, same

import dslc
from dslc.cli import main
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.onnx.writing import files

MLP = """model MLP[wide=8](x: f32[N, 4]) -> f32[N, 3] {
    return x |> fc1: dense[wide] |> relu |> fc2: dense[3] |> softmax
}
"""
# Two entries over one cache: how much of it there is, and one more row.
CACHE = """layer store(x: f32[B, 2], at: i64) -> f32[B, 4, 2] {
    state rows: f32[3, 4, 2] = 0
    kept = put[axis=1](rows, reshape[B, 1, 2](x), at)
    rows <- kept
    return kept[:B]
}

model Cache {
    net = store
    entry forward(x: f32[B in 1..3, 2]) -> f32[B, 2] {
        return x + 1
    }
    entry add_row(x: f32[B in 1..3, 2], at: i64) -> f32[B, 4, 2] {
        return net(x, at)
    }
}
"""


def test_a_model_through_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "mlp.dl", tmp_path / "mlp.onnx"
    source.write_text(MLP)
    assert main(["export", str(source), "-o", str(out), "--set", "wide=5"]) == 0
    assert capsys.readouterr().out.startswith("x -> output: ")
    model = onnx.load(out)
    onnx.checker.check_model(model, full_check=True)
    (x,) = model.graph.input
    assert [d.dim_param or d.dim_value for d in x.type.tensor_type.shape.dim] == ["N", 4]
    weights = {t.name: list(t.dims) for t in model.graph.initializer}
    assert weights["fc1.weight"] == [5, 4]
    assert weights["fc2.bias"] == [3]
    assert (model.producer_name, model.opset_import[0].version) == ("dslc", 18)
    program = dslc.lower(MLP, set={"wide": 5})
    for count in (1, 7):
        inputs = {"x": np.random.default_rng(count).normal(size=(count, 4)).astype("f4")}
        wanted, _ = run_entry(program, "forward", initial_variables(program, 0), inputs)
        same(run(model, inputs), [*wanted.values()])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlp.dl", "mlp.onnx"]


def test_weights_of_a_file_and_a_fixed_dim(tmp_path: Path) -> None:
    out = tmp_path / "mlp.onnx"
    values = initial_variables(dslc.lower(MLP), 3)
    made = dslc.export_onnx(MLP, out, weights=values, dims={"N": 2}, opset=17)
    assert (made.files, made.inputs, made.outputs) == ((out,), ("x",), ("output",))
    model = onnx.load(out)
    shape = model.graph.input[0].type.tensor_type.shape
    assert [d.dim_value for d in shape.dim] == [2, 4]
    (found,) = [t for t in model.graph.initializer if t.name == "fc1.weight"]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(found), values["fc1.weight"])


def test_a_state_that_a_call_changes_goes_in_and_out(tmp_path: Path) -> None:
    made = dslc.export_onnx(CACHE, tmp_path / "cache.onnx", entry="add_row")
    assert made.inputs == ("x", "at", "store.rows")
    assert made.outputs == ("output", "next.store.rows")
    model = onnx.load(tmp_path / "cache.onnx")
    rows, x = np.zeros((3, 4, 2), "f4"), np.ones((2, 2), "f4")
    for at in range(2):
        inputs = {"x": x * (at + 1), "at": np.asarray(at)}
        seen, rows = run(model, inputs if at == 0 else {**inputs, "store.rows": rows})
        assert seen.shape == (2, 4, 2)
    assert rows[:, :, 0].tolist() == [[1, 2, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0]]


def test_arrays_beside_a_model_that_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MOST_INSIDE", 1000)
    made = dslc.export_onnx(MLP, tmp_path / "big.onnx", set={"wide": 700})
    assert [path.name for path in made.files] == ["big.onnx", "big.onnx.data"]
    assert (tmp_path / "big.onnx").stat().st_size < 20_000
    model = onnx.load(tmp_path / "big.onnx")
    onnx.checker.check_model(str(tmp_path / "big.onnx"), full_check=True)
    program = dslc.lower(MLP, set={"wide": 700})
    inputs = {"x": np.ones((2, 4), "f4")}
    wanted, _ = run_entry(program, "forward", initial_variables(program, 0), inputs)
    same(run(model, inputs), [*wanted.values()])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--opset", "9"], "the opset is 17 to"),
        (["--entry", "froward"], "MLP has no entry froward; did you mean forward?"),
        (["--dim", "M=2"], "MLP has no dynamic dim M; did you mean N?"),
        (["--dim", "N=1,2"], "--dim fixes N at one size, not at 2"),
        (["-o", "nowhere/m.onnx"], "there is no folder nowhere"),
    ],
)
def test_what_is_said_when_it_cannot_be(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "mlp.dl"
    source.write_text(MLP)
    assert main(["export", str(source), *options]) in (1, 2)
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mlp.dl"]
