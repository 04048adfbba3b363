"""Attention with a query in each lane is the mean that NumPy gives, and writes nothing else."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from attention_case import Case, check_forward
from harness import MACHINE, compile_body

from dslc.ir.dims import sym
from dslc.schedules.cpu.attention.lanes import emit_lanes
from dslc.schedules.cpu.attention.lanes_plan import lanes_plan, plan_lanes
from dslc.schedules.cpu.tiles.contract import Machine, Operand


def emit(plan, q, k, v, out, scratch, modify, drop, row_done):
    assert modify is None
    assert drop is None
    emit_lanes(plan, q, k, v, out, scratch, row_done)


def check(case, machine=MACHINE, plan=plan_lanes):
    return check_forward(case, machine, plan, emit)


CASES = {
    "one of each": Case(batch=1, heads=1, queries=1, keys=1, depth=1, width=1),
    "ragged": Case(queries=29, keys=37, depth=19, width=21, group=2),
    "wide": Case(batch=1, heads=1, queries=13, keys=70, depth=33, width=150),
    "whole blocks": Case(batch=1, heads=1, queries=64, keys=1040, depth=16, width=16),
    "no queries": Case(queries=0),
    "no batch": Case(batch=0),
    "causal": Case(queries=70, keys=70, depth=16, width=16, low=0),
    "causal blocks": Case(batch=1, heads=1, queries=560, keys=560, low=0),
    "fewer keys": Case(queries=50, keys=9, low=0),
    "before the keys": Case(queries=9, keys=50, past=-4, low=0),
    "long window": Case(batch=1, queries=560, keys=560, low=0, high=8),
    "window past the keys": Case(queries=40, keys=12, low=0, high=8),
    "window both ways": Case(queries=40, keys=55, low=-5, high=5, past=3),
}


@pytest.mark.parametrize("name", CASES)
def test_attention(name):
    check(CASES[name])


KNOWN_LATER = Case(
    batch=1, heads=2, group=2, keys=85, low=0, unknown="batch heads group queries past"
)


@pytest.mark.parametrize(("queries", "past"), [(0, 0), (5, 80), (48, 3), (85, 0), (85, -9)])
def test_sizes_known_at_run_time(queries, past):
    check(replace(KNOWN_LATER, queries=queries, past=past))


@pytest.mark.parametrize("bits", [128, 256])
def test_narrower_vectors(bits):
    check(CASES["ragged"], Machine(vector_bits=bits))


@pytest.mark.parametrize("batch", [5, 6])
def test_tasks_cover_all_queries_once(batch):
    case = Case(batch=batch, heads=1, queries=250, keys=200, depth=64, width=32, low=0)
    assert check(case, Machine(MACHINE.vector_bits, tasks=3)).tasks == 3


def test_any_block_will_do():
    for vectors, keys in ((1, 64), (4, 64)):
        plan = partial(lanes_plan, vectors=vectors, keys=keys, copied=vectors == 4)
        assert check(CASES["ragged"], plan=plan).score.vectors == vectors


def test_unknown_keys_are_for_another_template():
    shape = Case().shape({"keys": sym("K")})
    assert plan_lanes(shape, MACHINE) is None


@pytest.mark.parametrize(
    ("queries", "keys", "tile"), [(209, 1711, (4, 2)), (496, 99, (5, 2)), (24, 200, (8, 1))]
)
def test_few_registers_are_filled(queries, keys, tile):
    """No tile is so low that it waits for its own sums, nor of one vector to spare a few lanes."""
    shape = Case(queries=queries, keys=keys).shape({})
    score = plan_lanes(shape, Machine(vector_bits=256)).score
    assert (score.rows, score.vectors) == tile


@pytest.mark.parametrize("queries", [13, 150])
def test_keys_and_values_that_lie_apart(queries):
    """Heads side by side in memory, as a reshape leaves them: [tokens, heads * depth]."""
    case = Case(batch=1, heads=3, queries=queries, keys=33, depth=24, width=24)
    q, k, v, *_ = case.arrays()
    plan = plan_lanes(case.shape({}), MACHINE, apart=True)
    assert plan.copied == (queries == 150)

    def body(left, right, values, out, scratch):
        def beside(buffer, rank):
            strides = (0, 24, 72, 1) if rank == 4 else (0, 24, 0, 72, 1)
            return Operand(buffer, "float32", strides)

        emit_lanes(
            plan, beside(left, 5), beside(right, 4), beside(values, 4), beside(out, 5),
            Operand(scratch, "float32", (1,)),
        )  # fmt: skip

    def flat(array):
        return np.ascontiguousarray(np.swapaxes(array.reshape(3, -1, 24), 0, 1)).reshape(-1)

    out = np.zeros(queries * 72, np.float32)
    scratch = np.zeros(plan.scratch_bytes // 4, np.float32)
    compile_body(body, ["float32"] * 5)(flat(q), flat(k), flat(v), out, scratch)
    expected = case.expected()[0].reshape(3, queries, 24)
    np.testing.assert_allclose(np.swapaxes(out.reshape(queries, 3, 24), 0, 1), expected, atol=3e-6)
