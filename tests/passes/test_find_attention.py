"""Which formulas are attention, what of a mask becomes bounds, and what stays as it was written."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt
from typing import Any, cast

import numpy as np
import pytest

from dslc.autodiff.reverse import gradient
from dslc.build import session
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.verify import verify
from dslc.ops import BY_NAME as OPS
from dslc.ops.attention_formula import AttentionAttrs
from dslc.passes.attention import attention
from dslc.source import SourceFile
from tests.passes.arguments import arguments

LIBRARY = """from std.attention import (
    scaled_dot_product_attention, causal_mask, window_mask, alibi, repeat_heads,
)
"""
SELF = "q: f32[N, 2, T, 3], k: f32[N, 2, T, 3], v: f32[N, 2, T, 3]"
CROSS = "q: f32[N, 2, T, 3], k: f32[N, 2, S, 3], v: f32[N, 2, S, 4]"
GROUPED = "q: f32[N, 4, T, 3], k: f32[N, 2, T, 3], v: f32[N, 2, T, 3]"
T, S = sym("T"), sym("S")


def function(args: str, body: str, training: bool = False) -> Function:
    """The function of a model that returns the last line of `body`."""
    *before, last = body.strip().split("\n")
    rank = 3 if "f32[T, 3]" in args else 4
    result = f"f32[{', '.join(f'R{i}' for i in range(rank))}]"
    if args.startswith("q: f32[T, 3]"):
        result = "f32[R0, R1]"
    lines = "\n".join(f"    {line.strip()}" for line in (*before, f"return {last.strip()}"))
    text = f"{LIBRARY}model M({args}) -> {result} {{\n{lines}\n}}\n"
    if training:
        text += "train M { loss mean(output * output)\n optimizer sgd[0.1] }\n"
    program = session.program_of(SourceFile("m.dl", text), None, training=training)
    if program.training is not None:
        return program.training.loss.function
    return program.entries[0].function


def found(function: Function) -> list[Eqn]:
    return [eqn for eqn in function.eqns if eqn.op is OPS["attention"]]


@dataclass(frozen=True)
class Case:
    """`attrs`: those that are not their defaults, but for the scale."""

    args: str
    body: str
    attrs: dict[str, Any] = field(default_factory=dict)
    scale: float = 1 / sqrt(3)


CASES = {
    "the plain formula": Case(SELF, "softmax(q @ k.T / sqrt(3)) @ v"),
    "one head": Case("q: f32[T, 3], k: f32[S, 3], v: f32[S, 2]", "softmax(q @ k.T) @ v", scale=1.0),
    "a scaled query": Case(CROSS, "softmax((q * 0.5) @ k.T) @ v", scale=1.0),
    "scaled keys, whose heads are joined while they are turned": Case(
        "q: f32[N, 2, T, 3], k: f32[N, 2, S, 3], v: f32[N, 2, S, 4]",
        """t = reshape[N, 2, 3, S](transpose[0, 2, 1](reshape[N * 2, S, 3](k)))
        softmax(q @ (t * 0.5)) @ v""",
        scale=0.5,
    ),
    "a softmax written out": Case(
        SELF,
        """s = q @ k.T * 0.5
        e = exp(s - max[axis=-1, keepdims=true](s))
        (e / sum[axis=-1, keepdims=true](e)) @ v""",
        scale=0.5,
    ),
    "the library": Case(CROSS, "scaled_dot_product_attention(q, k, v)"),
    "causal": Case(SELF, "scaled_dot_product_attention[causal=true](q, k, v)", {"low": 0}),
    "a causal window": Case(
        SELF,
        "scaled_dot_product_attention[causal=true, window=2](q, k, v)",
        {"low": 0, "high": 1},
    ),
    "a window": Case(
        CROSS, "scaled_dot_product_attention[window=2](q, k, v)", {"low": -1, "high": 1}
    ),
    "a causal mask of one's own": Case(
        SELF,
        """seen = reshape[T, 1](arange[T]()) >= arange[T]()
        softmax(where(seen, q @ k.T, -1e30)) @ v""",
        {"low": 0},
        1.0,
    ),
    "keys strictly before": Case(
        SELF,
        """seen = arange[T]() < reshape[T, 1](arange[T]())
        where(seen, softmax(where(seen, q @ k.T, -1e9)), 0) @ v""",
        {"low": 1},
        1.0,
    ),
    "what is not seen": Case(
        SELF,
        """hidden = arange[T]() > reshape[T, 1](arange[T]())
        softmax(where(hidden, -1e30, q @ k.T)) @ v""",
        {"low": 0},
        1.0,
    ),
    "queries are the last of the keys": Case(
        CROSS,
        """seen = reshape[T, 1](arange[T]()) + (S - T) >= arange[S]()
        where(seen, softmax(where(seen, q @ k.T, -1e30)), 0) @ v""",
        {"low": T - S},
        1.0,
    ),
    "a past": Case(
        f"{CROSS}, past: i64",
        """seen = causal_mask[3](past + arange[T](), arange[S]())
        scaled_dot_product_attention(q, k, v, seen)""",
        {"low": 0, "high": 2, "past": True},
    ),
    "one query behind a past": Case(
        "q: f32[N, 2, 1, 3], k: f32[N, 2, S, 3], v: f32[N, 2, S, 4], past: i64",
        "scaled_dot_product_attention(q, k, v, arange[S]() <= past)",
        {"low": 0, "past": True},
    ),
    "the past of the only sequence": Case(
        "q: f32[1, 2, 1, 3], k: f32[1, 2, S, 3], v: f32[1, 2, S, 4], past: i64[1]",
        """seen = causal_mask(max(past) + arange[1](), arange[S]())
        scaled_dot_product_attention(q, k, v, reshape[1, 1, 1, S](seen))""",
        {"low": 0, "past": True},
    ),
    "a past of each sequence": Case(
        f"{CROSS}, past: i64[N]",
        """seen = causal_mask(reshape[N, 1, 1](past) + arange[T](), arange[S]())
        scaled_dot_product_attention(q, k, v, reshape[N, 1, T, S](seen))""",
        {"mask": True},
    ),
    "padding": Case(
        f"{CROSS}, length: i64[N]",
        """seen = arange[S]() < reshape[N, 1](length)
        scaled_dot_product_attention(q, k, v, reshape[N, 1, 1, S](seen))""",
        {"mask": True},
    ),
    "padding and causal": Case(
        f"{SELF}, seen: bool[N, T]",
        "scaled_dot_product_attention[causal=true](q, k, v, reshape[N, 1, 1, T](seen))",
        {"low": 0, "mask": True},
    ),
    "padding that may hide all, not set to 0": Case(
        f"{SELF}, seen: bool[N, T]",
        "softmax(where(reshape[N, 1, 1, T](seen), q @ k.T, -1e30)) @ v",
        {"mask": True, "fill": -1e30},
        1.0,
    ),
    "a mask that says little": Case(
        f"{SELF}, seen: bool[T, T]",
        "where(seen, softmax(where(seen, q @ k.T, -3)), 0) @ v",
        {"mask": True, "fill": -3.0, "factor": True},
        1.0,
    ),
    "two masks": Case(
        f"{CROSS}, a: bool[N, S], b: bool[T, S]",
        "scaled_dot_product_attention(q, k, v, reshape[N, 1, 1, S](a) and not b)",
        {"mask": True},
    ),
    "a bias": Case(
        f"{CROSS}, p: f32[2, T, S]",
        "scaled_dot_product_attention(q, k, v, bias=p)",
        {"bias": True},
    ),
    "biases, and a scale behind them": Case(
        f"{CROSS}, p: f32[2, T, S], r: f32[S]",
        "softmax((q @ k.T + p - r) * 0.5) @ v",
        {"bias": True},
        0.5,
    ),
    "a causal mask that is added": Case(
        f"{SELF}, p: f32[T]",
        """seen = reshape[T, 1](arange[T]()) >= arange[T]()
        softmax(q @ k.T + where(seen, 0, -1e9) + p) @ v""",
        {"low": 0, "bias": True},
        1.0,
    ),
    "padding that is added": Case(
        f"{SELF}, seen: bool[N, T]",
        """softmax(q @ k.T + where(reshape[N, 1, 1, T](seen), 0, -1e9)) @ v""",
        {"bias": True},
        1.0,
    ),
    "ALiBi": Case(
        SELF,
        """bias = alibi[2](arange[T](), arange[T]())
        scaled_dot_product_attention[causal=true](q, k, v, bias=bias)""",
        {"low": 0, "bias": True},
    ),
    "shared heads": Case(
        GROUPED,
        "scaled_dot_product_attention[causal=true](q, repeat_heads[2](k), repeat_heads[2](v))",
        {"low": 0, "group": 2},
    ),
    "one head of keys": Case(
        "q: f32[N, 4, T, 3], k: f32[N, 1, T, 3], v: f32[N, 1, T, 3]",
        "softmax(q @ k.T) @ broadcast_to[N, 4, T, 3](v)",
        {"group": 4},
        1.0,
    ),
    "one head of keys, repeated": Case(
        "q: f32[N, 4, T, 3], k: f32[N, 1, T, 3], v: f32[N, 1, T, 3]",
        "scaled_dot_product_attention(q, repeat_heads[4](k), repeat_heads[4](v))",
        {"group": 4},
    ),
    "shared heads, scaled and joined while they are turned": Case(
        GROUPED,
        """keys = transpose[0, 2, 1](reshape[4 * N, T, 3](repeat_heads[2](k)))
        softmax(q * 0.5 @ (reshape[N, 4, 3, T](keys) * 0.5)) @ repeat_heads[2](v)""",
        {"group": 2},
        0.5,
    ),
    "shared heads that lie across": Case(
        GROUPED,
        "softmax(q @ repeat_heads[2](k).T) @ repeat_heads[2](v)",
        {"group": 2},
        1.0,
    ),
    "keys that lie across": Case(
        "q: f32[N, 2, T, 3], k: f32[N, 2, 3, S], v: f32[N, 2, S, 4]",
        "softmax(q @ k) @ v",
        scale=1.0,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_is_attention(case: Case) -> None:
    before = function(case.args, case.body)
    after = attention(before)
    verify(after, "attention")
    (eqn,) = found(after)
    attrs = cast(AttentionAttrs, eqn.attrs)
    assert attrs.scale == pytest.approx(case.scale)
    assert attrs == AttentionAttrs(attrs.scale, **case.attrs)
    agree(before, after)


def agree(before: Function, after: Function) -> None:
    """Both give the same, and so do the gradients of all float arguments."""
    rng = np.random.default_rng(1)
    args = arguments(before, rng, 5)
    for x, y in zip(evaluate(before, args), evaluate(after, args)):
        np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6)
    for x, y in zip(evaluate(with_gradients(before), args), evaluate(with_gradients(after), args)):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-5)


def with_gradients(given: Function) -> Function:
    b = Builder.over(given)
    for eqn in given.eqns:
        b.keep(eqn)
    out = given.results[0]
    total = OPS["reduce_sum"](b, OPS["sin"](b, out), axes=tuple(range(out.type.rank)))
    floats = [i for i, p in enumerate(given.params) if p.type.dtype == "f32"]
    return gradient(b.function("loss", (total,)), 0, floats)


def test_dropout_in_training() -> None:
    before = function(SELF, "scaled_dot_product_attention[causal=true, drop=0.5](q, k, v)", True)
    after = attention(before)
    (eqn,) = found(after)
    assert eqn.attrs == AttentionAttrs(1 / sqrt(3), low=0, factor=True)
    args = arguments(before, np.random.default_rng(0), 3)
    for x, y in zip(evaluate(before, args), evaluate(after, args)):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def test_a_row_that_sees_nothing_is_0_and_its_gradients_are_finite() -> None:
    case = CASES["keys strictly before"]
    after = with_gradients(attention(function(case.args, case.body)))
    assert any(eqn.op is OPS["attention_gradient"] for eqn in after.eqns)
    args = arguments(after, np.random.default_rng(0), 4)
    out = evaluate(attention(function(case.args, case.body)), args)[0]
    assert np.all(out[:, :, 0] == 0)
    assert all(np.all(np.isfinite(x)) for x in evaluate(after, args))


NOT = {
    "a softmax along the queries": (SELF, "softmax[axis=-2](q @ k.T) @ v"),
    "no softmax": (SELF, "sigmoid(q @ k.T) @ v"),
    "a square root of the weights": (SELF, "sqrt(softmax(q @ k.T)) @ v"),
    "exponentials over another sum": (
        SELF,
        "s = q @ k.T\n(exp(s) / sum[axis=-1, keepdims=true](exp(s * 2))) @ v",
    ),
    "weights that are returned too": (
        SELF,
        "w = softmax(q @ k.T)\nw @ v + sum[axis=-1, keepdims=true](w * w)",
    ),
    "something between scores and softmax": (SELF, "softmax(tanh(q @ k.T)) @ v"),
    "a bias behind the mask": (
        f"{SELF}, seen: bool[T, T], p: f32[T, T]",
        "softmax(where(seen, q @ k.T, -5) + p) @ v",
    ),
    "weights from the right": (SELF, "(v.T @ softmax(q @ k.T)).T"),
}


@pytest.mark.parametrize(("args", "body"), NOT.values(), ids=NOT.keys())
def test_is_not(args: str, body: str) -> None:
    before = function(args, body)
    assert attention(before) is before
