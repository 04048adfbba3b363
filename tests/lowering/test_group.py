"""Which equations share a kernel."""

from __future__ import annotations

import pytest
from lowering.native import entry_of

from dslc.ir.builder import Builder
from dslc.ir.core import Function, Value
from dslc.ir.types import TensorType
from dslc.lowering.grouping.group import MOST_FUSED, Group, Grouping, group
from dslc.ops import BY_NAME as OPS


def f32(*dims: int) -> TensorType:
    return TensorType("f32", dims)


def names(g: Group) -> list[str]:
    return [eqn.op.name for eqn in g.eqns]


def kinds(grouping: Grouping) -> list[str]:
    return [g.kind for g in grouping.groups]


def test_elementwise_chain_is_one_loop() -> None:
    b = Builder()
    x, y = b.param("x", f32(4, 5)), b.param("y", f32(4, 5))
    result = OPS["mul"](b, OPS["exp"](b, OPS["add"](b, x, y)), x)
    (only,) = group(b.function("f", [result])).groups
    assert names(only) == ["add", "exp", "mul"]
    assert only.pointwise == {x, y}


def test_consumers_of_a_product_are_its_epilogue() -> None:
    b = Builder()
    x, w, bias = b.param("x", f32(4, 5)), b.param("w", f32(5, 3)), b.param("bias", f32(3))
    wide = OPS["broadcast"](b, bias, dims=(4, 3), axes=(1,))
    result = OPS["relu"](b, OPS["add"](b, OPS["matmul"](b, x, w), wide))
    (only,) = group(b.function("f", [result])).groups
    assert only.kind == "contract"
    assert names(only) == ["broadcast", "matmul", "add", "relu"]
    assert only.outputs == (result,)


def test_value_needed_twice_is_stored_beside_its_user() -> None:
    b = Builder()
    x = b.param("x", f32(4, 5))
    power = OPS["exp"](b, x)
    function = b.function("f", [OPS["mul"](b, power, x), power])
    (only,) = group(function).groups
    assert set(only.outputs) == set(function.results)


def test_operand_of_a_product_is_stored() -> None:
    b = Builder()
    x, w = b.param("x", f32(4, 5)), b.param("w", f32(5, 3))
    result = OPS["matmul"](b, OPS["exp"](b, x), w)
    assert kinds(group(b.function("f", [result]))) == ["loop", "contract"]


def test_expensive_value_is_not_repeated_by_a_broadcast() -> None:
    b = Builder()
    x, y = b.param("x", f32(5)), b.param("y", f32(4, 5))
    wide = OPS["broadcast"](b, OPS["exp"](b, x), dims=(4, 5), axes=(1,))
    assert kinds(group(b.function("f", [OPS["add"](b, wide, y)]))) == ["loop", "loop"]


def test_cheap_value_is_repeated_by_a_broadcast() -> None:
    b = Builder()
    x, y = b.param("x", f32(5)), b.param("y", f32(4, 5))
    wide = OPS["broadcast"](b, OPS["neg"](b, x), dims=(4, 5), axes=(1,))
    assert kinds(group(b.function("f", [OPS["add"](b, wide, y)]))) == ["loop"]


def test_reshape_is_a_view() -> None:
    b = Builder()
    x, w = b.param("x", f32(4, 5)), b.param("w", f32(20, 3))
    flat = OPS["reshape"](b, OPS["exp"](b, x), dims=(1, 20))
    grouping = group(b.function("f", [OPS["matmul"](b, flat, w)]))
    assert kinds(grouping) == ["loop", "contract"]
    assert grouping.base(flat) is grouping.groups[0].outputs[0]


def test_producer_is_not_hosted_where_that_makes_a_cycle() -> None:
    """y is used by the last group directly, and through a product that the last group needs."""
    b = Builder()
    x, w = b.param("x", f32(4, 4)), b.param("w", f32(4, 4))
    y = OPS["exp"](b, x)
    result = OPS["add"](b, OPS["exp"](b, OPS["matmul"](b, OPS["matmul"](b, y, w), w)), y)
    grouping = group(b.function("f", [result]))
    assert kinds(grouping) == ["loop", "contract", "contract"]


def _step(reads_late: bool) -> Function:
    """Two products are multiplied by w and then updates of a and b: each product reads an x."""
    b = Builder()
    x, y, w = (b.param(name, f32(4, 4)) for name in "xyw")
    g = OPS["matmul"](b, x, w)
    dw = OPS["matmul"](b, x, g, transpose_a=True)
    last = OPS["matmul"](b, y, w if reads_late else g)
    return b.function("f", [last, OPS["sub"](b, w, dw)])


def test_an_update_comes_as_soon_as_its_product_can() -> None:
    """So that the operands of the product need no memory any more."""
    early, late = (group(_step(reads_late)).groups for reads_late in (False, True))
    assert [names(g) for g in early] == [["matmul"], ["matmul", "sub"], ["matmul"]]
    assert [names(g) for g in late] == [["matmul"], ["matmul"], ["matmul", "sub"]]


def test_every_result_is_stored() -> None:
    b = Builder()
    x = b.param("x", f32(4))
    results = [OPS["neg"](b, x), OPS["exp"](b, x), OPS["reduce_sum"](b, x, axes=(0,))]
    function: Function = b.function("f", results)
    stored = {value for g in group(function).groups for value in g.outputs}
    assert stored == set(results)
    assert entry_of(function).outputs == ("result_0", "result_1", "result_2")


def test_a_pool_s_gradient_compares_what_was_stored() -> None:
    """It looks for a maximum: computed again, that could be rounded otherwise."""
    b = Builder()
    x, g = b.param("x", f32(1, 2, 4, 4)), b.param("g", f32(1, 2, 2, 2))
    image = OPS["add"](b, x, x)
    sizes = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)}
    y = OPS["max_pool2d"](b, image, **sizes)
    result = OPS["max_pool2d_gradient"](b, image, y, g, **sizes)
    groups = group(b.function("f", [result])).groups
    (last,) = (g for g in groups if "max_pool2d_gradient" in names(g))
    assert names(last) == ["max_pool2d_gradient"]


def test_a_long_chain_is_cut_into_equal_kernels() -> None:
    b = Builder()
    x = b.param("x", f32(4, 5))
    value = x
    for _ in range(MOST_FUSED):
        bias = OPS["broadcast"](b, b.param(f"b{len(b.eqns)}", f32(5)), dims=(4, 5), axes=(1,))
        value = OPS["add"](b, OPS["mul"](b, OPS["tanh"](b, value), bias), value)
    groups = group(b.function("f", [value])).groups
    assert [names(g) for g in groups] == [["broadcast", "tanh", "mul", "add"] * 15] * 4
    assert all(len(g.outputs) == 1 for g in groups)


def test_a_long_chain_of_results_is_cut() -> None:
    b = Builder()
    values = [b.param("x", f32(4, 5))]
    for _ in range(2 * MOST_FUSED):
        values.append(OPS["tanh"](b, values[-1]))
    groups = group(b.function("f", values[1:])).groups
    assert [len(g.outputs) for g in groups] == [MOST_FUSED] * 2


@pytest.mark.parametrize("pooled_first", [True, False])
def test_a_window_is_no_epilogue(pooled_first: bool) -> None:
    b = Builder()
    x, w = b.param("x", f32(1, 4, 8, 8)), b.param("w", f32(4, 4, 5, 5))
    sizes = {"stride": (1, 1), "padding": (0, 0, 0, 0)}

    def pooled() -> Value:
        return OPS["max_pool2d"](b, x, kernel=(5, 5), **sizes)

    def convolved() -> Value:
        return OPS["conv2d"](b, x, w, dilation=(1, 1), groups=1, **sizes)

    made = [make() for make in ((pooled, convolved) if pooled_first else (convolved, pooled))]
    groups = group(b.function("f", [OPS["add"](b, *made)])).groups
    for g in groups:
        assert not {"max_pool2d", "conv2d"} <= {*names(g)}


def test_squares_of_what_is_reduced_are_made_where_they_are_added_up() -> None:
    """The variance of a product, whose mean over few pixels has read it from memory before."""
    b = Builder()
    x, w = b.param("x", f32(128, 64)), b.param("w", f32(64, 32))
    product = OPS["matmul"](b, x, w)
    image = OPS["relu"](b, product)
    mean = OPS["reduce_sum"](b, image, axes=(1,))
    centred = OPS["sub"](b, image, OPS["broadcast"](b, mean, dims=(128, 32), axes=(0,)))
    squares = OPS["mul"](b, centred, centred)
    tall = OPS["reduce_sum"](b, squares, axes=(1,))
    groups = group(b.function("f", [tall])).groups
    assert names(groups[-1])[-3:] == ["sub", "mul", "reduce_sum"]
    assert all(squares not in each.outputs for each in groups)
