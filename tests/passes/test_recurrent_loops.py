"""What stays in the loops of recurrent layers that are trained: one product for each product with
a carry, each way. Those with the inputs are before the loop, sums of products behind it."""

from __future__ import annotations

import pytest

from dslc.autodiff.train_step import add_train_step
from dslc.ir.core import Function
from dslc.ops.scan_attrs import ScanAttrs
from dslc.passes import pipeline
from dslc.semantics.elaborate import elaborate
from dslc.source import SourceFile

ONE = """
from std.recurrent import {0}
model M(x: f32[N, T, 8]) -> f32[N, 3] {{
    hs, {1} = x |> net: {0}[16, layers={2}]
    return sum[axis=1](hs) |> fc: dense[3]
}}
"""
# A weight of the body's own that two products share, and one that only what is yielded needs.
CELLS = """
from std.recurrent import lstm_cell, gru_cell
model M(x: f32[N, T, 8]) -> f32[N, 3] {
    low, high = lstm_cell[16], gru_cell[16]
    zero = zeros[N, 16]()
    hs, h, c, g = scan x_t in x along 1, h = zero, c = zero, g = zero {
        h, c = low(x_t, h, c)
        g = high(h, g)
        yield g |> out: dense[3] |> relu
    }
    return sum[axis=1](hs)
}
"""
NESTED = """
model M(x: f32[N, S, T, 8]) -> f32[N, 3] {
    param w: f32[8, 16] ~ normal
    param u: f32[16, 16] ~ normal
    h = scan row in x along 1, h = zeros[N, 16]() {
        h = scan e in row along 1, h = h {
            h = tanh(h @ u + e @ w)
        }
    }
    return h |> fc: dense[3]
}
"""
TRAIN = """
train M {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
}
"""


def train_step(text: str) -> Function:
    program, found = elaborate(SourceFile("test.dl", text + TRAIN), training=True)
    assert program is not None, [d.title for d in found]
    made = pipeline.run(add_train_step(program), pipeline.OPTIMISE)
    return made.entry("train_step").function


def loops(function: Function) -> list[Function]:
    """The bodies that hold no other loop."""
    found: list[Function] = []
    for eqn in function.eqns:
        if isinstance(eqn.attrs, ScanAttrs):
            found += loops(eqn.attrs.body) or [eqn.attrs.body]
    return found


def products(body: Function) -> int:
    return sum("matmul" in eqn.op.name for eqn in body.eqns)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (ONE.format("rnn", "h", 1), [1, 1]),
        (ONE.format("lstm", "h, c", 1), [1, 1]),
        (ONE.format("gru", "h", 2), [1, 1, 1, 1]),
        (CELLS, [3, 3]),
        (NESTED, [1, 1]),
    ],
    ids=["rnn", "lstm", "gru of two layers", "two cells in a body", "nested"],
)
def test_a_loop_multiplies_by_what_its_carries_need(text: str, wanted: list[int]) -> None:
    assert [products(body) for body in loops(train_step(text))] == wanted


def test_no_step_is_computed_again() -> None:
    forward, backward = loops(train_step(ONE.format("lstm", "h, c", 1)))
    names = {eqn.op.name for eqn in backward.eqns}
    assert {"sigmoid", "tanh"} <= {eqn.op.name for eqn in forward.eqns}
    assert not {"sigmoid", "tanh"} & names
