"""The blocks of vision nets as PyTorch modules, with the names that torchvision has for them."""

from __future__ import annotations

from typing import Any

from library.against_torch import torch

nn, F = torch.nn, torch.nn.functional


def random_weights(module: Any) -> Any:
    torch.manual_seed(2)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
                part.weight.uniform_(0.5, 1.5)
                part.bias.normal_(0, 0.1)
    return module.eval()


def conv(width: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> Any:
    return nn.Conv2d(width, out, kernel, stride, kernel // 2, groups=groups, bias=False)


class Block(nn.Module):  # type: ignore[misc,name-defined]
    """torchvision's BasicBlock, or its Bottleneck when the inner width is given."""

    def __init__(
        self, width: int, out: int, stride: int = 1, inner: int | None = None, groups: int = 1
    ) -> None:
        super().__init__()
        if inner is None:
            convs = [conv(width, out, 3, stride), conv(out, out, 3)]
        else:
            convs = [
                conv(width, inner, 1),
                conv(inner, inner, 3, stride, groups),
                conv(inner, out, 1),
            ]
        self.count = len(convs)
        for i, part in enumerate(convs, 1):
            setattr(self, f"conv{i}", part)
            setattr(self, f"bn{i}", nn.BatchNorm2d(part.out_channels))
        self.downsample = None
        if stride != 1 or width != out:
            self.downsample = nn.Sequential(conv(width, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x: Any) -> Any:
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):  # type: ignore[misc,name-defined]
    """torchvision's ResNet of basic blocks, or of bottlenecks with `expansion` 4."""

    def __init__(
        self, depths: tuple[int, ...], classes: int, base: int = 64, expansion: int = 1
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, base, 7, 2, 3, bias=False), nn.BatchNorm2d(base)
        width = base
        for stage, depth in enumerate(depths):
            inner = base << stage
            out, blocks = inner * expansion, []
            for i in range(depth):
                stride = 2 if stage and not i else 1
                blocks.append(Block(width, out, stride, inner if expansion > 1 else None))
                width = out
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Any) -> Any:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
        return self.fc(x.mean((2, 3)))


class ConvNorm(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(
        self, width: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = F.relu
    ) -> None:
        super().__init__()
        self.conv = conv(width, out, kernel, stride, groups)
        self.norm, self.act = nn.BatchNorm2d(out), act

    def forward(self, x: Any) -> Any:
        return self.act(self.norm(self.conv(x)))


class SqueezeExcite(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, width: int, squeeze: int, act: Any = F.relu, gate: Any = torch.sigmoid):
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(width, squeeze, 1), nn.Conv2d(squeeze, width, 1)
        self.act, self.gate = act, gate

    def forward(self, x: Any) -> Any:
        return x * self.gate(self.fc2(self.act(self.fc1(F.adaptive_avg_pool2d(x, 1)))))


class InvertedResidual(nn.Module):  # type: ignore[misc,name-defined]
    """torchvision's block of MobileNetV2, under our names."""

    def __init__(
        self, width: int, out: int, stride: int = 1, expand: int = 6, squeeze: int = 0
    ) -> None:
        super().__init__()
        wide, self.short = width * expand, stride == 1 and width == out
        if expand != 1:
            self.expand = ConvNorm(width, wide, 1, act=F.relu6)
        self.depthwise = ConvNorm(wide, wide, 3, stride, wide, F.relu6)
        if squeeze:
            self.se = SqueezeExcite(wide, squeeze)
        self.project, self.norm = conv(wide, out, 1), nn.BatchNorm2d(out)

    def forward(self, x: Any) -> Any:
        y = self.depthwise(self.expand(x) if hasattr(self, "expand") else x)
        y = self.norm(self.project(self.se(y) if hasattr(self, "se") else y))
        return x + y if self.short else y


class PatchEmbedding(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, width: int, dim: int, patch: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(width, dim, patch, patch)

    def forward(self, x: Any) -> Any:
        return self.projection(x).flatten(2).transpose(1, 2)
