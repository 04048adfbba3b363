"""`memory=`: a training step in less of it, from source to numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import dslc
from dslc.build import session
from dslc.build.target import TargetError, parse_bytes, parse_targets, with_memory
from dslc.source import SourceFile
from dslc_runtime import Trainer

SOURCE = """
model Deep(x: f32[N, 48]) -> f32[N, 48] {
    for i in 0..6 {
        x = x |> layers: dense[48] |> tanh
    }
    return x
}

train Deep {
    input y: f32[N, 48]
    loss mse(output, y)
    optimizer sgd[lr=0.1]
}
"""


LIMIT = 330_000
SIZES = {"N": (256,)}


def trained(memory: int | str | None) -> tuple[int, list[float], Any]:
    """Bytes of the training step's arena, its losses, and the weights behind it."""
    targets = with_memory(parse_targets("cpu", None, None, 1), memory, SIZES)
    source = SourceFile("deep.dl", SOURCE)
    built = session.build_source(source, targets, training=True, here=True, sizes=SIZES)
    steps = (e for e in built.summary.entries if e.name == "train_step[N=256]")
    model = Trainer(session.load_built(built, None, 0, 1), 0)
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((256, 48), dtype=np.float32) for _ in range(2))
    losses = [model.train_step(x=x, y=y).loss for _ in range(3)]
    return int(next(steps).arena), losses, {n: w.copy() for n, w in model.weights.items()}


def test_a_training_step_fits_and_learns_the_same() -> None:
    size, losses, weights = trained(None)
    less, ours, fitted = trained(f"{LIMIT // 1000}kB")
    assert less <= LIMIT < size
    np.testing.assert_allclose(ours, losses, rtol=1e-6)
    for name, array in weights.items():
        np.testing.assert_allclose(fitted[name], array, rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_least_is_told() -> None:
    with pytest.raises(dslc.BuildError, match=r"needs [\d,]+ bytes of arena, however much is"):
        dslc.compile(SOURCE, train=True, threads=1, memory=1, dims=SIZES)


def test_sizes_must_be_known() -> None:
    with pytest.raises(dslc.BuildError, match=r"known only at a call: to fit it into a number of"):
        dslc.compile(SOURCE, train=True, threads=1, memory="1MiB")


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [("200MiB", 200 << 20), ("1.5GiB", 3 << 29), ("64kB", 64_000), (4096, 4096), ("7 B", 7)],
)
def test_amounts(text: Any, bytes_: int) -> None:
    assert parse_bytes(text) == bytes_


@pytest.mark.parametrize("text", ["lots", "", "-1", "0", "12 parsecs", "1MiBs", 0, True])
def test_what_is_no_amount(text: Any) -> None:
    with pytest.raises(TargetError, match="no amount of memory; they look like 200MiB"):
        parse_bytes(text)
