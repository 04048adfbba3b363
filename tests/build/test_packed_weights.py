"""Weights that were packed take no memory of their own any more, and are there when asked for."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

import dslc_runtime
from dslc.build import session
from dslc.build.target import cpu_target
from dslc.source import SourceFile

NET = """
model Net(x: f32[N in 1..64, 1024]) -> f32[N, 1024] {
    return x |> a: dense[2048] |> relu |> b: dense[1024]
}

train Net {
    loss mean(output ** 2)
    optimizer sgd[lr=0.01]
}
"""
BYTES = 2 * 2048 * 1024 * 4


def resident(path: Path) -> int:
    """Bytes of a mapped file that are in memory."""
    _, _, mapping = Path("/proc/self/smaps").read_text().partition(f"{path}\n")
    found = re.search(r"^Rss: *(\d+) kB", mapping, re.M)
    assert found is not None
    return int(found[1]) << 10


@pytest.mark.skipif(sys.platform != "linux", reason="another system tells it in another way")
@pytest.mark.parametrize("training", [False, True])
def test_packed_weights_are_read_from_the_file_again(tmp_path: Path, training: bool) -> None:
    source, path = SourceFile("net.dl", NET), tmp_path / "net.dlc"
    built = session.build_source(source, [cpu_target(threads=1)], training=training)
    session.write(built, path, source, None, seed=4)
    model = dslc_runtime.load(path, threads=1)
    x = np.random.default_rng(0).standard_normal((8, 1024), np.float32)
    y = model(x)
    assert (resident(path) < BYTES // 4) is not training  # a step reads and changes them
    a, b = (np.asarray(model.weights[f"{name}.weight"]).T for name in "ab")
    hidden = np.maximum(x @ a + model.weights["a.bias"], 0)
    np.testing.assert_allclose(y, hidden @ b + model.weights["b.bias"], rtol=1e-4, atol=1e-4)
    model.load_weights({"a.bias": model.weights["a.bias"] + 1}, missing=["*"])
    hidden = np.maximum(x @ a + model.weights["a.bias"], 0)
    expected = hidden @ b + model.weights["b.bias"]
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-4)
