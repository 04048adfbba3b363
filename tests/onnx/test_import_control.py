"""Graphs inside of nodes: `If` on data, `Loop` and `Scan` as text, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from imports import body, compare, imported, model_of, normal

from dslc.diagnostics import CompileError


def steps(x: str, inner: str, *, sizes: str = "2,3", carried: str = "float[2,3]") -> Any:
    """A loop of as many turns as `x` has slices."""
    return model_of(
        f"""
        net (float[{x}] x, float[{sizes}] h) => ({carried} last, float[n, 3] seen)
        {{
          n = Shape<start = 0, end = 1>(x)
          axes = Constant<value_ints = [0]>()
          trips = Squeeze(n, axes)
          on = Constant<value = bool {{1}}>()
          last, seen = Loop(trips, on, h)<body = turn (int64 t, bool go, {carried} c) =>
            (bool more, {carried} next, float[3] out)
            {{ more = Identity(go) {inner} }}>
        }}
        """,
        w=(3, 3),
    )


def test_a_loop_of_known_length_is_a_scan() -> None:
    inner = "a = Gather(x, t) b = MatMul(c, w) next = Add(a, b) "
    model = steps("T, 2, 3", inner + "out = ReduceSum<keepdims = 0>(c, axes)")
    found = compare(model, normal(4, 2, 3), normal(2, 3))
    assert body(found) == [
        "param w: f32[3, 3] = 0",
        "seen, last = scan t in arange[T]() along 0, c = h {",
        "out = sum[axis=0](c)",
        "c = take[axis=0](x, t) + c @ w",
        "yield out",
        "}",
        "return last, seen",
    ]


def test_turns_that_carry_a_larger_value_each_are_written_out() -> None:
    grow = "next = Concat<axis = 0>(c, x) out = ReduceSum<keepdims = 0>(c, axes)"
    model = steps("3, 3", grow, carried="float[n, 3]")
    found = compare(model, normal(3, 3), normal(2, 3))
    assert "scan" not in found.text


def test_what_a_loop_leaves_as_it_is_and_what_it_gives_from_before() -> None:
    text = """
    net (float[5] x, float a, float b) => (float a2, float b2, float[5] s)
    {
      a2, b2, s = Scan<num_scan_inputs = 1,
        body = step (float ai, float bi, float xi) => (float ao, float bo, float so)
        { ao = Add(ai, xi) bo = Identity(bi) so = Mul(ai, bi) }>(a, b, x)
    }
    """
    compare(model_of(text), normal(5), np.float32(2), np.float32(3))


def test_a_list_that_grows_is_a_stack() -> None:
    text = """
    net (float[2, 3] x) => (float[2, 12] y)
    {
      n = Constant<value_int = 4>()
      on = Constant<value = bool {1}>()
      empty = SequenceEmpty()
      last, all = Loop(n, on, x, empty)<body = turn (int64 t, bool go, float[2,3] c,
        seq(float[2,3]) l) => (bool more, float[2,3] next, seq(float[2,3]) longer)
        { more = Identity(go) next = Sin(c) longer = SequenceInsert(l, next) }>
      y = ConcatFromSequence<axis = 1>(all)
    }
    """
    found = compare(model_of(text), normal(2, 3))
    assert "along 0, c = x" in found.text


def test_an_if_on_data_computes_both_sides() -> None:
    text = """
    net (float[2, 3] x) => (float[2, 3] y)
    {
      zero = Constant<value_float = 0.0>()
      total = ReduceSum<keepdims = 0>(x)
      up = Greater(total, zero)
      y = If(up)<then_branch = a () => (float[2,3] p) { p = Exp(x) },
                 else_branch = b () => (float[2,3] q) { q = Neg(x) }>
    }
    """
    for x in (normal(2, 3), -np.abs(normal(2, 3))):
        found = compare(model_of(text), x)
    assert body(found) == ["up = sum(x) > 0", "return where(up, exp(x), -x)"]


def test_a_loop_that_runs_until_its_data_say_so_is_refused() -> None:
    text = """
    net (float x) => (float y)
    {
      on = Constant<value = bool {1}>()
      y = Loop(, on, x)<body = turn (int64 t, bool go, float c) => (bool more, float next)
        { next = Add(c, c) more = Less(next, x) }>
    }
    """
    with pytest.raises(CompileError, match="it runs until the data of a call say so"):
        imported(model_of(text))
