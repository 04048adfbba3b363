"""Losses give what PyTorch's give, gradients included; those that it lacks, their formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from library.against_torch import check, numbers, torch

F = torch.nn.functional

pytestmark = pytest.mark.torch

LABEL = np.array([0, 4, -100, 2, 1, 3])
WEIGHT = np.array([0.5, 1.0, 2.0, 0.1, 1.5], np.float32)
SIGN = np.array([1, -1, 1, 1, -1, -1], np.float32)


def unit(*dims: int, seed: int = 0) -> Any:
    """Numbers within (0, 1)."""
    return np.random.default_rng(seed).uniform(0.02, 0.98, dims).astype(np.float32)


def distribution(*dims: int, seed: int = 0) -> Any:
    x = np.exp(numbers(*dims, seed=seed))
    return (x / x.sum(-1, keepdims=True)).astype(np.float32)


CLASSES: list[tuple[str, Callable[..., Any]]] = [
    ("cross_entropy(x, y)", lambda x, y, w: F.cross_entropy(x, y)),
    ("cross_entropy(x, y, w)", lambda x, y, w: F.cross_entropy(x, y, w)),
    (
        "cross_entropy[label_smoothing=0.1](x, y)",
        lambda x, y, w: F.cross_entropy(x, y, label_smoothing=0.1),
    ),
    (
        "cross_entropy[label_smoothing=0.3, ignore_index=3](x, where(y < 0, 0, y), weight=w)",
        lambda x, y, w: F.cross_entropy(x, y.clamp(0), w, label_smoothing=0.3, ignore_index=3),
    ),
    (
        "mean(cast[f32](y) * cross_entropy_each(x, y))",
        lambda x, y, w: (y * F.cross_entropy(x, y, reduction="none")).mean(),
    ),
    (
        "sum(cast[f32](y) * cross_entropy_each[label_smoothing=0.2](x, y, w))",
        lambda x, y, w: (y * F.cross_entropy(x, y, w, label_smoothing=0.2, reduction="none")).sum(),
    ),
    ("nll(log_softmax(x), y)", lambda x, y, w: F.nll_loss(x.log_softmax(-1), y)),
    (
        "nll[ignore_index=1](x, where(y < 0, 0, y), w)",
        lambda x, y, w: F.nll_loss(x, y.clamp(0), w, ignore_index=1),
    ),
    (
        "multi_margin(x, where(y < 0, 0, y))",
        lambda x, y, w: F.multi_margin_loss(x, y.clamp(0)),
    ),
    (
        "multi_margin[0.3](x, where(y < 0, 0, y))",
        lambda x, y, w: F.multi_margin_loss(x, y.clamp(0), margin=0.3),
    ),
]


@pytest.mark.parametrize(("loss", "oracle"), CLASSES, ids=[name for name, _ in CLASSES])
def test_losses_of_classes(loss: str, oracle: Callable[..., Any]) -> None:
    inputs = {"x": 3 * numbers(6, 5), "y": LABEL, "w": WEIGHT}
    check(loss, inputs, oracle, constant=("w",))


@pytest.mark.parametrize("skip", [False, True])
def test_ctc(skip: bool) -> None:
    label = np.array([[1, 1, 2, 3], [4, 2, 3, 0], [1, 2, 4, 1], [0, 0, 0, 0], [3, 3, 0, 0]])
    steps, count = np.array([12, 10, 8, 12, 5 - 3 * skip]), np.array([4, 3, 4, 0, 2])
    call = f"ctc[skip={str(skip).lower()}](log_softmax(x), label, steps, count)"
    inputs = {"x": numbers(5, 12, 6), "label": label, "steps": steps, "count": count}

    def oracle(x: Any, label: Any, steps: Any, count: Any) -> Any:
        log_p = x.log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(log_p, label, steps, count, zero_infinity=skip)

    check(call, inputs, oracle)


def test_cross_entropy_of_every_pixel() -> None:
    label = np.random.default_rng(3).integers(0, 5, (2, 3, 4))
    check(
        "cross_entropy(x, y)",
        {"x": numbers(2, 3, 4, 5), "y": label},
        lambda x, y: F.cross_entropy(x.permute(0, 3, 1, 2), y),
    )


NUMBERS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    ("mse(x, y)", F.mse_loss),
    ("mae(x, y)", F.l1_loss),
    ("huber(x, y)", F.huber_loss),
    ("huber[0.4](x, y)", lambda x, y: F.huber_loss(x, y, delta=0.4)),
    ("smooth_l1(x, y)", F.smooth_l1_loss),
    ("smooth_l1[0.4](x, y)", lambda x, y: F.smooth_l1_loss(x, y, beta=0.4)),
    ("log_cosh(x, y)", lambda x, y: torch.cosh(x - y).log().mean()),
    ("poisson_nll(x, exp(y))", lambda x, y: F.poisson_nll_loss(x, y.exp())),
    ("gaussian_nll(x, y, exp(x))", lambda x, y: F.gaussian_nll_loss(x, y, x.exp())),
    (
        'kl_div[reduction="mean"](log_softmax(x), softmax(y))',
        lambda x, y: F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="mean"),
    ),
    (
        "kl_div(log_softmax(x), softmax(y))",
        lambda x, y: F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
    ),
    (
        'kl_div[reduction="sum", log_target=true](log_softmax(x), log_softmax(y))',
        lambda x, y: F.kl_div(
            x.log_softmax(-1), y.log_softmax(-1), reduction="sum", log_target=True
        ),
    ),
    ("squared_hinge(x, sign(y))", lambda x, y: F.relu(1 - y.sign() * x).square().mean()),
    ("hinge(x, sign(y))", lambda x, y: F.relu(1 - y.sign() * x).mean()),
    ("soft_margin(x, sign(y))", lambda x, y: F.soft_margin_loss(x, y.detach().sign())),
    ("hinge_embedding(x, sign(y))", lambda x, y: F.hinge_embedding_loss(x, y.sign())),
    (
        "hinge_embedding[0.3](x, sign(y))",
        lambda x, y: F.hinge_embedding_loss(x, y.sign(), margin=0.3),
    ),
    (
        "margin_ranking[0.2](x, y, sign(y))",
        lambda x, y: F.margin_ranking_loss(x, y, y.sign(), margin=0.2),
    ),
    ("cosine_similarity(x, y)", lambda x, y: F.cosine_similarity(x, y, -1)),
    ("cosine_similarity[axis=0](x, y)", lambda x, y: F.cosine_similarity(x, y, 0)),
    (
        "cosine_embedding[0.1](x, y, sign(y[:, 0]))",
        lambda x, y: F.cosine_embedding_loss(x, y, y[:, 0].sign(), margin=0.1),
    ),
    (
        "triplet_margin[0.7](x, y, 2 * y)",
        lambda x, y: F.triplet_margin_loss(x, y, 2 * y, margin=0.7),
    ),
]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize(("loss", "oracle"), NUMBERS, ids=[name for name, _ in NUMBERS])
def test_losses_of_numbers(loss: str, oracle: Callable[[Any, Any], Any]) -> None:
    inputs = {"x": numbers(6, 5), "y": numbers(6, 5, seed=1)}
    check(loss, inputs, oracle, constant=("y",) if loss.startswith("soft_margin") else ())


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_kl_div_of_a_target_with_zeros() -> None:
    target = np.array([[0, 1, 0], [0.5, 0.5, 0]], np.float32)
    log_p = np.log(distribution(2, 3))
    check(
        "kl_div(x, y)",
        {"x": log_p, "y": target},
        lambda x, y: F.kl_div(x, y, reduction="batchmean"),
        differentiable=False,
    )


def test_binary_cross_entropy() -> None:
    inputs = {"x": unit(6, 5), "y": unit(6, 5, seed=1), "w": WEIGHT}
    check("bce(x, y, w)", inputs, F.binary_cross_entropy, constant=("w",))
    del inputs["w"]
    check("bce(x, y)", inputs, F.binary_cross_entropy)


def test_binary_cross_entropy_of_certain_mistakes() -> None:
    inputs = {"x": np.array([0, 1, 1], np.float32), "y": np.array([1, 0, 1], np.float32)}
    check("bce(x, y)", inputs, F.binary_cross_entropy, differentiable=False)


def test_binary_cross_entropy_with_logits() -> None:
    inputs = {"x": 4 * numbers(6, 5), "y": unit(6, 5), "w": WEIGHT, "p": 2 * WEIGHT}
    oracle = F.binary_cross_entropy_with_logits
    check(
        "bce_with_logits(x, y, w, p)",
        inputs,
        lambda x, y, w, p: oracle(x, y, w, pos_weight=p),
        constant=("w", "p"),
    )
    plain = {"x": np.array([[-200.0, 0.0, 200.0]], np.float32), "y": unit(1, 3)}
    check("bce_with_logits(x, y)", plain, oracle)


def test_focal() -> None:
    inputs = {"x": 2 * numbers(6, 5), "y": (numbers(6, 5, seed=1) > 0).astype(np.float32)}

    def oracle(x: Any, y: Any) -> Any:
        p = torch.sigmoid(x)
        right = p * y + (1 - p) * (1 - y)
        alpha = 0.25 * y + 0.75 * (1 - y)
        return (-alpha * (1 - right) ** 2 * right.log()).mean()

    check("focal(x, y)", inputs, oracle, constant=("y",))


def test_dice() -> None:
    def oracle(p: Any, y: Any) -> Any:
        p, y = p.flatten(1), y.flatten(1)
        return 1 - ((2 * (p * y).sum(1) + 1) / (p.sum(1) + y.sum(1) + 1)).mean()

    check("dice(x, y)", {"x": unit(3, 4, 5), "y": unit(3, 4, 5, seed=1).round()}, oracle)
