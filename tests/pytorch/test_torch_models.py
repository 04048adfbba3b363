"""The models of examples/models against the same modules in PyTorch, from the same weights.

The results agree to 1e-4 of their greatest number, evaluated and compiled, and so do one model's
loss and gradients in a training step. Sizes are small: compiling and evaluating take time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library.against_torch import numbers, torch
from library.vision_modules import ConvNorm, InvertedResidual, ResNet, conv, random_weights

import dslc
from dslc.ir.core import Program
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

nn, F = torch.nn, torch.nn.functional

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_cpu")]

MODELS = Path(__file__).parents[2] / "examples" / "models"


class MobileNet(nn.Module):  # type: ignore[misc,name-defined]
    """torchvision's MobileNetV2 at a quarter of its width, under our names."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = ConvNorm(3, 8, 3, 2, act=F.relu6)
        self.first = InvertedResidual(8, 4, expand=1)
        width = 4
        for stage, (out, count, stride) in enumerate(
            ((6, 2, 2), (8, 3, 2), (16, 4, 2), (24, 3, 1), (40, 3, 2)), 1
        ):
            blocks = []
            for i in range(count):
                blocks.append(InvertedResidual(width, out, stride if i == 0 else 1))
                width = out
            setattr(self, f"stage{stage}", nn.ModuleList(blocks))
        self.last = InvertedResidual(40, 80)
        self.head = ConvNorm(80, 320, 1, act=F.relu6)
        self.classifier = nn.Linear(320, classes)

    def forward(self, x: Any) -> Any:
        x = self.first(self.stem(x))
        for stage in range(1, 6):
            for block in getattr(self, f"stage{stage}"):
                x = block(x)
        return self.classifier(self.head(self.last(x)).mean((2, 3)))


class DoubleConv(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = conv(width, out, 3), nn.BatchNorm2d(out)
        self.conv2, self.norm2 = conv(out, out, 3), nn.BatchNorm2d(out)

    def forward(self, x: Any) -> Any:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class UNet(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, classes: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(DoubleConv(a, b) for a, b in zip([3, *widths], widths[:-1]))
        self.bottom = DoubleConv(widths[-2], widths[-1])
        upwards = widths[-2::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, 2) for w in upwards)
        self.join = nn.ModuleList(DoubleConv(2 * w, w) for w in upwards)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Any) -> Any:
        skips = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = F.max_pool2d(x, 2)
        x = self.bottom(x)
        for up, join, skip in zip(self.up, self.join, reversed(skips)):
            x = join(torch.cat([skip, up(x)], 1))
        return self.head(x).permute(0, 2, 3, 1)


class Encoder(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self, vocabulary: int, width: int, layers: int, heads: int, classes: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        norm = nn.LayerNorm(width)
        self.encoder = nn.TransformerEncoder(layer, layers, norm, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Any, length: Any) -> Any:
        (_, steps), width = tokens.shape, self.embed.embedding_dim
        angle = torch.arange(steps)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
        places = torch.stack([angle.sin(), angle.cos()], -1).reshape(steps, width)
        padding = torch.arange(steps) >= length[:, None]
        x = self.embed(tokens) * width**0.5 + places
        y = self.encoder(x, src_key_padding_mask=padding)
        y = y.masked_fill(padding[..., None], 0)
        return self.head(y.sum(1) / length[:, None])


@dataclass(frozen=True)
class Case:
    """The module, the inputs, what `--set` gives. Compiling all 50 convolutions of MobileNet takes
    half a minute: its block is compiled in tests/library/test_compiled_layers.py."""

    module: Callable[[], Any]
    inputs: dict[str, Any]
    settings: dict[str, int] = field(default_factory=dict)
    compiled: bool = True


CASES = {
    "resnet18": Case(
        lambda: ResNet((2, 2, 2, 2), 10),
        {"image": numbers(2, 3, 64, 64)},
        {"size": 64, "classes": 10},
    ),
    "resnet50": Case(
        lambda: ResNet((3, 4, 6, 3), 10, base=16, expansion=4),
        {"image": numbers(2, 3, 64, 64)},
        {"size": 64, "classes": 10, "width": 16},
        compiled=False,
    ),
    "mobilenet": Case(
        lambda: MobileNet(10),
        {"image": numbers(2, 3, 64, 64)},
        {"size": 64, "classes": 10, "width": 25},
        compiled=False,
    ),
    "unet": Case(
        lambda: UNet(3, 8, 2),
        {"image": numbers(2, 3, 16, 16)},
        {"size": 16, "classes": 3, "width": 8, "depth": 2},
        compiled=False,
    ),
    "encoder": Case(
        lambda: Encoder(50, 32, 1, 4, 5),
        {
            "tokens": np.random.default_rng(0).integers(0, 50, (3, 9)),
            "length": np.array([9, 4, 1]),
        },
        {"vocabulary": 50, "D": 32, "layers": 1},
    ),
}


def module(case: Case) -> Any:
    torch.manual_seed(0)
    return random_weights(case.module())


def weights(net: Any) -> dict[str, Any]:
    """PyTorch's weights and running statistics under PyTorch's names, which are ours."""
    return {
        name: tensor.detach().numpy().copy()
        for name, tensor in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }


def elaborated(name: str) -> Program:
    path = MODELS / f"{name}.dl"
    program, found = elaborate(SourceFile(path.name, path.read_text()), None, CASES[name].settings)
    assert program is not None, [d.title for d in found]
    return program


@pytest.mark.parametrize("name", CASES)
def test_forward(name: str) -> None:
    case = CASES[name]
    net = module(case)
    with torch.no_grad():
        wanted = net(*map(torch.tensor, case.inputs.values())).numpy()
    program, given = elaborated(name), weights(net)
    assert {n: v.shape for n, v in initial_variables(program, 0).items()} == {
        n: v.shape for n, v in given.items()
    }
    scale = np.abs(wanted).max()
    evaluated = run_entry(program, "forward", given, case.inputs)[0]["output"]
    np.testing.assert_allclose(evaluated / scale, wanted / scale, atol=1e-4)
    if not case.compiled:
        return
    model = dslc.compile(MODELS / f"{name}.dl", set=case.settings, weights=given)
    np.testing.assert_allclose(model(**case.inputs) / scale, wanted / scale, atol=1e-4)


def test_a_training_step_of_the_unet() -> None:
    """The result, the loss, and every weight after a step of plain SGD, moved by its gradient."""
    case = replace(
        CASES["unet"],
        module=lambda: UNet(3, 8, 1),
        settings={**CASES["unet"].settings, "depth": 1},
    )
    text = (MODELS / "unet.dl").read_text().replace("adamw[lr=0.001]", "sgd[lr=0.5]")
    assert "sgd[lr=0.5]" in text
    net = module(case)
    label = np.random.default_rng(5).integers(0, 3, (2, 16, 16))
    model = dslc.compile(text, train=True, set=case.settings, weights=weights(net))
    image = torch.tensor(case.inputs["image"])
    with torch.no_grad():
        np.testing.assert_allclose(model(**case.inputs), net(image).numpy(), rtol=1e-4, atol=1e-4)
    loss = model.train_step(**case.inputs, label=label).loss
    logits = net.train()(image)
    target = torch.tensor(label)
    p, one_hot = logits.softmax(-1).flatten(1), F.one_hot(target, 3).flatten(1)
    both = (p * one_hot).sum(1)
    dice = 1 - ((2 * both + 1) / (p.sum(1) + one_hot.sum(1) + 1)).mean()
    expected = F.cross_entropy(logits.permute(0, 3, 1, 2), target) + dice
    before = {name: parameter.detach().numpy().copy() for name, parameter in net.named_parameters()}
    expected.backward()
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    for name, parameter in net.named_parameters():
        gradient = (before[name] - model.weights[name]) / 0.5
        wanted = parameter.grad.numpy()
        scale = max(np.abs(wanted).max(), 1e-3)
        np.testing.assert_allclose(gradient / scale, wanted / scale, atol=1e-3, err_msg=name)
    for name in ("down.0.norm1.running_mean", "join.0.norm2.running_var"):
        np.testing.assert_allclose(
            model.weights[name], net.state_dict()[name].numpy(), rtol=1e-4, atol=1e-6
        )
