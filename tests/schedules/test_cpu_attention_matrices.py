"""Attention of bf16 by registers that hold matrices is the mean that NumPy gives, whoever sees
whom, but for rounding, and writes nothing else."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import ml_dtypes
import numpy as np
import pytest
from attention_case import GRADIENTS, SCALE, SHARED, Case, views
from harness import compile_body, guarded
from tvm.tirx.script import builder as T

from dslc.ir.dims import substitute, sym
from dslc.schedules.cpu.attention.backward_matrices import (
    emit_backward_matrices,
    plan_backward_matrices,
)
from dslc.schedules.cpu.attention.forward_matrices import (
    emit_attention_matrices,
    plan_attention_matrices,
)
from dslc.schedules.cpu.attention.shape import AttentionShape
from dslc.schedules.cpu.tiles.contract import Machine, Operand
from dslc.schedules.cpu.tiles.dots import PAIRS, imported
from dslc.schedules.cpu.tiles.matrix_tile import LLVM_IR, ROUNDING_IR
from tests.lowering.native import needs_matrices

MACHINE = Machine(vector_bits=512, dots=True, matrices=True)
CPU = "sapphirerapids"


def nearest(x):
    return x.astype(ml_dtypes.bfloat16).astype("f4")


@dataclass(frozen=True)
class Rounded(Case):
    """Of queries, keys and values that are bf16."""

    def arrays(self):
        q, k, v, *more = super().arrays()
        return (*map(nearest, (q, k, v)), *more)

    def cotangent(self):
        return nearest(super().cotangent())


def bits(array):
    return np.ascontiguousarray(array.astype(ml_dtypes.bfloat16)).view("u2").reshape(-1)


def check(case, machine=MACHINE):
    """Compares with NumPy; returns the plan."""
    unknown = case.unknown.split()
    planned = plan_attention_matrices(case.shape({n: sym(n) for n in unknown}), machine)

    def body(*parameters):
        shape = case.shape(dict(zip(unknown, parameters[8:])))
        q, k, v, added, kept, out, rows = views(shape, *parameters)
        with imported(PAIRS, LLVM_IR + ROUNDING_IR):
            emit_attention_matrices(
                plan_attention_matrices(shape, machine), q, k, v, out,
                Operand(parameters[7], "float32", (1,)),
                (lambda i, x: x * SCALE + added.load(*i)) if case.bias or case.mask else None,
                (lambda i, x: x * kept.load(*i)) if case.drop else None,
                lambda index, value: T.buffer_store(rows.buffer, value, [rows.at(*index)]),
            )  # fmt: skip

    half, full = "uint16", "float32"
    dtypes = [half, half, half, full, full, half, full, full]
    run = compile_body(body, dtypes, len(unknown), 512, CPU)
    size = substitute(planned.scratch_bytes, {name: getattr(case, name) for name in unknown})
    scratch, all_scratch = guarded(size // 4, "f4")
    expected, lse = case.expected()
    out = np.full(expected.size + 64, 0x7FC1, "u2")
    rows, all_rows = guarded(lse.size, "f4")
    arrays = case.arrays()
    flat = [*map(bits, arrays[:3]), *(np.ascontiguousarray(a).reshape(-1) for a in arrays[3:])]
    run(*flat, out, all_rows, all_scratch, *(getattr(case, name) for name in unknown))
    found = out[: expected.size].view(ml_dtypes.bfloat16).astype("f8").reshape(expected.shape)
    # Weights are rounded to 8 bits, and so is the result.
    np.testing.assert_allclose(found, expected, atol=1.5e-2, rtol=2**-8)
    np.testing.assert_allclose(rows.reshape(lse.shape), lse, atol=2e-5, rtol=1e-5)
    assert (out[expected.size :] == 0x7FC1).all()
    assert np.isnan(all_rows[rows.size :]).all()
    assert np.isnan(all_scratch[scratch.size :]).all()
    return planned


CASES = {
    "small": Rounded(),
    "ragged": Rounded(queries=29, keys=37, depth=19, width=21),
    "one register of rows": Rounded(queries=13, keys=70, depth=33, width=150),
    "several steps": Rounded(batch=1, heads=1, queries=67, keys=64, depth=300, width=64),
    "equal blocks": Rounded(batch=1, heads=1, queries=64, keys=1024, depth=16, width=16),
    "all at once": Rounded(group=2, queries=29, keys=45, bias=True, mask=True, low=0, drop=True),
    "few keys": Rounded(queries=40, keys=3, width=1, depth=1),
    "no queries": Rounded(queries=0),
    "no keys": Rounded(keys=0),
    "no batch": Rounded(batch=0),
}


@needs_matrices
@pytest.mark.parametrize("name", CASES)
def test_attention(name):
    check(CASES[name])


UNKNOWN = "batch heads group queries keys depth width past"
PLAIN = Rounded(unknown=UNKNOWN)
CAUSAL = Rounded(low=0, unknown=UNKNOWN)
WINDOW = Rounded(unknown=f"{UNKNOWN} low high")
SIZES = {
    "one of each": replace(PLAIN, batch=1, heads=1, queries=1, keys=1, depth=1, width=1),
    "several blocks": replace(PLAIN, batch=1, queries=53, keys=1100, depth=16, width=16),
    "many columns": replace(PLAIN, queries=61, keys=290, depth=18, width=137, group=2),
    "causal": replace(CAUSAL, queries=70, keys=70, depth=16, width=16),
    "causal blocks": replace(CAUSAL, batch=1, heads=1, queries=560, keys=560),
    "after a past": replace(CAUSAL, queries=9, keys=50, past=41),
    "before the keys": replace(CAUSAL, queries=9, keys=50, past=-4),
    "long window": replace(WINDOW, batch=1, queries=560, keys=560, low=0, high=8),
    "window both ways": replace(WINDOW, queries=40, keys=55, low=-5, high=5, past=3),
    "mask": replace(PLAIN, queries=29, keys=45, depth=16, mask=True, bias=True),
    "drop": replace(PLAIN, queries=29, keys=300, drop=True),
    "nothing": replace(PLAIN, queries=0, keys=0),
}


@needs_matrices
@pytest.mark.parametrize("name", SIZES)
def test_sizes_known_at_run_time(name):
    check(SIZES[name])


@needs_matrices
@pytest.mark.parametrize(
    ("batch", "unknown"), [(1, ""), (5, ""), (6, ""), (1, "batch"), (8, "batch queries")]
)
def test_tasks_cover_all_queries_once(batch, unknown):
    case = Rounded(
        batch=batch, heads=1, queries=250, keys=200, depth=64, width=32, low=0, unknown=unknown
    )
    assert check(case, replace(MACHINE, tasks=3)).tasks == 3


def check_gradient(case, machine=MACHINE):
    """Compares with NumPy; returns the plan."""
    case = Rounded(**asdict(case))
    unknown = case.unknown.split()
    planned = plan_backward_matrices(case.shape({n: sym(n) for n in unknown}), machine)

    def body(*parameters):
        shape = case.shape(dict(zip(unknown, parameters[12:])))
        q, k, v, added, kept, g, lse, delta, *results, scratch = parameters[:12]
        left, keys, values, scores, drops, out, rows = views(shape, q, k, v, added, kept, g, lse)
        stored = views(shape, *results)[:3]

        def into(view):
            return lambda index, value: T.buffer_store(view.buffer, value, [view.at(*index)])

        with imported(PAIRS, LLVM_IR + ROUNDING_IR):
            emit_backward_matrices(
                plan_backward_matrices(shape, machine), left, keys, values, out, rows,
                Operand(delta, "float32", rows.strides), tuple(map(into, stored)),
                Operand(scratch, "float32", (1,)),
                (lambda i, x: x * SCALE + scores.load(*i)) if case.bias or case.mask else None,
                (lambda i, x: x * drops.load(*i)) if case.drop else None,
            )  # fmt: skip

    half, full = "uint16", "float32"
    dtypes = [half] * 3 + [full] * 2 + [half] + [full] * 6
    run = compile_body(body, dtypes, len(unknown), 512, CPU)
    size = substitute(planned.scratch_bytes, {name: getattr(case, name) for name in unknown})
    expected, delta = case.gradients()
    q, k, v, *more = case.arrays()
    flat = [np.ascontiguousarray(a, "f4").reshape(-1) for a in (*more, case.expected()[1], delta)]
    inputs = [*map(bits, (q, k, v)), *flat[:2], bits(case.cotangent()), *flat[2:]]
    results = [guarded(count, "f4") for count in (*(e.size for e in expected), size // 4)]
    run(*inputs, *(whole for _, whole in results), *(getattr(case, name) for name in unknown))
    for name, wanted, (found, whole) in zip(("dq", "dk", "dv"), expected, results):
        # Weights and cotangents are rounded to 8 bits before they are summed up.
        atol = 6e-3 * np.abs(wanted).max(initial=1.0)
        np.testing.assert_allclose(found.reshape(wanted.shape), wanted, atol=atol, err_msg=name)
        assert np.isnan(whole[found.size :]).all()
    scratch, whole = results[3]
    assert np.isnan(whole[scratch.size :]).all()
    return planned


@needs_matrices
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradient(name):
    check_gradient(GRADIENTS[name])


@needs_matrices
@pytest.mark.parametrize("name", SHARED)
def test_tasks_share_the_keys_of_a_head(name):
    plan = check_gradient(SHARED[name], replace(MACHINE, tasks=3))
    assert plan.together


def test_the_working_memory_is_linear():
    def size(count):
        shape = AttentionShape((1,), 8, 1, count, count, 64, 64, 0.125, low=0)
        return plan_backward_matrices(shape, MACHINE).scratch_bytes

    assert size(8192) < 2.1 * size(4096)
