"""Every op, every sample: the facets are there and agree with each other."""

from __future__ import annotations

import numpy as np
import pytest
from ops.cases import accepts, case_id, cases, concrete, concrete_cases, environments, function_of
from ops.facets import check_compute, check_gradient, check_type

from dslc.ir.dims import substitute
from dslc.ir.op import NoFacet, Op, Sample
from dslc.ir.parse import parse_functions
from dslc.ir.text import print_function
from dslc.ops import ALL, BY_NAME

# Ops whose cotangent is by definition not the derivative.
NOT_A_DERIVATIVE = ("stop_gradient",)

CONCRETE = list(concrete_cases())


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.mark.parametrize("op", ALL, ids=case_id)
def test_each_facet_is_there_or_says_why_not(op: Op) -> None:
    for facet in (op.gradient, op.compute):
        if isinstance(facet, NoFacet):
            assert len(facet.reason) > 10
        else:
            assert callable(facet)
    assert callable(op.type_rule)
    assert callable(op.reference)
    assert op.samples


def test_names_are_unique() -> None:
    assert len(BY_NAME) == len(ALL)


@pytest.mark.parametrize(("op", "sample"), CONCRETE, ids=case_id)
def test_type_rule_is_shape_and_dtype_of_the_reference(op: Op, sample: Sample) -> None:
    check_type(op, sample, rng())


@pytest.mark.parametrize(("op", "sample"), cases(), ids=case_id)
def test_type_rule_holds_for_dim_variables(op: Op, sample: Sample) -> None:
    general = op.infer(sample.attrs, sample.inputs)
    for env in environments(sample):
        bound = concrete(sample, env)
        if not accepts(op, bound):
            continue
        for wide, narrow in zip(general, op.infer(bound.attrs, bound.inputs)):
            assert tuple(substitute(d, dict(env)) for d in wide.dims) == narrow.dims


@pytest.mark.parametrize(("op", "sample"), CONCRETE, ids=case_id)
def test_compute_is_the_reference(op: Op, sample: Sample) -> None:
    if isinstance(op.compute, NoFacet):
        return
    check_compute(op, sample, rng())


@pytest.mark.parametrize(
    ("op", "sample"),
    [
        (op, sample)
        for op, sample in CONCRETE
        if not isinstance(op.gradient, NoFacet) and op.name not in NOT_A_DERIVATIVE
    ],
    ids=case_id,
)
def test_gradient_is_finite_differences(op: Op, sample: Sample) -> None:
    check_gradient(op, sample, rng())


@pytest.mark.parametrize(("op", "sample"), cases(), ids=case_id)
def test_text_round_trip(op: Op, sample: Sample) -> None:
    text = print_function(function_of(op, sample))
    assert print_function(parse_functions(text, BY_NAME)[0]) == text
