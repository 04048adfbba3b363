"""Formulas of index notation, and orders, compiled, give what PyTorch's operations give; so do the
formulas' steps of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dslc

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[torch]')")
F = torch.nn.functional

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_cpu")]

FORMULAS = """
model M(
    x: f32[N, 19], w: f32[21, 19],
    image: f32[N, 3, 11, 10], filters: f32[8, 3, 3, 3],
    signal: f32[N, 2, 2, 13], taps: f32[2, 3, 2, 3],
    a: f32[N, 12], b: f32[N, 9], form: f32[7, 12, 9],
    q: f32[N, 2, 17, 8], key: f32[N, 2, 17, 8]
) -> (f32[N, 21], f32[N, 8, 6, 5], f32[N, 2, 3, 9], f32[N, 7], f32[N, 2, 17, 5]) {
    product[n, o] = sum[k](x[n, k] * w[o, k])
    conv[n, o, i, j]: f32[N, 8, 6, 5] = sum[c, ky, kx](
        filters[o, c, ky, kx] * (image[n, c, 2 * i + ky - 1, 2 * j + kx - 1] else 0)
    )
    dilated[n, g, o, t]: f32[N, 2, 3, 9] = sum[c, k](signal[n, g, c, t + 2 * k] * taps[g, o, c, k])
    bilinear[n, o] = sum[i, j](a[n, i] * form[o, i, j] * b[n, j])
    scores[n, h, i, d]: f32[N, 2, 17, 5] = sum[k](
        q[n, h, i, k] * (key[n, h, i + d - 2, k] else 0)
    )
    return product, conv, dilated, bilinear, scores
}
"""

LOCAL = """
layer local(x: f32[N, T, 6]) -> f32[N, T, 5] {
    param w: f32[6, 6] ~ uniform[-1, 1]
    q[n, t, d] = sum[k](x[n, t, k] * w[d, k])
    s[n, i, d]: f32[N, T, 5] = sum[k](q[n, i, k] * (q[n, i + d - 2, k] else 0))
    return s
}
model M(x: f32[N, T, 6]) -> f32[N, T, 5] { return local(x) }
train M {
    loss mean(output * output)
    optimizer sgd[lr=0.01]
}
"""


def local_scores(q: Any, key: Any) -> Any:
    """q[i] . key[i + d - 2] for d in 0..5, zero where there is no such key."""
    windows = F.pad(key, (0, 0, 2, 2)).unfold(-2, 5, 1)  # ... i, k, d
    return torch.einsum("...ik,...ikd->...id", q, windows)


def test_forward() -> None:
    model = dslc.compile(FORMULAS)
    rng = np.random.default_rng(0)
    sizes = {
        "x": (4, 19), "w": (21, 19), "image": (4, 3, 11, 10), "filters": (8, 3, 3, 3),
        "signal": (4, 2, 2, 13), "taps": (2, 3, 2, 3), "a": (4, 12), "b": (4, 9),
        "form": (7, 12, 9), "q": (4, 2, 17, 8), "key": (4, 2, 17, 8),
    }  # fmt: skip
    inputs = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    found = model(**inputs)
    t = {name: torch.tensor(x) for name, x in inputs.items()}
    dilated = F.conv1d(
        t["signal"].reshape(4, 4, 13), t["taps"].reshape(6, 2, 3), dilation=2, groups=2
    )
    wanted = (
        t["x"] @ t["w"].T,
        F.conv2d(t["image"], t["filters"], stride=2, padding=1),
        dilated.reshape(4, 2, 3, 9),
        F.bilinear(t["a"], t["b"], t["form"]),
        local_scores(t["q"], t["key"]),
    )
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5)


def test_training_steps_of_local_attention() -> None:
    """The gradient through the windows is PyTorch's: weights after two steps agree."""
    trainer = dslc.compile(LOCAL, train=True, seed=1)
    w = torch.tensor(np.array(trainer.weights["local.w"]), requires_grad=True)
    optimizer = torch.optim.SGD([w], lr=0.01)
    x = np.random.default_rng(1).normal(size=(3, 7, 6)).astype(np.float32)
    for _ in range(2):
        q = torch.tensor(x) @ w.T
        loss = (local_scores(q, q) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step = trainer.train_step(x=x)
        assert step.loss == pytest.approx(loss.item(), rel=1e-5)
    np.testing.assert_allclose(trainer.weights["local.w"], w.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_sort_and_top_k() -> None:
    """Values and positions, NaN and (stable) ties included."""
    source = """
model M(x: f32[N, 40]) -> (f32[N, 40], i64[N, 40], f32[N, 40], f32[N, 6], i64[N, 6]) {
    best, at = top_k[6](x)
    return sort(x), argsort[descending=true](x), sort[descending=true](x), best, at
}
"""
    x = np.random.default_rng(3).normal(size=(4, 40)).astype(np.float32)
    x[1] = np.round(x[1])
    x[2, ::9] = np.nan
    up, order, down, best, at = dslc.compile(source)(x)
    t = torch.tensor(x)
    wanted, places = torch.sort(t, descending=True, stable=True)
    np.testing.assert_array_equal(up, torch.sort(t, stable=True)[0].numpy())
    np.testing.assert_array_equal(down, wanted.numpy())
    np.testing.assert_array_equal(order, places.numpy())
    np.testing.assert_array_equal(best, torch.topk(t, 6)[0].numpy())
    np.testing.assert_array_equal(at, places[:, :6].numpy())
