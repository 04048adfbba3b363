"""Gradients through scans are finite differences, in f64; gradients of gradients, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dslc.autodiff.reverse import gradient
from dslc.ir.builder import Builder
from dslc.ir.core import Function
from dslc.ir.evaluate import evaluate
from dslc.ir.verify import verify
from dslc.ops.broadcast import reduce_sum
from dslc.ops.scan_attrs import ScanAttrs
from dslc.passes.dce import dce
from dslc.passes.scans import scans
from dslc.passes.sums import sums
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

Array = Any

# Carries that are swapped, counted, read by the other, yielded before they change.
MIXED = """
model M(x: f64[T, 3], w: f64[3], h: f64[3]) -> f64 {
    ys, a, b, n = scan x_t in x along 0 reversed, a = h, b = 0.5 * h, n = cast[i64](0) {
        n = n + 1
        yield a * w
        c = a
        a = tanh(b * w + x_t) * cast[f64](n)
        b = c
    }
    return sum(ys * ys) + sum(a * b * w)
}
"""
NESTED = """
model M(x: f64[A, B, 2], w: f64[2, 2], h: f64[2]) -> f64 {
    rows, last = scan row in x along 0, h = h {
        ss, s = scan e in row along 0 reversed, s = h {
            s = tanh(s @ w + e)
            yield s * e
        }
        h = h * 0.5 + s
        yield sum(ss)
    }
    return sum(rows * rows) + sum(last)
}
"""
UNUSED = """
model M(x: f64[T, 2], w: f64[2], h: f64[2]) -> f64 {
    ys, last = scan x_t in x along 0, h = h {
        h = h * w
        yield stop_gradient(h) * x_t
    }
    return sum(ys)
}
"""


def function(text: str) -> Function:
    program, found = elaborate(SourceFile("test.dl", text))
    assert program is not None, found
    return program.entry("forward").function


def differences(of: Function, args: list[Array], position: int, step: float = 1e-6) -> Array:
    out = np.zeros_like(args[position])
    for index in np.ndindex(out.shape):
        sides = []
        for sign in (1, -1):
            moved = [np.array(a) for a in args]
            moved[position][index] += sign * step
            sides.append(float(evaluate(of, moved)[0]))
        out[index] = (sides[0] - sides[1]) / (2 * step)
    return out


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        (MIXED, [(4, 3), (3,), (3,)]),
        (MIXED, [(0, 3), (3,), (3,)]),
        (NESTED, [(3, 2, 2), (2, 2), (2,)]),
        (NESTED, [(1, 4, 2), (2, 2), (2,)]),
    ],
    ids=["mixed", "mixed, no step", "nested", "nested, one row"],
)
def test_gradient_is_finite_differences(text: str, shapes: list[tuple[int, ...]]) -> None:
    loss = function(text)
    made = gradient(loss, 0, (0, 1, 2))
    verify(made)
    rng = np.random.default_rng(2)
    args = [rng.uniform(-1, 1, shape) for shape in shapes]
    small = dce(scans(sums(made)))
    verify(small)
    for found in (evaluate(made, args), evaluate(small, args)):
        for position, got in enumerate(found[1:]):
            wanted = differences(loss, args, position)
            np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-7)


def test_gradient_of_a_gradient() -> None:
    loss = function(MIXED)
    rng = np.random.default_rng(3)
    args = [rng.uniform(-1, 1, shape) for shape in [(3, 3), (3,), (3,)]]
    first = gradient(loss, 0, (1,))
    summed = _summed(first)
    second = gradient(summed, 0, (1,))
    found = evaluate(second, args)[1]
    np.testing.assert_allclose(found, differences(summed, args, 1), rtol=1e-5, atol=1e-6)


def _summed(of: Function) -> Function:
    """The function whose only result is the sum of the last one's elements."""
    b = Builder.over(of)
    for eqn in of.eqns:
        b.keep(eqn)
    last = of.results[-1]
    return b.function("summed", [reduce_sum(b, last, axes=tuple(range(last.type.rank)))])


def test_the_forward_scan_runs_once_and_keeps_what_its_steps_begin_with() -> None:
    made = dce(scans(sums(gradient(function(MIXED), 0, (0, 1, 2)))))
    forward, backward = (eqn for eqn in made.eqns if isinstance(eqn.attrs, ScanAttrs))
    directions = [e.attrs.reverse for e in (forward, backward) if isinstance(e.attrs, ScanAttrs)]
    assert directions == [True, False]
    assert set(forward.outputs) & set(backward.inputs)


def test_what_stops_the_gradient_stops_it_in_a_body() -> None:
    made = gradient(function(UNUSED), 0, (0, 1, 2))
    rng = np.random.default_rng(4)
    args = [rng.uniform(-1, 1, shape) for shape in [(3, 2), (2,), (2,)]]
    _, dx, dw, dh = evaluate(made, args)
    assert (dx != 0).all()
    assert not dw.any()
    assert not dh.any()
