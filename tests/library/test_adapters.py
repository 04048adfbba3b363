"""Instances whose weights are read through adapters: targets that follow a net, weights in other
coordinates; training steps are PyTorch's."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from library.against_torch import check, numbers, program, torch

import dslc
from dslc.ir.evaluate import initial_variables

nn, F = torch.nn, torch.nn.functional

pytestmark = pytest.mark.torch

TARGETS = """
from std.adapters import averaged

layer tower(x: f32[N, 4]) -> f32[N, 3] {
    return x |> first: dense[8] |> relu |> second: dense[3]
}

model Byol(a: f32[N, 4], b: f32[N, 4]) -> f32 {
    online = tower[]
    target = adapted[averaged[0.9]](online)
    p = a |> online |> predictor: dense[3]
    return mean(sum[axis=-1]((normalize(p) - normalize(target(b))) ** 2))
}

train Byol {
    loss output
    optimizer sgd[lr=0.5]
}
"""


def test_a_target_follows_its_net_as_in_pytorch() -> None:
    trainer = dslc.compile(TARGETS, train=True, seed=1)
    online = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    predictor = nn.Linear(3, 3)
    names = {"online.first": online[0], "online.second": online[2], "predictor": predictor}
    for name, module in names.items():
        for part in ("weight", "bias"):
            value = torch.tensor(np.array(trainer.weights[f"{name}.{part}"]))
            getattr(module, part).data = value
    target = copy.deepcopy(online)
    optimizer = torch.optim.SGD([*online.parameters(), *predictor.parameters()], lr=0.5)
    for step in range(6):
        a, b = numbers(5, 4, seed=step), numbers(5, 4, seed=step + 50)
        p = F.normalize(predictor(online(torch.tensor(a))), dim=-1)
        with torch.no_grad():
            z = F.normalize(target(torch.tensor(b)), dim=-1)
        loss = ((p - z) ** 2).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for mean, weight in zip(target.parameters(), online.parameters()):
                mean.mul_(0.9).add_(weight, alpha=0.1)
        found = trainer.train_step(a=a, b=b)
        np.testing.assert_allclose(found.loss, loss.item(), rtol=2e-5)
    found = trainer.weights["online.second.weight"]
    np.testing.assert_allclose(found, online[2].weight.detach().numpy(), rtol=2e-4, atol=1e-5)


def test_names_of_what_adapters_own() -> None:
    text = """
from std.adapters import averaged, weight_norm, spectral_norm
model M(x: f32[N, 4]) -> f32[N, 4] {
    net = dense[4]
    slow, slower = adapted[averaged](net), adapted[averaged[0.999]](net)
    direct = adapted[weight_norm](stop_gradient(net))
    return slow(x) + slower(x) + net(x) + direct(x) + adapted[spectral_norm](net)(x)
}"""
    assert sorted(initial_variables(program(text), 0)) == [
        "net.bias",
        "net.bias.averaged.mean",
        "net.bias.averaged.steps",
        "net.bias.averaged_2.mean",
        "net.bias.averaged_2.steps",
        "net.weight",
        "net.weight.averaged.mean",
        "net.weight.averaged.steps",
        "net.weight.averaged_2.mean",
        "net.weight.averaged_2.steps",
        "net.weight.spectral_norm.u",
        "net.weight.spectral_norm.v",
        "net.weight.weight_norm.g",
    ]


class Normed(nn.Module):  # type: ignore[misc,name-defined]
    """With the names that the adapter's weights have here."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 5, 2))
        self.g = self.conv.parametrizations.weight.original0

    def forward(self, x: Any) -> Any:
        return self.conv(x)

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        weight = self.conv.parametrizations.weight
        yield "conv.weight.weight_norm.g", weight.original0
        yield "conv.weight", weight.original1
        yield "conv.bias", self.conv.bias


def test_weight_norm() -> None:
    text = """
from std.adapters import weight_norm
layer net(x: f32[N, 3, T]) -> f32[N, 5, T - 1] {
    conv = conv1d[5, kernel=2]
    normed = adapted[weight_norm](conv)
    return normed(x)
}"""
    check("l(x)", {"x": numbers(2, 3, 6)}, Normed(), imports=text, setup="l = net[]")


def test_spectral_norm() -> None:
    """Three training steps, and the net as it is then."""
    text = """
from std.adapters import spectral_norm
model M(x: f32[N, 4]) -> f32[N, 3] {
    net = dense[3]
    normed = adapted[spectral_norm](net)
    return x |> normed
}
train M {
    loss mean(output ** 2)
    optimizer sgd[lr=0.3]
}"""
    torch.manual_seed(0)
    net = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3))
    weight = net.parametrizations.weight
    first = {
        "net.weight": weight.original.detach().numpy().copy(),
        "net.bias": net.bias.detach().numpy().copy(),
        "net.weight.spectral_norm.u": weight[0]._u.numpy().copy(),
        "net.weight.spectral_norm.v": weight[0]._v.numpy().copy(),
    }
    trainer = dslc.compile(text, train=True, weights=first)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.3)
    for step in range(3):
        x = numbers(5, 4, seed=step)
        loss = (net(torch.tensor(x)) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        np.testing.assert_allclose(trainer.train_step(x=x).loss, loss.item(), rtol=2e-5)
    plain = dslc.compile(text, weights={k: np.array(v) for k, v in trainer.weights.items()})
    x = numbers(5, 4, seed=9)
    np.testing.assert_allclose(plain(x), net.eval()(torch.tensor(x)).detach().numpy(), rtol=1e-4)


def test_targets_in_a_layer_that_is_called_twice_and_in_a_scan() -> None:
    """The average of a step is made once, however often it is read."""
    text = """
from std.adapters import averaged
layer pair(x: f32[N, 4]) -> f32[N, 4] {
    net = dense[4]
    slow = adapted[averaged[0.5]](net)
    hs, _ = scan x_t in stack[axis=0](x, x) along 0, h = x {
        h = slow(h) + x_t
        yield h
    }
    return net(x) + hs[1] + slow(x)
}
model M(x: f32[N, 4]) -> f32[N, 4] {
    net = pair[]
    still = stop_gradient(net)
    return net(net(x)) + still(x)
}
train M {
    loss mean(output ** 2)
    optimizer sgd[lr=0.01]
}"""
    trainer = dslc.compile(text, train=True, seed=0)
    means, wanted = "net.net.weight.averaged.mean", None
    for step in range(3):
        weight = np.array(trainer.weights["net.net.weight"])
        wanted = weight if wanted is None else 0.5 * wanted + 0.5 * weight
        trainer.train_step(x=numbers(3, 4, seed=step))
        np.testing.assert_allclose(trainer.weights[means], wanted, rtol=1e-5)
