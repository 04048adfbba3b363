"""Each op of the IR as ONNX, alone: what ONNX's reference makes of it is what it means."""

from __future__ import annotations

import numpy as np
import pytest
from exported import checked, program_of, run, run_in_onnxruntime, same
from ops.cases import accepts, case_id, concrete, environments, function_of, random_inputs

from dslc.ir.evaluate import evaluate
from dslc.ir.op import Op, Sample
from dslc.ir.types import TensorType
from dslc.onnx.writing.table import REFUSED, RULES
from dslc.ops import ALL
from dslc.ops.logic import select

WRITTEN = [(op, sample) for op in ALL if op.name in RULES for sample in op.samples]


def test_each_op_is_written_or_it_is_said_why_it_never_is() -> None:
    assert RULES.keys() | REFUSED.keys() == {op.name for op in ALL}
    assert not RULES.keys() & REFUSED.keys()
    assert all(len(why) > 10 for why in REFUSED.values())


@pytest.mark.parametrize(("op", "sample"), WRITTEN, ids=case_id)
def test_what_is_written_means_the_same(op: Op, sample: Sample) -> None:
    model = checked(program_of(function_of(op, sample)))
    rng = np.random.default_rng(7)
    for env in environments(sample):
        bound = concrete(sample, env)
        if not accepts(op, bound) or (op.name == "scan" and env["N"] == 0):
            continue  # ONNX Runtime runs no loop of 0 steps
        inputs = random_inputs(op, bound, rng)
        given = {f"x{i}": x for i, x in enumerate(inputs)}
        given |= {i.name: np.zeros(env["N"], "f4") for i in model.graph.input
                  if i.name == "tells_N"}  # fmt: skip
        wanted = evaluate(function_of(op, bound), inputs)
        same(_found(op, model, given), wanted, max(sample.rtol, 1e-5))


def _found(op: Op, model: object, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    """By the reference, but for what it lacks or gets wrong: scans from the last step to the first,
    transposed convolutions in groups or of no images."""
    if op.name not in ("scan", "conv2d_input_gradient"):
        return run(model, inputs)
    pytest.importorskip("onnxruntime")
    return run_in_onnxruntime(model, inputs)


def test_a_choice_of_truth_values_runs() -> None:
    """ONNX Runtime has no Where of them."""
    pytest.importorskip("onnxruntime")
    condition, x, y = (np.arange(8) >> n & 1 == 1 for n in range(3))
    types = tuple(TensorType("bool", (8,)) for _ in range(3))
    model = checked(program_of(function_of(select, Sample(types))))
    (found,) = run_in_onnxruntime(model, {"x0": condition, "x1": x, "x2": y})
    assert found.tolist() == np.where(condition, x, y).tolist()
