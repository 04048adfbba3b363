"""What is timed: the networks that people run, at sizes that they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import dslc
from benchmarks import networks, peers
from benchmarks.compare import (
    Case,
    Workload,
    difference,
    inference_of,
    labels,
    normal,
    training_of,
    weights_of,
)

EXAMPLES = Path(__file__).parent.parent / "examples"


# --- the article's networks, digits, an MLP -------------------------------------------------------

ARTICLE = EXAMPLES / "article" / "cnn.dl"
ARTICLE_NAMES = {"0.": "conv1.", "3.": "conv2.", "7.": "fc1.", "9.": "fc2."}
DIGITS = EXAMPLES / "digits" / "digits.dl"
DIGITS_NAMES = {
    "0.": "conv1.", "1.": "norm1.", "3.": "conv2.", "4.": "norm2.", "8.": "fc1.", "10.": "fc2.",
}  # fmt: skip
MLP = """
model MLP(x: f32[N, 784]) -> f32[N, 10] {
    return x |> fc1: dense[512] |> relu |> fc2: dense[512] |> relu |> fc3: dense[10]
}

train MLP {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.01]
}
"""
MLP_NAMES = {"0.": "fc1.", "2.": "fc2.", "4.": "fc3."}
SGD = peers.Optimizer("sgd", 0.01)


def article(batch: int) -> Case:
    def make(threads: int, wanted: Sequence[str]) -> Workload:
        torch.manual_seed(0)
        image = normal(batch, 3, 112, 112)
        return inference_of(
            ARTICLE, networks.article(), [image], threads, wanted, ARTICLE_NAMES, {"N": (batch,)}
        )

    return Case(f"article CNN, batch {batch}", "inference", make)


def article_training(batch: int) -> Case:
    def make(threads: int, wanted: Sequence[str]) -> Workload:
        torch.manual_seed(0)
        data = {"image": normal(batch, 3, 112, 112), "label": labels(batch)}
        return training_of(
            ARTICLE, networks.article(), F.cross_entropy, [data], SGD, threads, wanted,
            ARTICLE_NAMES, {"N": (batch,)},
        )  # fmt: skip

    return Case(f"article CNN, training step of {batch}", "training", make)


def digits_training(steps: int) -> Case:
    def make(threads: int, wanted: Sequence[str]) -> Workload:
        torch.manual_seed(0)
        source = DIGITS.read_text().replace(
            "adamw[lr=cosine[0.003, warmup=23, total=690], weight_decay=0.01]",
            "adamw[lr=0.003, weight_decay=0.01]",
        )
        batches = [
            {"image": normal(64, 1, 8, 8, seed=seed), "label": labels(64)} for seed in range(steps)
        ]
        how = peers.Optimizer("adamw", 0.003, 0.01)
        # The net takes images of 0..16; PyTorch's here takes them as they are.
        return training_of(
            source.replace("image / 16.0", "image"), networks.digits(), F.cross_entropy, batches,
            how, threads, wanted, DIGITS_NAMES, {"N": (64,)}, {"drop": 0.0}, steps,
        )  # fmt: skip

    what = "training step of 64" if steps == 1 else f"an epoch: {steps} steps of 64"
    return Case(f"digits CNN, {what}", "training", make)


def mlp(batch: int) -> Case:
    def make(threads: int, wanted: Sequence[str]) -> Workload:
        torch.manual_seed(0)
        x = normal(batch, 784)
        return inference_of(MLP, networks.mlp(), [x], threads, wanted, MLP_NAMES, {"N": (batch,)})

    return Case(f"MLP 784-512-512-10, batch {batch}", "inference", make)


def mlp_training(batch: int) -> Case:
    def make(threads: int, wanted: Sequence[str]) -> Workload:
        torch.manual_seed(0)
        data = {"x": normal(batch, 784), "label": labels(batch)}
        return training_of(
            MLP, networks.mlp(), F.cross_entropy, [data], SGD, threads, wanted, MLP_NAMES,
            {"N": (batch,)},
        )  # fmt: skip

    return Case(f"MLP 784-512-512-10, training step of {batch}", "training", make)


# --- recurrent networks ---------------------------------------------------------------------------

SEQUENCE = """
from std.recurrent import {kind}

model Sequence(x: f32[N, {steps}, {width}]) -> f32[N, 10] {{
    {layers}
    return hs[:, -1, :] |> fc: dense[10]
}}

train Sequence {{
    input y: f32[N, 10]
    loss mse(output, y)
    optimizer adam[lr=0.01]
}}
"""
CARRIES = {"rnn": "_h", "lstm": "_h, _c"}


@dataclass(frozen=True, slots=True)
class Recurrent:
    """A recurrent network over `steps` vectors of `width` numbers."""

    title: str
    kind: str
    width: int
    hidden: int
    layers: int
    steps: int

    @property
    def source(self) -> str:
        lines, x = [], "x"
        for i in range(self.layers):
            lines.append(f"hs, {CARRIES[self.kind]} = {x} |> cell{i}: {self.kind}[{self.hidden}]")
            x = "hs"
        return SEQUENCE.format(
            kind=self.kind, steps=self.steps, width=self.width, layers="\n    ".join(lines)
        )

    def net(self) -> networks.Sequence:
        torch.manual_seed(0)
        return networks.Sequence(self.kind, self.width, self.hidden, self.layers)

    def weights(self, net: nn.Module) -> dict[str, str]:
        """Layer i of PyTorch's module is our cell{i}."""
        return {
            f"cell.{part}_l{i}": f"cell{i}.{part}_l0"
            for i in range(self.layers)
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }

    def inference(self, batch: int) -> Case:
        def make(threads: int, wanted: Sequence[str]) -> Workload:
            net, x = self.net(), normal(batch, self.steps, self.width)
            return inference_of(
                self.source, net, [x], threads, wanted, self.weights(net), {"N": (batch,)}
            )

        return Case(f"{self.title}, batch {batch}", "inference", make)

    def training(self, batch: int) -> Case:
        def make(threads: int, wanted: Sequence[str]) -> Workload:
            net = self.net()
            data = {"x": normal(batch, self.steps, self.width), "y": normal(batch, 10, seed=1)}
            return training_of(
                self.source, net, F.mse_loss, [data], peers.Optimizer("adam", 0.01), threads,
                wanted, self.weights(net), {"N": (batch,)},
            )  # fmt: skip

        return Case(f"{self.title}, training step of {batch}", "training", make)


ARTICLE_RNN = Recurrent("RNN 10-50, 20 steps", "rnn", 10, 50, 1, 20)
LSTM = Recurrent("LSTM 128-256-256, 64 steps", "lstm", 128, 256, 2, 64)


# --- transformers ---------------------------------------------------------------------------------

ENCODER = """
from std.transformer import transformer_encoder

model Encoder(x: f32[N, 128, 384]) -> f32[N, 10] {
    x = x |> encoder: transformer_encoder[6, 12, 1536, drop=0.0, act=gelu]
    return mean[axis=1](x) |> head: dense[10]
}

train Encoder {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer adamw[lr=0.0001, weight_decay=0.01]
}
"""
ATTENTION = """
from std.attention import scaled_dot_product_attention

model Attention(
    q: f32[1, 12, {queries}, 64], k: f32[1, 12, {keys}, 64], v: f32[1, 12, {keys}, 64]
) -> f32[1, 12, {queries}, 64] {{
    return scaled_dot_product_attention[causal={causal}](q, k, v)
}}
"""
LAYER = """
from std.attention import join_heads, scaled_dot_product_attention, split_heads

model Layer(x: f32[N, 1024, 768]) -> f32[N, 1024, 768] {
    q, k, v = x |> qkv: dense[3 * 768] |> split_thirds
    y = scaled_dot_product_attention[causal=true](
        split_heads[12](q), split_heads[12](k), split_heads[12](v)
    )
    return join_heads(y) |> out: dense[768]
}

fn split_thirds(x: float[N, T, 3 * D]) -> (float[N, T, D], float[N, T, D], float[N, T, D]) {
    return x[:, :, :D], x[:, :, D:2 * D], x[:, :, 2 * D:]
}

train Layer {
    input y: f32[N, 1024, 768]
    loss mse(output, y)
    optimizer sgd[lr=0.01]
}
"""
GPT2 = EXAMPLES / "models" / "gpt2.dl"
PAST, PROMPT = 256, 128


def encoder(batch: int) -> Case:
    def make(threads: int, wanted: Sequence[str]) -> Workload:
        torch.manual_seed(0)
        net, x = networks.Encoder(6, 384, 12, 1536), normal(batch, 128, 384)
        return inference_of(ENCODER, net, [x], threads, wanted, None, {"N": (batch,)})

    return Case(f"encoder 6 x 384, 128 positions, batch {batch}", "inference", make)


def encoder_training(batch: int) -> Case:
    def make(threads: int, wanted: Sequence[str]) -> Workload:
        torch.manual_seed(0)
        net = networks.Encoder(6, 384, 12, 1536)
        data = {"x": normal(batch, 128, 384), "label": labels(batch)}
        how = peers.Optimizer("adamw", 0.0001, 0.01)
        return training_of(
            ENCODER, net, F.cross_entropy, [data], how, threads, wanted, None, {"N": (batch,)}
        )

    return Case(f"encoder 6 x 384, training step of {batch}, AdamW", "training", make)


def attention(queries: int, keys: int, causal: bool = False) -> Case:
    """12 heads of 64."""

    def make(threads: int, wanted: Sequence[str]) -> Workload:
        qkv = [normal(1, 12, n, 64, seed=i) for i, n in enumerate((queries, keys, keys))]
        source = ATTENTION.format(queries=queries, keys=keys, causal=str(causal).lower())
        return inference_of(source, networks.Attention(causal), qkv, threads, wanted)

    return Case(f"attention of {queries} to {keys}{', causal' * causal}", "inference", make)


def attention_training() -> Case:
    def make(threads: int, wanted: Sequence[str]) -> Workload:
        torch.manual_seed(0)
        data = {"x": normal(1, 1024, 768), "y": normal(1, 1024, 768, seed=1)}
        return training_of(
            LAYER, networks.AttentionLayer(768, 12), F.mse_loss, [data], SGD, threads, wanted,
            None, {"N": (1,)},
        )  # fmt: skip

    return Case("causal attention layer, 1024 x 768, training step", "training", make)


def _gpt2(threads: int, wanted: Sequence[str], prompt: int | None) -> Workload:
    torch.manual_seed(0)
    net = networks.GPT2(12, 768, 12, 50257).eval()
    weights = {f"net.{name}": value for name, value in weights_of(net).items()}
    model = dslc.compile(
        GPT2, set={"drop": 0.0}, weights=weights, threads=threads,
        dims={"B": (1,), "T": (PROMPT,)} if prompt else {"B": (1,)},
    )  # fmt: skip
    tokens = torch.randint(0, 50257, (1, PAST + 1), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, keys, values = networks.Prefill(net)(tokens[:, :PAST])
    start = np.zeros(1, np.int64)
    if prompt:
        given = tokens[:, :prompt].contiguous()
        calls, missing = peers.inference(networks.Prefill(net), [given], threads, wanted)
        array = given.numpy()

        def ours() -> Any:
            return model.prefill(array, start)
    else:
        last = tokens[:, PAST:].contiguous()
        module = networks.Decode(net, PAST)
        calls, missing = peers.inference(module, [last, keys, values], threads, wanted)
        model.prefill(tokens[:, :PAST].numpy().copy(), start)
        array, past = last.numpy(), start + PAST

        def ours() -> Any:
            return model.decode(array, past)

    found = ours()
    errors = {name: difference(found, peers.first(call())) for name, call in calls.items()}
    return Workload(ours, calls, errors, missing)


GPT2_CASES = (
    Case(f"GPT-2 small, one token behind {PAST}", "inference", lambda t, w: _gpt2(t, w, None)),
    Case(f"GPT-2 small, first {PROMPT} tokens", "inference", lambda t, w: _gpt2(t, w, PROMPT)),
)


# --- images ---------------------------------------------------------------------------------------

MODELS = EXAMPLES / "models"


def images(name: str, file: str, make_net: Callable[[], nn.Module], batch: int) -> Case:
    def make(threads: int, wanted: Sequence[str]) -> Workload:
        torch.manual_seed(0)
        image = normal(batch, 3, 224, 224)
        return inference_of(
            MODELS / file, make_net(), [image], threads, wanted, None, {"N": (batch,)}
        )

    return Case(f"{name}, batch {batch}", "inference", make)


def resnet18() -> nn.Module:
    return networks.ResNet((2, 2, 2, 2), bottleneck=False)


def resnet50() -> nn.Module:
    return networks.ResNet((3, 4, 6, 3), bottleneck=True)


def unet_loss(output: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Cross-entropy and dice, as in examples/models/unet.dl."""
    p = output.softmax(1).permute(0, 2, 3, 1).flatten(1)
    target = F.one_hot(label, 2).flatten(1).to(torch.float32)
    both = (p * target).sum(1)
    dice = 1 - ((2 * both + 1) / (p.sum(1) + target.sum(1) + 1)).mean()
    return F.cross_entropy(output, label) + dice


def unet_training() -> Case:
    def make(threads: int, wanted: Sequence[str]) -> Workload:
        torch.manual_seed(0)
        data = {
            "image": normal(2, 3, 256, 256),
            "label": labels(2 * 256 * 256, 2).view(2, 256, 256),
        }
        how = peers.Optimizer("adamw", 0.001, 0.01)
        source = (MODELS / "unet.dl").read_text()
        return training_of(
            source.replace("adamw[lr=0.001]", "adamw[lr=0.001, weight_decay=0.01]"),
            networks.UNet(2, 16, 4), unet_loss, [data], how, threads, wanted, None, {"N": (2,)},
            {"width": 16},
        )  # fmt: skip

    return Case("U-Net, width 16, 256 x 256, training step of 2", "training", make)


# --- functions of rows ----------------------------------------------------------------------------


def rows(
    name: str, layer: str, make_net: Callable[[int], nn.Module], count: int, width: int
) -> Case:
    """A function (or layer) of the library over each row of a matrix."""

    def make(threads: int, wanted: Sequence[str]) -> Workload:
        source = f"""
model Rows(x: f32[R, {width}]) -> f32[R, {width}] {{
    return x |> {layer}
}}
"""
        x = normal(count, width)
        names = {"": "layer_norm."} if name == "layer norm" else None
        return inference_of(source, make_net(width), [x], threads, wanted, names, {"R": (count,)})

    return Case(f"{name}, {count} x {width}", "inference", make)


SIZES = ((128, 768), (4096, 1024))
CASES: tuple[Case, ...] = (
    article(1), article(32), article_training(32),
    ARTICLE_RNN.inference(1), ARTICLE_RNN.inference(64), ARTICLE_RNN.training(64),
    LSTM.inference(1), LSTM.inference(16), LSTM.training(16),
    digits_training(1), digits_training(22),
    encoder(1), encoder(8), encoder_training(4),
    *GPT2_CASES,
    *(images("ResNet-18", "resnet18.dl", resnet18, batch) for batch in (1, 8)),
    *(images("ResNet-50", "resnet50.dl", resnet50, batch) for batch in (1, 8)),
    images("MobileNetV2", "mobilenet.dl", networks.MobileNet, 1),
    attention(128, 128), attention(1024, 1024), attention(1024, 1024, causal=True),
    attention(1, 1024), attention_training(),
    mlp(1), mlp(64), mlp_training(64),
    *(rows("layer norm", "layer_norm[]", nn.LayerNorm, *size) for size in SIZES),
    *(rows("softmax", "softmax", lambda _: nn.Softmax(-1), *size) for size in SIZES),
    *(rows("GELU", "gelu", lambda _: nn.GELU(), *size) for size in SIZES),
    unet_training(),
)  # fmt: skip
