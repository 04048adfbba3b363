"""What a scan keeps for its gradient changes none: `keep`, and where `truncate` stops one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dslc.autodiff.reverse import gradient
from dslc.ir.core import Function
from dslc.ir.evaluate import evaluate
from dslc.ir.verify import verify
from dslc.ops.scan_attrs import ScanAttrs
from dslc.passes.dce import dce
from dslc.passes.scans import scans
from dslc.passes.sums import sums
from dslc.passes.yields import yields
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

# Carries of several dtypes, one read where it was, one yielded; weights around; backwards.
LOSS = """
model M(x: f64[LENGTH, 3], w: f64[3, 3], h: f64[3], c: f64[3]) -> f64 {
    ys, a, b, n = scan[OPTIONS] x_t in x along 0 REVERSED, a = h, b = c, n = cast[i64](0) {
        n = n + 1
        z = sigmoid(a @ w + x_t)
        b = z * b + (1 - z) * tanh(x_t @ w) * relu(a + 0.3)
        a = b * cast[f64](n) * 0.5 - a
        yield a * z
    }
    return sum(ys * ys) + sum(a * b * h)
}
"""
SHAPES = [(3, 3), (3,), (3,)]


def function(text: str) -> Function:
    program, found = elaborate(SourceFile("test.dl", text))
    assert program is not None, [d.title for d in found]
    return program.entry("forward").function


def loss(options: str, length: str = "T", reverse: bool = False) -> Function:
    text = LOSS.replace("OPTIONS", options).replace("LENGTH", length)
    return function(text.replace("REVERSED", "reversed" if reverse else ""))


def arguments(length: int) -> list[Any]:
    rng = np.random.default_rng(length)
    return [rng.uniform(-1, 1, shape) for shape in [(length, 3), *SHAPES]]


def optimised(of: Function) -> Function:
    made = gradient(of, 0, (0, 1, 2, 3))
    verify(made)
    small = dce(scans(yields(sums(made))))
    verify(small)
    return small


def check(options: str, length: str, lengths: list[int], reverse: bool) -> None:
    plain, other = loss('keep="all"', length, reverse), loss(options, length, reverse)
    wanted, found = gradient(plain, 0, (0, 1, 2, 3)), optimised(other)
    for steps in lengths:
        args = arguments(steps)
        for want, got in zip(evaluate(wanted, args), evaluate(found, args)):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("keep", ["all", "carries", "checkpoints"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_gradients_are_the_same(keep: str, reverse: bool) -> None:
    check(f'keep="{keep}"', "T", [0, 1, 2, 3, 7, 16, 35], reverse)


@pytest.mark.parametrize("length", [1, 2, 11, 12, 37])
def test_chunks_of_a_known_length(length: int) -> None:
    check('keep="checkpoints"', str(length), [length], reverse=length % 2 == 0)


@pytest.mark.parametrize("keep", ["all", "carries", "checkpoints"])
@pytest.mark.parametrize("reverse", [False, True], ids=["forwards", "backwards"])
def test_truncated_gradients_stop_where_chunks_begin(keep: str, reverse: bool) -> None:
    options = f'keep="{keep}", truncate=4'
    found = optimised(loss(options, reverse=reverse))
    for steps in (0, 1, 4, 5, 11, 12):
        parts = stopping_every(4, steps, reverse)
        args = arguments(steps)
        wanted = evaluate(gradient(parts, 0, (0, 1, 2, 3)), args)
        for want, got in zip(wanted, evaluate(found, args)):
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


def stopping_every(steps: int, length: int, reverse: bool) -> Function:
    """The loss with each step written out, and the carries stopped between chunks."""
    lines = []
    for turn in range(length):
        place = length - 1 - turn if reverse else turn
        if turn % steps == 0 and turn:
            lines.append("a, b = stop_gradient(a), stop_gradient(b)")
        lines += [
            f"x_t = x[{place}]",
            "z = sigmoid(a @ w + x_t)",
            "b = z * b + (1 - z) * tanh(x_t @ w) * relu(a + 0.3)",
            f"a = b * {turn + 1} * 0.5 - a",
            "y = a * z",
            "total = total + sum(y * y)",
        ]
    body = "\n    ".join(["a, b, total = h, c, 0 * sum(h)", *lines])
    return function(
        f"model M(x: f64[{length}, 3], w: f64[3, 3], h: f64[3], c: f64[3]) -> f64 {{\n    {body}\n"
        "    return total + sum(a * b * h)\n}"
    )


def loops(of: Function) -> list[ScanAttrs]:
    return [eqn.attrs for eqn in of.eqns if isinstance(eqn.attrs, ScanAttrs)]


def test_all_that_is_needed_is_kept_once() -> None:
    """The backward loop computes no step again: no product of the forward step is in it."""
    forward, backward = loops(optimised(loss('keep="all"')))
    assert [e.op.name for e in forward.body.eqns].count("matmul") == 1
    names = [e.op.name for e in backward.body.eqns]
    assert names.count("matmul") == 1  # the cotangent of a @ w
    assert not {"sigmoid", "tanh", "relu"} & set(names)


def test_carries_alone_are_kept() -> None:
    forward, backward = loops(optimised(loss('keep="carries"')))
    assert "sigmoid" in [e.op.name for e in backward.body.eqns]
    assert forward.yields <= 4  # a, b, n, and what is yielded


def test_with_checkpoints_nothing_of_all_steps_is_in_memory() -> None:
    """But for what is handed in and its gradient: the largest value made is of a chunk."""
    text = """
model M(x: f64[10000, 2], w: f64[2, 32], u: f64[32, 32], h: f64[32]) -> f64 {
    last = scan[keep="checkpoints"] x_t in x along 0, h = h {
        h = tanh(h @ u + x_t @ w)
    }
    return sum(last)
}
"""
    made = dce(scans(yields(sums(gradient(function(text), 0, (1, 2, 3))))))
    sizes = [v.type.size for eqn in made.eqns for v in eqn.outputs]
    assert max(sizes) <= 100 * 100 * 2  # no more than the input, cut into chunks
    bodies = [eqn.body for eqn in loops(made)]
    inner = [v.type.size for body in bodies for eqn in body.eqns for v in eqn.outputs]
    assert max(inner) <= 101 * 32
