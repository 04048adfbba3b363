"""Runs what an export wrote by ONNX's own reference, and compares it with the IR's meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from dslc.ir.core import Argument, DimRange, Entry, Function, Program, Value
from dslc.ir.dims import sym
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.ir.types import TensorType
from dslc.onnx.writing.exporting import written
from dslc.onnx.writing.files import inlined

Array = Any


def program_of(function: Function) -> Program:
    """A program with one entry, whose inputs are the function's parameters and, for each of its dim
    variables, a tensor that tells it."""
    names = sorted(function.symbols())
    tellers = [Value(f"tells_{name}", TensorType("f32", (sym(name),))) for name in names]
    params = (*function.params, *tellers)
    whole = Function(function.name, params, function.eqns, function.results)
    arguments = tuple(Argument(param.name, "input") for param in params)
    outputs = tuple(f"y{i}" for i in range(len(function.results)))
    entry = Entry("forward", whole, arguments, outputs)
    return Program("model", (entry,), dims=tuple(DimRange(name) for name in names))


def checked(program: Program, values: Mapping[str, Array] | None = None, **options: Any) -> Any:
    """The exported model, which ONNX's checker and its strict inference of shapes accept."""
    model = inlined(written(program, values or {}, **options))
    onnx.checker.check_model(model, full_check=True)
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    return model


def run(model: Any, inputs: Mapping[str, Array]) -> list[Array]:
    """What ONNX's reference makes of it."""
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, dict(inputs)))


def run_in_onnxruntime(model: Any, inputs: Mapping[str, Array]) -> list[Array]:
    """What ONNX Runtime makes of it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, dict(inputs)))


def same(found: Sequence[Array], wanted: Sequence[Array], tolerance: float = 1e-5) -> None:
    """Equal dtypes and dims, and numbers but for rounding."""
    assert len(found) == len(wanted)
    for ours, theirs in zip(wanted, found):
        theirs = np.asarray(theirs)
        assert theirs.dtype == ours.dtype
        assert theirs.shape == ours.shape
        if ours.dtype.kind in "iub":
            np.testing.assert_array_equal(theirs, ours)
        else:
            wide = np.float64
            np.testing.assert_allclose(
                theirs.astype(wide), ours.astype(wide), rtol=tolerance, atol=tolerance
            )


def agrees(
    program: Program, inputs: Mapping[str, Array], tolerance: float = 1e-5, **options: Any
) -> Any:
    """The exported model, after its results were compared with the evaluator's."""
    values = initial_variables(program, 0)
    model = checked(program, values, **options)
    entry = program.entries[0].name if len(program.entries) == 1 else options["entry"]
    outputs, updates = run_entry(program, entry, values, inputs)
    same(run(model, inputs), [*outputs.values(), *updates.values()], tolerance)
    return model
