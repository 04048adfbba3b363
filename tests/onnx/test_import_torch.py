"""What PyTorch exports comes in, with dynamic dims, and gives PyTorch's numbers."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.onnx_suite import evaluated
from dslc.onnx.reading.importing import Imported, import_file

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[torch]')")
nn = torch.nn

pytestmark = pytest.mark.torch


class Residual(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.bn1(self.conv1(x)))
        return self.fc(torch.flatten(self.pool(y + self.conv2(y)), 1))


class Attending(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16)
        self.position = nn.Parameter(torch.randn(1, 20, 16))
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, tokens: Any) -> Any:
        b, t = tokens.shape
        x = self.embed(tokens) + self.position[:, :t]
        q, k, v = self.qkv(self.norm(x)).view(b, t, 3, 2, 8).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(seen.transpose(1, 2).reshape(b, t, 16))


class Recurrent(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8, 2, batch_first=True, bidirectional=True)
        self.gru = nn.GRU(16, 4, batch_first=True)

    def forward(self, x: Any) -> Any:
        steps, last = self.gru(self.lstm(x)[0])
        return steps[:, -1], last


class Outputs(nn.Module):  # type: ignore[misc,name-defined]
    """The first result of a module."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any) -> Any:
        return self.module(x)[0]


def export(
    module: Any, path: Path, x: Any, dims: dict[int, str], dynamo: bool = False
) -> tuple[Imported, list[Any]]:
    """The imported model, and what PyTorch gives for `x`; `dynamo`: by its newer exporter."""
    module.eval()
    with torch.no_grad():
        wanted = module(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given: dict[str, Any] = {"dynamic_axes": {"x": dims}}
        if dynamo:
            given = {"dynamic_shapes": {"x": {i: torch.export.Dim(dims[i]) for i in dims}}}
        torch.onnx.export(module, (x,), path, dynamo=dynamo, input_names=["x"], **given)
    results = wanted if isinstance(wanted, tuple) else (wanted,)
    return import_file(path), [result.numpy() for result in results]


CASES: dict[str, tuple[Any, Any, dict[int, str], tuple[str, ...]]] = {
    "residual": (
        Residual,
        lambda: torch.randn(2, 3, 16, 16),
        {0: "batch", 2: "h", 3: "w"},
        ("|> conv1: conv2d[8, kernel=3, stride=2, padding=1", "|> fc: dense[5]"),
    ),
    "attending": (
        Attending,
        lambda: torch.randint(0, 50, (3, 7)),
        {0: "batch", 1: "time"},
        ("|> embed: embedding[50, 16]", "|> norm: layer_norm[]", "|> qkv: dense[48]"),
    ),
    "recurrent": (
        Recurrent,
        lambda: torch.randn(3, 5, 6),
        {0: "batch", 1: "time"},
        ("lstm[8, bidirectional=true]", "gru[4]"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_pytorch_exports(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, inputs, dims, words = CASES[name]
    x = inputs()
    found, wanted = export(make(), tmp_path / "net.onnx", x, dims)
    assert all(word in found.text for word in words), found.text
    assert found.fixed == {}
    for dim in dims.values():
        assert dim.upper() in found.inputs[0]
    for got, want in zip(evaluated(found.text, found.weights)([x.numpy()]), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_large_recurrent_layers_by_the_newer_exporter(tmp_path: Path) -> None:
    """It computes their weights by nodes."""
    pytest.importorskip("onnxscript", reason="PyTorch's newer exporter needs onnxscript")
    torch.manual_seed(0)
    module, x = nn.LSTM(24, 64, batch_first=True, bidirectional=True), torch.randn(3, 5, 24)
    found, wanted = export(Outputs(module), tmp_path / "net.onnx", x, {0: "batch"}, dynamo=True)
    assert "lstm[64, bidirectional=true]" in found.text
    for got, want in zip(evaluated(found.text, found.weights)([x.numpy()]), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
