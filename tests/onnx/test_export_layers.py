"""Layers and functions of the library as ONNX: which operators they become, and that these give the
same numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import pytest
from exported import agrees, checked, run_in_onnxruntime, same

import dslc
from dslc.ir.evaluate import initial_variables, run_entry

HEAD = "from std.recurrent import gru, lstm, rnn\n"
# What is written, its dims and the result's, and the nodes it becomes.
CASES: list[tuple[str, str, str, str]] = [
    ("x |> dense[5]", "N, 4", "N, 5", "Gemm"),
    ("x |> dense[5]", "N, T, 4", "N, T, 5", "Add MatMul Transpose"),
    ("x |> conv2d[6, kernel=3, padding=1]", "N, 3, 5, 4", "N, 6, 5, 4", "Conv"),
    ("x |> conv1d[6, kernel=3, padding=1]", "N, 3, 5", "N, 6, 5", "Conv"),
    ("x |> conv1d[6, kernel=3, stride=2, bias=false]", "N, 3, 5", "N, 6, 2", "Conv"),
    ("x |> avg_pool1d[2]", "N, 3, 4", "N, 3, 2", "AveragePool"),
    ("x |> batch_norm", "N, 3, T", "N, 3, T", "BatchNormalization"),
    ("x |> layer_norm", "N, T, 4", "N, T, 4", "LayerNormalization"),
    ("x |> layer_norm[dims=2]", "N, 3, 4", "N, 3, 4", "LayerNormalization"),
    ("x |> layer_norm[bias=false]", "N, 4", "N, 4", "LayerNormalization"),
    ("x |> rms_norm", "N, 4", "N, 4", "Add Mul*3 Reciprocal ReduceMean Sqrt"),
    ("x |> softmax", "N, T, 4", "N, T, 4", "Softmax"),
    ("softmax[axis=0](x)", "N, N", "N, N", "Softmax"),
    ("x |> log_softmax", "N, 4", "N, 4", "LogSoftmax"),
    ("mean[axis=(1, 2)](x)", "N, T, 3", "N", "ReduceMean"),
    ("mean[axis=1, keepdims=true](x)", "N, 3", "N, 1", "ReduceMean"),
    ("x |> relu6", "N, 4", "N, 4", "Clip"),
    ("x |> leaky_relu", "N, 4", "N, 4", "LeakyRelu"),
    ("x |> elu", "N, 4", "N, 4", "Elu"),
    ("x |> elu[2.0]", "N, 4", "N, 4", "Elu"),
    ("x |> softplus", "N, 4", "N, 4", "Softplus"),
    ("x |> gelu", "N, 4", "N, 4", "Add Erf Mul*3"),
    ("x |> max_pool2d[2]", "N, 3, 4, 6", "N, 3, 2, 3", "MaxPool"),
    ("x[:, 1:]", "N, 4", "N, 3", "Slice"),
    ("reshape[N, 2, 6](x)", "N, 3, 4", "N, 2, 6", "Reshape"),
    # Not what they look like: the maximum of each row stands along the columns; the exponentials
    # are read once more; the middle axis is normalised.
    (
        "exp(x - max[axis=1](x)) / sum[axis=1, keepdims=true](exp(x - max[axis=1](x)))",
        "N, N", "N, N", "Div Exp ReduceMax ReduceSum Sub Unsqueeze",
    ),
    ("exp(x) / sum[axis=1, keepdims=true](exp(x)) + exp(x)", "N, 3", "N, 3",
     "Add Div Exp ReduceSum Unsqueeze"),
    ("standardize[1](x)", "N, 3, 2", "N, 3, 2",
     "Add Mul*2 Reciprocal ReduceMean*2 Sqrt Sub"),
]  # fmt: skip
# Recurrent layers and what runs their steps.
RECURRENT = [
    ("rnn[3](x).0", "RNN"),
    ("gru[3](x).0", "GRU"),
    ("lstm[3, layers=2](x).0", "LSTM*2"),
    ("lstm[3, bias=false](x).1[0]", "LSTM"),
    ("lstm[3, peephole=true](x).0", "Scan"),
    ('rnn[3, keep="checkpoints"](x).0', "If*3 Scan*4"),
]


def sizes(dims: str, count: int, steps: int) -> list[int]:
    return [{"N": count, "T": steps}.get(d, 0) or int(d) for d in dims.split(", ")]


def told(found: Counter[str]) -> str:
    """Operators and how often each is there."""
    return " ".join(op + (f"*{count}" if count > 1 else "") for op, count in sorted(found.items()))


def loops(nodes: Sequence[onnx.NodeProto]) -> Iterator[str]:
    """The operators that run steps, those in bodies too."""
    for node in nodes:
        if node.op_type in ("RNN", "LSTM", "GRU", "Scan", "If"):
            yield node.op_type
        for attribute in node.attribute:
            yield from loops(attribute.g.node)


@pytest.mark.parametrize(("layer", "dims", "result", "nodes"), CASES)
def test_what_a_layer_becomes(layer: str, dims: str, result: str, nodes: str) -> None:
    text = f"model M(x: f32[{dims}]) -> f32[{result}] {{\n    return {layer}\n}}\n"
    program, rng = dslc.lower(text), np.random.default_rng(0)
    for count, steps in ((2, 3), (1, 5)):
        x = rng.normal(size=sizes(dims, count, steps)).astype("f4")
        model = agrees(program, {"x": x})
    assert told(Counter(node.op_type for node in model.graph.node)) == nodes


@pytest.mark.parametrize(("layer", "nodes"), RECURRENT)
def test_what_runs_the_steps_of_a_recurrent_layer(layer: str, nodes: str) -> None:
    result = "N, 3" if ".1" in layer else "N, T, 3"
    text = f"{HEAD}model M(x: f32[N, T, 4]) -> f32[{result}] {{\n    return {layer}\n}}\n"
    program, rng = dslc.lower(text), np.random.default_rng(0)
    for count, steps in ((2, 20), (1, 1)):
        x = rng.normal(size=(count, steps, 4)).astype("f4")
        model = agrees(program, {"x": x})
    assert told(Counter(loops(model.graph.node))) == nodes


@pytest.mark.parametrize(
    ("back", "step"),
    [
        ("false", "h + x_t * h"),
        ("true", "tanh(x_t @ w + h @ w)"),
        ("true", "tanh((x_t @ w + h @ w) * 0.5)"),
    ],
)
def test_a_scan_that_is_written_out(back: str, step: str) -> None:
    pytest.importorskip("onnxruntime")
    text = f"""model M(x: f32[N, T, 3], h0: f32[N, 3]) -> (f32[N, T, 3], f32[N, 3]) {{
    param w: f32[3, 3] = 0.3
    hs, h = scan[reverse={back}] x_t in x along 1, h = h0 {{
        h = {step}
        yield h
    }}
    return hs, h
}}
"""
    program, rng = dslc.lower(text), np.random.default_rng(0)
    values = initial_variables(program, 0)
    model = checked(program, values)
    inputs = {"x": rng.normal(size=(2, 4, 3)).astype("f4"), "h0": np.ones((2, 3), "f4")}
    wanted, _ = run_entry(program, "forward", values, inputs)
    same(run_in_onnxruntime(model, inputs), [*wanted.values()])


@pytest.mark.parametrize(
    ("layer", "opset", "op_type"),
    [("gelu", 20, "Gelu"), ("gelu", 25, "Gelu"), ("rms_norm", 23, "RMSNormalization")],
)
def test_what_has_an_operator_of_its_own_in_later_opsets(
    layer: str, opset: int, op_type: str
) -> None:
    program = dslc.lower(f"model M(x: f32[N, 3]) -> f32[N, 3] {{\n    return x |> {layer}\n}}\n")
    x = np.linspace(-3, 3, 9, dtype="f4").reshape(3, 3)
    model = agrees(program, {"x": x}, opset=opset)
    assert [node.op_type for node in model.graph.node] == [op_type]


def test_opset_17_has_axes_as_attributes() -> None:
    text = "model M(x: f32[N, 4]) -> f32[N] {\n    return mean[axis=1](x) + max[axis=1](x)\n}\n"
    agrees(dslc.lower(text), {"x": np.ones((2, 4), "f4")}, opset=17)


def test_sizes_that_follow_from_others() -> None:
    """N is only told by 2 * N + 1, and what is returned depends on N // 2 and on a minimum."""
    text = """model M(x: f32[2 * N + 1, K], y: f32[N, K]) -> (f32[N // 2, K], i64[], f32[N * K]) {
    return y[: N // 2], min(N, K) * 10 + N % 3, reshape[N * K](y)
}
"""
    program = dslc.lower(text)
    for n, k in ((4, 3), (5, 7), (1, 1)):
        x, y = np.ones((2 * n + 1, k), "f4"), np.arange(n * k, dtype="f4").reshape(n, k)
        agrees(program, {"x": x, "y": y})


def test_results_that_no_node_makes() -> None:
    """An input, the same value twice, a weight, a constant."""
    text = """model M(x: f32[N, 2]) -> (f32[N, 2], f32[N, 2], f32[N, 2], f32[2], f32[N]) {
    param w: f32[2] = 3
    y = x + w
    return x, y, y, w, fill[N](0.5)
}
"""
    try:
        program = dslc.lower(text)
    except dslc.CompileError:
        program = dslc.lower(text.replace("fill[N](0.5)", "mean[axis=1](x) * 0 + 0.5"))
    model = agrees(program, {"x": np.ones((3, 2), "f4")})
    assert [output.name for output in model.graph.output] == [f"output.{i}" for i in range(5)]
