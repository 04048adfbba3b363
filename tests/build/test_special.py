"""`--dim N=1,4`: code for sizes known beforehand beside the code for any; bounds of dims."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import dslc
from dslc.build import session
from dslc.build.special import check_sizes, sizes_of, specialise
from dslc.build.target import parse_targets
from dslc.ir.core import Program
from dslc.ir.text import parse_program, print_program
from dslc.ir.verify import verify_program
from dslc.ops import BY_NAME
from dslc.source import SourceFile

SOURCE = """
model Net(x: f32[N in 1..8, T], y: f32[2 * M]) -> f32[N, T - 1, M] {
    assert T % 2 == 0, "{T} columns are not pairs"
    assert T >= 1
    w = y[0:M] + y[M:]
    z = x[:, 1:T] * (x |> reshape[N * T] |> sum)
    return z |> reshape[N, T - 1, 1] |> spread[M] |> mul(w)
}
fn spread[M](x: float[*S, 1]) -> float[*S, M] { return x * ones[M]() }
fn mul(x: float[*S, M], w: float[M]) -> float[*S, M] { return x * w }
train Net {
    loss mean(output * output)
    optimizer sgd[lr=0.1]
}
"""


def expected(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    half = len(y) // 2
    return ((x[:, 1:] * x.sum())[..., None] * (y[:half] + y[half:])).astype(np.float32)


def program() -> Program:
    return session.program_of(SourceFile("net.dl", SOURCE))


def test_special_entries_are_text_and_back() -> None:
    made = specialise(program(), {"N": (1, 4, 1), "M": (3,)})
    names = [entry.name for entry in made.entries]
    assert names == ["forward", "forward__N1_M3", "forward__N4_M3"]
    verify_program(made)
    assert made.entries[2].sizes == (("N", 4), ("M", 3))
    assert made.entries[2].function.symbols() == {"T"}
    back = parse_program(print_program(made), BY_NAME)
    assert print_program(back) == print_program(made)
    assert [e.special_of for e in back.entries] == [None, "forward", "forward"]


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"n": (1,)}, "Net has no dynamic dim n; did you mean N?"),
        ({"batch": (1,)}, "Net has no dynamic dim batch; it has N, T, M"),
        ({"N": (0,)}, "N can't be 0: in Net it is 1..8"),
        ({"N": 9}, "N can't be 9: in Net it is 1..8"),
        ({"N": (4, 9)}, "N can't be 9: in Net it is 1..8"),
        ({"M": (-1,)}, "M can't be -1: in Net it is at least 0"),
        ({"T": (7,)}, "T=7 can't be: 7 columns are not pairs"),
        ({"N": range(1, 9), "M": range(5)}, "8 x 5 sizes are 40 special versions of each entry"),
        ({"N": 1.5}, "a size of N is a whole number, not 1.5"),
        ([8], "dims are sizes by name, such as {'N': (1, 32)}, not [8]"),
        ({"N": (True,)}, "a size of N is a whole number, not True"),
    ],
)
def test_sizes_that_can_not_be(sizes: Any, why: str) -> None:
    with pytest.raises(dslc.ArgumentError) as caught:
        check_sizes(program(), sizes_of(sizes))
    assert str(caught.value).startswith(why)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dslc.Model:
    """Built into an artifact, and loaded from it."""
    path = tmp_path_factory.mktemp("special") / "net.dlc"
    source = SourceFile("net.dl", SOURCE)
    targets = parse_targets("cpu", None, None, 2)
    built = session.build_source(source, targets, sizes={"N": (1, 4), "T": (6,)})
    names = [entry.name for entry in built.summary.entries]
    assert names == ["forward", "forward[N=1, T=6]", "forward[N=4, T=6]"]
    session.write(built, path, source, None, 0)
    return dslc.load(path)


def arrays(n: int, t: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n * 100 + t * 10 + m)
    x, y = rng.normal(size=(n, t)), rng.normal(size=2 * m)
    return x.astype(np.float32), y.astype(np.float32)


def test_the_code_is_chosen_by_the_shapes(model: dslc.Model) -> None:
    sizes = [(c.symbol, tuple((s.name, s.size) for s in c.sizes)) for c in model.target.codes]
    assert sizes == [
        ("forward", ()),
        ("forward__N1_T6", (("N", 1), ("T", 6))),
        ("forward__N4_T6", (("N", 4), ("T", 6))),
    ]
    entry = model.entry("forward")
    for shape in [(1, 6, 2), (4, 6, 3), (4, 4, 3), (2, 6, 2), (8, 2, 1), (1, 2, 0)]:
        given = arrays(*shape)
        np.testing.assert_allclose(model(*given), expected(*given), rtol=1e-5, atol=1e-6)
        plan = entry._plans[given[0].shape, given[1].shape]
        special = shape[:2] in ((1, 6), (4, 6))
        assert (plan.code.symbol != "forward") == special
        assert entry.arena_bytes(given[0].shape, given[1].shape) == plan.arena


def test_threads_with_different_sizes(model: dslc.Model) -> None:
    shapes = [(1, 6, 2), (4, 6, 3), (3, 8, 4), (8, 4, 5)] * 50

    def call(shape: tuple[int, int, int]) -> None:
        given = arrays(*shape)
        np.testing.assert_allclose(model(*given), expected(*given), rtol=1e-5, atol=1e-6)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, shapes))


@pytest.mark.parametrize(
    ("x", "y", "why"),
    [
        ((9, 2), (2,), "N is 9 (from dim 0 of x), but it must be 1..8"),
        ((0, 2), (2,), "N is 0 (from dim 0 of x), but it must be 1..8"),
        ((1, 3), (2,), "3 columns are not pairs"),
        ((1, 0), (2,), "T >= 1"),
        ((1, 2), (3,), "dim 0 of y must be 2 * M = 2 (with M = 1), but it is 3"),
    ],
)
def test_sizes_are_checked_before_code_runs(
    model: dslc.Model, x: tuple[int, ...], y: tuple[int, ...], why: str
) -> None:
    with pytest.raises(dslc.ArgumentError) as caught:
        model(np.zeros(x, np.float32), np.zeros(y, np.float32))
    assert str(caught.value).startswith(why)


TRAINED = """
model Fit(x: f32[N, 4]) -> f32[N, 1] {
    return x |> fc: dense[1, bias=false]
}
train Fit {
    input target: f32[N, 1]
    loss mse(output, target)
    optimizer sgd[lr=0.1]
}
"""


def test_training_steps_of_a_known_batch() -> None:
    trainer = dslc.compile(TRAINED, train=True, dims={"N": (8,)})
    weight = trainer.weights["fc.weight"].astype(np.float64)
    rng = np.random.default_rng(0)
    for count in (8, 8, 3, 8):
        x = rng.normal(size=(count, 4)).astype(np.float32)
        target = rng.normal(size=(count, 1)).astype(np.float32)
        error = x @ weight.T - target
        step = trainer.train_step(x=x, target=target)
        assert step.loss == pytest.approx((error**2).mean(), rel=1e-5)
        weight = weight - 0.1 * 2 * (error.T @ x) / count
    np.testing.assert_allclose(trainer.weights["fc.weight"], weight, rtol=1e-4)
