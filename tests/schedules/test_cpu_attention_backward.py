"""The gradient of attention is the one that NumPy gives, whoever sees whom."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from attention_case import GRADIENTS, SCALE, SHARED, views
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


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient(name):
    check(GRADIENTS[name])


def test_narrower_vectors():
    check(GRADIENTS["ragged"], Machine(vector_bits=256))


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
