"""`put` works in place where nothing needs the old value, and is right wherever it lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from lowering.native import compile_all

from dslc.ir.builder import Builder
from dslc.ir.core import Argument, Entry, Value
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.lowering.group import group
from dslc.lowering.memory import InArena, InArgument, plan
from dslc.ops import BY_NAME as OPS

N, T = sym("N"), sym("T")


def f32(*dims: Any) -> TensorType:
    return TensorType("f32", dims)


def _entry(build: Callable[..., list[Value]], outputs: int, updates: bool = True) -> Entry:
    """`build(b, cache, new, at)` over a cache of 4 sequences of 7 places in 2 heads."""
    b = Builder()
    cache, new = b.param("cache", f32(4, 2, 7, 3)), b.param("new", f32(N, T, 6))
    at = b.param("at", TensorType("i64", (N,)))
    function = b.function(build.__name__.strip("_"), build(b, cache, new, at))
    arguments = (Argument("cache", "state"), Argument("new", "input"), Argument("at", "input"))
    names = tuple(f"result_{i}" for i in range(outputs))
    return Entry(function.name, function, arguments, names, ("cache",) if updates else ())


def _put(b: Builder, cache: Value, new: Value, at: Value) -> Value:
    """Heads of `new` at `at` of each sequence."""
    heads = OPS["transpose"](b, OPS["reshape"](b, new, dims=(N, T, 2, 3)), perm=(0, 2, 1, 3))
    result: Value = OPS["put"](b, cache, heads, at, axis=2)
    return result


def _first(b: Builder, x: Value) -> Value:
    """The sequences that there are."""
    dims = x.type.dims[1:]
    result: Value = OPS["slice"](b, x, starts=(0,) * 4, stops=(N, *dims), steps=(1,) * 4)
    return result


def _of_all(b: Builder, x: Value) -> Value:
    result: Value = OPS["matmul"](b, x, x, transpose_b=True)
    return result


def _cached(b: Builder, cache: Value, new: Value, at: Value) -> list[Value]:
    made = _put(b, cache, new, at)
    return [_of_all(b, _first(b, made)), made]


def _read_late(b: Builder, cache: Value, new: Value, at: Value) -> list[Value]:
    made = _put(b, cache, new, at)
    return [OPS["add"](b, OPS["reduce_sum"](b, _of_all(b, made), axes=(3,)), _sum(b, cache)), made]


def _sum(b: Builder, x: Value) -> Value:
    """(4, 2, 7), by a kernel of its own."""
    result: Value = OPS["reduce_sum"](b, _of_all(b, x), axes=(3,))
    return result


def _on_its_way(b: Builder, cache: Value, new: Value, at: Value) -> list[Value]:
    made = _put(b, OPS["exp"](b, cache), new, at)
    return [_of_all(b, made)]


def _into_zeros(b: Builder, cache: Value, new: Value, at: Value) -> list[Value]:
    zeros = OPS["constant"](b, value=0.0, type=cache.type)
    return [_put(b, zeros, new, at)]


def _from_itself(b: Builder, cache: Value, new: Value, at: Value) -> list[Value]:
    """The first two places, put one place further."""
    some = OPS["slice"](b, cache, starts=(0,) * 4, stops=(4, 2, 2, 3), steps=(1,) * 4)
    one = OPS["constant"](b, value=1, type=TensorType("i64"))
    return [OPS["put"](b, cache, some, one, axis=2)]


ENTRIES = [
    _entry(_cached, 1),
    _entry(_read_late, 1),
    _entry(_on_its_way, 1, updates=False),
    _entry(_into_zeros, 1, updates=False),
    _entry(_from_itself, 0),
]


def test_each_is_the_reference() -> None:
    """Positions before, in, across the end of and behind the cache, and as far out as can be."""
    rng = np.random.default_rng(0)
    compiled = compile_all(ENTRIES)
    cache = rng.standard_normal((4, 2, 7, 3), dtype=np.float32)
    far = np.iinfo(np.int64)
    for at in ([0, 3, 6], [-1, 5, 7], [-9, 40, 2], [far.min, far.max, 1], [2], []):
        for length in (1, 3):
            new = rng.standard_normal((len(at), length, 6), dtype=np.float32)
            arrays = [cache, new, np.array(at, np.int64)]
            for entry in ENTRIES:
                found = compiled.call(entry.name, arrays)
                for got, want in zip(found, evaluate(entry.function, arrays), strict=True):
                    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_in_place() -> None:
    """The state is written where it lies, and read there."""
    (entry, late, way, *_) = ENTRIES
    grouping = group(entry.function)
    planned = plan(entry, grouping, {})
    assert planned.places[entry.function.results[1]] == InArgument(0)
    assert not planned.copies
    assert planned.size == 0, "the product is the result, the cache its first sequences"
    assert [g.kind for g in grouping.groups] == ["put", "contract"]
    kept = plan(late, group(late.function), {})
    assert isinstance(kept.places[late.function.results[1]], InArena)
    assert [copy.target for copy in kept.copies] == [InArgument(0)]
    assert plan(way, group(way.function), {}).size == 4 * 2 * 7 * 3 * 4 // 64 * 64 + 64


def test_a_carry_is_put_into_in_place() -> None:
    """A table that a loop fills: one slot, nothing is copied at each step."""
    b = Builder()
    body = Builder()
    x, at = body.param("x", f32(3)), body.param("at", TensorType("i64"))
    table = body.param("table", f32(8, 3))
    row = OPS["reshape"](body, x, dims=(1, 3))
    filled = OPS["put"](body, table, row, at, axis=0)
    function = body.function("body", [filled])
    inputs = [b.param("xs", f32(5, 3)), b.param("ats", TensorType("i64", (5,)))]
    inputs.append(b.param("start", f32(8, 3)))
    made = OPS["scan"](b, *inputs, body=function, elements=2, carries=1, length=5)
    outer = b.function("fill", [made])
    arguments = tuple(Argument(v.name, "input") for v in outer.params)
    entry = Entry("fill", outer, arguments, ("table",))
    rng = np.random.default_rng(1)
    arrays = [
        rng.standard_normal((5, 3), dtype=np.float32),
        np.array([3, 0, 9, 7, 3]),
        rng.standard_normal((8, 3), dtype=np.float32),
    ]
    compiled = compile_all([entry])
    (found,) = compiled.call("fill", arrays)
    np.testing.assert_array_equal(found, evaluate(outer, arrays)[0])
    assert compiled.lowered["fill"].arena == 128, "one slot of 96 bytes"


@pytest.mark.parametrize("tasks", [1, 3])
def test_big_ones_are_cut_into_tasks(tasks: int) -> None:
    b = Builder()
    x, new = b.param("x", f32(3, 900, 400)), b.param("new", f32(3, 700, 400))
    at = b.param("at", TensorType("i32", (3,)))
    function = b.function("big", [OPS["put"](b, x, new, at, axis=1)])
    arguments = tuple(Argument(name, "input") for name in ("x", "new", "at"))
    entry = Entry("big", function, (Argument("x", "state"), *arguments[1:]), (), ("x",))
    arrays = [np.zeros((3, 900, 400), "f4"), np.ones((3, 700, 400), "f4")]
    arrays.append(np.array([-3, 100, 300], np.int32))
    (found,) = compile_all([entry], tasks).call("big", arrays)
    np.testing.assert_array_equal(found, evaluate(function, arrays)[0])
