"""What the tests of `dslc import` share: models from text, and their numbers without a compiler."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper, parser
from onnx.reference import ReferenceEvaluator

from dslc.ir.evaluate import run_entry
from dslc.onnx.reading import model_file
from dslc.onnx.reading.importing import Imported, import_model
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile


def model_of(text: str, **weights: Any) -> Any:
    """A model from ONNX's own text form, and arrays (or the dims of random ones) it starts from.

    A text without a heading is of opset 18.
    """
    if not text.lstrip().startswith("<"):
        text = f'<ir_version: 8, opset_import: ["" : 18]>\n{text}'
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


def body(found: Imported) -> list[str]:
    """The statements of the imported model."""
    lines = found.text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("model "))
    end = lines.index("}", start)
    return [line.strip() for line in lines[start + 1 : end]]


def normal(*dims: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=dims).astype(np.float32)
