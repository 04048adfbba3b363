"""Attention is the mean that NumPy gives, whoever sees whom, and writes nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from attention_case import SCALE, Case, check_forward, views
from harness import MACHINE, compile_body

from dslc.schedules.cpu.attention.forward import emit_attention, plan_attention
from dslc.schedules.cpu.attention.shape import AttentionShape
from dslc.schedules.cpu.tiles.contract import Machine, Operand


def check(case, machine=MACHINE):
    return check_forward(case, machine, plan_attention, emit_attention)


CASES = {
    "small": Case(),
    "ragged": Case(queries=29, keys=37, depth=19, width=21),
    "wide": Case(batch=1, heads=1, queries=13, keys=70, depth=33, width=150),
    "equal blocks": Case(batch=1, heads=1, queries=24, keys=1024, depth=16, width=16),
    "all at once": Case(group=2, queries=29, keys=45, bias=True, mask=True, low=0, drop=True),
    "no queries": Case(queries=0),
    "no keys": Case(keys=0),
    "no batch": Case(batch=0),
}


@pytest.mark.parametrize("name", CASES)
def test_attention(name):
    check(CASES[name])


UNKNOWN = "batch heads group queries keys depth width past"
PLAIN = Case(unknown=UNKNOWN)
CAUSAL = Case(low=0, unknown=UNKNOWN)
WINDOW = Case(unknown=f"{UNKNOWN} low high")
SIZES = {
    "one of each": replace(PLAIN, batch=1, heads=1, queries=1, keys=1, depth=1, width=1),
    "several blocks": replace(PLAIN, batch=1, queries=53, keys=1100, depth=16, width=16),
    "many columns": replace(PLAIN, queries=61, keys=290, depth=18, width=137, group=2),
    "group": replace(PLAIN, group=3, queries=7, keys=40, depth=16, width=16),
    "causal": replace(CAUSAL, queries=70, keys=70, depth=16, width=16),
    "causal blocks": replace(CAUSAL, batch=1, heads=1, queries=560, keys=560),
    "fewer keys": replace(CAUSAL, queries=50, keys=9),
    "after a past": replace(CAUSAL, queries=9, keys=50, past=41),
    "before the keys": replace(CAUSAL, queries=9, keys=50, past=-4),
    "window": replace(WINDOW, batch=1, queries=70, keys=70, low=0, high=8),
    "long window": replace(WINDOW, batch=1, queries=560, keys=560, low=0, high=8),
    "window past the keys": replace(WINDOW, queries=40, keys=12, low=0, high=8),
    "window both ways": replace(WINDOW, queries=40, keys=55, low=-5, high=5, past=3),
    "mask": replace(PLAIN, queries=29, keys=45, depth=16, mask=True, bias=True),
    "drop": replace(PLAIN, queries=29, keys=300, drop=True),
    "nothing": replace(PLAIN, queries=0, keys=0),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_known_at_run_time(name):
    check(SIZES[name])


@pytest.mark.parametrize(("name", "bits"), [("ragged", 128), ("all at once", 256)])
def test_narrower_vectors(name, bits):
    check(CASES[name], Machine(vector_bits=bits))


@pytest.mark.parametrize(
    ("batch", "unknown"), [(1, ""), (5, ""), (6, ""), (1, "batch"), (8, "batch queries")]
)
def test_tasks_cover_all_queries_once(batch, unknown):
    case = Case(
        batch=batch, heads=1, queries=250, keys=200, depth=64, width=32, low=0, unknown=unknown
    )
    plan = check(case, Machine(MACHINE.vector_bits, tasks=3))
    assert plan.tasks == 3


@pytest.mark.parametrize("keys", [100, 1100])
def test_values_that_lie_apart_are_copied(keys):
    def plan(shape, machine):
        return plan_attention(shape, machine, values_apart=True)

    case = Case(heads=1, queries=75, keys=keys, width=16, low=-600)
    assert check_forward(case, MACHINE, plan, emit_attention).packed


def test_a_score_that_is_no_number_shows():
    case = Case(batch=1, heads=1, queries=2, keys=3, bias=True)
    q, k, v, added, _ = case.arrays()
    added[..., 0, 1] = np.nan

    def body(*parameters):
        shape = case.shape({})
        left, right, values, scores, _, out, _ = views(shape, *parameters)
        emit_attention(
            plan_attention(shape, MACHINE), left, right, values, out,
            Operand(parameters[7], "float32", (1,)), lambda i, x: x * SCALE + scores.load(*i),
        )  # fmt: skip

    out = np.zeros(2 * 8, np.float32)
    scratch = np.zeros(plan_attention(case.shape({}), MACHINE).scratch_bytes // 4, np.float32)
    rest = [added, added, out, np.zeros(2, np.float32), scratch]
    compile_body(body, ["float32"] * 8)(*(a.reshape(-1) for a in (q, k, v, *rest)))
    assert np.isnan(out[:8]).all()
    assert np.isfinite(out[8:]).all()


def test_keys_read_where_they_lie():
    """Heads side by side in memory, as a reshape leaves them: [tokens, heads * depth]."""
    case = Case(batch=1, heads=3, queries=20, keys=33, depth=24, width=24)
    q, k, v, *_ = case.arrays()

    def body(left, right, values, out, scratch):
        shape = case.shape({})

        def beside(buffer, rank):
            strides = (0, 24, 72, 1) if rank == 4 else (0, 24, 0, 72, 1)
            return Operand(buffer, "float32", strides)

        emit_attention(
            plan_attention(shape, MACHINE), beside(left, 5), beside(right, 4), beside(values, 4),
            beside(out, 5), Operand(scratch, "float32", (1,)),
        )  # fmt: skip

    def flat(array):
        return np.ascontiguousarray(np.swapaxes(array.reshape(3, -1, 24), 0, 1)).reshape(-1)

    out = np.zeros(20 * 72, np.float32)
    scratch = np.zeros(plan_attention(case.shape({}), MACHINE).scratch_bytes // 4, np.float32)
    compile_body(body, ["float32"] * 5)(flat(q), flat(k), flat(v), out, scratch)
    expected = case.expected()[0].reshape(3, 20, 24)
    np.testing.assert_allclose(np.swapaxes(out.reshape(20, 3, 24), 0, 1), expected, atol=3e-6)


def test_the_working_memory_grows_with_the_keys():
    def size(count):
        shape = AttentionShape((1,), 8, 1, count, count, 64, 64, 0.125)
        return plan_attention(shape, MACHINE).scratch_bytes

    assert size(8192) < 2.1 * size(4096)
    assert isinstance(size(4096), int)
    assert size(4096) < 4 * 4096 * 64 * 2
