"""Whole training steps beside PyTorch's, by the reference meanings: groups of weights, schedules,
clipping, accumulation, averages, frozen layers, for 20 updates."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from library.against_torch import program, torch

from dslc.autodiff.train_step import add_train_step
from dslc.ir.core import Program
from dslc.ir.evaluate import initial_variables, run_entry

nn, F, optim = torch.nn, torch.nn.functional, torch.optim
rates = optim.lr_scheduler

pytestmark = pytest.mark.torch

MODEL = """
model Net(x: f32[N, 6]) -> f32[N, 4] {
    return x |> stem: dense[5] |> norm: layer_norm[] |> tanh |> head: dense[4]
}

train Net {
    input label: i64[N]
    loss cross_entropy[label_smoothing=0.1](output, label)
    %s
}
"""
UPDATES = 20


class Net(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Linear(6, 5), nn.LayerNorm(5), nn.Linear(5, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.norm(self.stem(x)).tanh())


def batch(step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    x = rng.normal(size=(3, 6)).astype(np.float32)
    return {"x": x, "label": rng.integers(0, 4, 3)}


def built(items: str) -> Program:
    return add_train_step(program(MODEL % items, training=True))


def ours(joined: Program, calls: int) -> Iterator[dict[str, Any]]:
    """The variables at first, and after each call of the training step."""
    values = initial_variables(joined, seed=5)
    yield values
    for step in range(calls):
        inputs = {**batch(step), "seed": 0, "step": step}
        _, updates = run_entry(joined, "train_step", values, inputs)
        values = values | updates
        yield values


def module(values: Mapping[str, Any]) -> Any:
    net = Net()
    net.load_state_dict({name: torch.tensor(values[name]) for name in net.state_dict()})
    return net


def same(values: Mapping[str, Any], net: Any, where: str, prefix: str = "") -> None:
    for name, wanted in net.state_dict().items():
        np.testing.assert_allclose(
            values[prefix + name], wanted.numpy(), rtol=2e-4, atol=2e-5, err_msg=f"{name} {where}"
        )


class Lion(optim.Optimizer):  # type: ignore[misc,name-defined]
    """Chen et al. 2023, program 1."""

    def __init__(self, params: Any, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = (0.9 * m + 0.1 * p.grad).sign()
                p -= group["lr"] * (update + group["weight_decay"] * p)
                m.mul_(0.99).add_(p.grad, alpha=0.01)


Make = Callable[[Any], tuple[Any, Any]]


def scheduled(optimizer: Any, schedule: Callable[[Any], Any] | None = None) -> tuple[Any, Any]:
    return optimizer, schedule(optimizer) if schedule else None


def by(rate: Callable[[int], float]) -> Callable[[Any], Any]:
    return lambda optimizer: rates.LambdaLR(optimizer, rate)


PAIRS: list[tuple[str, Make]] = [
    (
        "sgd[lr=step_decay[0.1, every=6, factor=0.5], momentum=0.9]",
        lambda p: scheduled(optim.SGD(p, 0.1, 0.9), lambda o: rates.StepLR(o, 6, 0.5)),
    ),
    (
        "adam[lr=cosine[0.02, total=20], weight_decay=0.01]",
        lambda p: scheduled(
            optim.Adam(p, 0.02, weight_decay=0.01), lambda o: rates.CosineAnnealingLR(o, 20)
        ),
    ),
    (
        "adamw[lr=warmup[5, then=0.02], weight_decay=0.1]",
        lambda p: scheduled(
            optim.AdamW(p, 0.02, weight_decay=0.1), by(lambda step: min((step + 1) / 5, 1))
        ),
    ),
    (
        "rmsprop[lr=inverse_sqrt[0.01, warmup=4], momentum=0.5]",
        lambda p: scheduled(
            optim.RMSprop(p, 0.01, momentum=0.5),
            by(lambda step: min((step + 1) / 4, (4 / (step + 1)) ** 0.5)),
        ),
    ),
    ("lion[lr=0.003, weight_decay=0.1]", lambda p: scheduled(Lion(p, 0.003, 0.1))),
    (
        "nadam[lr=one_cycle[0.02, total=20]]",
        lambda p: scheduled(
            optim.NAdam(p, 0.02),
            lambda o: rates.OneCycleLR(o, 0.02, total_steps=20, cycle_momentum=False),
        ),
    ),
    ("adagrad[lr=0.05, initial=0.1]", lambda p: scheduled(optim.Adagrad(p, 0.05, 0, 0, 0.1))),
]


def loss_of(net: Any, inputs: Mapping[str, Any]) -> Any:
    logits = net(torch.tensor(inputs["x"]))
    return F.cross_entropy(logits, torch.tensor(inputs["label"]), label_smoothing=0.1)


@pytest.mark.parametrize(("optimizer", "make"), PAIRS, ids=[name for name, _ in PAIRS])
def test_twenty_steps(optimizer: str, make: Make) -> None:
    steps = ours(built(f"optimizer {optimizer}"), UPDATES)
    net = module(next(steps))
    reference, schedule = make(net.parameters())
    for step, values in enumerate(steps):
        reference.zero_grad()
        loss_of(net, batch(step)).backward()
        reference.step()
        if schedule is not None:
            schedule.step()
        same(values, net, f"after step {step}")


ALL = """
    optimizer adamw[lr=cosine[0.02, warmup=3, total=20], weight_decay=0.1]
    optimizer sgd[lr=0.05, momentum=0.9] for head.weight
    optimizer adamw[lr=0.02, weight_decay=0.0] for *.bias, norm.*
    clip value 0.02
    clip norm 0.05
    accumulate 2
    ema 0.9
"""


def test_groups_schedules_clipping_accumulation_and_averages_together() -> None:
    joined = built(ALL)
    steps = ours(joined, 2 * UPDATES)
    values = next(steps)
    net = module(values)
    mean = copy.deepcopy(net)
    groups = [
        [net.stem.weight],
        [net.head.weight],
        [net.stem.bias, net.head.bias, net.norm.weight, net.norm.bias],
    ]
    references = [
        optim.AdamW(groups[0], 0.02, weight_decay=0.1),
        optim.SGD(groups[1], 0.05, 0.9),
        optim.AdamW(groups[2], 0.02, weight_decay=0.0),
    ]
    cosine = [
        min((t + 1) / 3, 1) * 0.5 * (1 + np.cos(np.pi * max(t - 3, 0) / 17)) for t in range(20)
    ]
    for call, values in enumerate(steps):
        (loss_of(net, batch(call)) / 2).backward()
        if call % 2:
            nn.utils.clip_grad_value_(net.parameters(), 0.02)
            nn.utils.clip_grad_norm_(net.parameters(), 0.05)
            references[0].param_groups[0]["lr"] = 0.02 * cosine[call // 2]
            for reference in references:
                reference.step()
                reference.zero_grad()
            with torch.no_grad():
                for average, weight in zip(mean.parameters(), net.parameters()):
                    average.mul_(0.9).add_(weight, alpha=0.1)
        same(values, net, f"after call {call}")
        same(values, mean, f"averaged after call {call}", "ema.")
    outputs, updates = run_entry(joined, "evaluate", values, batch(99))
    assert not updates
    with torch.no_grad():
        wanted, raw = float(loss_of(mean, batch(99))), float(loss_of(net, batch(99)))
    assert float(outputs["loss"]) == pytest.approx(wanted, rel=1e-4)
    assert wanted != pytest.approx(raw, rel=1e-4)


IMAGE = """
model Net(x: f32[N, 3, 4, 4]) -> f32[N, 2] {
    x = x |> stem: conv2d[4, kernel=3, padding=1, bias=false] |> norm: batch_norm[] |> relu
    return x |> flatten |> head: dense[2]
}

train Net {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer adamw[lr=0.01]
    freeze * except head.*
    %s
}
"""


@pytest.mark.parametrize("still", [False, True])
def test_frozen_layers(still: bool) -> None:
    """Their weights stay; the statistics of batch norm follow the batches, unless `inference`."""
    joined = add_train_step(program(IMAGE % ("inference norm" if still else ""), training=True))
    function = joined.entry("train_step").function
    counted = [eqn.op.name for eqn in function.eqns]
    # One convolution, forwards; the head's product forwards and its weight's gradient.
    assert [counted.count(name) for name in ("conv2d", "conv2d_weight", "matmul")] == [1, 0, 2]
    states = [v.name for v in joined.variables if v.kind == "optimizer"]
    assert {name.rpartition(".")[0] for name in states} == {
        "optimizer.head.weight",
        "optimizer.head.bias",
    }
    values = initial_variables(joined, seed=5)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 2),
    )  # fmt: skip
    places = {"0": "stem", "1": "norm", "4": "head"}
    named = {n: f"{places[n[0]]}{n[1:]}" for n in net.state_dict() if "num_batches" not in n}
    net.load_state_dict({n: torch.tensor(values[own]) for n, own in named.items()}, strict=False)
    if still:
        net[1].eval()
    reference = optim.AdamW(net[4].parameters(), 0.01)
    for step in range(UPDATES):
        rng = np.random.default_rng(step)
        x = rng.normal(1.0, 2.0, size=(3, 3, 4, 4)).astype(np.float32)
        label = rng.integers(0, 2, 3)
        inputs = {"x": x, "label": label, "seed": 0, "step": step}
        _, updates = run_entry(joined, "train_step", values, inputs)
        values |= updates
        reference.zero_grad()
        F.cross_entropy(net(torch.tensor(x)), torch.tensor(label)).backward()
        reference.step()
    for name, own in named.items():
        wanted = net.state_dict()[name].numpy()
        np.testing.assert_allclose(values[own], wanted, rtol=2e-4, atol=2e-5, err_msg=own)


def test_nothing_flows_below_the_lowest_layer_that_is_trained() -> None:
    deep = """
model Net(x: f32[N, 7]) -> f32[N, 2] {
    x = x |> first: dense[9] |> relu |> second: dense[11] |> relu |> third: dense[13] |> relu
    return x |> head: dense[2]
}

train Net {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd
    freeze first.*, third.*
}
"""
    joined = add_train_step(program(deep, training=True))
    eqns = joined.entry("train_step").function.eqns
    found = [eqn.outputs[0].type.dims for eqn in eqns if eqn.op.name == "matmul"]
    numbers = [tuple(d for d in dims if isinstance(d, int)) for dims in found]
    # Forwards, then the head's gradient and through head and third to the second's, no farther.
    assert numbers[:4] == [(9,), (11,), (13,), (2,)]
    assert sorted(numbers[4:]) == sorted([(13,), (13, 2), (11,), (9, 11)])
