"""Attention reads and writes turned heads where they lie, and computes the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from lowering.bodies import function_of
from lowering.native import compile_all, entry_of

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import Dim, sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.lowering.grouping.group import Grouping, group
from dslc.lowering.grouping.moves import join_moves
from dslc.ops import BY_NAME as OPS
from dslc.ops.attention_formula import AttentionAttrs

N, HEADS, WIDTH = sym("N"), 3, 16
SIZES = {"N": 11}


def turned(b: Builder, x: Value) -> Value:
    """[B, T, H, D] as [B, H, T, D], or back."""
    return OPS["transpose"](b, x, perm=(0, 2, 1, 3))


def attended(b: Builder, *operands: Value) -> tuple[Value, ...]:
    return b.emit(OPS["attention"], operands, AttentionAttrs(0.25, low=0))


def heads(b: Builder, name: str, count: Dim = N) -> Value:
    return b.param(name, TensorType("f32", (2, count, HEADS, WIDTH)))


def plain(b: Builder) -> Sequence[Value]:
    out, _ = attended(b, *(turned(b, heads(b, name)) for name in "qkv"))
    return [turned(b, out)]


def of_one_product(b: Builder) -> Sequence[Value]:
    """Queries, keys and values side by side."""
    x = b.param("x", TensorType("f32", (2, N, 3 * HEADS * WIDTH)))
    parts = []
    for i in range(3):
        starts, stops = (0, 0, i * HEADS * WIDTH), (2, N, (i + 1) * HEADS * WIDTH)
        part = OPS["slice"](b, x, starts=starts, stops=stops, steps=(1, 1, 1))
        parts.append(turned(b, OPS["reshape"](b, part, dims=(2, N, HEADS, WIDTH))))
    out, _ = attended(b, *parts)
    return [turned(b, out)]


def read_again(b: Builder) -> Sequence[Value]:
    """The result as it is, too, in a loop; the queries in another one."""
    q, k, v = (turned(b, heads(b, name)) for name in "qkv")
    out, rows = attended(b, q, k, v)
    sums = OPS["reduce_sum"](b, OPS["mul"](b, out, q), axes=(3,))
    return [turned(b, out), OPS["add"](b, sums, rows)]


def returned(b: Builder) -> Sequence[Value]:
    """The moved queries and the result are results themselves: both are there."""
    q, k, v = (turned(b, heads(b, name)) for name in "qkv")
    out, _ = attended(b, q, k, v)
    return [turned(b, out), out, q]


def gradient(b: Builder) -> Sequence[Value]:
    q, k, v, g = (turned(b, heads(b, name)) for name in "qkvg")
    out, rows = attended(b, q, k, v)
    delta = OPS["reduce_sum"](b, OPS["mul"](b, g, out), axes=(3,))
    operands = (q, k, v, g, rows, delta)
    found = b.emit(OPS["attention_gradient"], operands, AttentionAttrs(0.25, low=0))
    return [turned(b, out), *(turned(b, each) for each in found)]


def joined(body: Callable[[Builder], Sequence[Value]]) -> Grouping:
    function = function_of(body)
    return join_moves(function, group(function))


def kernels(body: Callable[[Builder], Sequence[Value]]) -> list[str]:
    return [g.anchor.op.name if g.anchor else g.kind for g in joined(body).groups]


def test_no_move_is_left():
    assert kernels(plain) == ["attention"]
    assert kernels(of_one_product) == ["attention"]
    assert kernels(read_again) == ["attention", "loop"]  # a sum of so few is written out
    assert kernels(gradient) == ["attention", "loop", "attention_gradient"]


def test_what_is_a_result_is_moved():
    assert kernels(returned).count("loop") == 2


def test_they_compute_the_same():
    functions = {f.__name__: function_of(f) for f in (of_one_product, read_again, gradient)}
    compiled = compile_all([entry_of(f, name) for name, f in functions.items()], level=0)
    random = np.random.default_rng(0)
    for name, function in functions.items():
        arrays = [
            random.standard_normal([d if isinstance(d, int) else SIZES["N"] for d in p.type.dims])
            .astype("f4")
            for p in function.params
        ]  # fmt: skip
        expected = evaluate(function, arrays)
        for found, wanted in zip(compiled.call(name, arrays), expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
