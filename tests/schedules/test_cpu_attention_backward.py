"""The gradient of attention is the one that NumPy gives, whoever sees whom."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from attention_case import SCALE, Case, views
from harness import MACHINE, compile_body, guarded
from tvm.tirx.script import builder as T

from dslc.ir.dims import substitute, sym
from dslc.schedules.cpu.attention.backward import emit_backward, plan_backward
from dslc.schedules.cpu.attention.shape import AttentionShape
from dslc.schedules.cpu.tiles.contract import Machine, Operand


def check(case, machine=MACHINE):
    unknown = case.unknown.split()
    run = compiled(replace(case, **dict.fromkeys(unknown, 0)), machine)
    plan = plan_backward(case.shape({name: sym(name) for name in unknown}), machine)
    size = substitute(plan.scratch_bytes, {name: getattr(case, name) for name in unknown})
    expected, delta = case.gradients()
    rows = [a.astype("f4") for a in (case.cotangent(), case.expected()[1], delta)]
    inputs = [np.ascontiguousarray(a).reshape(-1) for a in (*case.arrays(), *rows)]
    results = [guarded(count, "f4") for count in (*(e.size for e in expected), size // 4)]
    run(*inputs, *(whole for _, whole in results), *(getattr(case, name) for name in unknown))
    for name, wanted, (found, whole) in zip(("dq", "dk", "dv"), expected, results):
        found_as = found.reshape(wanted.shape)
        np.testing.assert_allclose(found_as, wanted, atol=2e-5, rtol=2e-5, err_msg=name)
        assert np.isnan(whole[found.size :]).all()
    scratch, whole = results[3]
    assert np.isnan(whole[scratch.size :]).all()
    return plan


@lru_cache
def compiled(case, machine):
    """The kernel for a case whose unknown sizes are 0 here."""
    unknown = case.unknown.split()

    def body(*parameters):
        shape = case.shape(dict(zip(unknown, parameters[12:])))
        q, k, v, added, kept, g, lse, delta, *results, scratch = parameters[:12]
        left, keys, values, scores, drops, out, rows = views(shape, q, k, v, added, kept, g, lse)
        stored = views(shape, *results)[:3]

        def into(view):
            return lambda index, value: T.buffer_store(view.buffer, value, [view.at(*index)])

        emit_backward(
            plan_backward(shape, machine), left, keys, values, out, rows,
            Operand(delta, "float32", rows.strides), tuple(map(into, stored)),
            Operand(scratch, "float32", (1,)),
            (lambda i, x: x * SCALE + scores.load(*i)) if case.bias or case.mask else None,
            (lambda i, x: x * drops.load(*i)) if case.drop else None,
        )  # fmt: skip

    return compile_body(body, ["float32"] * 12, len(unknown), machine.vector_bits)


UNKNOWN = "batch heads group queries keys depth width past"
PLAIN = Case(unknown=UNKNOWN)
WINDOW = Case(unknown=f"{UNKNOWN} low high")
CASES = {
    "small": Case(),
    "ragged": Case(queries=29, keys=37, depth=19, width=21),
    "wide": Case(batch=1, heads=1, queries=13, keys=70, depth=150, width=33),
    "causal": Case(batch=1, heads=1, queries=200, keys=200, depth=16, width=16, low=0),
    "all at once": Case(group=2, queries=29, keys=45, bias=True, mask=True, low=0, drop=True),
    "no keys": Case(keys=0),
    "one of each": replace(PLAIN, batch=1, heads=1, queries=1, keys=1, depth=1, width=1),
    "several blocks": replace(PLAIN, batch=1, queries=210, keys=200, depth=16, width=16),
    "many columns": replace(PLAIN, queries=61, keys=110, depth=137, width=70, group=2),
    "window": replace(WINDOW, queries=130, keys=120, low=0, high=8),
    "long window": replace(WINDOW, batch=1, queries=350, keys=350, low=0, high=120),
    "after a past": replace(WINDOW, group=2, queries=9, keys=50, low=0, high=99, past=41),
    "both ways": replace(WINDOW, queries=140, keys=155, low=-5, high=5, past=3),
    "nothing seen": replace(WINDOW, queries=20, keys=20, low=30, high=40),
    "nothing": replace(PLAIN, queries=0, keys=0),
}


@pytest.mark.parametrize("name", CASES)
def test_gradient(name):
    check(CASES[name])


def test_narrower_vectors():
    check(CASES["ragged"], Machine(vector_bits=256))


SHARED = {
    "one head": Case(batch=1, heads=1, queries=150, keys=250, depth=32, width=19),
    "one more": Case(batch=2, heads=2, group=2, queries=150, keys=100, depth=32, width=32),
    "members": Case(batch=1, heads=1, group=3, queries=50, keys=100, depth=32, width=16, drop=True),
    "unknown": Case(
        batch=2, heads=2, queries=130, keys=300, depth=20, width=20, low=0, past=170,
        unknown="batch heads queries keys past",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_tasks_share_the_keys_of_a_head(name):
    plan = check(SHARED[name], Machine(MACHINE.vector_bits, tasks=3))
    assert (plan.tasks, plan.together) == (3, True)


def test_threads_that_go_through_a_loop_share_no_head():
    plan = check(SHARED["one head"], Machine(MACHINE.vector_bits, tasks=3, repeated=True))
    assert (plan.tasks, plan.together) == (3, False)


def test_the_working_memory_is_linear():
    def size(count):
        shape = AttentionShape((1,), 8, 1, count, count, 64, 64, 0.125, low=0)
        return plan_backward(shape, MACHINE).scratch_bytes

    assert size(8192) < 2.1 * size(4096)
    assert size(4096) < 4 * 4096 * 64 * 2
