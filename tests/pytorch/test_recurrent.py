"""Recurrent layers give what PyTorch's give, from PyTorch's own weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from library.against_torch import check, numbers

import dslc
from dslc.autodiff.train_step import add_train_step
from dslc.ir.core import Program
from dslc.ir.evaluate import run_entry
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

torch = pytest.importorskip("torch")

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_cpu")]

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


@dataclass(frozen=True)
class Layer:
    """A layer as it is written, PyTorch's module, and what both are given beside the sequences."""

    written: str
    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    states: bool = False
    lengths: bool = False

    def __str__(self) -> str:
        given = [word for word in ("states", "lengths") if getattr(self, word)]
        return " ".join([self.written, *given])

    @property
    def ends(self) -> list[str]:
        return ["h", "c"] if self.kind == "LSTM" else ["h"]

    def module(self) -> Any:
        torch.manual_seed(0)
        return getattr(torch.nn, self.kind)(WIDTH, H, batch_first=True, **self.options)


LAYERS = [
    Layer("rnn", "RNN"),
    Layer("rnn[act=relu]", "RNN", {"nonlinearity": "relu"}, states=True, lengths=True),
    Layer("rnn[layers=2, bidirectional=true]", "RNN",
          {"num_layers": 2, "bidirectional": True}, states=True, lengths=True),
    Layer("lstm", "LSTM"),
    Layer("lstm[bias=false]", "LSTM", {"bias": False}, states=True),
    Layer("lstm[bidirectional=true]", "LSTM", {"bidirectional": True}, lengths=True),
    Layer("lstm[layers=3]", "LSTM", {"num_layers": 3}, states=True),
    Layer("lstm[layers=2, bidirectional=true, keep=\"checkpoints\"]", "LSTM",
          {"num_layers": 2, "bidirectional": True}, states=True, lengths=True),
    Layer("gru", "GRU"),
    Layer("gru[layers=2, bias=false]", "GRU", {"num_layers": 2, "bias": False}, lengths=True),
    Layer("gru[bidirectional=true, drop=0.5, keep=\"carries\"]", "GRU",
          {"bidirectional": True}, states=True, lengths=True),
]  # fmt: skip


@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_layers_and_all_their_gradients(layer: Layer) -> None:
    """Results, and the gradients of a loss of all of them: by the weights, the sequences and the
    first states (which are trained here, so that they have one)."""
    module = layer.module()
    weights = renamed(module, "net", module.num_layers > 1)
    ways = module.num_layers * (1 + module.bidirectional)
    rng = np.random.default_rng(0)
    shapes = {"x": (N, T, WIDTH)} | {f"{e}0": (ways, N, H) for e in layer.ends if layer.states}
    given = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
    lengths = np.array([4, T, 1], np.int64)
    results = [(N, T, H * (1 + module.bidirectional)), *((ways, N, H) for _ in layer.ends)]
    targets = [rng.standard_normal(shape).astype(np.float32) for shape in results]
    program = trainable(layer, shapes, results)
    zero = np.asarray(0, np.int64)
    inputs: dict[str, Any] = {f"target{i}": value for i, value in enumerate(targets)}
    inputs |= {"lengths": lengths, "seed": zero, "step": zero}
    own = weights | {f"{name}": value for name, value in given.items()}
    assert {v.name for v in program.variables} == set(own)
    outs, news = run_entry(add_train_step(program), "train_step", own, inputs)
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in given.items()}
    wanted = by_torch(module, layer, tensors, lengths)
    found = run_entry(program, "forward", own, {k: inputs[k] for k in ("lengths",)})[0]
    for got, want in zip(found.values(), wanted):
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-4, atol=1e-5)
    loss = sum(((y - torch.tensor(t)) ** 2).mean() for y, t in zip(wanted, targets))
    loss.backward()
    np.testing.assert_allclose(outs["loss"], loss.detach().numpy(), rtol=1e-5)
    grads = {n: p.grad for n, p in zip(weights, module.parameters())}
    grads |= {n: t.grad for n, t in tensors.items()}
    for name, grad in grads.items():
        np.testing.assert_allclose(own[name] - news[name], grad.numpy(), rtol=1e-3, atol=1e-5)


def trainable(layer: Layer, shapes: dict[str, Any], results: list[Any]) -> Program:
    """The layer over sequences and first states that are weights, and a loss of all it gives."""
    name, _, statics = layer.written.partition("[")
    net = f"{name}[{H}, {statics}" if statics else f"{name}[{H}]"
    params = "\n    ".join(f"param {n}: f32[{dims(s)}] = 0" for n, s in shapes.items())
    args = [f"{e}0={e}0" for e in layer.ends if layer.states]
    args += ["lengths=lengths"] if layer.lengths else []
    call = f"({', '.join(args)})" if args else ""
    names = ", ".join(["y", *layer.ends])
    types = ", ".join(f"f32[{dims(shape)}]" for shape in results)
    inputs = "\n    ".join(f"input target{i}: f32[{dims(s)}]" for i, s in enumerate(results))
    terms = (f"mean((output.{i} - target{i}) ** 2)" for i in range(len(results)))
    text = f"""
from std.recurrent import {name}
model M(lengths: i64[{N}]) -> ({types}) {{
    {params}
    {names} = x |> net: {net}{call}
    return {names}
}}
train M {{
    {inputs}
    loss {" + ".join(terms)}
    optimizer sgd[lr=1.0]
}}
"""
    program, found = elaborate(SourceFile("test.dl", text), training=True)
    assert program is not None, [d.title for d in found]
    return program


def dims(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def by_torch(module: Any, layer: Layer, given: dict[str, Any], lengths: Any) -> list[Any]:
    """All h of each step, and the last states."""
    states = [given[f"{e}0"] for e in layer.ends if layer.states]
    state = (tuple(states) if len(states) > 1 else states[0]) if states else None
    rnn = torch.nn.utils.rnn
    x = given["x"]
    if layer.lengths:
        packed = rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, end = module(packed, state)
        y, _ = rnn.pad_packed_sequence(y, batch_first=True, total_length=T)
    else:
        y, end = module(x, state)
    return [y, *(end if layer.kind == "LSTM" else [end])]


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


class Peephole(torch.nn.Module):  # type: ignore[misc,name-defined]
    """An LSTM whose gates see its state, one layer of both directions."""

    def __init__(self) -> None:
        super().__init__()
        shapes = {"ih": (4 * H, WIDTH), "hh": (4 * H, H), "peephole": (3, H)}
        for way in ("", "_reverse"):
            for name, shape in shapes.items():
                self.register_parameter(
                    f"weight_{name}_l0{way}", torch.nn.Parameter(torch.randn(shape))
                )
            for name in ("ih", "hh"):
                self.register_parameter(
                    f"bias_{name}_l0{way}", torch.nn.Parameter(torch.randn(4 * H))
                )

    def steps(self, x: Any, way: str) -> Any:
        own = {name: p for name, p in self.named_parameters() if name.endswith("_l0" + way)}
        w_ih, w_hh, p, b_ih, b_hh = own.values()
        h = c = torch.zeros(len(x), H)
        hs = []
        for x_t in x.unbind(1):
            i, f, g, o = (x_t @ w_ih.T + b_ih + h @ w_hh.T + b_hh).chunk(4, -1)
            i, f = torch.sigmoid(i + p[0] * c), torch.sigmoid(f + p[1] * c)
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o + p[2] * c) * torch.tanh(c)
            hs.append(h)
        return torch.stack(hs, 1)

    def forward(self, x: Any) -> Any:
        back = self.steps(x.flip(1), "_reverse").flip(1)
        return torch.cat([self.steps(x, ""), back], -1)


@pytest.mark.parametrize("keep", ["all", "checkpoints"])
def test_peepholes_and_all_their_gradients(keep: str) -> None:
    torch.manual_seed(0)
    check(
        "y",
        {"x": numbers(N, T, WIDTH)},
        Peephole(),
        imports="from std.recurrent import lstm",
        setup=f'y, _, _ = x |> l: lstm[{H}, bidirectional=true, peephole=true, keep="{keep}"]',
    )


def test_a_cell_with_peepholes_is_a_step_of_the_layer() -> None:
    torch.manual_seed(0)
    module = Peephole()
    weights = {
        f"cell.{name.removesuffix('_l0')}": p.detach().numpy()
        for name, p in module.named_parameters()
        if not name.endswith("_reverse")
    }
    text = f"""
from std.recurrent import lstm_cell
model M(x: f32[N, T, {WIDTH}]) -> f32[N, T, {H}] {{
    cell = lstm_cell[{H}, peephole=true]
    hs, _, _ = scan x_t in x along 1, h = zeros[N, {H}](), c = zeros[N, {H}]() {{
        h, c = cell(x_t, h, c)
        yield h
    }}
    return hs
}}
"""
    x = numbers(N, T, WIDTH)
    (found,) = outputs(text, weights, x=x)
    wanted = module.steps(torch.tensor(x), "").detach().numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_gradients_that_stop_every_few_steps(kind: str) -> None:
    """`truncate` against PyTorch's module over pieces, whose states are detached between them."""
    every, steps = 3, 8
    layer = Layer(f"{kind}[truncate={every}]", kind.upper(), states=True)
    module = layer.module()
    rng = np.random.default_rng(1)
    shapes = {"x": (N, steps, WIDTH)} | {f"{e}0": (1, N, H) for e in layer.ends}
    given = {n: rng.standard_normal(shape).astype(np.float32) for n, shape in shapes.items()}
    results = [(N, steps, H), *((1, N, H) for _ in layer.ends)]
    targets = [rng.standard_normal(shape).astype(np.float32) for shape in results]
    program = trainable(layer, shapes, results)
    zero = np.asarray(0, np.int64)
    inputs: dict[str, Any] = {f"target{i}": value for i, value in enumerate(targets)}
    inputs |= {"lengths": np.full(N, steps), "seed": zero, "step": zero}
    own = renamed(module, "net", False) | given
    outs, news = run_entry(add_train_step(program), "train_step", own, inputs)
    tensors = {name: torch.tensor(value, requires_grad=True) for name, value in given.items()}
    states = [tensors[f"{e}0"] for e in layer.ends]
    parts = []
    for piece in tensors["x"].split(every, dim=1):
        y, end = module(piece, tuple(states) if len(states) > 1 else states[0])
        ends = list(end) if len(states) > 1 else [end]
        states = [value.detach() for value in ends]
        parts.append(y)
    wanted = [torch.cat(parts, dim=1), *ends]
    loss = sum(((y - torch.tensor(t)) ** 2).mean() for y, t in zip(wanted, targets))
    loss.backward()
    np.testing.assert_allclose(outs["loss"], loss.detach().numpy(), rtol=1e-5)
    grads = {f"net.{n}": p.grad for n, p in module.named_parameters()}
    grads |= {n: t.grad for n, t in tensors.items()}
    for name, grad in grads.items():
        np.testing.assert_allclose(own[name] - news[name], grad.numpy(), rtol=1e-3, atol=1e-5)


def test_a_state_goes_from_call_to_call_without_gradients() -> None:
    """A long sequence in pieces, a training step on each: PyTorch's with the state detached."""
    text = f"""
from std.recurrent import gru
model M(x: f32[{N}, T, {WIDTH}]) -> f32[{N}, T, {H}] {{
    state h: f32[1, {N}, {H}] = 0
    hs, last = x |> net: gru[{H}](h0=h)
    h <- last
    return hs
}}
train M {{
    input target: f32[{N}, T, {H}]
    loss mean((output - target) ** 2)
    optimizer sgd[lr=0.5]
}}
"""
    program, found = elaborate(SourceFile("test.dl", text), training=True)
    assert program is not None, [d.title for d in found]
    program = add_train_step(program)
    module = Layer("gru", "GRU").module()
    own = renamed(module, "net", False) | {"h": np.zeros((1, N, H), np.float32)}
    sgd = torch.optim.SGD(module.parameters(), lr=0.5)
    state = torch.zeros(1, N, H)
    rng = np.random.default_rng(5)
    for step in range(4):
        t = 3 + step
        x = rng.standard_normal((N, t, WIDTH)).astype(np.float32)
        target = rng.standard_normal((N, t, H)).astype(np.float32)
        zero = np.asarray(step, np.int64)
        inputs = {"x": x, "target": target, "seed": zero, "step": zero}
        outs, news = run_entry(program, "train_step", own, inputs)
        own = own | news
        sgd.zero_grad()
        y, state = module(torch.tensor(x), state.detach())
        loss = ((y - torch.tensor(target)) ** 2).mean()
        loss.backward()
        sgd.step()
        np.testing.assert_allclose(outs["loss"], loss.detach().numpy(), rtol=1e-4)
        np.testing.assert_allclose(own["h"], state.detach().numpy(), rtol=1e-4, atol=1e-5)
    for name, parameter in module.named_parameters():
        got = own[f"net.{name}"]
        np.testing.assert_allclose(got, parameter.detach().numpy(), rtol=1e-3, atol=1e-4)


class Tagger(torch.nn.Module):  # type: ignore[misc,name-defined]
    """A recurrent layer, and a dense one over its last state."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.net, self.fc = layer.module(), torch.nn.Linear(H, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(self.net(x)[0][:, -1])


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_trains_in_lockstep(kind: str) -> None:
    """20 steps of Adam, compiled, over batches of several lengths: the same losses and weights."""
    text = f"""
from std.recurrent import {kind}
model M(x: f32[N, T, {WIDTH}]) -> f32[N, 3] {{
    hs, {"h, c" if kind == "lstm" else "h"} = x |> net: {kind}[{H}]
    return h[-1] |> fc: dense[3]
}}
train M {{
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer adam[lr=0.02]
}}
"""
    layer = Layer(kind, kind.upper())
    torch.manual_seed(0)
    net = Tagger(layer)
    weights = {n: p.detach().numpy().copy() for n, p in net.named_parameters()}
    model = dslc.compile(text, train=True, weights=weights)
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    rng = np.random.default_rng(3)
    for step in range(20):
        n, t = 2 + step % 3, 3 + step % 4
        x = rng.standard_normal((n, t, WIDTH)).astype(np.float32)
        label = rng.integers(0, 3, n)
        ours = model.train_step(x=x, label=label).loss
        adam.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(torch.tensor(x)), torch.tensor(label))
        loss.backward()
        adam.step()
        np.testing.assert_allclose(ours, loss.item(), rtol=1e-4, err_msg=f"step {step}")
    for name, parameter in net.named_parameters():
        got = model.weights[name]
        np.testing.assert_allclose(got, parameter.detach().numpy(), rtol=1e-3, atol=1e-4)
