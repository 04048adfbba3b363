"""`dslc import`: small models as text, and the numbers they give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from dslc.cli import main
from dslc.ir.evaluate import run_entry
from dslc.onnx.reading import model_file
from dslc.onnx.reading.importing import Imported, import_model
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

NET = """
<ir_version: 8, opset_import: ["" : 13]>
small_net (float[batch, 3, 8, 8] image) => (float[batch, 5] y)
{
  c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(image, conv1_weight, conv1_bias)
  r = Relu(c)
  p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
  f = Flatten<axis=1>(p)
  y = Gemm<transB=1>(f, fc_weight, fc_bias)
}
"""
NET_WEIGHTS = {
    "conv1_weight": (4, 3, 3, 3),
    "conv1_bias": (4,),
    "fc_weight": (5, 64),
    "fc_bias": (5,),
}


def model_of(text: str, **weights: Any) -> Any:
    """A model from ONNX's own text form, and arrays (or the dims of random ones) it starts from."""
    model = parser.parse_model(text)
    rng = np.random.default_rng(0)
    for name, given in weights.items():
        array = rng.normal(size=given).astype(np.float32) if isinstance(given, tuple) else given
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    return model


def imported(model: Any) -> Imported:
    return import_model(model_file.prepared(model, "test.onnx"), "test.onnx")


def run(found: Imported, *inputs: Any) -> list[Any]:
    """What the imported text computes, by the reference meanings of the ops."""
    program, problems = elaborate(SourceFile("test.dl", found.text))
    assert program is not None, problems
    entry = program.entry("forward")
    names = [a.name for a in entry.arguments if a.role == "input"]
    results, _ = run_entry(program, "forward", found.weights, dict(zip(names, inputs)))
    return [results[name] for name in entry.outputs]


def compare(model: Any, *inputs: Any, rtol: float = 1e-4, atol: float = 1e-5) -> Imported:
    """Imports a model and compares its numbers with onnx's reference evaluator."""
    names = {tensor.name for tensor in model.graph.initializer}
    feeds = [value.name for value in model.graph.input if value.name not in names]
    wanted = ReferenceEvaluator(model).run(None, dict(zip(feeds, inputs)))
    found = imported(model)
    for got, want in zip(run(found, *inputs), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=rtol, atol=atol)
        assert got.dtype == want.dtype
    return found


def normal(*dims: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=dims).astype(np.float32)


def test_a_small_net_is_what_a_person_would_write() -> None:
    found = compare(model_of(NET, **NET_WEIGHTS), normal(2, 3, 8, 8))
    assert found.text.splitlines()[2:] == [
        "model SmallNet(image: f32[BATCH, 3, 8, 8]) -> f32[BATCH, 5] {",
        "    return image",
        "        |> conv1: conv2d[4, kernel=3, padding=1]",
        "        |> relu",
        "        |> max_pool2d[2]",
        "        |> flatten",
        "        |> fc: dense[5]",
        "}",
        "",
        "weights SmallNet {",
        '    conv1.weight <- "conv1_weight"',
        '    conv1.bias   <- "conv1_bias"',
        '    fc.weight    <- "fc_weight"',
        '    fc.bias      <- "fc_bias"',
        "}",
    ]


def test_the_command_writes_text_and_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(model_of(NET, **NET_WEIGHTS), tmp_path / "net.onnx")
    assert main(["import", str(tmp_path / "net.onnx"), "-o", str(tmp_path / "net.dl")]) == 0
    told = capsys.readouterr().out
    assert "input   image: f32[BATCH, 3, 8, 8]" in told
    assert "437 numbers in 4 tensors" in told
    assert main(["check", str(tmp_path / "net.dl")]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.dl", "net.onnx", "net.safetensors"]
