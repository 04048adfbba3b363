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


def inference_of(name: str, model: Any, net: nn.Module, x: Any) -> Workload:
    """Our model against PyTorch's on one input."""
    tensor = torch.from_numpy(x)

    def peer() -> torch.Tensor:
        with torch.inference_mode():
            return net(tensor)

    expected = peer().numpy()
    error = float(np.abs(model(x) - expected).max() / np.abs(expected).max())
    return Workload(name, lambda: model(x), {"PyTorch eager": peer}, error)


def training_of(
    name: str,
    ours: Callable[[], float],
    optimizer: torch.optim.Optimizer,
    forward: Callable[[], torch.Tensor],
) -> Workload:
    """Our training step against PyTorch's; both give the loss, as `forward` does."""

    def peer() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward()
        loss.backward()
        optimizer.step()
        return loss.item()

    error = max(abs(ours() / peer() - 1) for _ in range(3))
    return Workload(name, ours, {"PyTorch eager": peer}, error)


def inference(batch: int, threads: int) -> Workload:
    torch.manual_seed(0)
    net = article_torch().eval()
    image = np.random.default_rng(0).standard_normal((batch, 3, 112, 112), dtype=np.float32)
    model = dslc.compile(
        EXAMPLES / "article" / "cnn.dl", weights=article_weights(net), threads=threads
    )
    return inference_of(f"article CNN, inference, batch {batch}", model, net, image)


def training(batch: int, threads: int) -> Workload:
    torch.manual_seed(0)
    net = article_torch().train()
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch, 3, 112, 112), dtype=np.float32)
    label = rng.integers(0, 10, batch)
    model = dslc.compile(
        EXAMPLES / "article" / "cnn.dl", train=True, weights=article_weights(net), threads=threads
    )
    x, y = torch.from_numpy(image), torch.from_numpy(label)
    return training_of(
        f"article CNN, training step, batch {batch}",
        lambda: model.train_step(image=image, label=label).loss,
        torch.optim.SGD(net.parameters(), lr=0.01),
        lambda: nn.functional.cross_entropy(net(x), y),
    )


# --- recurrent networks ---------------------------------------------------------------------------

SEQUENCE = """
from std.recurrent import {kind}

model Sequence(x: f32[N, {steps}, {width}]) -> f32[N, 10] {{
    hs, {carries} = x |> cell: {kind}[{hidden}]
    return hs[:, -1, :] |> fc: dense[10]
}}

train Sequence {{
    input y: f32[N, 10]
    loss mse(output, y)
    optimizer adam[lr=0.01]
}}
"""
CARRIES = {"rnn": "_h", "lstm": "_h, _c", "gru": "_h"}


class SequenceTorch(nn.Module):
    """The same network in PyTorch."""

    def __init__(self, kind: str, width: int, hidden: int) -> None:
        super().__init__()
        make = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[kind]
        self.cell = make(width, hidden, batch_first=True)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.cell(x)[0][:, -1])


@dataclass(frozen=True, slots=True)
class Sequence:
    """A recurrent network over `steps` vectors of `width` numbers."""

    kind: str
    width: int
    hidden: int
    steps: int

    @property
    def source(self) -> str:
        return SEQUENCE.format(
            kind=self.kind, steps=self.steps, width=self.width, hidden=self.hidden,
            carries=CARRIES[self.kind],
        )  # fmt: skip

    def both(self, batch: int) -> tuple[SequenceTorch, dict[str, Any], Any, Any]:
        """PyTorch's network, its weights, an input and a target."""
        torch.manual_seed(0)
        net = SequenceTorch(self.kind, self.width, self.hidden)
        weights = {name: value.detach().numpy().copy() for name, value in net.named_parameters()}
        rng = np.random.default_rng(0)
        x = rng.standard_normal((batch, self.steps, self.width), dtype=np.float32)
        return net, weights, x, rng.standard_normal((batch, 10), dtype=np.float32)

    def name(self, what: str, batch: int) -> str:
        shape = f"{self.width} to {self.hidden}, {self.steps} steps"
        return f"{self.kind.upper()} {shape}, {what}, batch {batch}"

    def inference(self, batch: int, threads: int) -> Workload:
        net, weights, x, _ = self.both(batch)
        model = dslc.compile(self.source, weights=weights, threads=threads)
        return inference_of(self.name("inference", batch), model, net, x)

    def training(self, batch: int, threads: int) -> Workload:
        net, weights, x, y = self.both(batch)
        model = dslc.compile(self.source, train=True, weights=weights, threads=threads)
        tensor, target = torch.from_numpy(x), torch.from_numpy(y)
        return training_of(
            self.name("training step", batch),
            lambda: model.train_step(x=x, y=y).loss,
            torch.optim.Adam(net.parameters(), lr=0.01),
            lambda: nn.functional.mse_loss(net(tensor), target),
        )


ARTICLE_RNN = Sequence("rnn", 10, 50, 20)
LSTM = Sequence("lstm", 128, 256, 64)


# --- attention, and functions of rows -------------------------------------------------------------

ATTENTION = """
from std.attention import scaled_dot_product_attention

model Attention(
    q: f32[1, 12, {queries}, 64], k: f32[1, 12, {keys}, 64], v: f32[1, 12, {keys}, 64]
) -> f32[1, 12, {queries}, 64] {{
    return scaled_dot_product_attention[causal={causal}](q, k, v)
}}
"""
BLOCK = """
from std.attention import multi_head_attention

model Block(x: f32[1, 1024, 768]) -> f32[1, 1024, 768] {
    return x |> attention: multi_head_attention[12, causal=true]
}

train Block {
    input y: f32[1, 1024, 768]
    loss mse(output, y)
    optimizer sgd[lr=0.01]
}
"""


def attention(queries: int, keys: int, causal: bool, threads: int) -> Workload:
    """12 heads of 64."""
    rng = np.random.default_rng(0)
    sizes = (queries, keys, keys)
    q, k, v = (rng.standard_normal((1, 12, n, 64), dtype=np.float32) for n in sizes)
    source = ATTENTION.format(queries=queries, keys=keys, causal=str(causal).lower())
    model = dslc.compile(source, threads=threads)
    tensors = [torch.from_numpy(x) for x in (q, k, v)]

    def peer() -> torch.Tensor:
        with torch.inference_mode():
            return nn.functional.scaled_dot_product_attention(*tensors, is_causal=causal)

    error = float(np.abs(model(q, k, v) - peer().numpy()).max())
    name = f"attention of {queries} to {keys}{', causal' * causal}"
    return Workload(name, lambda: model(q, k, v), {"PyTorch eager": peer}, error)


def attention_training(threads: int) -> Workload:
    """A layer of causal multi-head attention over 1,024 vectors of 768."""
    torch.manual_seed(0)
    net = nn.MultiheadAttention(768, 12, batch_first=True)
    weights = {f"attention.{n}": p.detach().numpy().copy() for n, p in net.named_parameters()}
    model = dslc.compile(BLOCK, train=True, weights=weights, threads=threads)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((1, 1024, 768), dtype=np.float32) for _ in range(2))
    tensor, target = torch.from_numpy(x), torch.from_numpy(y)
    hidden = nn.Transformer.generate_square_subsequent_mask(1024)

    def loss() -> torch.Tensor:
        out, _ = net(tensor, tensor, tensor, attn_mask=hidden, is_causal=True, need_weights=False)
        return nn.functional.mse_loss(out, target)

    return training_of(
        "causal attention of 1024, training step", lambda: model.train_step(x=x, y=y).loss,
        torch.optim.SGD(net.parameters(), lr=0.01), loss,
    )  # fmt: skip


def rows(name: str, peer: nn.Module, count: int, width: int, threads: int) -> Workload:
    """A function (or layer) of the library over each row of a matrix."""
    source = f"""
model Rows(x: f32[R, {width}]) -> f32[R, {width}] {{
    return x |> {name}
}}
"""
    x = np.random.default_rng(0).standard_normal((count, width), dtype=np.float32)
    model = dslc.compile(source, threads=threads)
    return inference_of(f"{name}, {count} x {width}", model, peer.eval(), x)


ALL: tuple[Callable[[int], Workload], ...] = (
    lambda threads: inference(1, threads),
    lambda threads: inference(32, threads),
    lambda threads: training(32, threads),
    lambda threads: ARTICLE_RNN.inference(1, threads),
    lambda threads: ARTICLE_RNN.inference(64, threads),
    lambda threads: ARTICLE_RNN.training(64, threads),
    lambda threads: LSTM.inference(1, threads),
    lambda threads: LSTM.inference(16, threads),
    lambda threads: LSTM.training(16, threads),
    lambda threads: attention(128, 128, False, threads),
    lambda threads: attention(1024, 1024, False, threads),
    lambda threads: attention(1024, 1024, True, threads),
    lambda threads: attention(1, 1024, False, threads),
    attention_training,
    lambda threads: rows("softmax", nn.Softmax(-1), 128, 768, threads),
    lambda threads: rows("softmax", nn.Softmax(-1), 4096, 1024, threads),
    lambda threads: rows("layer_norm[]", nn.LayerNorm(768), 128, 768, threads),
    lambda threads: rows("layer_norm[]", nn.LayerNorm(1024), 4096, 1024, threads),
)
