"""Recurrent layers give what PyTorch's give, from PyTorch's own weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dslc.autodiff.train_step import add_train_step
from dslc.ir.evaluate import run_entry
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.torch

N, T, WIDTH, H = 3, 6, 5, 4


def outputs(text: str, weights: dict[str, Any], **inputs: Any) -> list[Any]:
    """The outputs of the model, whose weights must be exactly those."""
    program, found = elaborate(SourceFile("test.dl", text))
    assert program is not None, [d.title for d in found]
    assert {v.name for v in program.variables} == set(weights)
    return list(run_entry(program, "forward", weights, inputs)[0].values())


def renamed(module: Any, prefix: str, levels: bool) -> dict[str, Any]:
    """A module's weights under the library's names."""
    names = {name: name for name, _ in module.named_parameters()}
    if levels:
        for name in names:
            kind, _, rest = name.partition("_l")
            level, _, direction = rest.partition("_")
            behind = f"_{direction}" if direction else ""
            names[name] = f"level.{level}.{kind}_l0{behind}"
    return {
        f"{prefix}.{names[name]}": value.detach().numpy()
        for name, value in module.named_parameters()
    }


CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("rnn", "RNN", {}),
    ("rnn[act=relu]", "RNN", {"nonlinearity": "relu"}),
    ("rnn[layers=2, bidirectional=true]", "RNN", {"num_layers": 2, "bidirectional": True}),
    ("lstm", "LSTM", {}),
    ("lstm[bias=false]", "LSTM", {"bias": False}),
    ("lstm[bidirectional=true]", "LSTM", {"bidirectional": True}),
    ("lstm[layers=3]", "LSTM", {"num_layers": 3}),
    ("gru", "GRU", {}),
    ("gru[layers=2, bias=false]", "GRU", {"num_layers": 2, "bias": False}),
    ("gru[bidirectional=true, drop=0.5]", "GRU", {"bidirectional": True}),
]


@pytest.mark.parametrize(("written", "kind", "options"), CASES, ids=[c[0] for c in CASES])
def test_layers(written: str, kind: str, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module = getattr(torch.nn, kind)(WIDTH, H, batch_first=True, **options)
    name, _, statics = written.partition("[")
    layer = f"{name}[{H}, {statics}" if statics else f"{name}[{H}]"
    wide, levels = H * (1 + module.bidirectional), module.num_layers
    last = f"f32[{levels * wide // H}, N, {H}]"
    ends = ["h", "c"] if kind == "LSTM" else ["h"]
    types = ", ".join([f"f32[N, T, {wide}]", *([last] * len(ends))])
    text = f"""
from std.recurrent import {name}
model M(x: f32[N, T, {WIDTH}]) -> ({types}) {{
    y, {", ".join(ends)} = x |> net: {layer}
    return y, {", ".join(ends)}
}}
"""
    x = np.random.default_rng(0).standard_normal((N, T, WIDTH)).astype(np.float32)
    found = outputs(text, renamed(module, "net", levels > 1), x=x)
    with torch.no_grad():
        y, end = module(torch.tensor(x))
    wanted = [y, *(end if kind == "LSTM" else [end])]
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted):
        np.testing.assert_allclose(got, want.numpy(), rtol=1e-5, atol=1e-6)


CELLS: list[tuple[str, str, dict[str, Any]]] = [
    ("rnn_cell", "RNNCell", {}),
    ("rnn_cell[act=relu, bias=false]", "RNNCell", {"nonlinearity": "relu", "bias": False}),
    ("lstm_cell", "LSTMCell", {}),
    ("gru_cell[bias=false]", "GRUCell", {"bias": False}),
    ("gru_cell", "GRUCell", {}),
]


@pytest.mark.parametrize(("written", "kind", "options"), CELLS, ids=[c[0] for c in CELLS])
def test_cells_in_a_scan_from_given_states(
    written: str, kind: str, options: dict[str, Any]
) -> None:
    torch.manual_seed(0)
    module = getattr(torch.nn, kind)(WIDTH, H, **options)
    name, _, statics = written.partition("[")
    cell = f"{name}[{H}, {statics}" if statics else f"{name}[{H}]"
    carries = ["h", "c"] if kind == "LSTMCell" else ["h"]
    text = f"""
from std.recurrent import {name}
model M(x: f32[N, T, {WIDTH}], {", ".join(f"{c}0: f32[N, {H}]" for c in carries)}) -> f32[N, T, {
        H
    }] {{
    cell = {cell}
    hs, {", ".join(f"{c}_n" for c in carries)} = scan x_t in x along 1, {
        ", ".join(f"{c} = {c}0" for c in carries)
    } {{
        {", ".join(carries)} = cell(x_t, {", ".join(carries)})
        yield h
    }}
    return hs
}}
"""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, T, WIDTH)).astype(np.float32)
    states = [rng.standard_normal((N, H)).astype(np.float32) for _ in carries]
    given = {f"{c}0": state for c, state in zip(carries, states)}
    (found,) = outputs(text, renamed(module, "cell", False), x=x, **given)
    state = [torch.tensor(s) for s in states]
    with torch.no_grad():
        for t in range(T):
            after = module(torch.tensor(x[:, t]), tuple(state) if len(state) > 1 else state[0])
            state = list(after) if len(state) > 1 else [after]
            np.testing.assert_allclose(found[:, t], state[0].numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_gradients(kind: str) -> None:
    torch.manual_seed(0)
    module = getattr(torch.nn, kind.upper())(WIDTH, H, batch_first=True, bidirectional=True)
    ends = "h, c" if kind == "lstm" else "h"
    text = f"""
from std.recurrent import {kind}
model M(x: f32[N, T, {WIDTH}]) -> f32[N, T, {2 * H}] {{
    y, {ends} = x |> net: {kind}[{H}, bidirectional=true]
    return y
}}
train M {{
    input target: f32[N, T, {2 * H}]
    loss mean((output - target) ** 2)
    optimizer sgd[lr=1.0]
}}
"""
    program, found = elaborate(SourceFile("test.dl", text), training=True)
    assert program is not None, [d.title for d in found]
    weights = renamed(module, "net", False)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((N, T, WIDTH)).astype(np.float32)
    target = rng.standard_normal((N, T, 2 * H)).astype(np.float32)
    zero = np.asarray(0, np.int64)
    inputs = {"x": x, "target": target, "seed": zero, "step": zero}
    outs, news = run_entry(add_train_step(program), "train_step", weights, inputs)
    loss = ((module(torch.tensor(x))[0] - torch.tensor(target)) ** 2).mean()
    loss.backward()
    np.testing.assert_allclose(outs["loss"], loss.detach().numpy(), rtol=1e-5)
    for name, parameter in module.named_parameters():
        change = weights[f"net.{name}"] - news[f"net.{name}"]
        np.testing.assert_allclose(change, parameter.grad.numpy(), rtol=1e-4, atol=1e-6)
