"""The library's layers, functions, losses and optimizers give what PyTorch's give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dslc.ir.core import Program
from dslc.ir.evaluate import evaluate, initial_variables, run_entry
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

torch = pytest.importorskip("torch")
F = torch.nn.functional

pytestmark = pytest.mark.torch


def program(text: str, training: bool = False) -> Program:
    built, found = elaborate(SourceFile("test.dl", text), training=training)
    assert built is not None, [d.title for d in found]
    return built


def numbers(*dims: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=dims).astype(np.float32)


def call(built: Program, variables: dict[str, Any], **inputs: Any) -> Any:
    return run_entry(built, "forward", variables, inputs)[0]["output"]


FUNCTIONS: list[tuple[str, Callable[[Any], Any]]] = [
    ("relu", F.relu),
    ("gelu", F.gelu),
    ("gelu_tanh", lambda x: F.gelu(x, approximate="tanh")),
    ("silu", F.silu),
    ("leaky_relu", F.leaky_relu),
    ("leaky_relu[0.3]", lambda x: F.leaky_relu(x, 0.3)),
    ("elu", F.elu),
    ("softplus", F.softplus),
    ("sigmoid", torch.sigmoid),
    ("tanh", torch.tanh),
    ("softmax", lambda x: x.softmax(-1)),
    ("softmax[axis=0]", lambda x: x.softmax(0)),
    ("log_softmax", lambda x: x.log_softmax(-1)),
    ("dropout[0.5]", lambda x: x),
]


@pytest.mark.parametrize(("name", "oracle"), FUNCTIONS, ids=[name for name, _ in FUNCTIONS])
def test_functions(name: str, oracle: Callable[[Any], Any]) -> None:
    built = program(f"model M(x: f32[N, 7]) -> f32[N, 7] {{ return x |> {name} }}")
    x = 3 * numbers(5, 7)
    np.testing.assert_allclose(
        call(built, {}, x=x), oracle(torch.tensor(x)).numpy(), rtol=1e-5, atol=1e-6
    )


IMAGE_LAYERS: list[tuple[str, str, Callable[..., Any]]] = [
    (
        "conv2d[6, kernel=3, padding=1]",
        "f32[N, 6, 9, 8]",
        lambda x, weight, bias: F.conv2d(x, weight, bias, padding=1),
    ),
    (
        "conv2d[6, kernel=(3, 2), stride=(2, 1), padding=(1, 0), dilation=2, groups=2, bias=false]",
        "f32[N, 6, 4, 6]",
        lambda x, weight: F.conv2d(x, weight, None, (2, 1), (1, 0), 2, 2),
    ),
    ("max_pool2d[3, stride=2, padding=1]", "f32[N, 4, 5, 4]", lambda x: F.max_pool2d(x, 3, 2, 1)),
    ("max_pool2d[2]", "f32[N, 4, 4, 4]", lambda x: F.max_pool2d(x, 2)),
    ("avg_pool2d[(3, 2)]", "f32[N, 4, 3, 4]", lambda x: F.avg_pool2d(x, (3, 2))),
    ("avg_pool2d[2, padding=1]", "f32[N, 4, 5, 5]", lambda x: F.avg_pool2d(x, 2, padding=1)),
    ("global_avg_pool2d", "f32[N, 4]", lambda x: x.mean((2, 3))),
    ("flatten", "f32[N, 288]", lambda x: x.flatten(1)),
    ("layer_norm", "f32[N, 4, 9, 8]", lambda x, weight, bias: F.layer_norm(x, (8,), weight, bias)),
]


@pytest.mark.parametrize(("layer", "result", "oracle"), IMAGE_LAYERS)
def test_layers_of_images(layer: str, result: str, oracle: Callable[..., Any]) -> None:
    is_layer = layer.startswith(("conv2d", "layer_norm"))
    name = "l: " if is_layer else ""
    built = program(f"model M(x: f32[N, 4, 9, 8]) -> {result} {{ return x |> {name}{layer} }}")
    variables = {
        name: numbers(*value.shape, seed=1) for name, value in initial_variables(built, 0).items()
    }
    x = numbers(3, 4, 9, 8)
    weights = {name.removeprefix("l."): torch.tensor(v) for name, v in variables.items()}
    expected = oracle(torch.tensor(x), **weights).numpy()
    np.testing.assert_allclose(call(built, variables, x=x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dims", [(6, 4), (6, 4, 5), (3, 4, 5, 2)])
def test_batch_norm_in_training_and_inference(dims: tuple[int, ...]) -> None:
    rest = "".join(f", {d}" for d in dims[1:])
    text = f"""
model M(x: f32[N{rest}]) -> f32[N{rest}] {{ return x |> norm: batch_norm[] }}
train M {{
    loss mean(output * output * output)
    optimizer sgd
}}
"""
    built = program(text, training=True)
    assert built.training is not None
    variables = initial_variables(built, 0)
    variables["norm.weight"], variables["norm.bias"] = numbers(4, seed=2), numbers(4, seed=3)
    x = 2 * numbers(*dims) + 1
    module = torch.nn.BatchNorm1d(4) if len(dims) < 4 else torch.nn.BatchNorm2d(4)
    with torch.no_grad():
        module.weight.copy_(torch.tensor(variables["norm.weight"]))
        module.bias.copy_(torch.tensor(variables["norm.bias"]))
        loss = (module(torch.tensor(x)) ** 3).mean()
    entry = built.training.loss
    inputs = {"x": x, "seed": np.asarray(0), "step": np.asarray(0)}
    results = evaluate(
        entry.function, [{**variables, **inputs}[argument.name] for argument in entry.arguments]
    )
    named = dict(zip((*entry.outputs, *entry.updates), results))
    np.testing.assert_allclose(named["loss"], loss.numpy(), rtol=1e-4)
    for state in ("running_mean", "running_var"):
        expected = getattr(module, state).numpy()
        np.testing.assert_allclose(named[f"norm.{state}"], expected, rtol=1e-5, atol=1e-6)
        variables[f"norm.{state}"] = named[f"norm.{state}"]
    module.eval()
    with torch.no_grad():
        expected = module(torch.tensor(x)).numpy()
    np.testing.assert_allclose(call(built, variables, x=x), expected, rtol=1e-4, atol=1e-5)


LOSSES: list[tuple[str, str, Callable[..., Any]]] = [
    ("cross_entropy(x, y)", "i64[N]", F.cross_entropy),
    ("mse(x, y)", "f32[N, 5]", F.mse_loss),
    ("mae(x, y)", "f32[N, 5]", F.l1_loss),
]


@pytest.mark.parametrize(("loss", "target", "oracle"), LOSSES)
def test_losses(loss: str, target: str, oracle: Callable[..., Any]) -> None:
    built = program(f"model M(x: f32[N, 5], y: {target}) -> f32 {{ return {loss} }}")
    x = 4 * numbers(6, 5)
    y = np.array([0, 4, 2, 2, 1, 3]) if target.startswith("i64") else numbers(6, 5, seed=1)
    expected = oracle(torch.tensor(x), torch.tensor(y)).numpy()
    np.testing.assert_allclose(call(built, {}, x=x, y=y), expected, rtol=1e-5)


OPTIMIZERS: list[tuple[str, Callable[..., Any]]] = [
    ("sgd[lr=0.1]", lambda p: torch.optim.SGD(p, 0.1)),
    (
        "sgd[lr=0.1, momentum=0.9, weight_decay=0.01]",
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    ),
    (
        "sgd[lr=0.1, momentum=0.9, nesterov=true]",
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    ),
    ("adam[lr=0.01]", lambda p: torch.optim.Adam(p, 0.01)),
    ("adam[lr=0.01, weight_decay=0.1]", lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1)),
    ("adamw", lambda p: torch.optim.AdamW(p)),
    (
        "adamw[lr=0.02, beta1=0.8, weight_decay=0.1]",
        lambda p: torch.optim.AdamW(p, 0.02, (0.8, 0.999), weight_decay=0.1),
    ),
]


@pytest.mark.parametrize(("optimizer", "oracle"), OPTIMIZERS, ids=[n for n, _ in OPTIMIZERS])
def test_optimizers(optimizer: str, oracle: Callable[..., Any]) -> None:
    text = f"""
model M(x: f32[N, 3]) -> f32[N, 2] {{ return x |> fc: dense[2, bias=false] }}
train M {{
    loss mean(output)
    optimizer {optimizer}
}}
"""
    plan = program(text, training=True).training
    assert plan is not None
    update, names = plan.updates["fc.weight"], plan.optimizer_states["fc.weight"]
    p = numbers(2, 3)
    states = [np.zeros((2, 3), np.float32) for _ in names]
    parameter = torch.nn.Parameter(torch.tensor(p))
    reference = oracle([parameter])
    for step in range(20):
        g = numbers(2, 3, seed=step + 1)
        p, *states = evaluate(update, [p, g, np.asarray(step), *states])
        parameter.grad = torch.tensor(g)
        reference.step()
        np.testing.assert_allclose(p, parameter.detach().numpy(), rtol=2e-5, atol=1e-6)


def test_attention_block_of_the_language() -> None:
    text = """
layer attention[heads](x: float[N, T, D]) -> float[N, T, D] {
    assert D % heads == 0
    d = D // heads
    q = x |> query: dense[D] |> reshape[N, T, heads, d] |> transpose[0, 2, 1, 3]
    k = x |> key: dense[D] |> reshape[N, T, heads, d] |> transpose[0, 2, 1, 3]
    v = x |> value: dense[D] |> reshape[N, T, heads, d] |> transpose[0, 2, 1, 3]
    a = softmax(q @ transpose[0, 1, 3, 2](k) / sqrt(d))
    return (a @ v) |> transpose[0, 2, 1, 3] |> reshape[N, T, D] |> out: dense[D]
}
model M(x: f32[N, T, 12]) -> f32[N, T, 12] { return x |> attention: attention[heads=3] }
"""
    built = program(text)
    weights = initial_variables(built, 0)
    x = numbers(2, 5, 12)
    t = {name.removeprefix("attention."): torch.tensor(v) for name, v in weights.items()}

    def project(name: str, y: Any) -> Any:
        return F.linear(y, t[f"{name}.weight"], t[f"{name}.bias"])

    parts = [
        project(name, torch.tensor(x)).reshape(2, 5, 3, 4).transpose(1, 2)
        for name in ("query", "key", "value")
    ]
    mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).reshape(2, 5, 12)
    expected = project("out", mixed).numpy()
    np.testing.assert_allclose(call(built, weights, x=x), expected, rtol=1e-4, atol=1e-5)
