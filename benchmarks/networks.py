"""The networks of the workloads in PyTorch, as one writes them there."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

Tensor = torch.Tensor


def article() -> nn.Sequential:
    """The convolutional net of examples/article/cnn.dl."""
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 28 * 28, 100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def digits() -> nn.Sequential:
    """The net of examples/digits, without dropout."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(64 * 16, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
    )


class Sequence(nn.Module):
    """A recurrence over a batch of sequences, then a dense layer of its last state."""

    def __init__(self, kind: str, width: int, hidden: int, layers: int) -> None:
        super().__init__()
        make = {"rnn": nn.RNN, "lstm": nn.LSTM}[kind]
        self.cell = make(width, hidden, layers, batch_first=True)
        self.fc = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.cell(x)[0][:, -1])


class Encoder(nn.Module):
    """A transformer encoder, and classes from the mean of what it gives."""

    def __init__(self, layers: int, width: int, heads: int, feedforward: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, feedforward, 0.0, "gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class Attention(nn.Module):
    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)


class AttentionLayer(nn.Module):
    """A layer of causal self-attention with as many heads as PyTorch's class is given."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, steps, width = x.shape
        q, k, v = self.qkv(x).view(batch, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(batch, steps, width))


# --- images ---------------------------------------------------------------------------------------


def conv(width: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups, bias=False)


class Block(nn.Module):
    """A residual block: two 3x3 convolutions, or with an inner width a bottleneck."""

    def __init__(self, width: int, out: int, stride: int, inner: int | None) -> None:
        super().__init__()
        if inner is None:
            convs = [conv(width, out, 3, stride), conv(out, out, 3)]
        else:
            convs = [conv(width, inner, 1), conv(inner, inner, 3, stride), conv(inner, out, 1)]
        self.count = len(convs)
        for i, part in enumerate(convs, 1):
            setattr(self, f"conv{i}", part)
            setattr(self, f"bn{i}", nn.BatchNorm2d(part.out_channels))
        self.downsample = None
        if stride != 1 or width != out:
            self.downsample = nn.Sequential(conv(width, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """ResNet (He et al. 2015) with torchvision's names."""

    def __init__(self, depths: tuple[int, ...], bottleneck: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        width = 64
        for stage, depth in enumerate(depths):
            inner = 64 << stage
            out, blocks = inner * (4 if bottleneck else 1), []
            for i in range(depth):
                stride = 2 if stage and not i else 1
                blocks.append(Block(width, out, stride, inner if bottleneck else None))
                width = out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class ConvNorm(nn.Module):
    def __init__(self, width: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv, self.norm = conv(width, out, kernel, stride, groups), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.norm(self.conv(x)))


class InvertedResidual(nn.Module):
    def __init__(self, width: int, out: int, stride: int = 1, expand: int = 6) -> None:
        super().__init__()
        wide, self.short = width * expand, stride == 1 and width == out
        self.expand = ConvNorm(width, wide, 1) if expand != 1 else None
        self.depthwise = ConvNorm(wide, wide, 3, stride, wide)
        self.project, self.norm = conv(wide, out, 1), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x if self.expand is None else self.expand(x))
        y = self.norm(self.project(y))
        return x + y if self.short else y


class MobileNet(nn.Module):
    """MobileNetV2 (Sandler et al. 2018), with the names of examples/models/mobilenet.dl."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first = ConvNorm(3, 32, 3, 2), InvertedResidual(32, 16, expand=1)
        width = 16
        for stage, (out, count, stride) in enumerate(
            ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2)), 1
        ):
            blocks = []
            for i in range(count):
                blocks.append(InvertedResidual(width, out, stride if i == 0 else 1))
                width = out
            setattr(self, f"stage{stage}", nn.ModuleList(blocks))
        self.last, self.head = InvertedResidual(160, 320), ConvNorm(320, 1280, 1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.stem(x))
        for stage in range(1, 6):
            for block in getattr(self, f"stage{stage}"):
                x = block(x)
        return self.classifier(self.head(self.last(x)).mean((2, 3)))


class DoubleConv(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(width, out, 3), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = conv(out, out, 3), nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class UNet(nn.Module):
    """U-Net (Ronneberger et al. 2015), with the names of examples/models/unet.dl."""

    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in zip([3, *widths], widths[:-1]))
        self.bottom = DoubleConv(widths[-2], widths[-1])
        upwards = widths[-2::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in upwards)
        self.join = nn.ModuleList(DoubleConv(2 * w, w) for w in upwards)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips)):
            x = join(torch.cat([skip, up(x)], 1))
        return self.head(x)


# --- a decoder ------------------------------------------------------------------------------------


class Dense(nn.Module):
    """A dense layer whose weight is (in, out), as GPT-2's files have it."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(width, out))
        self.bias = nn.Parameter(torch.zeros(out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class GPT2Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict(
            {"c_attn": Dense(width, 3 * width), "c_proj": Dense(width, width)}
        )
        self.mlp = nn.ModuleDict(
            {"c_fc": Dense(width, 4 * width), "c_proj": Dense(4 * width, width)}
        )

    def forward(
        self, x: Tensor, keys: Tensor | None, values: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What comes out, and the keys and values to be kept. With `keys` and `values` of earlier
        tokens x is one more, and the cache is read where it lies, not copied."""
        steps, width = x.shape
        parts = self.attn["c_attn"](self.ln_1(x))
        q, k, v = parts.view(steps, 3, self.heads, -1).permute(1, 2, 0, 3).unbind(0)
        if keys is None or values is None:
            y = F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]
        else:
            q = q * (width // self.heads) ** -0.5
            scores = torch.cat([q @ keys.transpose(1, 2), q @ k.transpose(1, 2)], -1)
            weights = scores.softmax(-1)
            y = weights[..., :-1] @ values + weights[..., -1:] @ v
        x = x + self.attn["c_proj"](y.transpose(0, 1).reshape(steps, width))
        h = F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        return x + self.mlp["c_proj"](h), k, v


class GPT2(nn.Module):
    """GPT-2 (Radford et al. 2019), one sequence, the scores of the token that comes next."""

    def __init__(self, layers: int, width: int, heads: int, vocabulary: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(1024, width)
        self.h = nn.ModuleList(GPT2Block(width, heads) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        with torch.no_grad():
            self.wte.weight.mul_(0.02)
            self.wpe.weight.mul_(0.02)


class Prefill(nn.Module):
    """Of a whole beginning: tokens i64[1, T]."""

    def __init__(self, net: GPT2) -> None:
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.net.wte(tokens[0]) + self.net.wpe.weight[: tokens.shape[1]]
        kept = []
        for block in self.net.h:
            x, k, v = block(x, None, None)
            kept.append((k, v))
        keys, values = (torch.stack(part) for part in zip(*kept))
        return self.net.ln_f(x[-1:]) @ self.net.wte.weight.T, keys, values


class Decode(nn.Module):
    """Of one more token behind `past` others, whose keys and values (layers, heads, past, width)
    are given."""

    def __init__(self, net: GPT2, past: int) -> None:
        super().__init__()
        self.net, self.past = net, past

    def forward(self, token: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.net.wte(token[0]) + self.net.wpe.weight[self.past : self.past + 1]
        kept = []
        for i, block in enumerate(self.net.h):
            x, k, v = block(x, keys[i], values[i])
            kept.append((k, v))
        new_keys, new_values = (torch.stack(part) for part in zip(*kept))
        return self.net.ln_f(x) @ self.net.wte.weight.T, new_keys, new_values
