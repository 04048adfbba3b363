"""Compiled = reference: every op over its samples, and over generated sizes of dynamic dims."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lowering.native import Compiled, compile_all, entry_of
from ops.cases import case_id, concrete, environments, function_of, random_inputs

from dslc.ir.builder import Builder
from dslc.ir.core import Function
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.op import Op, Sample, TypeRuleError
from dslc.ir.types import TensorType
from dslc.ops import ALL, BY_NAME
from dslc.ops.index import IndexGradientAttrs, scatter_add

HALF = {"f16": 4e-3, "bf16": 3e-2}  # tolerance: a few units in the last of 11 or 8 bits


def check_equal(got: Any, want: Any, sample: Sample) -> None:
    """Dtype and dims equal; floats within the sample's tolerance, anything else exactly."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    name = "bf16" if want.dtype.name == "bfloat16" else {"float16": "f16"}.get(want.dtype.name, "")
    if want.dtype.kind != "f" and name != "bf16":
        np.testing.assert_array_equal(got, want)
        return
    rtol = max(4 * sample.rtol, HALF.get(name, 0.0))
    wide, expected = got.astype("f8"), want.astype("f8")
    np.testing.assert_allclose(wide, expected, rtol=rtol, atol=1e-6 if name == "" else 1e-2)


@pytest.mark.parametrize("op", ALL, ids=case_id)
def test_compiled_is_the_reference(op: Op) -> None:
    samples = op.samples
    entries = [entry_of(function_of(op, s), f"e{i}") for i, s in enumerate(samples)]
    compiled = compile_all(entries)
    rng = np.random.default_rng(11)
    for entry, sample in zip(entries, samples):
        for env in environments(sample):
            bound = concrete(sample, env)
            try:
                op.infer(bound.attrs, bound.inputs)
            except TypeRuleError:
                continue  # a dim that is known to be 0 is refused
            inputs = random_inputs(op, bound, rng)
            for got, want in zip(
                compiled.call(entry.name, inputs, env), evaluate(entry.function, inputs, env)
            ):
                check_equal(got, want, sample)


def test_a_tensor_that_turns_out_to_be_empty_is_not_added_to() -> None:
    sample = Sample(
        (TensorType("f32", (4, 3)), TensorType("i64", (4,))), IndexGradientAttrs(0, sym("N"))
    )
    compiled = compile_all([entry_of(function_of(scatter_add, sample))])
    inputs = [np.ones((4, 3), np.float32), np.arange(4)]
    for before in (False, True):
        (found,) = compiled.call("forward", inputs, {"N": 0}, before)
        assert found.shape == (0, 3)


M, N, K = sym("M"), sym("N"), sym("K")


def f32(*dims: Any) -> TensorType:
    return TensorType("f32", dims)


def _unary_chain(b: Builder) -> Sequence[Any]:
    x, y = b.param("x", f32(M, N)), b.param("y", f32(N))
    wide = BY_NAME["broadcast"](b, y, dims=(M, N), axes=(1,))
    total = BY_NAME["add"](b, BY_NAME["tanh"](b, x), wide)
    return [BY_NAME["mul"](b, total, x), total]


def _sums(b: Builder) -> Sequence[Any]:
    x = b.param("x", f32(M, N, K))
    square = BY_NAME["mul"](b, x, x)
    axes = ((0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2))
    return [BY_NAME["reduce_sum"](b, square, axes=a) for a in axes]


def _products(b: Builder) -> Sequence[Any]:
    x, y, z = b.param("x", f32(M, K)), b.param("y", f32(K, N)), b.param("z", f32(N, K))
    plain = BY_NAME["matmul"](b, x, y)
    return [BY_NAME["relu"](b, plain), BY_NAME["matmul"](b, x, z, transpose_b=True)]


def _moved(b: Builder) -> Sequence[Any]:
    x = b.param("x", f32(M, N, K))
    moved = BY_NAME["transpose"](b, x, perm=(2, 0, 1))
    padded = BY_NAME["pad"](b, moved, low=(1, 0, 2), high=(0, 3, 0))
    return [BY_NAME["reshape"](b, moved, dims=(K * M, N)), padded, BY_NAME["exp"](b, moved)]


def _softmax(b: Builder) -> Sequence[Any]:
    x = b.param("x", f32(M, N + 1))
    top = BY_NAME["reduce_max"](b, x, axes=(1,))
    down = BY_NAME["sub"](b, x, BY_NAME["broadcast"](b, top, dims=(M, N + 1), axes=(0,)))
    power = BY_NAME["exp"](b, down)
    total = BY_NAME["reduce_sum"](b, power, axes=(1,))
    each = BY_NAME["broadcast"](b, total, dims=(M, N + 1), axes=(0,))
    return [BY_NAME["div"](b, power, each), BY_NAME["argmax"](b, x, axis=1)]


GENERATED = {f.__name__[1:]: f for f in (_unary_chain, _sums, _products, _moved, _softmax)}


def function(name: str) -> Function:
    b = Builder()
    return b.function(name, GENERATED[name](b))


@cache
def compiled_function(name: str) -> Compiled:
    return compile_all([entry_of(function(name), name)], tasks=2)


@pytest.mark.parametrize("name", GENERATED)
@settings(max_examples=40)
@given(data=st.data())
def test_generated_sizes(name: str, data: Any) -> None:
    sizes = st.sampled_from((0, 1, 2, 3, 7, 16, 17, 33, 65))
    env = {s: data.draw(sizes, label=s) for s in ("M", "N", "K")}
    compiled = compiled_function(name)
    made = compiled.entries[name].function
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    inputs = [rng.standard_normal(_shape(p.type, env), dtype=np.float32) for p in made.params]
    want = evaluate(made, inputs, env)
    for got, expected in zip(compiled.call(name, inputs, env), want):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4)


def _shape(type: TensorType, env: dict[str, int]) -> tuple[int, ...]:
    return tuple(int(concrete_dim(dim, env)) for dim in type.dims)


def concrete_dim(dim: Any, env: dict[str, int]) -> int:
    sample = concrete(Sample((TensorType("f32", (dim,)),)), env)
    (value,) = sample.inputs[0].dims
    assert isinstance(value, int)
    return value
