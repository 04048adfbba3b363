"""LoRA: the base stays as it is, the small matrices learn as in PyTorch, and one matrix is left of
all of them in inference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from library.against_torch import numbers, program, torch

from dslc.autodiff.train_step import add_train_step
from dslc.ir.core import Program
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.passes import pipeline

F = torch.nn.functional

pytestmark = pytest.mark.torch

LAYER = """
from std.lora import lora

model M(x: f32[N, 12]) -> f32[N, 5] {
    query = dense[8]
    h = x |> query_lora: lora[query, rank=2, alpha=3.0] |> tanh
    return h |> head: dense[5]
}

train M {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer adamw[lr=0.05, weight_decay=0.1]
}
"""
SMALL = ("query_lora.lora_a", "query_lora.lora_b")


def trained(built: Program, steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """First values, and what training makes of them by the reference meanings."""
    joined = add_train_step(built)
    first = initial_variables(joined, seed=3)
    values = dict(first)
    for step in range(steps):
        _, updates = run_entry(joined, "train_step", values, batch(step, joined))
        values |= updates
    return first, values


def batch(step: int, joined: Program | None = None) -> dict[str, Any]:
    label = np.random.default_rng(step).integers(0, 5, 6)
    inputs = {"x": numbers(6, 12, seed=step), "label": label}
    return inputs | ({"seed": 0, "step": step} if joined else {})


def in_torch(first: dict[str, Any], steps: int) -> dict[str, Any]:
    """The same steps of PyTorch; the base has no gradient."""
    w = {k: torch.tensor(v) for k, v in first.items() if not k.startswith("optimizer.")}
    learned = [w[name].requires_grad_() for name in (*SMALL, "head.weight", "head.bias")]
    optimizer = torch.optim.AdamW(learned, 0.05, weight_decay=0.1)
    for step in range(steps):
        inputs = batch(step)
        x = torch.tensor(inputs["x"])
        h = F.linear(x, w["query.weight"], w["query.bias"])
        h = h + 1.5 * (x @ w[SMALL[0]].T @ w[SMALL[1]].T)
        logits = F.linear(h.tanh(), w["head.weight"], w["head.bias"])
        optimizer.zero_grad()
        F.cross_entropy(logits, torch.tensor(inputs["label"])).backward()
        optimizer.step()
    return {name: value.detach().numpy() for name, value in w.items()}


def test_lora_learns_as_in_pytorch_and_its_base_stays() -> None:
    first, values = trained(program(LAYER, training=True), 20)
    assert not [name for name in values if name.startswith("optimizer.query.")]
    for name in ("query.weight", "query.bias"):
        np.testing.assert_array_equal(values[name], first[name])
    for name, wanted in in_torch(first, 20).items():
        np.testing.assert_allclose(values[name], wanted, rtol=1e-4, atol=1e-5, err_msg=name)
        assert np.array_equal(wanted, first[name]) == name.startswith("query."), name


def test_no_gradient_of_the_base_is_computed() -> None:
    joined = add_train_step(program(LAYER, training=True))
    types = [eqn.outputs[0].type.dims for eqn in joined.entry("train_step").function.eqns
             if eqn.op.name == "matmul"]  # fmt: skip
    # Three products forwards and the head's; of the gradients none is of the base's size.
    assert not {(8, 12), (12, 8)} & set(types)


def test_inference_reads_one_matrix_that_is_made_at_load() -> None:
    built = program(LAYER)
    optimised = pipeline.run(built, pipeline.OPTIMISE)
    forward, prepare = optimised.entry("forward"), optimised.entry("prepare")
    assert [e.op.name for e in forward.function.eqns].count("matmul") == 2
    assert {a.name for a in prepare.arguments} == {"query.weight", *SMALL}
    _, values = trained(program(LAYER, training=True), 5)
    x = numbers(4, 12, seed=9)
    outputs, _ = run_entry(built, "forward", values, {"x": x})
    h = x @ values["query.weight"].T + values["query.bias"]
    h = np.tanh(h + 1.5 * (x @ values[SMALL[0]].T @ values[SMALL[1]].T))
    wanted = h @ values["head.weight"].T + values["head.bias"]
    np.testing.assert_allclose(outputs["output"], wanted, rtol=1e-4, atol=1e-5)


def test_a_call_may_hand_in_a_weight() -> None:
    tied = """
model M(tokens: i64[N, T]) -> f32[N, T, 9] {
    embed = embedding[9, 4]
    head = dense[9]
    return head(embed(tokens), weight=embed.weight)
}"""
    built = program(tied)
    values = initial_variables(built, seed=0)
    assert list(values) == ["embed.weight", "head.bias"]
    tokens = np.arange(6).reshape(2, 3)
    outputs, _ = run_entry(built, "forward", values, {"tokens": tokens})
    wanted = values["embed.weight"][tokens] @ values["embed.weight"].T + values["head.bias"]
    np.testing.assert_allclose(outputs["output"], wanted, rtol=1e-5)


def test_a_matrix_and_a_product_of_low_rank() -> None:
    text = """
from std.lora import lora_matrix

model M(x: f32[N, 4]) -> f32[N, 4] {
    param w: f32[4, 4] ~ kaiming_uniform
    return x @ lora_matrix[rank=2, alpha=1.0](w)
}"""
    values = initial_variables(program(text), seed=0)
    assert not values["lora_matrix.lora_b"].any()
    values["lora_matrix.lora_b"] = numbers(4, 2)
    outputs, _ = run_entry(program(text), "forward", values, {"x": np.eye(4, dtype=np.float32)})
    low = values["lora_matrix.lora_b"] @ values["lora_matrix.lora_a"]
    np.testing.assert_allclose(outputs["output"], values["w"] + 0.5 * low, rtol=1e-5)
