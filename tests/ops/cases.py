"""Every op with every one of its samples, and random inputs for them.

Dim variables of a sample are bound by `ENVIRONMENTS`; float dtypes can be widened to f64 where a
test needs the precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim, free_symbols, substitute
from dslc.ir.evaluate import evaluate, numpy_dtype
from dslc.ir.op import Attrs, Op, Sample, TypeRuleError, attrs_symbols, substitute_attrs
from dslc.ir.types import FLOATS, TensorType, is_float, is_integer
from dslc.ops import ALL
from dslc.ops.pool import max_pool2d, max_pool2d_gradient

Array = Any
ENVIRONMENTS: tuple[Mapping[str, int], ...] = ({"N": 1}, {"N": 3}, {"N": 0})


def cases() -> list[tuple[Op, Sample]]:
    return [(op, sample) for op in ALL for sample in op.samples]


def case_id(case: object) -> str:
    """A short name for pytest's ids."""
    if isinstance(case, Op):
        return case.name
    assert isinstance(case, Sample)
    return ",".join(map(str, case.inputs)).replace(" ", "") or "none"


def symbols(sample: Sample) -> frozenset[str]:
    """The dim variables of a sample."""
    found = set(attrs_symbols(sample.attrs))
    for type in sample.inputs:
        for dim in type.dims:
            found |= free_symbols(dim)
    return frozenset(found)


def environments(sample: Sample) -> Sequence[Mapping[str, int]]:
    """The bindings to test a sample under; one when it has no variables."""
    return ENVIRONMENTS if symbols(sample) else ENVIRONMENTS[:1]


def concrete(sample: Sample, env: Mapping[str, int]) -> Sample:
    """The sample with its dim variables replaced."""
    dims: Mapping[str, Dim] = dict(env)
    inputs = tuple(t.with_dims(tuple(substitute(d, dims) for d in t.dims)) for t in sample.inputs)
    return replace(sample, inputs=inputs, attrs=substitute_attrs(sample.attrs, dims))


def concrete_cases() -> Iterator[tuple[Op, Sample]]:
    for op, sample in cases():
        for env in environments(sample):
            bound = concrete(sample, env)
            if accepts(op, bound):
                yield op, bound


def accepts(op: Op, sample: Sample) -> bool:
    """Whether the type rule does: some ops refuse a dim that is known to be 0."""
    try:
        op.infer(sample.attrs, sample.inputs)
    except TypeRuleError:
        return False
    return True


def widened(sample: Sample) -> Sample:
    """The sample with f64 for every float dtype, in its attributes too."""

    def wide(value: Any) -> Any:
        if isinstance(value, TensorType):
            return value.with_dtype("f64") if is_float(value.dtype) else value
        if isinstance(value, Function):
            return wide_body(value)
        return "f64" if isinstance(value, str) and value in FLOATS else value

    def wide_body(body: Function) -> Function:
        made: dict[Value, Value] = {}

        def new(values: Sequence[Value]) -> tuple[Value, ...]:
            made.update((v, Value(v.name, wide(v.type))) for v in values if v not in made)
            return tuple(made[v] for v in values)

        params = new(body.params)
        eqns = tuple(
            Eqn(e.op, new(e.inputs), wide_attrs(e.attrs), new(e.outputs)) for e in body.eqns
        )
        return Function(body.name, params, eqns, new(body.results))

    def wide_attrs(attrs: Attrs) -> Attrs:
        changed = {f.name: wide(getattr(attrs, f.name)) for f in fields(attrs)}  # type: ignore[arg-type]
        return replace(attrs, **changed)  # type: ignore[type-var]

    return replace(
        sample, inputs=tuple(wide(t) for t in sample.inputs), attrs=wide_attrs(sample.attrs)
    )


def random_inputs(op: Op, sample: Sample, rng: np.random.Generator) -> list[Array]:
    """Arrays of a concrete sample's types, within its bounds. The second operand of the gradient
    of max pooling is what pooling makes of the first."""
    arrays = [random_array(type, sample, rng) for type in sample.inputs]
    if op is max_pool2d_gradient:
        pooled = Sample(sample.inputs[:1], sample.attrs)
        arrays[1] = np.ascontiguousarray(reference(max_pool2d, pooled, arrays[:1])[0])
    return arrays


def random_array(type: TensorType, sample: Sample, rng: np.random.Generator) -> Array:
    shape = tuple(int(d) for d in type.dims)  # type: ignore[arg-type]
    dtype = numpy_dtype(type.dtype)
    if type.dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape), dtype)
    if is_integer(type.dtype):
        low = 0 if type.dtype == "u8" else -sample.int_high
        return np.asarray(rng.integers(low, sample.int_high + 1, shape), dtype)
    x = np.asarray(rng.uniform(sample.low, sample.high, shape))
    whole = np.rint(x)
    off = x - whole
    away = np.where(off < 0, -1.0, 1.0) * np.maximum(np.abs(off), sample.away)
    return np.asarray(whole + away, dtype)


def function_of(op: Op, sample: Sample) -> Function:
    """`op` applied to parameters of the sample's types."""
    b = Builder()
    params = [b.param(f"x{i}", type) for i, type in enumerate(sample.inputs)]
    return b.function(op.name.replace(".", "_"), b.emit(op, params, sample.attrs))


def reference(op: Op, sample: Sample, inputs: Sequence[Array]) -> list[Array]:
    """The results of a concrete sample by the op's reference meaning, checked against its types."""
    return evaluate(function_of(op, sample), inputs)
