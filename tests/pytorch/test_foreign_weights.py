"""A PyTorch state dict loaded through `weights` rules gives PyTorch's results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc
from dslc_runtime import safetensors

torch = pytest.importorskip("torch", reason="PyTorch is not installed (pip install '.[torch]')")
nn = torch.nn

pytestmark = [pytest.mark.torch, pytest.mark.usefixtures("one_cpu")]

SOURCE = """
layer block[D](x: float[N, D]) -> float[N, D] {
    return x + (x |> norm: layer_norm[] |> up: dense[2 * D] |> relu |> down: dense[D])
}
model Net(x: f32[N, 8]) -> f32[N, 3] {
    x = x |> stem: dense[8] |> scale: batch_norm[]
    for i in 0..2 { x = x |> blocks: block[8] }
    return x |> head: dense[3]
}
weights Net {
    stem.* <- "features.0.*"
    scale.* <- "features.1.*"
    blocks.{i}.up.* <- "layers.{i}.mlp.0.*"
    blocks.{i}.down.* <- "layers.{i}.mlp.2.*"
    blocks.{i}.norm.* <- "layers.{i}.norm.*"
    head.* <- "classifier.*"
    _ <- "aux.*"
}
"""


class Block(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8))

    def forward(self, x: Any) -> Any:
        return x + self.mlp(self.norm(x))


class Net(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
        self.layers = nn.ModuleList([Block(), Block()])
        self.classifier = nn.Linear(8, 3)
        self.aux = nn.Linear(8, 2)

    def forward(self, x: Any) -> Any:
        x = self.features(x)
        for layer in self.layers:
            x = layer(x)
        return self.classifier(x)


def test_state_dict(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = Net()
    net(torch.randn(32, 8))  # moves the running mean
    net.eval()
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    state: Mapping[str, Any] = {k: v.numpy() for k, v in net.state_dict().items()}
    path = tmp_path / "pytorch.safetensors"
    safetensors.save(path, state, {})
    model = dslc.compile(SOURCE, weights=path)
    expected = net(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-5)
    assert model.report is not None
    assert model.report.notes == ()

    # Saved under its own names, it loads again; so does the foreign file, now in half precision.
    model.save_weights(tmp_path / "own.safetensors")
    assert "blocks.1.up.weight" in safetensors.load(tmp_path / "own.safetensors")[0]
    half = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in state.items()}
    safetensors.save(path, half, {})
    assert model.load_weights(path).notes == ("20 tensors converted from f16 to f32",)
    np.testing.assert_allclose(model(x), expected, rtol=0.02, atol=0.02)
    model.load_weights(tmp_path / "own.safetensors")
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-5)

    lacking = {k: v for k, v in half.items() if k != "layers.1.mlp.0.bias"}
    with pytest.raises(dslc.ArgumentError) as caught:
        model.load_weights({**lacking, "layers.1.mlp.0.biases": half["aux.bias"]})
    assert str(caught.value).splitlines()[1:] == [
        "  missing: layers.1.mlp.0.bias (for blocks.1.up.bias): f32[16] "
        "(the file has 'layers.1.mlp.0.biases')",
        "  extra: layers.1.mlp.0.biases: f16[2] (the model has 'layers.1.mlp.0.bias')",
    ]
