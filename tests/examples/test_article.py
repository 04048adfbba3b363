"""The article's recurrence and formulas, as they are written in examples/article, are the library's
layers; the forecast of sunspots in small form."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from dslc.autodiff.train_step import add_train_step
from dslc.build import driver
from dslc.build.target import Target
from dslc.ir.core import Eqn, Program
from dslc.ir.evaluate import initial_variables, run_entry
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

ARTICLE = Path(__file__).parents[2] / "examples" / "article"
TARGET = Target("test", "cpu", "x86-64-v3", (), 256, 1)

LIBRARY_RNN = """
from std.recurrent import rnn
model RNN(x: f32[N, T in 1..64, 10]) -> f32[N, 10] {
    hs, last = x |> rnn: rnn[50]
    return last[0] |> fc: dense[10]
}
train RNN {
    input target: f32[N, 10]
    loss mse(output, target)
    optimizer sgd[lr=1.0]
}
"""
LIBRARY_ATTENTION = """
from std.attention import scaled_dot_product_attention
model Attention[heads=4, dim=16](
    q: f32[N, heads, T, dim], k: f32[N, heads, S, dim], v: f32[N, heads, S, dim]
) -> f32[N, heads, T, dim] {
    return scaled_dot_product_attention(q, k, v)
}
"""
LIBRARY_CONVOLUTION = """
model Convolution(image: f32[N, 3, 112, 112]) -> f32[N, 32, 112, 112] {
    return image |> conv1: conv2d[32, kernel=3, padding=1]
}
"""


def built(text: str, training: bool = False) -> Program:
    program, found = elaborate(SourceFile("test.dl", text), training=training)
    assert program is not None, [d.title for d in found]
    return program


def numbers(*dims: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=dims).astype(np.float32)


@pytest.mark.parametrize(("batch", "steps"), [(3, 7), (1, 2)])
def test_the_recurrence_is_the_library_s(batch: int, steps: int) -> None:
    """The same results and gradients; the library's step has a second bias, which is 0 here."""
    written = (ARTICLE / "rnn.dl").read_text().replace("adam[lr=0.01]", "sgd[lr=1.0]")
    ours = add_train_step(built(written, training=True))
    library = add_train_step(built(LIBRARY_RNN, training=True))
    weights = initial_variables(ours, 0)
    names = {"rnn.w_hh": "weight_hh_l0", "rnn.w_xh": "weight_ih_l0", "rnn.b_h": "bias_ih_l0"}
    theirs = {name: "rnn." + names[name] if name in names else name for name in weights}
    renamed = {theirs[name]: value for name, value in weights.items()}
    renamed["rnn.bias_hh_l0"] = np.zeros(50, np.float32)

    x, target = numbers(batch, steps, 10), numbers(batch, 10, seed=1)
    found = run_entry(ours, "forward", weights, {"x": x})[0]["output"]
    wanted = run_entry(library, "forward", renamed, {"x": x})[0]["output"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)

    inputs = {"x": x, "target": target, "seed": np.asarray(0), "step": np.asarray(0)}
    moved = run_entry(ours, "train_step", weights, inputs)[1]
    expected = run_entry(library, "train_step", renamed, inputs)[1]
    for name, other in theirs.items():
        change, wanted = weights[name] - moved[name], renamed[other] - expected[other]
        assert np.abs(wanted).max() > 1e-4
        np.testing.assert_allclose(change, wanted, rtol=1e-4, atol=1e-6, err_msg=name)


def optimised(text: str) -> list[Eqn]:
    return list(driver.optimise(built(text), TARGET).entry("forward").function.eqns)


def test_the_sum_of_a_convolution_is_the_library_s() -> None:
    """The same equations, up to the order of a sum: one convolution."""
    written = (ARTICLE / "convolution.dl").read_text()
    program, library = built(written), built(LIBRARY_CONVOLUTION)
    ops = [sorted((e.op.name, str(e.attrs)) for e in optimised(t))
           for t in (written, LIBRARY_CONVOLUTION)]  # fmt: skip
    assert ops[0] == ops[1]
    assert sum(name.startswith("conv2d") for name, _ in ops[0]) == 1
    weights, inputs = initial_variables(library, 0), {"image": numbers(1, 3, 112, 112)}
    found = run_entry(program, "forward", weights, inputs)[0]["output"]
    wanted = run_entry(library, "forward", weights, inputs)[0]["output"]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_formula_of_attention_is_the_library_s() -> None:
    """Both become the same operation, which needs no matrix of all weights."""
    written = (ARTICLE / "attention.dl").read_text()
    (ours,), (theirs,) = optimised(written), optimised(LIBRARY_ATTENTION)
    assert ours.op.name == "attention"
    assert (ours.op, ours.attrs) == (theirs.op, theirs.attrs)
    inputs = {name: numbers(2, 4, size, 16, seed=i) for i, (name, size) in
              enumerate({"q": 5, "k": 7, "v": 7}.items())}  # fmt: skip
    found, wanted = (
        run_entry(built(text), "forward", {}, inputs)[0]["output"]
        for text in (written, LIBRARY_ATTENTION)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.fixture(scope="module")
def sunspots() -> ModuleType:
    pytest.importorskip("statsmodels", reason="needs pip install '.[examples]'")
    spec = importlib.util.spec_from_file_location("sunspots", ARTICLE / "sunspots.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_windows_of_the_sunspots(sunspots: ModuleType) -> None:
    """What is forecast follows what is seen, and lies in the years asked for."""
    years = np.arange(1700, 2009)
    x, target = sunspots.windows(years, 1920, 2009)
    assert x.shape == (80, 20, 10)
    assert (target[0, 0], target[-1, -1]) == (1920, 2008)
    np.testing.assert_array_equal(target[:, 0], x[:, -1, -1] + 1)
    np.testing.assert_array_equal(x[:, 1:, -1], x[:, :-1, -1] + 1)
    assert sunspots.windows(years, 1700, 1880)[1].max() == 1879


def test_a_short_training_forecasts_sunspots(sunspots: ModuleType, tmp_path: Path) -> None:
    """Five epochs are far better than the last year again, and near what repeats the cycle."""
    spots = sunspots.series()
    values = (spots - spots[:180].mean()) / spots[:180].std()
    x, target = sunspots.windows(values, 1920, 2009)
    model = sunspots.train(values, 5, 0, tmp_path / "weights.safetensors")
    model.load_weights(tmp_path / "weights.safetensors")
    found = sunspots.error(model(x), target)
    errors = {n: sunspots.error(f, target) for n, f in sunspots.baselines(values, x).items()}
    assert found < 0.6 * errors["the last year again"]
    assert found < 1.1 * errors["eleven years earlier"]
