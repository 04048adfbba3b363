"""The whole against PyTorch: both examples, from the same weights and batches.

The losses of the first training steps (20, or 8 of the larger) agree to 1e-4, for SGD with momentum
and for AdamW; the article CNN's forward agrees to 1e-4. Dropout is set to 0, because the two draw
other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[torch]')")
nn = torch.nn

pytestmark = pytest.mark.torch

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS, STEPS_OF_ARTICLE = 20, 8

OPTIMIZERS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "sgd": (
        "sgd[lr=0.01, momentum=0.9, weight_decay=0.0005]",
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=0.0005),
    ),
    "adamw": (
        "adamw[lr=0.001, weight_decay=0.01]",
        lambda p: torch.optim.AdamW(p, lr=0.001, weight_decay=0.01),
    ),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def article() -> Any:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 28 * 28, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def digits() -> Any:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def weights(net: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """PyTorch's parameters and running statistics under our instances' names."""
    layers = [layer for layer in net if list(layer.state_dict())]
    return {
        f"{name}.{key}": tensor.detach().numpy().copy()
        for name, layer in zip(names, layers, strict=True)
        for key, tensor in layer.state_dict().items()
        if key != "num_batches_tracked"
    }


def lockstep(
    net: Any,
    names: tuple[str, ...],
    source: str,
    optimizer: str,
    images: Any,
    labels: Any,
    steps: int = STEPS,
    **set: Any,
) -> None:
    written, make = OPTIMIZERS[optimizer]
    line = next(line for line in source.splitlines() if line.strip().startswith("optimizer"))
    model = dslc.compile(
        source.replace(line, f"    optimizer {written}"),
        train=True,
        weights=weights(net, names),
        set=set,
        # AdamW divides by gradients, small ones too, and a loss that jumps makes a rounding large:
        # Winograd's differ from PyTorch's.
        exact=True,
    )
    torch_optimizer = make(net.parameters())
    for step in range(steps):
        image, label = images[step % len(images)], labels[step % len(labels)]
        ours = model.train_step(image=image, label=label).loss
        torch_optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(torch.from_numpy(image)), torch.from_numpy(label))
        loss.backward()
        torch_optimizer.step()
        np.testing.assert_allclose(ours, loss.item(), rtol=1e-4, err_msg=f"step {step}")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_article_cnn_trains_in_lockstep(optimizer: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 4, 3, 112, 112), dtype=np.float32)
    labels = rng.integers(0, 10, (4, 4))
    source = (EXAMPLES / "article" / "cnn.dl").read_text()
    names = ("conv1", "conv2", "fc1", "fc2")
    lockstep(article(), names, source, optimizer, images, labels, STEPS_OF_ARTICLE)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_digits_cnn_trains_in_lockstep(optimizer: str) -> None:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 17, (20, 32, 1, 8, 8)).astype(np.float32)
    labels = rng.integers(0, 10, (20, 32))
    net = digits()
    scaled = nn.Sequential(Scale(), *net)
    names = ("conv1", "norm1", "conv2", "norm2", "fc1", "fc2")
    source = (EXAMPLES / "digits" / "digits.dl").read_text()
    lockstep(scaled, names, source, optimizer, images, labels, drop=0.0)


def test_article_cnn_forward_agrees() -> None:
    net = article().eval()
    image = np.random.default_rng(2).standard_normal((3, 3, 112, 112), dtype=np.float32)
    model = dslc.compile(
        EXAMPLES / "article" / "cnn.dl",
        weights=weights(net, ("conv1", "conv2", "fc1", "fc2")),
    )
    with torch.no_grad():
        expected = net(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(model(image), expected, rtol=1e-4, atol=1e-4)


class Scale(nn.Module):  # type: ignore[misc,name-defined]
    """The digits model divides its image by 16."""

    def forward(self, x: Any) -> Any:
        return x / 16.0
