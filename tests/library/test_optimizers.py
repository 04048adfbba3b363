"""Optimizers and schedules step as PyTorch's do; those that it lacks, as their formula says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from library.against_torch import numbers, program, torch

from dslc.ir.evaluate import evaluate, initial_variables, run_entry

optim, scheduler = torch.optim, torch.optim.lr_scheduler

pytestmark = pytest.mark.torch


class Lion:
    """Chen et al. 2023, program 1."""

    def __init__(self, parameters: Any, lr: float, decay: float) -> None:
        (self.p,) = parameters
        self.m = torch.zeros_like(self.p)
        self.lr, self.decay = lr, decay

    def step(self) -> None:
        with torch.no_grad():
            update = (0.9 * self.m + 0.1 * self.p.grad).sign()
            self.p -= self.lr * (update + self.decay * self.p)
            self.m = 0.99 * self.m + 0.01 * self.p.grad


OPTIMIZERS: list[tuple[str, Callable[..., Any]]] = [
    ("sgd[lr=0.1]", lambda p: optim.SGD(p, 0.1)),
    (
        "sgd[lr=0.1, momentum=0.9, weight_decay=0.01]",
        lambda p: optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.01),
    ),
    (
        "sgd[lr=0.1, momentum=0.9, nesterov=true]",
        lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    ),
    (
        "sgd[lr=0.1, momentum=0.9, dampening=0.3]",
        lambda p: optim.SGD(p, 0.1, momentum=0.9, dampening=0.3),
    ),
    ("adam[lr=0.01]", lambda p: optim.Adam(p, 0.01)),
    ("adam[lr=0.01, weight_decay=0.1]", lambda p: optim.Adam(p, 0.01, weight_decay=0.1)),
    ("adam[lr=0.01, amsgrad=true]", lambda p: optim.Adam(p, 0.01, amsgrad=True)),
    ("adamw", lambda p: optim.AdamW(p)),
    (
        "adamw[lr=0.02, beta1=0.8, weight_decay=0.1, amsgrad=true]",
        lambda p: optim.AdamW(p, 0.02, (0.8, 0.999), weight_decay=0.1, amsgrad=True),
    ),
    ("adamax", lambda p: optim.Adamax(p)),
    ("adamax[lr=0.1, weight_decay=0.1]", lambda p: optim.Adamax(p, 0.1, weight_decay=0.1)),
    ("nadam", lambda p: optim.NAdam(p)),
    ("nadam[lr=0.05, weight_decay=0.1]", lambda p: optim.NAdam(p, 0.05, weight_decay=0.1)),
    ("rmsprop", lambda p: optim.RMSprop(p)),
    (
        "rmsprop[lr=0.02, alpha=0.9, momentum=0.5, centered=true, weight_decay=0.1]",
        lambda p: optim.RMSprop(p, 0.02, 0.9, 1e-8, 0.1, 0.5, True),
    ),
    ("adagrad", lambda p: optim.Adagrad(p)),
    (
        "adagrad[lr=0.1, lr_decay=0.1, weight_decay=0.1, initial=0.5]",
        lambda p: optim.Adagrad(p, 0.1, 0.1, 0.1, 0.5),
    ),
    ("adadelta", lambda p: optim.Adadelta(p)),
    (
        "adadelta[lr=0.5, rho=0.8, weight_decay=0.1]",
        lambda p: optim.Adadelta(p, 0.5, 0.8, weight_decay=0.1),
    ),
    ("lion[lr=0.01, weight_decay=0.1]", lambda p: Lion(p, 0.01, 0.1)),
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
    built = program(text, training=True)
    plan = built.training
    assert plan is not None
    update, names = plan.updates["fc.weight"], plan.optimizer_states["fc.weight"]
    first = initial_variables(built, 0)
    p, states = numbers(2, 3), [first[name] for name in names]
    parameter = torch.nn.Parameter(torch.tensor(p))
    reference = oracle([parameter])
    for step in range(20):
        g = numbers(2, 3, seed=step + 1)
        p, *states = evaluate(update, [p, g, np.asarray(step), *states])
        parameter.grad = torch.tensor(g)
        reference.step()
        np.testing.assert_allclose(p, parameter.detach().numpy(), rtol=2e-5, atol=2e-6)


def rate(step: int, low: float = 0.0) -> float:
    """`cosine[0.1, warmup=10, total=60]`."""
    along = min(max((step - 10) / 50, 0), 1)
    return (low + (0.1 - low) * (1 + math.cos(math.pi * along)) / 2) * min((step + 1) / 10, 1)


def pytorch(make: Callable[[Any], Any], base: float = 0.1) -> Callable[[int], float]:
    """The rates that a scheduler of PyTorch gives, step by step."""
    optimizer = optim.SGD([torch.nn.Parameter(torch.zeros(1))], base)
    schedule, rates = make(optimizer), []
    for _ in range(60):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates.__getitem__


SCHEDULES: list[tuple[str, Callable[[], Callable[[int], float]]]] = [
    ("cosine[0.1, total=59]", lambda: pytorch(lambda o: scheduler.CosineAnnealingLR(o, 59))),
    ("cosine[0.1, warmup=10, total=60]", lambda: rate),
    (
        "cosine_restarts[0.1, period=20, low=0.01]",
        lambda: pytorch(lambda o: scheduler.CosineAnnealingWarmRestarts(o, 20, eta_min=0.01)),
    ),
    ("step_decay[0.1, every=13]", lambda: pytorch(lambda o: scheduler.StepLR(o, 13))),
    (
        "multi_step[0.1, milestones=(10, 25, 26), factor=0.5]",
        lambda: pytorch(lambda o: scheduler.MultiStepLR(o, [10, 25, 26], 0.5)),
    ),
    (
        "exponential[0.1, factor=0.95]",
        lambda: pytorch(lambda o: scheduler.ExponentialLR(o, 0.95)),
    ),
    (
        "polynomial[0.1, total=40, power=2]",
        lambda: pytorch(lambda o: scheduler.PolynomialLR(o, 40, 2.0)),
    ),
    (
        "linear_decay[0.1, total=40, low=0.02]",
        lambda: pytorch(lambda o: scheduler.LinearLR(o, 1.0, 0.2, 40)),
    ),
    (
        "one_cycle[0.1, total=60]",
        lambda: pytorch(lambda o: scheduler.OneCycleLR(o, 0.1, 60)),
    ),
    (
        "one_cycle[0.1, total=80, rise=0.5, start=10, end=100]",
        lambda: pytorch(
            lambda o: scheduler.OneCycleLR(
                o, 0.1, 80, pct_start=0.5, div_factor=10, final_div_factor=100
            )
        ),
    ),
    (
        "inverse_sqrt[0.1, warmup=10]",
        lambda: lambda t: 0.1 * min((t + 1) / 10, (10 / (t + 1)) ** 0.5),
    ),
    ("warmup[5, 0.1]", lambda: lambda t: 0.1 * min((t + 1) / 5, 1)),
    (
        "warmup[5, exponential[0.1, factor=0.9]]",
        lambda: lambda t: 0.1 * 0.9**t * min((t + 1) / 5, 1),
    ),
    (
        "linear_decay[0.1, warmup=5, total=25]",
        lambda: lambda t: 0.1 * min((t + 1) / 5, 1) * (1 - min(max((t - 5) / 20, 0), 1)),
    ),
]


@pytest.mark.parametrize(("schedule", "oracle"), SCHEDULES, ids=[name for name, _ in SCHEDULES])
def test_schedules(schedule: str, oracle: Callable[[], Callable[[int], float]]) -> None:
    built = program(f"model M(step: i64) -> f32 {{ return (step |> {schedule}) }}")
    expected = oracle()
    for step in range(60):
        found = run_entry(built, "forward", {}, {"step": np.asarray(step)})[0]["output"]
        np.testing.assert_allclose(found, expected(step), rtol=1e-4, atol=1e-8, err_msg=str(step))
