"""Operators one by one: tests of the ONNX suite, and the light models that come with it.

`python -m benchmarks.onnx_suite` runs the whole float core; here is what is fast: modules of each
family, of which only those cases may be refused that are listed.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks.onnx_suite import Unsupported, compiled, evaluated
from dslc.onnx.reading.importing import import_file

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
KINDS = {getattr(onnx.TensorProto, name) for name in ("FLOAT", "DOUBLE", "INT32", "INT64", "BOOL")}
# Larger ones (pools of volumes) are left to the benchmark.
MOST_NUMBERS = 20_000

# Modules of the suite, with the words in names of cases that are refused.
MODULES: dict[str, tuple[str, ...]] = {
    "acos": (),
    "acosh": (),
    "asin": (),
    "asinh": (),
    "atan": (),
    "atanh": (),
    "batch_normalization": (),
    "clip": (),
    "col2im": (),
    "concat": (),
    "conv": (),
    "convtranspose": (),
    "cosh": (),
    "cumsum": (),
    "depthtospace": (),
    "einsum": (),
    "expand": (),
    "gather": (),
    "gatherelements": (),
    "gathernd": (),
    "gelu": (),
    "gemm": (),
    "gridsample": ("volumetric",),
    "groupnormalization": (),
    "gru": (),
    "hardmax": (),
    "instance_normalization": (),
    "layernormalization": (),
    "loop": ("seq",),
    "lrn": (),
    "lstm": (),
    "matmul": (),
    "mod": (),
    "maxpool": (),
    "maxunpool": (),
    "onehot": (),
    "pad": (),
    "prelu": (),
    "reduce_log_sum_exp": (),
    "resize": (),
    "reversesequence": (),
    "rmsnormalization": (),
    "rnn": (),
    "roialign": (),
    "rotaryembedding": (),
    "scan": ("test_scan_sum",),  # of opset 8
    "scatter": (),
    "scatterelements": (),
    "scatternd": (),
    "shape": (),
    "sinh": (),
    "slice": (),
    "split": (),
    "tan": (),
    "tensorscatter": (),
    "topk": (),
    "where": (),
}


def cases(module: str) -> list[Any]:
    """The suite's float cases that a module of it makes."""
    from onnx.backend.test.case import node

    before = {case.name for case in node._NodeTestCases}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(f"onnx.backend.test.case.node.{module}")
    found = []
    for case in node._NodeTestCases:
        graph = case.model.graph
        kinds = {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)}
        numbers = sum(np.size(array) for array in case.data_sets[0][0])
        plain = case.name not in before and "_expanded" not in case.name
        if plain and kinds <= KINDS and numbers <= MOST_NUMBERS:
            found.append(case)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_the_suite_agrees(module: str) -> None:
    found = cases(module)
    assert found
    for case in found:
        refused = any(word in case.name for word in MODULES[module])
        inputs, wanted = case.data_sets[0]
        if refused:
            with pytest.raises(Unsupported):
                compiled(case.model)(inputs)
            continue
        results = compiled(case.model)(inputs)
        for got, want in zip(results, wanted, strict=True):
            np.testing.assert_allclose(got, want, case.rtol, case.atol, err_msg=case.name)
            assert got.dtype == np.asarray(want).dtype, case.name


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("bvlc_alexnet", 60_965_224), ("resnet50", 25_610_152), ("vgg19", 143_667_240)],
)
def test_a_light_model_comes_in(name: str, numbers: int) -> None:
    found = import_file(LIGHT / f"light_{name}.onnx")
    assert found.inputs[0].endswith("f32[1, 3, 224, 224]")
    assert found.parameters == numbers


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_a_light_model_computes(name: str) -> None:
    found = import_file(LIGHT / f"light_{name}.onnx")
    (probabilities,) = evaluated(found.text, found.weights)([np.ones((1, 3, 224, 224), np.float32)])
    # All weights are equal, so all classes are.
    np.testing.assert_allclose(probabilities.reshape(-1), np.full(1000, 0.001), rtol=1e-3)
