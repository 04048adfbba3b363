from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Argument, Entry, Function, Program, Variable
from dslc.ir.dims import sym
from dslc.ir.evaluate import ArgumentsError, evaluate, initial_variables, numpy_dtype, run_entry
from dslc.ir.types import DTYPES, ITEMSIZE, TensorType
from tests.ir.toys import f32, fill, liar, plus, split

N = sym("N")


def doubled() -> Function:
    b = Builder()
    x = b.param("x", f32(N, 2))
    y = fill(b, dims=(N, 2), value=1.0)
    return b.function("doubled", (plus(b, plus(b, x, x), y), x))


def test_results_and_dims_come_from_the_arguments() -> None:
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    y, same = evaluate(doubled(), [x])
    np.testing.assert_array_equal(y, 2 * x + 1)
    assert same is x


@pytest.mark.parametrize("size", [0, 1])
def test_small_dims(size: int) -> None:
    assert evaluate(doubled(), [np.zeros((size, 2), np.float32)])[0].shape == (size, 2)


def test_an_op_with_two_results() -> None:
    b = Builder()
    x = b.param("x", f32(2))
    low, near = split(b, x)
    function = b.function("f", (near, low))
    near_value, low_value = evaluate(function, [np.array([0.6, -0.6], np.float32)])
    assert near_value.tolist() == [1, -1]
    assert low_value.tolist() == [0.0, -1.0]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2)), "not float64"),
        (np.zeros((3,), np.float32), "not of rank 1"),
        (np.zeros((3, 4), np.float32), "its dim 2 is 4"),
    ],
)
def test_wrong_arguments(array: np.ndarray, message: str) -> None:
    with pytest.raises(ArgumentsError, match=message):
        evaluate(doubled(), [array])


def test_wrong_number_of_arguments() -> None:
    with pytest.raises(ArgumentsError, match="1 arguments are needed"):
        evaluate(doubled(), [])


def test_dims_are_solved_and_checked() -> None:
    b = Builder()
    x, y = b.param("x", f32(2 * N + 1)), b.param("y", f32(N * N))
    function = b.function("f", (x, fill(b, dims=(N,)), y))
    assert evaluate(function, [np.zeros(7, np.float32), np.zeros(9, np.float32)])[1].shape == (3,)
    for first, second in ((6, 9), (7, 8)):
        with pytest.raises(ArgumentsError):
            evaluate(function, [np.zeros(first, np.float32), np.zeros(second, np.float32)])


def test_a_dim_that_nothing_tells_is_given() -> None:
    b = Builder()
    function = b.function("f", (fill(b, dims=(N,)),))
    assert evaluate(function, [], {"N": 4})[0].shape == (4,)
    with pytest.raises(ArgumentsError, match="no argument tells the dim N"):
        evaluate(function, [])


def test_a_reference_that_breaks_its_type_rule_is_found() -> None:
    b = Builder()
    function = b.function("f", (liar(b, b.param("x", f32(2))),))
    with pytest.raises(InternalError, match="liar gave float64"):
        evaluate(function, [np.zeros(2, np.float32)])


def test_numpy_dtypes() -> None:
    for dtype in DTYPES:
        assert numpy_dtype(dtype).itemsize == ITEMSIZE[dtype]
    assert numpy_dtype("bf16") == ml_dtypes.bfloat16


def test_run_entry() -> None:
    b = Builder()
    x, w = b.param("x", f32(2)), b.param("w", f32(2))
    total = plus(b, x, w)
    entry = Entry(
        "step",
        b.function("step", (total, plus(b, total, w))),
        (Argument("x", "input"), Argument("w", "weight")),
        ("total",),
        ("w",),
    )
    init = Builder()
    init.param("seed", TensorType("i64"))
    make = init.function("init", (fill(init, dims=(2,), value=3.0),))
    program = Program("P", (entry,), (Variable("w", f32(2), "weight", make),))
    variables = initial_variables(program, 0)
    outputs, updates = run_entry(program, "step", variables, {"x": np.ones(2, np.float32)})
    assert outputs["total"].tolist() == [4, 4]
    assert updates["w"].tolist() == [7, 7]
    with pytest.raises(ArgumentsError, match="no input y"):
        run_entry(program, "step", variables, {"y": np.ones(2, np.float32)})
    with pytest.raises(ArgumentsError, match="needs the input x"):
        run_entry(program, "step", variables, {})
