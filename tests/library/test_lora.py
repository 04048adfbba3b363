"""LoRA: the base stays as it is, the small matrices learn as in PyTorch, and one matrix is left of
all of them in inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library.against_torch import numbers, program, torch

import dslc
from dslc import cli
from dslc.autodiff.train_step import add_train_step
from dslc.build import describe
from dslc.ir.core import Program
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.passes import pipeline
from dslc_runtime import loading, safetensors

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


PLAIN = """
from std.transformer import transformer_encoder

model M(x: f32[N, 4, 8]) -> f32[N, 3] {
    y = x |> body: transformer_encoder[2, heads=2, feedforward=8, drop=0.0]
    return y[:, 0] |> head: dense[3]
}
"""
ADAPTED = f"""
from std.lora import lora_matrix
{PLAIN}
train M {{
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer adamw[lr=0.05]
    freeze * except head.*
    adapt lora_matrix[rank=2] for *.in_proj_weight, *.linear1.weight
}}
"""


def learned(text: str, x: Any, classes: int) -> tuple[Program, dict[str, Any]]:
    """A few steps of training; the weights alone."""
    joined = add_train_step(program(text, training=True))
    values = initial_variables(joined, seed=3)
    for step in range(3):
        inputs = {"x": x, "label": np.arange(len(x)) % classes, "seed": 0, "step": step}
        values |= run_entry(joined, "train_step", values, inputs)[1]
    weights = {k: v for k, v in values.items() if not k.startswith("optimizer.")}
    return joined, weights


def test_adapters_of_a_library_block_merge_into_the_plain_model() -> None:
    x = numbers(3, 4, 8)
    joined, weights = learned(ADAPTED, x, 3)
    plain = program(PLAIN)
    trained = {v.name for v in joined.variables if v.kind == "weight" and v.trainable}
    places = [
        f"body.layers.{i}.{w}"
        for i in (0, 1)
        for w in ("self_attn.in_proj_weight", "linear1.weight")
    ]
    small = {f"{place}.lora_{ab}" for place in places for ab in "ab"}
    assert trained == {*small, "head.weight", "head.bias"}
    merged = dslc.merge(ADAPTED, weights)
    first = initial_variables(plain, seed=0)
    assert {k: v.shape for k, v in merged.items()} == {k: v.shape for k, v in first.items()}
    ours, _ = run_entry(joined, "forward", weights, {"x": x})
    theirs, _ = run_entry(plain, "forward", merged, {"x": x})
    np.testing.assert_allclose(theirs["output"], ours["output"], rtol=1e-4, atol=1e-5)
    before = {name: weights[name] for name in first}
    unmerged, _ = run_entry(plain, "forward", before, {"x": x})
    assert np.abs(unmerged["output"] - ours["output"]).max() > 1e-3


def test_lora_layers_merge(tmp_path: Path) -> None:
    joined, weights = learned(LAYER, numbers(6, 12), 5)
    (tmp_path / "m.dl").write_text(LAYER)
    safetensors.save(tmp_path / "lora.safetensors", weights, {})
    out = tmp_path / "plain.safetensors"
    words = ["merge", tmp_path / "m.dl", "--weights", tmp_path / "lora.safetensors", "-o", out]
    assert cli.main([str(word) for word in words]) == 0
    merged, _ = safetensors.load(out)
    assert set(merged) == {"query.weight", "query.bias", "head.weight", "head.bias"}
    text = LAYER.partition("train M")[0].replace(
        "query_lora: lora[query, rank=2, alpha=3.0]", "query"
    )
    x = numbers(2, 12)
    ours, _ = run_entry(joined, "forward", weights, {"x": x})
    theirs, _ = run_entry(program(text), "forward", merged, {"x": x})
    np.testing.assert_allclose(theirs["output"], ours["output"], rtol=1e-4, atol=1e-5)


def test_where_nothing_is_adapted_nothing_merges() -> None:
    values = initial_variables(program(PLAIN), seed=0)
    with pytest.raises(dslc.ArgumentError, match=r"nothing in .* changes the weights of M"):
        dslc.merge(PLAIN, values)


def test_weights_of_the_plain_model_load_into_the_adapted_one() -> None:
    joined = add_train_step(program(ADAPTED, training=True))
    infos = describe.variable_infos(joined.variables)
    plain = initial_variables(program(PLAIN), seed=0)
    fitted = loading.fit("M", infos, (), plain, "what was given")
    assert fitted.values.keys() == plain.keys()
    assert {t.name.rpartition(".")[2] for t in fitted.report.missing} == {"lora_a", "lora_b"}
    del plain["head.bias"]
    spared = loading.fit("M", infos, (), plain, "what was given", ["*.bias"])
    assert spared.values.keys() == plain.keys()
    with pytest.raises(dslc.ArgumentError, match=r"missing: head\.bias"):
        loading.fit("M", infos, (), plain, "what was given")


def test_adapting_computes_no_gradient_of_the_matrix_s_size() -> None:
    text = """
from std.lora import lora_matrix

model M(x: f32[N, T, 32]) -> f32[N, T, 5] {
    return x |> body: dense[48] |> relu |> mid: dense[40] |> relu |> head: dense[5]
}

train M {
    input label: i64[N, T]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.01]
    freeze * except head.*
    adapt lora_matrix[rank=2] for body.weight, mid.weight
}
"""
    optimised = pipeline.run(add_train_step(program(text, training=True)), pipeline.OPTIMISE)
    eqns = optimised.entry("train_step").function.eqns
    dims = [eqn.outputs[0].type.dims for eqn in eqns if eqn.op.name == "matmul"]
    # Each is the product of the two small ones, forwards.
    assert [dims.count((48, 32)), dims.count((40, 48))] == [1, 1]
