"""`scan` as the reference runs it: against loops written out in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from dslc.ir.evaluate import initial_variables, run_entry
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

Array = Any


def outputs(text: str, inputs: Mapping[str, Array], seed: int = 0) -> list[Array]:
    """What the only model of the text gives."""
    program, found = elaborate(SourceFile("test.dl", text))
    assert program is not None, found
    results, _ = run_entry(program, "forward", initial_variables(program, seed), inputs)
    return list(results.values())


def rng() -> np.random.Generator:
    return np.random.default_rng(3)


def series(*shape: int) -> Array:
    return rng().standard_normal(shape).astype(np.float32)


def model(scan: str, result: str = "f32[T]", x: str = "f32[T]") -> str:
    return f"model M(x: {x}) -> {result} {{\n    return {scan}\n}}\n"


@pytest.mark.parametrize("length", [0, 1, 7])
@pytest.mark.parametrize("way", ["", "reversed"])
def test_running_sum(length: int, way: str) -> None:
    scan = f"scan x_t in x along 0 {way}, s = 0.5 {{ s = s + x_t\n yield 2 * s }}"
    x = series(length)
    sums, last = outputs(model(scan, "(f32[T], f32)"), {"x": x})
    order = x[::-1] if way else x
    want = (0.5 + np.cumsum(order)) * 2
    np.testing.assert_allclose(sums, want[::-1] if way else want, rtol=1e-5)
    np.testing.assert_allclose(last, 0.5 + x.sum(), rtol=1e-5)
    assert sums.shape == (length,)


@pytest.mark.parametrize(
    ("axis", "result"), [("0", "f32[A, B, C]"), ("1", "f32[A, B, C]"), ("-1", "f32[A, B, C]")]
)
def test_stacks_along_the_axis_of_the_scan(axis: str, result: str) -> None:
    x = series(2, 3, 4)
    scan = f"scan e in x along {axis}, n = 0 {{ n = n + 1\n yield e * n }}"
    got, count = outputs(model(scan, f"({result}, f32)", "f32[A, B, C]"), {"x": x})
    shape = [1, 1, 1]
    shape[int(axis)] = -1
    steps = x.shape[int(axis)]
    np.testing.assert_allclose(got, x * np.arange(1, steps + 1).reshape(shape), rtol=1e-6)
    assert count == steps


def test_lengths_that_an_assertion_makes_equal() -> None:
    text = """model M(x: f32[N, T], y: f32[N, S]) -> (f32[N, T], f32[N]) {
    assert S == T
    return scan x_t in x, y_t in y along 1, h = zeros[N]() {
        h = h + y_t
        yield x_t * y_t
    }
}
"""
    x = series(2, 3)
    products, total = outputs(text, {"x": x, "y": x + 1})
    np.testing.assert_allclose(products, x * (x + 1), rtol=1e-6)
    np.testing.assert_allclose(total, (x + 1).sum(axis=1), rtol=1e-5)


def test_carries_are_bound_together() -> None:
    text = model("scan x_t in x along 0, a = 0, b = 1 { t = a\n a = b\n b = t + b\n yield a }",
                 "(f32[T], f32, f32)")  # fmt: skip
    fibonacci, a, b = outputs(text, {"x": series(6)})
    assert fibonacci.tolist() == [1, 1, 2, 3, 5, 8]
    assert (a, b) == (8, 13)


def test_a_scan_in_a_scan_sees_what_is_around_both() -> None:
    text = """
model M(x: f32[A, B in 1..9], w: f32[B]) -> (f32[A, B], f32[B]) {
    table, last = scan row in x along 0, above = zeros[B]() {
        scale = row * w
        sums, end = scan e in scale along 0, s = 0 {
            s = s + e * w[0]
            yield s
        }
        above = above + sums
        yield above
    }
    return table, last
}
"""
    x, w = series(3, 4), series(4)
    table, last = outputs(text, {"x": x, "w": w})
    want = np.cumsum(np.cumsum(x * w * w[0], axis=1), axis=0)
    np.testing.assert_allclose(table, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(last, want[-1], rtol=1e-4, atol=1e-5)


def test_a_layer_called_in_the_body_is_one_instance() -> None:
    text = """
layer cell[hidden](x: f32[N, I], h: f32[N, hidden]) -> f32[N, hidden] {
    return tanh((x |> ih: dense[hidden]) + (h |> hh: dense[hidden]))
}
model M(x: f32[N, T, 3]) -> f32[N, 4] {
    return scan x_t in x along 1, h = zeros[N, 4]() {
        h = cell[4](x_t, h)
    }
}
"""
    program, found = elaborate(SourceFile("test.dl", text))
    assert program is not None, found
    names = ["cell.ih.weight", "cell.ih.bias", "cell.hh.weight", "cell.hh.bias"]
    assert [v.name for v in program.variables] == names
    variables = initial_variables(program, 1)
    x = series(2, 5, 3)
    got, _ = run_entry(program, "forward", variables, {"x": x})
    wi, bi, wh, bh = (variables[name] for name in names)
    h = np.zeros((2, 4), np.float32)
    for t in range(5):
        h = np.tanh(x[:, t] @ wi.T + bi + h @ wh.T + bh)
    np.testing.assert_allclose(got["output"], h, rtol=1e-5)


def random_model(body: str) -> str:
    return f"""
layer noise(x: f32[T, 64]) -> f32[T, 64] {{
    if training {{
        return {body}
    }}
    return x
}}
model M(x: f32[T, 64]) -> f32[T, 64] {{ return noise(x) }}
train M {{
    loss mean(output)
    optimizer sgd
}}
"""


@pytest.mark.parametrize(
    "body",
    [
        "scan x_t in x along 0 { yield x_t + random_uniform[64]() }",
        "scan x_t in x along 0 { yield scan e in x_t along 0 { yield e + random_uniform[]() } }",
    ],
)
def test_random_numbers_differ_from_step_to_step(body: str) -> None:
    program, found = elaborate(SourceFile("t.dl", random_model(body)), training=True)
    assert program is not None, found
    assert program.training is not None
    (draw,) = [e for e in program.training.loss.function.eqns if e.op.name == "random_uniform"]
    assert str(draw.outputs[0].type) == "f32[T, 64]"


def test_random_numbers_of_first_values() -> None:
    text = """
fn walk(w: f32[A, B]) -> f32[A, B] {
    ys, last = scan row in w along 0, s = zeros[B]() {
        s = s + random_uniform[B]()
        yield s
    }
    return ys
}
model M(x: f32[8]) -> f32[8] {
    param w: f32[5, 8] ~ walk
    return x + w[4]
}
"""
    program, found = elaborate(SourceFile("t.dl", text))
    assert program is not None, found
    steps = np.diff(initial_variables(program, 3)["w"], axis=0)
    assert np.unique(steps.round(5)).size == steps.size
    assert (steps > 0).all()


def test_a_state_goes_through_a_scan() -> None:
    text = """
layer counted(x: f32[T, 4]) -> f32[T, 4] {
    state seen: f32[4] = 1
    xs, total = scan x_t in x along 0, s = seen {
        s = s + x_t
        yield s
    }
    seen <- total
    return xs
}
model M(x: f32[T, 4]) -> f32[T, 4] { return counted(x) }
"""
    program, found = elaborate(SourceFile("t.dl", text))
    assert program is not None, found
    x = series(3, 4)
    got, after = run_entry(program, "forward", initial_variables(program, 0), {"x": x})
    np.testing.assert_allclose(got["output"], 1 + np.cumsum(x, axis=0), rtol=1e-5)
    np.testing.assert_allclose(after["counted.seen"], 1 + x.sum(0), rtol=1e-5)


def test_the_functions_of_a_body_take_values_from_outside() -> None:
    text = """
fn scaled(a: f32[N], by: f32[N]) -> f32[N] { return a * by }
model M(x: f32[T, N], w: f32[N]) -> f32[T, N] {
    return scan x_t in x along 0 { yield scaled(x_t, w) + scaled(w, w) }
}
"""
    x, w = series(3, 4), series(4)
    (got,) = outputs(text, {"x": x, "w": w})
    np.testing.assert_allclose(got, x * w + w * w, rtol=1e-6)


_KEPT: Mapping[str, Callable[[Array], Array]] = {
    "f64": lambda x: x.astype("f8"),
    "i32": lambda x: (x * 9).astype("i4"),
}


@pytest.mark.parametrize("dtype", _KEPT)
def test_a_number_takes_the_dtype_of_what_is_scanned(dtype: str) -> None:
    x = _KEPT[dtype](series(5))
    scan = "scan x_t in x along 0, s = 2 { s = s + x_t }"
    (got,) = outputs(model(scan, dtype, f"{dtype}[T]"), {"x": x})
    assert got.dtype == x.dtype
    np.testing.assert_allclose(got, 2 + x.sum())
