"""The vector mathematics keeps its stated error, and C99's special values, and is vectorised."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from harness import compile_body
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.schedules.cpu.tiles.contract import i64
from dslc.schedules.cpu.tiles.vmath import fused_math
from dslc.schedules.cpu.tiles.vmath import math as vector_math

SPECIAL = np.array(
    [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-39, -1e-39, 1e-30, -1e-30, 1.0, -1.0,
     88.7, 88.8, 1e30, -1e30, 3.4e38, -3.4e38, -87.0, -103.0, -104.0, -200.0, 1e-4, 0.5, -0.5],
    "float32",
)  # fmt: skip
erf = np.vectorize(math.erf, otypes=["float64"])
REFERENCE = {
    "exp": np.exp, "log": np.log, "log1p": np.log1p, "expm1": np.expm1, "tanh": np.tanh,
    "sin": np.sin, "cos": np.cos, "erf": erf, "rsqrt": lambda x: 1 / np.sqrt(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "exp2": np.exp2, "log2": np.log2,
    "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh,
    "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh,
}  # fmt: skip
# Stated in the docstring of vmath.
ERROR = {
    "exp": 2e-7, "sigmoid": 3e-7, "tanh": 3e-7, "erf": 4e-7, "log": 2e-7, "log1p": 3e-7,
    "expm1": 3e-7, "rsqrt": 2e-7, "sin": 1e-7, "cos": 1e-7, "exp2": 2e-7, "log2": 3e-7,
    "asin": 4e-7, "acos": 4e-7, "atan": 2e-7, "sinh": 4e-7, "cosh": 4e-7, "asinh": 5e-7,
    "acosh": 5e-7, "atanh": 5e-7,
}  # fmt: skip
FUSED_ERROR = {**ERROR, "exp": 4e-7, "sigmoid": 4e-7}
FLUSHED = 1.7e-38  # results of these below it may be 0
FLUSHING = ("exp", "exp2", "sigmoid")


@cache
def compiled(name: str, arity: int, dtype: str, make=vector_math):
    def body(*buffers):
        *inputs, out, size = buffers
        with T.serial(i64(0), size) as i:
            T.buffer_store(out, make(name, [b[i] for b in inputs], dtype), [i])

    return compile_body(body, [dtype] * (arity + 1), 1)


def apply(name: str, *args: np.ndarray, make=vector_math) -> np.ndarray:
    run = compiled(name, len(args), str(args[0].dtype), make)
    out = np.empty_like(args[0])
    run(*args, out, out.size)
    return out


def samples(dtype: str = "float32") -> np.ndarray:
    random = np.random.default_rng(0)
    near = [random.uniform(-s, s, 20_000) for s in (1e-6, 1e-2, 1, 4, 30, 100, 1e4)]
    near.append(1 + random.uniform(-1, 1, 20_000) * 10.0 ** random.uniform(-6, 0, 20_000))
    wide = random.standard_normal(20_000) * 10.0 ** random.uniform(-37, 14, 20_000)
    return np.concatenate([*near, wide]).astype(dtype)


def relative_error(y: np.ndarray, exact: np.ndarray) -> float:
    """Largest relative error; results smaller than normal numbers count absolutely."""
    finite = np.isfinite(exact) & (np.abs(exact) < 3.4e38)
    scale = np.maximum(np.abs(exact[finite]), 1.2e-38)
    return float(np.max(np.abs(y[finite] - exact[finite]) / scale))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("name", "make", "most"),
    [
        *((name, vector_math, error) for name, error in ERROR.items()),
        *((name, fused_math, FUSED_ERROR[name]) for name in ("exp", "sigmoid", "tanh")),
    ],
)
def test_error(name, make, most):
    x = samples()
    exact = REFERENCE[name](x.astype("float64"))
    y = apply(name, x, make=make)
    np.testing.assert_array_equal(np.isnan(y), np.isnan(exact))
    if name in FLUSHING:
        tiny = exact < FLUSHED
        assert y[tiny].max() <= FLUSHED
        exact[tiny], y[tiny] = 0, 0
    assert relative_error(y.astype("float64"), exact) <= most


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", REFERENCE)
def test_special_values(name):
    x = SPECIAL[~(np.abs(SPECIAL) > 1e15)] if name in ("sin", "cos") else SPECIAL
    exact = REFERENCE[name](x.astype("float64")).astype("float32")
    y = apply(name, x)
    tiny = FLUSHED if name in FLUSHING else 3e-45
    np.testing.assert_allclose(y, exact, rtol=4e-7, atol=tiny)
    zero = (exact == 0) & (x == 0)
    np.testing.assert_array_equal(np.signbit(y[zero]), np.signbit(exact[zero]))


def test_exact_values():
    far = np.array([-np.inf, -100.0, -9.0, 9.0, 1e30, np.inf], "float32")
    for name in ("tanh", "erf"):
        np.testing.assert_array_equal(apply(name, far), np.sign(far))
    np.testing.assert_array_equal(apply("exp", np.zeros(1, "float32")), 1)
    whole = np.arange(-125, 128).astype("float32")
    powers = np.ldexp(np.float32(1), np.arange(-125, 128))
    np.testing.assert_array_equal(apply("exp2", whole), powers)
    np.testing.assert_array_equal(apply("log2", powers), whole)
    np.testing.assert_array_equal(apply("log2", np.float32([1e-45, 2.0**-140])), [-149, -140])


@pytest.mark.parametrize("name", ["tanh", "erf"])
def test_bounds_are_exact_inside_sums(name):
    def body(x, out, size):
        with T.serial(i64(0), size) as i:
            T.buffer_store(out, vector_math(name, [x[i]], "float32") + T.float32(1), [i])

    far = np.array([-np.inf, -1e30, -100, -10], "float32")
    out = np.empty_like(far)
    compile_body(body, ["float32"] * 2, 1)(far, out, out.size)
    np.testing.assert_array_equal(out, 0)


@pytest.mark.parametrize("name", ["sin", "cos"])
def test_no_angle_is_made_up_for_huge_arguments(name):
    assert np.isnan(apply(name, np.array([1e16, np.inf, -np.inf, np.nan], "float32"))).all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_pow_error():
    random = np.random.default_rng(0)
    x = (10.0 ** random.uniform(-30, 30, 50_000)).astype("float32")
    y = random.uniform(-4, 4, 50_000).astype("float32")
    exact = x.astype("float64") ** y.astype("float64")
    assert relative_error(apply("pow", x, y).astype("float64"), exact) <= 1e-7


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_pow_special_values():
    values = np.array(
        [0.0, -0.0, 1, -1, 2, -2, 3, -3, 0.5, -0.5, np.inf, -np.inf, np.nan, 1e-40, 1e30], "f"
    )
    x, y = (v.reshape(-1).copy() for v in np.meshgrid(values, values))
    result, exact = apply("pow", x, y), x.astype("f8") ** y.astype("f8")
    np.testing.assert_allclose(result, exact.astype("f"), rtol=2e-7, atol=2e-45)
    np.testing.assert_array_equal(np.signbit(result), np.signbit(np.where(exact, exact, result)))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", REFERENCE)
def test_double_precision(name):
    x = samples("float64")
    exact = REFERENCE[name](x)
    finite = np.isfinite(exact)
    np.testing.assert_allclose(apply(name, x)[finite], exact[finite], rtol=2e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_fmod(dtype):
    x = np.array([5.5, -5.5, 1e20, 7.0], dtype)
    y = np.array([2.0, 2.0, 3.0, -3.0], dtype)
    np.testing.assert_array_equal(apply("fmod", x, y), np.fmod(x, y))


def test_unknown_function():
    with pytest.raises(InternalError, match="gamma"):
        vector_math("gamma", [None], "float32")
