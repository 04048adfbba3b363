"""Random small graphs (element-wise, broadcasts, reductions, reshapes, products), optimised and
compiled, against `evaluate`: what fusion and the simplifier make of shapes nobody thought of."""

from __future__ import annotations

from typing import cast

import numpy as np
from build.lockstep import same_array
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lowering.native import compile_all, entry_of

from dslc.ir.builder import Builder
from dslc.ir.core import DimRange, Function, Program, Value
from dslc.ir.dims import Dim, product, substitute, sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.elementwise import add, exp, maximum, mul, sub, tanh
from dslc.ops.linalg import matmul
from dslc.ops.logic import gt, select
from dslc.ops.reduce import reduce_max
from dslc.ops.shape import reshape, transpose
from dslc.passes import pipeline

N = sym("N")
DIM = st.sampled_from([N, 1, 2, 3, 5])
UNARY = (tanh, lambda b, x: exp(b, tanh(b, x)), lambda b, x: mul(b, x, x))
# A maximum by its definition: a choice that is continuous, so that rounding can't change it.
BINARY = (add, sub, mul, maximum, lambda b, x, y: select(b, gt(b, x, y), x, y))


@st.composite
def graphs(draw: st.DrawFn) -> Function:
    b = Builder()
    values: list[Value] = []
    # The first parameter tells N.
    for i in range(draw(st.integers(1, 3))):
        dims = [N, *draw(st.lists(DIM, max_size=2))] if i == 0 else draw(st.lists(DIM, max_size=3))
        values.append(b.param(f"x{i}", TensorType("f32", tuple(dims))))
    for _ in range(draw(st.integers(1, 7))):
        values.append(_step(draw, b, draw(st.sampled_from(values)), values))
    results = draw(st.lists(st.sampled_from(values[-3:]), min_size=1, max_size=2, unique=True))
    return b.function("graph", results)


def _step(draw: st.DrawFn, b: Builder, x: Value, values: list[Value]) -> Value:
    kind = draw(st.sampled_from(["unary", "binary", "reduce", "spread", "shape", "product"]))
    axes = range(x.type.rank)
    if kind == "binary":
        same = [v for v in values if v.type == x.type]
        return cast(Value, draw(st.sampled_from(BINARY))(b, x, draw(st.sampled_from(same))))
    if kind == "reduce" and x.type.rank:
        along = draw(st.lists(st.sampled_from(list(axes)), min_size=1, unique=True))
        op = draw(st.sampled_from([reduce_sum, reduce_max]))
        return cast(Value, op(b, x, axes=tuple(sorted(along))))
    if kind == "spread" and x.type.rank < 3:
        at = draw(st.integers(0, x.type.rank))
        dims = (*x.type.dims[:at], draw(DIM), *x.type.dims[at:])
        kept = tuple(axis for axis in range(len(dims)) if axis != at)
        return cast(Value, broadcast(b, x, dims=dims, axes=kept))
    if kind == "shape" and x.type.rank:
        if draw(st.booleans()):
            perm = tuple(draw(st.permutations(list(axes))))
            return cast(Value, transpose(b, x, perm=perm))
        cut = draw(st.integers(0, x.type.rank))
        dims = tuple(product(part) for part in (x.type.dims[:cut], x.type.dims[cut:]))
        return cast(Value, reshape(b, x, dims=dims))
    if kind == "product" and x.type.rank == 2:
        flip = draw(st.booleans())
        return cast(Value, matmul(b, x, x, transpose_a=flip, transpose_b=not flip))
    return cast(Value, draw(st.sampled_from(UNARY))(b, x))


def arrays(function: Function, size: int) -> list[np.ndarray]:  # type: ignore[type-arg]
    rng = np.random.default_rng(5)
    env: dict[str, Dim] = {"N": size}
    shapes = [[int(substitute(d, env)) for d in p.type.dims] for p in function.params]  # type: ignore[arg-type]
    return [np.asarray(rng.normal(size=shape) / 2, np.float32) for shape in shapes]


@settings(
    max_examples=25, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(graphs())
def test_random_graphs(function: Function) -> None:
    program = Program("graph", (entry_of(function, "graph"),), dims=(DimRange("N"),))
    optimised = pipeline.run(program, pipeline.OPTIMISE).entry("graph")
    compiled = compile_all([optimised])
    for size in (1, 3, 17):
        given_arrays = arrays(function, size)
        wanted = evaluate(function, given_arrays)
        for mine, theirs in zip(compiled.call("graph", given_arrays), wanted, strict=True):
            same_array(theirs, mine, f"N = {size}")
