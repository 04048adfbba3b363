"""What two groups have in common is one kernel."""

from __future__ import annotations

import numpy as np
from lowering.bodies import function_of
from lowering.native import compile_all, entry_of

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.lowering.cuda.program import lower_entry_cuda
from dslc.ops import BY_NAME as OPS

STREAMS = (3, 1 << 24, 3)


def draws(b: Builder) -> list[Value]:
    seed, step = (b.param(name, TensorType("i64")) for name in ("seed", "step"))
    return [OPS["random_uniform"](b, seed, step, dims=(sym("N"), 5), stream=s) for s in STREAMS]


def test_the_stream_of_random_numbers_is_an_argument() -> None:
    entry = entry_of(function_of(draws))
    compiled = compile_all([entry], 1, level=0)
    assert compiled.lowered[entry.name].distinct == 1
    given = [np.array(7), np.array(2)]
    wanted = evaluate(entry.function, given, {"N": 9})
    for got, want in zip(compiled.call(entry.name, given, {"N": 9}), wanted):
        np.testing.assert_array_equal(got, want)


def dropped(b: Builder) -> list[Value]:
    seed, step = (b.param(name, TensorType("i64")) for name in ("seed", "step"))
    x, w = (
        b.param(name, TensorType("f32", dims))
        for name, dims in (("x", (4, 9000)), ("w", (9000, 4)))
    )
    noise = OPS["random_uniform"](b, seed, step, dims=(4, 4), stream=5)
    return [OPS["mul"](b, OPS["matmul"](b, x, w), noise)]


def test_a_kernel_that_finishes_sums_of_others_is_told_the_stream() -> None:
    lowered = lower_entry_cuda(entry_of(function_of(dropped)))
    assert any(name.endswith("_sums") for name in lowered.kernels)
