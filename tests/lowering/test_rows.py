"""Which groups are joined by rows, and that the joined ones compute the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from lowering.bodies import Body, f32, function_of
from lowering.native import compile_all, entry_of

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.lowering.grouping.group import Group, Grouping, group
from dslc.lowering.grouping.rows import join_rows
from dslc.ops import BY_NAME as OPS

N, C = sym("N"), sym("C")


def joined(body: Body, tasks: int = 1) -> Grouping:
    function = function_of(body)
    return join_rows(function, group(function), tasks)


def kinds(grouping: Grouping) -> list[str]:
    return [g.kind for g in grouping.groups]


def kept(g: Group) -> set[str]:
    return {value.name for value, *_ in g.kept}


def along_row(b: Builder, row: Value, like: Value) -> Value:
    axes = tuple(range(row.type.rank))
    return OPS["broadcast"](b, row, dims=like.type.dims, axes=axes)


def reduced(b: Builder, kind: str, x: Value, axes: tuple[int, ...] = (1,)) -> Value:
    return OPS[f"reduce_{kind}"](b, x, axes=axes)


def softmax(b: Builder, x: Value) -> Value:
    power = OPS["exp"](b, OPS["sub"](b, x, along_row(b, reduced(b, "max", x), x)))
    return OPS["div"](b, power, along_row(b, reduced(b, "sum", power), power))


# --- functions ------------------------------------------------------------------------------------


def plain(b: Builder) -> Sequence[Value]:
    return [softmax(b, b.param("x", f32(N, 70)))]


def long_rows(b: Builder) -> Sequence[Value]:
    return [softmax(b, b.param("x", f32(3, 5000)))]


def rows_of_unknown_length(b: Builder) -> Sequence[Value]:
    return [softmax(b, b.param("x", f32(N, C)))]


def written_over(b: Builder) -> Sequence[Value]:
    return [softmax(b, OPS["matmul"](b, b.param("x", f32(9, 40)), b.param("w", f32(40, 40))))]


def standardized(b: Builder) -> Sequence[Value]:
    """With its statistics, as views, as results."""
    x, weight = b.param("x", f32(N, 4, 33)), b.param("w", f32(33))
    count = OPS["constant"](b, value=132.0, type=f32(N))
    mean = OPS["div"](b, reduced(b, "sum", x, (1, 2)), count)
    less = OPS["sub"](b, x, along_row(b, mean, x))
    square = reduced(b, "sum", OPS["mul"](b, less, less), (1, 2))
    narrow = OPS["reshape"](b, OPS["rsqrt"](b, OPS["div"](b, square, count)), dims=(N, 1, 1))
    wide = OPS["broadcast"](b, narrow, dims=x.type.dims, axes=(0, 1, 2))
    scale = OPS["broadcast"](b, weight, dims=x.type.dims, axes=(2,))
    return [OPS["mul"](b, OPS["mul"](b, less, wide), scale), mean, narrow]


def two_sums(b: Builder) -> Sequence[Value]:
    """Two reductions of the same rows, neither of which reads the other."""
    x, g = b.param("x", f32(N, 300)), b.param("g", f32(N, 300))
    along = along_row(b, reduced(b, "sum", OPS["mul"](b, x, g)), x)
    return [OPS["sub"](b, OPS["mul"](b, g, along_row(b, reduced(b, "sum", g), x)), along)]


def whole_numbers(b: Builder) -> Sequence[Value]:
    x = b.param("x", TensorType("i32", (N, 50)))
    least = along_row(b, reduced(b, "min", x), x)
    return [OPS["eq"](b, x, least)]


def other_rows(b: Builder) -> Sequence[Value]:
    """What is read of the input lies in other rows: it can't be written over."""
    x = OPS["matmul"](b, b.param("x", f32(40, 40)), b.param("w", f32(40, 40)))
    turned = OPS["transpose"](b, x, perm=(1, 0))
    return [OPS["sub"](b, x, along_row(b, reduced(b, "sum", turned), x))]


def across(b: Builder) -> Sequence[Value]:
    """The sums of rows are read for columns."""
    x = b.param("x", f32(64, 64))
    return [OPS["sub"](b, x, OPS["broadcast"](b, reduced(b, "sum", x), dims=(64, 64), axes=(1,)))]


def between(b: Builder) -> Sequence[Value]:
    """A product reads the sums before they are read for their rows."""
    x, w = b.param("x", f32(64, 64)), b.param("w", f32(64, 64))
    sums = reduced(b, "sum", x)
    product = OPS["matmul"](b, OPS["reshape"](b, sums, dims=(1, 64)), w)
    row = OPS["broadcast"](b, OPS["reshape"](b, product, dims=(64,)), dims=(64, 64), axes=(1,))
    return [OPS["add"](b, OPS["mul"](b, x, row), along_row(b, sums, x))]


JOINED = {
    "plain": plain, "rows of unknown length": rows_of_unknown_length, "long rows": long_rows,
    "written over": written_over, "standardized": standardized, "two sums": two_sums,
    "whole numbers": whole_numbers, "other rows": other_rows,
}  # fmt: skip


# --- what is joined -------------------------------------------------------------------------------


def test_a_softmax_is_one_kernel_that_keeps_what_only_it_reads() -> None:
    grouping = joined(plain)
    (only,) = grouping.groups
    assert only.kind == "rows"
    assert only.rows == (N,)
    assert kept(only) == {"reduce_max", "exp", "reduce_sum"}
    assert only.pointwise == set(only.inputs)


def test_long_rows_and_rows_of_unknown_length_are_stored() -> None:
    assert kept(joined(long_rows).groups[0]) == {"reduce_max", "reduce_sum"}
    assert kept(joined(rows_of_unknown_length).groups[0]) == {"reduce_max", "reduce_sum"}


def test_results_are_stored_and_not_written_over() -> None:
    (only,) = joined(standardized).groups
    assert {value.name for value in only.outputs} == {"mul_2", "div", "rsqrt"}
    assert not only.pointwise


def test_reductions_of_the_same_rows_are_joined_by_who_reads_both() -> None:
    assert kinds(joined(two_sums)) == ["rows"]


def test_a_value_that_is_read_in_other_rows_is_not_written_over() -> None:
    *_, last = joined(other_rows).groups
    assert last.kind == "rows"
    assert not last.pointwise


def test_rows_read_as_columns_are_not_joined() -> None:
    assert kinds(joined(across)) == ["reduce", "loop"]


def test_what_is_read_between_is_not_joined() -> None:
    assert "rows" not in kinds(joined(between))


def test_few_rows_stay_apart_for_many_tasks() -> None:
    assert kinds(joined(long_rows, tasks=1)) == ["rows"]
    assert "rows" not in kinds(joined(long_rows, tasks=8))


# --- what it computes -----------------------------------------------------------------------------


def test_joined_rows_compute_what_their_equations_mean() -> None:
    entries = [entry_of(function_of(body), f"e{i}") for i, body in enumerate(JOINED.values())]
    random = np.random.default_rng(0)
    for tasks in (1, 2):
        compiled = compile_all(entries, tasks=tasks)
        for entry in entries:
            for env in ({"N": 5, "C": 17}, {"N": 800, "C": 600}):
                given = [array(value, env, random) for value in entry.function.params]
                wanted = evaluate(entry.function, given, env)
                for got, want in zip(compiled.call(entry.name, given, env), wanted):
                    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("tasks", [1, 2])
def test_each_row_is_stored_beside_the_next_one(tasks: int) -> None:
    """The first row has none before it, and the last none behind it."""

    def body(length: int) -> Body:
        return lambda b: [softmax(b, b.param("x", f32(N, length)))]

    entries = [entry_of(function_of(body(n)), f"e{n}") for n in (128, 129, 271)]
    compiled = compile_all(entries, tasks=tasks, level=0)
    for entry in entries:
        (value,) = entry.function.params
        for env in ({"N": 0}, {"N": 1}, {"N": 2}, {"N": 701}):
            x = array(value, env, np.random.default_rng(0))
            (want,) = evaluate(entry.function, [x], env)
            (got,) = compiled.call(entry.name, [x], env)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def array(value: Value, env: dict[str, int], random: np.random.Generator) -> Any:
    dims = [d if isinstance(d, int) else env[str(d)] for d in value.type.dims]
    if value.type.dtype == "i32":
        return random.integers(-9, 9, dims).astype(np.int32)
    return random.standard_normal(dims).astype(np.float32)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_shows_in_its_row_only(value: float) -> None:
    entry = entry_of(function_of(plain))
    x = np.random.default_rng(0).standard_normal((3, 70)).astype(np.float32)
    x[1, 33] = value
    with np.errstate(invalid="ignore"):
        (want,) = evaluate(entry.function, [x], {"N": 3})
    (got,) = compile_all([entry]).call("forward", [x], {"N": 3})
    np.testing.assert_allclose(got, want, rtol=1e-5)
