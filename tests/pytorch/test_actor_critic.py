"""Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905) as one `train` block: targets that
follow the critics, and three losses in one, move weights as PyTorch's three optimizers do.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from library.against_torch import numbers, torch

import dslc

nn, F = torch.nn, torch.nn.functional

pytestmark = pytest.mark.torch

Net = nn.Module

SAC = """
from std.adapters import averaged

layer actor[A](obs: f32[N, O], noise: f32[N, A]) -> (f32[N, A], f32[N]) {
    h = obs |> fc: dense[16] |> relu
    log_std = clamp[-5, 2](h |> log_std: dense[A])
    u = (h |> mean: dense[A]) + exp(log_std) * noise
    density = sum[axis=-1](-0.5 * noise ** 2 - log_std - 0.5 * log(2 * PI))
    return tanh(u), density - sum[axis=-1](2 * (log(2) - u - softplus(-2 * u)))
}

layer critic(obs: f32[N, O], action: f32[N, A]) -> f32[N] {
    return (concat[axis=-1](obs, action) |> fc: dense[16] |> relu |> out: dense[1])[:, 0]
}

model Sac[A=2](
    obs: f32[N, 5], action: f32[N, A], reward: f32[N], after: f32[N, 5], noise: f32[2, N, A]
) -> (f32, f32, f32) {
    pi, q1, q2 = actor[A], critic[], critic[]
    t1, t2 = adapted[averaged[0.9]](q1), adapted[averaged[0.9]](q2)
    param log_alpha: f32 = 0
    alpha = exp(stop_gradient(log_alpha))
    next, density = pi(after, noise[0])
    target = reward + 0.9 * (minimum(t1(after, next), t2(after, next)) - alpha * density)
    target = stop_gradient(target)
    chosen, density = pi(obs, noise[1])
    still1, still2 = stop_gradient(q1), stop_gradient(q2)
    best = minimum(still1(obs, chosen), still2(obs, chosen))
    return (
        mse(q1(obs, action), target) + mse(q2(obs, action), target),
        mean(alpha * density - best),
        -mean(log_alpha * (stop_gradient(density) - A)),
    )
}

train Sac {
    loss output.0 + output.1 + output.2
    metric critic = output.0
    metric actor = output.1
    optimizer sgd[lr=0.1] for q1.*, q2.*
    optimizer sgd[lr=0.05] for pi.*
    optimizer sgd[lr=0.02] for log_alpha
}
"""


class Actor(Net):  # type: ignore[misc,valid-type]
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.mean, self.log_std = nn.Linear(5, 16), nn.Linear(16, 2), nn.Linear(16, 2)

    def forward(self, obs: Any, noise: Any) -> Any:
        h = F.relu(self.fc(obs))
        log_std = self.log_std(h).clamp(-5, 2)
        u = self.mean(h) + log_std.exp() * noise
        normal = torch.distributions.Normal(self.mean(h), log_std.exp())
        return u.tanh(), (normal.log_prob(u) - torch.log(1 - u.tanh() ** 2)).sum(-1)


class Critic(Net):  # type: ignore[misc,valid-type]
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(7, 16), nn.Linear(16, 1)

    def forward(self, obs: Any, action: Any) -> Any:
        return self.out(F.relu(self.fc(torch.cat([obs, action], -1))))[:, 0]


def test_soft_actor_critic_trains_as_with_three_optimizers() -> None:
    trainer = dslc.compile(SAC, train=True, seed=3)
    pi, q1, q2 = Actor(), Critic(), Critic()
    log_alpha = nn.Parameter(torch.zeros(()))
    modules = {"pi": pi, "q1": q1, "q2": q2}
    for prefix, module in modules.items():
        for name, value in module.named_parameters():
            value.data = torch.tensor(np.array(trainer.weights[f"{prefix}.{name}"]))
    t1, t2 = copy.deepcopy(q1), copy.deepcopy(q2)
    critics = [*q1.parameters(), *q2.parameters()]
    for step in range(4):
        names = {"obs": (6, 5), "action": (6, 2), "reward": (6,), "after": (6, 5)}
        given = {n: numbers(*dims, seed=step * 9 + i) for i, (n, dims) in enumerate(names.items())}
        given["noise"] = numbers(2, 6, 2, seed=step * 9 + 5)
        obs, action, reward, after, noise = map(torch.tensor, given.values())
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            following, density = pi(after, noise[0])
            best = torch.minimum(t1(after, following), t2(after, following))
            target = reward + 0.9 * (best - alpha * density)
        critic = F.mse_loss(q1(obs, action), target) + F.mse_loss(q2(obs, action), target)
        chosen, density = pi(obs, noise[1])
        actor = (alpha * density - torch.minimum(q1(obs, chosen), q2(obs, chosen))).mean()
        weight = -(log_alpha * (density.detach() - 2)).mean()
        lots = [(critic, critics, 0.1), (actor, [*pi.parameters()], 0.05)]
        lots.append((weight, [log_alpha], 0.02))
        moves = [
            (p, rate * g)
            for loss, ps, rate in lots
            for p, g in zip(ps, torch.autograd.grad(loss, ps, retain_graph=True))
        ]
        with torch.no_grad():
            for p, move in moves:
                p -= move
            for mean, p in zip([*t1.parameters(), *t2.parameters()], critics):
                mean.lerp_(p, 0.1)
        found = trainer.train_step(**given)
        np.testing.assert_allclose(found.metrics["critic"], critic.item(), rtol=5e-5)
        np.testing.assert_allclose(found.metrics["actor"], actor.item(), rtol=5e-5, atol=1e-6)
    for prefix, module in modules.items():
        for name, value in module.named_parameters():
            np.testing.assert_allclose(
                trainer.weights[f"{prefix}.{name}"], value.detach(), rtol=1e-3, atol=1e-5
            )
    np.testing.assert_allclose(trainer.weights["log_alpha"], log_alpha.item(), rtol=1e-4)
