"""The workloads of the GPU's table: networks in both languages, on the same inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import networks, workloads
from benchmarks.compare import labels, normal
from benchmarks.peers import Optimizer


@dataclass(frozen=True)
class Case:
    """A network in both languages, on the same inputs."""

    name: str
    source: Any  # text, or the path of a file
    net: Callable[[], nn.Module]
    inputs: tuple[torch.Tensor, ...]
    names: dict[str, str] | None = None
    dims: dict[str, tuple[int, ...]] | None = None
    settings: dict[str, Any] | None = None
    entry: str = "forward"
    precision: str = "f32"
    loss: Callable[..., torch.Tensor] | None = None
    how: Optimizer | None = None
    ours: tuple[torch.Tensor, ...] | None = None  # where they are not the peers' inputs

    @property
    def training(self) -> bool:
        return self.loss is not None

    @property
    def key(self) -> str:
        """Of the compiled model: cases of one model share it."""
        text = self.source if isinstance(self.source, str) else self.source.name
        parts = (text, self.dims, self.settings, self.training, self.precision)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


# --- the cases ------------------------------------------------------------------------------------


def _batch(*sizes: int) -> dict[str, tuple[int, ...]]:
    return {"N": sizes}


def _images(n: int) -> tuple[torch.Tensor, ...]:
    return (normal(n, 3, 224, 224),)


def _labelled(*dims: int) -> tuple[torch.Tensor, ...]:
    return normal(*dims), labels(dims[0])


def _gpt2(prompt: int | None) -> Case:
    past = workloads.PAST
    tokens = torch.randint(0, 50257, (1, past + 1), generator=torch.Generator().manual_seed(0))

    def net() -> nn.Module:
        torch.manual_seed(0)
        whole = networks.GPT2(12, 768, 12, 50257)
        return networks.Prefill(whole) if prompt else networks.Decode(whole, past)

    if prompt:
        inputs: tuple[torch.Tensor, ...] = (tokens[:, :prompt].contiguous(),)
        ours = (inputs[0], torch.zeros(1, dtype=torch.int64))
        name = f"GPT-2 small, first {prompt} tokens"
    else:
        cache = normal(12, 12, past, 64)
        inputs = (tokens[:, past:].contiguous(), cache, normal(12, 12, past, 64, seed=1))
        ours = (inputs[0], torch.full((1,), past, dtype=torch.int64))
        name = f"GPT-2 small, one token behind {past}"
    return Case(
        name, workloads.GPT2, net, inputs, None, {"B": (1,), "T": (workloads.PROMPT,)},
        {"drop": 0.0}, "prefill" if prompt else "decode", ours=ours,
    )  # fmt: skip


def _attention(queries: int, keys: int, causal: bool = False) -> Case:
    source = workloads.ATTENTION.format(queries=queries, keys=keys, causal=str(causal).lower())
    qkv = tuple(normal(1, 12, n, 64, seed=i) for i, n in enumerate((queries, keys, keys)))
    name = f"attention of {queries} to {keys}{', causal' * causal}"
    return Case(name, source, lambda: networks.Attention(causal), qkv)


def _rows(name: str, layer: str, net: Callable[[int], nn.Module], rows: int, width: int) -> Case:
    source = f"model Rows(x: f32[R, {width}]) -> f32[R, {width}] {{\n    return x |> {layer}\n}}\n"
    names = {"": "layer_norm."} if name == "layer norm" else None
    return Case(
        f"{name}, {rows} x {width}", source, lambda: net(width), (normal(rows, width),), names,
        {"R": (rows,)},
    )  # fmt: skip


PRODUCT = """
model Product(x: {dtype}[N, {size}]) -> {dtype}[N, {size}] {{
    return x |> fc: dense[{size}, bias=false]
}}
"""


def _product(size: int, precision: str = "f32") -> Case:
    source = PRODUCT.format(dtype="f32", size=size)
    return Case(
        f"matrix product {size}", source, lambda: nn.Linear(size, size, bias=False),
        (normal(size, size),), {"": "fc."}, _batch(size), precision=precision,
    )  # fmt: skip


def cases() -> Iterator[Case]:
    for n in (1, 32):
        yield Case(
            f"article CNN, batch {n}", workloads.ARTICLE, networks.article,
            (normal(n, 3, 112, 112),), workloads.ARTICLE_NAMES, _batch(1, 32),
        )  # fmt: skip
    for n in (1, 64):
        yield Case(
            f"MLP 784-512-512-10, batch {n}", workloads.MLP, networks.mlp, (normal(n, 784),),
            workloads.MLP_NAMES, _batch(1, 64),
        )  # fmt: skip
    for kind, sizes in ((workloads.ARTICLE_RNN, (1, 64)), (workloads.LSTM, (1, 16))):
        for n in sizes:
            yield Case(
                f"{kind.title}, batch {n}", kind.source, kind.net,
                (normal(n, kind.steps, kind.width),), kind.weights(kind.net()), _batch(*sizes),
            )  # fmt: skip
    for n in (1, 8):
        yield Case(
            f"encoder 6 x 384, 128 positions, batch {n}", workloads.ENCODER,
            lambda: networks.Encoder(6, 384, 12, 1536), (normal(n, 128, 384),), None,
            _batch(1, 8),
        )  # fmt: skip
    yield from (_gpt2(None), _gpt2(workloads.PROMPT))
    for n in (1, 8):
        yield Case(
            f"ResNet-18, batch {n}", workloads.MODELS / "resnet18.dl", workloads.resnet18,
            _images(n), None, _batch(1, 8),
        )  # fmt: skip
    yield from (_attention(128, 128), _attention(1024, 1024), _attention(1024, 1024, True))
    for size in workloads.SIZES:
        yield _rows("layer norm", "layer_norm[]", nn.LayerNorm, *size)
        yield _rows("softmax", "softmax", lambda _: nn.Softmax(-1), *size)
        yield _rows("GELU", "gelu", lambda _: nn.GELU(), *size)
    yield from (_product(1024), _product(4096))
    yield from _trainings()


def _trainings() -> Iterator[Case]:
    yield Case(
        "article CNN, training step of 32", workloads.ARTICLE, networks.article,
        _labelled(32, 3, 112, 112), workloads.ARTICLE_NAMES, _batch(32), entry="train_step",
        loss=F.cross_entropy, how=workloads.SGD,
    )  # fmt: skip
    yield Case(
        "MLP 784-512-512-10, training step of 64", workloads.MLP, networks.mlp,
        _labelled(64, 784), workloads.MLP_NAMES, _batch(64), entry="train_step",
        loss=F.cross_entropy, how=workloads.SGD,
    )  # fmt: skip
    lstm = workloads.LSTM
    yield Case(
        f"{lstm.title}, training step of 16", lstm.source, lstm.net,
        (normal(16, lstm.steps, lstm.width), normal(16, 10, seed=1)), lstm.weights(lstm.net()),
        _batch(16), entry="train_step", loss=F.mse_loss, how=Optimizer("adam", 0.01),
    )  # fmt: skip
    yield Case(
        "encoder 6 x 384, training step of 4, AdamW", workloads.ENCODER,
        lambda: networks.Encoder(6, 384, 12, 1536), _labelled(4, 128, 384), None, _batch(4),
        entry="train_step", loss=F.cross_entropy, how=Optimizer("adamw", 0.0001, 0.01),
    )  # fmt: skip
