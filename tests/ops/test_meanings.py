"""Choices that the ops' meanings had to make: ties, NaN, division by zero, empty dims, clamping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from ops.cases import reference
from ops.facets import cotangents
from ops.plain_kernels import run

from dslc.ir.op import Attrs, NoAttrs, Op, Sample
from dslc.ir.types import TensorType
from dslc.ops import conv, elementwise, index, pool, reduce, windows
from dslc.ops.broadcast import ReduceAttrs, reduce_sum
from dslc.ops.constants import CastAttrs, cast
from dslc.ops.reduce import AxisAttrs

NAN = float("nan")
_NAMES = {"f": {2: "f16", 4: "f32", 8: "f64"}, "i": {1: "i8", 4: "i32", 8: "i64"}, "b": {1: "bool"}}


def sample(arrays: Sequence[Any], attrs: Attrs) -> Sample:
    types = [TensorType(_NAMES[x.dtype.kind][x.dtype.itemsize], x.shape) for x in arrays]  # type: ignore[arg-type]
    return Sample(tuple(types), attrs)


def both(op: Op, *arrays: Any, attrs: Attrs | None = None) -> Any:
    """The result by reference, after the compute facet gave the same."""
    case = sample(arrays, attrs or NoAttrs())
    (wanted,), (found,) = reference(op, case, arrays), run(op, case, arrays)
    np.testing.assert_array_equal(found, wanted)
    return wanted


def gradients(op: Op, *arrays: Any, attrs: Attrs | None = None) -> list[Any]:
    """Cotangents of the inputs where those of the results are all 1."""
    case = sample(arrays, attrs or NoAttrs())
    ones = [np.ones_like(y) for y in reference(op, case, arrays)]
    return cotangents(op, case, arrays, ones)


def f64(*values: float) -> Any:
    return np.asarray(values, np.float64)


def i64(*values: int) -> Any:
    return np.asarray(values, np.int64)


@pytest.mark.parametrize("op", [elementwise.floordiv, elementwise.mod], ids=lambda op: op.name)
def test_integers_divided_by_zero_give_zero(op: Op) -> None:
    np.testing.assert_array_equal(both(op, i64(5, -5, 0), i64(0, 0, 0)), [0, 0, 0])


def test_the_least_integer_divided_by_minus_one_wraps() -> None:
    least = np.iinfo(np.int64).min
    assert both(elementwise.floordiv, i64(least), i64(-1))[0] == least
    assert both(elementwise.mod, i64(least), i64(-1))[0] == 0


def test_float_quotients_are_exact_and_of_infinities_numpys() -> None:
    x, y = f64(1, 1e30, -1e30, np.inf, 1, -1, 0), f64(0.1, 7, 7, 2, -np.inf, np.inf, -np.inf)
    wanted = [9, 1e30 // 7, -1e30 // 7, NAN, -1, -1, 0]
    np.testing.assert_array_equal(both(elementwise.floordiv, x, y), wanted)
    wanted = [1 % 0.1, 1e30 % 7, -1e30 % 7, NAN, -np.inf, np.inf, 0]
    np.testing.assert_array_equal(both(elementwise.mod, x, y), wanted)


def test_integer_quotients_round_down() -> None:
    x, y = i64(7, -7, 7, -7), i64(2, 2, -2, -2)
    np.testing.assert_array_equal(both(elementwise.floordiv, x, y), [3, -4, -4, 3])
    np.testing.assert_array_equal(both(elementwise.mod, x, y), [1, 1, -1, -1])


def test_round_takes_halves_to_even() -> None:
    x = f64(0.5, 1.5, 2.5, -0.5, -1.5)
    np.testing.assert_array_equal(both(elementwise.rounded, x), [0, 2, 2, 0, -2])


@pytest.mark.parametrize("op", [elementwise.maximum, elementwise.minimum], ids=lambda op: op.name)
def test_extremes_propagate_nan_from_either_side(op: Op) -> None:
    assert np.isnan(both(op, f64(NAN, 1.0), f64(1.0, NAN))).all()


@pytest.mark.parametrize("op", [elementwise.maximum, elementwise.minimum], ids=lambda op: op.name)
def test_equals_share_the_cotangent(op: Op) -> None:
    dx, dy = gradients(op, f64(2.0), f64(2.0))
    assert (dx[0], dy[0]) == (0.5, 0.5)


def test_relu_is_flat_at_zero() -> None:
    assert gradients(elementwise.relu, f64(0.0, 1.0))[0].tolist() == [0, 1]


def test_relu_keeps_nan() -> None:
    assert np.isnan(both(elementwise.relu, f64(NAN)))[0]


def test_gradient_of_a_power_at_zero() -> None:
    dx, dy = gradients(elementwise.power_op, f64(0.0, 0.0), f64(2.0, 0.0))
    assert dx.tolist() == [0, 0]
    assert dy.tolist() == [0, 0]


def test_equal_maxima_share_the_cotangent() -> None:
    x = f64(1, 3, 3)
    (dx,) = gradients(reduce.reduce_max, x, attrs=ReduceAttrs((0,)))
    assert dx.tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("x", "wanted"), [((2.0, 0.0, 5.0), [0, 10, 0]), ((0.0, 0.0, 5.0), [0, 0, 0])]
)
def test_gradient_of_a_product_with_zeros(x: tuple[float, ...], wanted: list[float]) -> None:
    (dx,) = gradients(reduce.reduce_prod, f64(*x), attrs=ReduceAttrs((0,)))
    assert dx.tolist() == wanted


def test_arg_extremes_take_the_first_and_nan_wins() -> None:
    x = np.asarray([[1.0, 2.0, 2.0], [3.0, NAN, 1.0]])
    assert both(reduce.argmax, x, attrs=AxisAttrs(1)).tolist() == [1, 1]
    assert both(reduce.argmin, x, attrs=AxisAttrs(1)).tolist() == [0, 1]


def test_sums_of_f16_are_kept_in_f32() -> None:
    x = np.full(4096, 1.0, np.float16)
    x[1:] = 2**-11  # added one by one in f16, each of these would be lost
    assert both(reduce_sum, x, attrs=ReduceAttrs((0,)))[()] == np.float16(1 + 4095 * 2**-11)


def test_sum_over_nothing_is_zero() -> None:
    assert both(reduce_sum, np.ones((2, 0)), attrs=ReduceAttrs((1,))).tolist() == [0, 0]


def test_numbers_cast_to_bool_by_being_other_than_zero() -> None:
    assert both(cast, f64(0.5, 0.0, -2), attrs=CastAttrs("bool")).tolist() == [True, False, True]


def test_indices_count_from_the_end_and_are_clamped() -> None:
    x, i = f64(10, 11, 12), i64(-1, 0, 7, -9)
    assert both(index.gather, x, i, attrs=index.IndexAttrs(0)).tolist() == [12, 10, 12, 10]


def test_scatter_adds_up_repeated_indices() -> None:
    attrs = index.IndexGradientAttrs(0, 3)
    assert both(index.scatter_add, f64(1, 2, 4), i64(1, 1, -1), attrs=attrs).tolist() == [0, 3, 4]


def test_max_pool_gives_the_cotangent_to_the_first_maximum() -> None:
    x = np.asarray([1.0, 1.0, NAN, NAN]).reshape(1, 1, 1, 4)
    attrs = windows.PoolAttrs((1, 2), (1, 2))
    y, g = both(pool.max_pool2d, x, attrs=attrs), np.ones((1, 1, 1, 2))
    dx = both(pool.max_pool2d_gradient, x, y, g, attrs=attrs)
    assert dx.ravel().tolist() == [1, 0, 1, 0]


def test_average_pool_can_leave_out_the_padding() -> None:
    x = np.ones((1, 1, 1, 2))
    attrs = windows.AveragePoolAttrs((1, 2), (1, 1), (0, 0, 1, 1), count_include_pad=False)
    assert both(pool.avg_pool2d, x, attrs=attrs).ravel().tolist() == [1, 1, 1]


def test_convolution_does_not_flip_the_kernel() -> None:
    x, w = f64(1, 2, 3).reshape(1, 1, 1, 3), f64(10, 1).reshape(1, 1, 1, 2)
    assert both(conv.conv2d, x, w, attrs=windows.ConvAttrs()).ravel().tolist() == [12, 23]
