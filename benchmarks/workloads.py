"""What is timed: for each workload, our compiled call and the same one in PyTorch eager.

Both sides start from the same weights and data; before a race their results are compared, so a
fast wrong answer can't win.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import dslc

EXAMPLES = Path(__file__).parent.parent / "examples"


@dataclass(frozen=True, slots=True)
class Workload:
    """`ours` and `peers` are ready to be called; `error` is the largest relative difference of
    their results."""

    name: str
    ours: Callable[[], object]
    peers: dict[str, Callable[[], object]]
    error: float


def article_torch() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 28 * 28, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


ARTICLE_NAMES = ("conv1", "conv2", "fc1", "fc2")


def article_weights(net: nn.Sequential) -> dict[str, np.ndarray[Any, Any]]:
    layers = [layer for layer in net if isinstance(layer, nn.Conv2d | nn.Linear)]
    return {
        f"{name}.{part}": getattr(layer, part).detach().numpy().copy()
        for name, layer in zip(ARTICLE_NAMES, layers)
        for part in ("weight", "bias")
    }


def inference(batch: int, threads: int) -> Workload:
    torch.manual_seed(0)
    net = article_torch().eval()
    image = np.random.default_rng(0).standard_normal((batch, 3, 112, 112), dtype=np.float32)
    model = dslc.compile(
        EXAMPLES / "article" / "cnn.dl", weights=article_weights(net), threads=threads
    )
    tensor = torch.from_numpy(image)

    def peer() -> torch.Tensor:
        with torch.inference_mode():
            return net(tensor)

    expected = peer().numpy()
    error = float(np.abs(model(image) - expected).max() / np.abs(expected).max())
    return Workload(
        f"article CNN, inference, batch {batch}",
        lambda: model(image),
        {"PyTorch eager": peer},
        error,
    )


def training(batch: int, threads: int) -> Workload:
    torch.manual_seed(0)
    net = article_torch().train()
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch, 3, 112, 112), dtype=np.float32)
    label = rng.integers(0, 10, batch)
    model = dslc.compile(
        EXAMPLES / "article" / "cnn.dl", train=True, weights=article_weights(net), threads=threads
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x, y = torch.from_numpy(image), torch.from_numpy(label)

    def peer() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    def ours() -> float:
        return model.train_step(image=image, label=label).loss

    error = max(abs(ours() / peer() - 1) for _ in range(3))
    return Workload(
        f"article CNN, training step, batch {batch}", ours, {"PyTorch eager": peer}, error
    )


ALL: tuple[Callable[[int], Workload], ...] = (
    lambda threads: inference(1, threads),
    lambda threads: inference(32, threads),
    lambda threads: training(32, threads),
)
