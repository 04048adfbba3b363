"""What must hold between an op's facets, checked on one concrete sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ops.cases import function_of, random_inputs, reference, widened
from ops.plain_kernels import run

from dslc.ir.builder import Builder
from dslc.ir.evaluate import evaluate, numpy_dtype
from dslc.ir.op import NoFacet, Op, Sample
from dslc.ir.types import is_float

Array = Any
# Central differences in f64: the error is about STEP**2 in truncation, 1e-16 / STEP in rounding.
STEP = 1e-5


def check_type(op: Op, sample: Sample, rng: np.random.Generator) -> None:
    """The reference gives what the type rule says; `evaluate` compares the two."""
    inputs = random_inputs(op, sample, rng)
    for array, type in zip(reference(op, sample, inputs), op.infer(sample.attrs, sample.inputs)):
        assert array.shape == type.dims
        assert array.dtype == numpy_dtype(type.dtype)


def check_compute(op: Op, sample: Sample, rng: np.random.Generator) -> None:
    """The compute facet gives what the reference gives."""
    inputs = random_inputs(op, sample, rng)
    for found, wanted in zip(run(op, sample, inputs), reference(op, sample, inputs)):
        assert found.dtype == wanted.dtype
        if wanted.dtype.kind in "iub":
            np.testing.assert_array_equal(found, wanted)
        else:
            np.testing.assert_allclose(
                found.astype(np.float64),
                wanted.astype(np.float64),
                rtol=sample.rtol,
                atol=sample.rtol,
            )


def check_gradient(op: Op, sample: Sample, rng: np.random.Generator) -> None:
    """The gradient's cotangents are finite differences of the reference, in f64."""
    wide = widened(sample)
    inputs = random_inputs(op, wide, rng)
    outputs = reference(op, wide, inputs)
    directions = [
        np.asarray(rng.uniform(-1, 1, y.shape)) if y.dtype == np.float64 else None for y in outputs
    ]
    if all(d is None for d in directions):
        return
    found = cotangents(op, wide, inputs, directions)
    for position, x in enumerate(inputs):
        if x.dtype != np.float64:
            assert found[position] is None
            continue
        wanted = differences(op, wide, inputs, directions, position)
        got = found[position]
        np.testing.assert_allclose(
            np.zeros_like(wanted) if got is None else got, wanted, rtol=1e-6, atol=1e-8
        )


def cotangents(
    op: Op, sample: Sample, inputs: Sequence[Array], directions: Sequence[Array | None]
) -> list[Array | None]:
    """What the gradient facet gives for the cotangents `directions`."""
    assert not isinstance(op.gradient, NoFacet)
    b = Builder()
    params = [b.param(f"x{i}", type) for i, type in enumerate(sample.inputs)]
    outputs = b.emit(op, params, sample.attrs)
    given = [
        None if d is None else b.param(f"g{i}", y.type)
        for i, (d, y) in enumerate(zip(directions, outputs))
    ]
    results = op.gradient(b, b.eqns[-1], tuple(given))
    assert len(results) == len(inputs)
    for result, type in zip(results, sample.inputs):
        assert result is None or (is_float(type.dtype) and result.type == type)
    function = b.function("gradient", [r for r in results if r is not None])
    values = iter(evaluate(function, [*inputs, *(d for d in directions if d is not None)]))
    return [None if r is None else next(values) for r in results]


def differences(
    op: Op,
    sample: Sample,
    inputs: Sequence[Array],
    directions: Sequence[Array | None],
    position: int,
) -> Array:
    """Central differences of sum(outputs * directions) in every element of one input."""
    function = function_of(op, sample)

    def total(x: Array) -> float:
        outputs = evaluate(function, [*inputs[:position], x, *inputs[position + 1 :]])
        pairs = zip(outputs, directions)
        return sum(float((y * d).sum()) for y, d in pairs if d is not None)

    base = inputs[position]
    out = np.zeros_like(base)
    for index in np.ndindex(base.shape):
        up, down = np.array(base), np.array(base)
        up[index] += STEP
        down[index] -= STEP
        out[index] = (total(up) - total(down)) / (2 * STEP)
    return out
