"""What the type rules say about inputs that don't fit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from dslc.ir.dims import sym
from dslc.ir.op import Attrs, NoAttrs, Op, TypeRuleError
from dslc.ir.types import DType, TensorType
from dslc.ops import conv, elementwise, index, linalg, logic, pool, reduce, shape, slicing, windows
from dslc.ops.broadcast import BroadcastAttrs, ReduceAttrs, broadcast, reduce_sum
from dslc.ops.constants import ConstantAttrs, constant

N = sym("N")


def t(dtype: DType, *dims: object) -> TensorType:
    return TensorType(dtype, dims)  # type: ignore[arg-type]


def refused(op: Op, types: Sequence[TensorType], attrs: Attrs | None = None) -> TypeRuleError:
    with pytest.raises(TypeRuleError) as caught:
        op.infer(attrs or NoAttrs(), types)
    return caught.value


def test_shapes_that_differ() -> None:
    error = refused(elementwise.add, [t("f32", N, 64), t("f32", N, 32)])
    assert error.code == "E0203"
    assert error.message == "cannot add f32[N, 64] and f32[N, 32]"
    assert error.notes == ("dim 1 differs (64 and 32)",)
    assert error.inputs == (0, 1)


def test_dtypes_that_differ() -> None:
    error = refused(elementwise.mul, [t("i64", 3), t("f32", 3)])
    assert error.code == "E0204"
    assert error.message == "cannot multiply i64[3] and f32[3]"
    assert error.notes == ("the dtypes differ (i64 and f32)",)
    assert error.help == "cast one side: cast[f32](...)"


def test_a_dtype_that_the_op_does_not_take() -> None:
    error = refused(elementwise.exp, [t("i64", 3)])
    assert error.code == "E0204"
    assert error.notes == ("floats are needed, not i64",)


def test_a_condition_that_is_not_bool() -> None:
    error = refused(logic.select, [t("f32", 3), t("f32", 3), t("f32", 3)])
    assert error.notes == ("bool is needed, not f32",)
    assert error.inputs == (0,)


def test_an_axis_that_is_not_there() -> None:
    error = refused(reduce_sum, [t("f32", 3, 4)], ReduceAttrs((2,)))
    assert error.code == "E0206"
    assert error.message == "cannot sum f32[3, 4] along axis 2"
    assert error.notes == ("its axes are -2 to 1",)


CASES: list[tuple[Op, list[TensorType], Attrs, str]] = [
    (broadcast, [t("f32", 3)], BroadcastAttrs((2, 4), (1,)), "E0203"),
    (broadcast, [t("f32", 3)], BroadcastAttrs((2, 3), ()), "E0207"),
    (shape.reshape, [t("f32", 3, N)], shape.ReshapeAttrs((N,)), "E0203"),
    (shape.reshape, [t("f32", 4)], shape.ReshapeAttrs((-2, -2)), "E0207"),
    (shape.transpose, [t("f32", 3, 4)], shape.TransposeAttrs((0, 0)), "E0207"),
    (shape.concat, [t("f32", 3), t("i64", 3)], shape.ConcatAttrs(0), "E0204"),
    (shape.concat, [t("f32", 3), t("f32", 3, 1)], shape.ConcatAttrs(0), "E0205"),
    (shape.concat, [t("f32", 3, 2), t("f32", 3, 1)], shape.ConcatAttrs(0), "E0203"),
    (slicing.slice_, [t("f32", 3)], slicing.SliceAttrs((0,), (4,), (1,)), "E0203"),
    (slicing.slice_, [t("f32", N)], slicing.SliceAttrs((0,), (N + 1,), (1,)), "E0203"),
    (slicing.slice_, [t("f32", 3)], slicing.SliceAttrs((0,), (3,), (0,)), "E0207"),
    (slicing.pad, [t("f32", 3)], slicing.PadAttrs((-1,), (0,)), "E0207"),
    (reduce.reduce_max, [t("f32", 3, 0)], ReduceAttrs((1,)), "E0207"),
    (reduce.argmax, [t("f32", 0)], reduce.AxisAttrs(0), "E0207"),
    (reduce.reduce_all, [t("f32", 3)], ReduceAttrs((0,)), "E0204"),
    (linalg.matmul, [t("f32", 3, 4), t("f32", 5, 4)], linalg.MatmulAttrs(), "E0203"),
    (linalg.matmul, [t("f32", 3), t("f32", 3)], linalg.MatmulAttrs(), "E0205"),
    (conv.conv2d, [t("f32", 1, 3, 8, 8), t("f32", 4, 2, 3, 3)], windows.ConvAttrs(), "E0203"),
    (conv.conv2d, [t("f32", 1, 3, 2, 2), t("f32", 4, 3, 3, 3)], windows.ConvAttrs(), "E0203"),
    (conv.conv2d, [t("f32", 3, 8, 8), t("f32", 4, 3, 3, 3)], windows.ConvAttrs(), "E0205"),
    (conv.conv2d, [t("f32", 1, 1, 8, 8), t("f32", 1, 1, 3, 3)], windows.ConvAttrs((0, 1)), "E0207"),
    (pool.max_pool2d, [t("f32", 1, 1, 2, 2)], windows.PoolAttrs((3, 3), (1, 1)), "E0203"),
    (pool.max_pool2d, [t("i64", 1, 1, 2, 2)], windows.PoolAttrs((2, 2), (1, 1)), "E0204"),
    (index.gather, [t("f32", 3), t("f32", 2)], index.IndexAttrs(0), "E0204"),
    (index.gather, [t("f32", 3), t("i64", 2)], index.IndexAttrs(1), "E0206"),
    (constant, [], ConstantAttrs(300, t("u8")), "E0207"),
    (constant, [], ConstantAttrs(1.5, t("i64", 2)), "E0207"),
]


@pytest.mark.parametrize(("op", "types", "attrs", "code"), CASES)
def test_code(op: Op, types: list[TensorType], attrs: Attrs, code: str) -> None:
    assert refused(op, types, attrs).code == code
