"""`put` works in place where nothing needs the old value, and is right wherever it lies."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.native import compile_all
from lowering.puts import ENTRIES, arguments, f32

from dslc.ir.builder import Builder
from dslc.ir.core import Argument, Entry
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.lowering.grouping.group import group
from dslc.lowering.memory.plan import InArena, InArgument, plan
from dslc.lowering.program import lower_entry
from dslc.ops import BY_NAME as OPS
from dslc.schedules.cpu.tiles.contract import Machine


def test_each_is_the_reference() -> None:
    compiled = compile_all(ENTRIES)
    for arrays in arguments():
        for entry in ENTRIES:
            found = compiled.call(entry.name, arrays)
            for got, want in zip(found, evaluate(entry.function, arrays), strict=True):
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_a_copy_of_a_state_is_told_of() -> None:
    """Of one whose old value is read later; not where there is none, or the result is no update."""
    told = {e.name: lower_entry(e, Machine(tasks=1)).notes for e in ENTRIES}
    wanted = ("cache: all of it is copied at each call: its old value is read later",)
    assert told == {e.name: () for e in ENTRIES} | {"read_late": wanted, "from_itself": wanted}


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
    """A table that a loop fills where it is to be: nothing is copied at each step."""
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
    given = tuple(Argument(v.name, "input") for v in outer.params)
    entry = Entry("fill", outer, given, ("table",))
    rng = np.random.default_rng(1)
    arrays = [
        rng.standard_normal((5, 3), dtype=np.float32),
        np.array([3, 0, 9, 7, 3]),
        rng.standard_normal((8, 3), dtype=np.float32),
    ]
    compiled = compile_all([entry])
    (found,) = compiled.call("fill", arrays)
    np.testing.assert_array_equal(found, evaluate(outer, arrays)[0])
    assert compiled.lowered["fill"].arena == 0, "the carry lives in the result"


@pytest.mark.parametrize("tasks", [1, 3])
def test_big_ones_are_cut_into_tasks(tasks: int) -> None:
    b = Builder()
    x, new = b.param("x", f32(3, 900, 400)), b.param("new", f32(3, 700, 400))
    at = b.param("at", TensorType("i32", (3,)))
    function = b.function("big", [OPS["put"](b, x, new, at, axis=1)])
    given = (Argument("x", "state"), Argument("new", "input"), Argument("at", "input"))
    entry = Entry("big", function, given, (), ("x",))
    arrays = [np.zeros((3, 900, 400), "f4"), np.ones((3, 700, 400), "f4")]
    arrays.append(np.array([-3, 100, 300], np.int32))
    (found,) = compile_all([entry], tasks).call("big", arrays)
    np.testing.assert_array_equal(found, evaluate(function, arrays)[0])
