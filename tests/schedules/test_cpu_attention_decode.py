"""Attention of few queries is the mean that NumPy gives."""

from __future__ import annotations

from dataclasses import replace

import pytest
from attention_case import Case, check_forward
from harness import MACHINE

from dslc.schedules.cpu.attention.decode import emit_decode, plan_decode
from dslc.schedules.cpu.attention.shape import AttentionShape
from dslc.schedules.cpu.tiles.contract import Machine

THREE = replace(MACHINE, tasks=3)
TOKEN = Case(queries=1, keys=50, depth=16, width=16, low=0, past=49, unknown="batch keys past")
CASES = {
    "one of each": replace(TOKEN, batch=1, heads=1, keys=1, past=0),
    "token": replace(TOKEN, past=30),
    "whole vectors": replace(TOKEN, keys=64, past=63),
    "before the keys": replace(TOKEN, past=-3),
    "no keys": replace(TOKEN, keys=0, past=0),
    "wide": Case(batch=1, queries=2, keys=70, depth=150, width=135, group=2),
    "one number": Case(queries=2, keys=2, depth=1, width=1),
    "one number left": Case(queries=2, keys=20, depth=17, width=17),
    "window": Case(queries=3, keys=60, depth=8, width=8, low=0, high=11, past=40, unknown="past"),
    "all at once": Case(group=4, queries=2, keys=45, mask=True, bias=True, drop=True, low=-20),
}


@pytest.mark.parametrize("name", CASES)
def test_few_queries(name):
    check_forward(CASES[name], MACHINE, plan_decode, emit_decode)


def test_narrower_vectors():
    check_forward(CASES["wide"], Machine(vector_bits=256), plan_decode, emit_decode)


def test_tasks_share_the_heads():
    case = Case(batch=3, heads=2, queries=1, keys=4000, depth=64, width=64)
    assert check_forward(case, THREE, plan_decode, emit_decode).tasks == 3


SHARED = {
    "one head": Case(batch=1, heads=1, queries=1, keys=3010, depth=64, width=70),
    "fewer heads": Case(batch=1, heads=2, queries=1, group=2, keys=1500, depth=48, width=48),
    "more heads": Case(batch=1, heads=4, queries=2, keys=800, depth=64, width=33, bias=True),
    "fewer keys": Case(batch=5, heads=8, queries=8, keys=20, depth=200, width=256, drop=True),
    "unknown": Case(
        batch=2, heads=2, queries=2, keys=2000, depth=64, width=64, low=0, past=1500,
        unknown="batch keys past",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SHARED)
def test_tasks_share_the_keys_of_a_head(name):
    assert check_forward(SHARED[name], THREE, plan_decode, emit_decode).tasks == 3


def test_tasks_that_see_no_key():
    case = replace(SHARED["unknown"], mask=True)
    for past in (-5, 0, 40):
        check_forward(replace(case, past=past), THREE, plan_decode, emit_decode)


def test_threads_that_go_through_a_loop_share_no_head():
    case = SHARED["one head"]
    plan = check_forward(case, replace(THREE, repeated=True), plan_decode, emit_decode)
    assert (plan.tasks, plan.together) == (3, False)


@pytest.mark.parametrize(
    "sizes", [(1, 9, 1, 64), (9, 1, 1, 64), ("T", 1, 1, 64), (1, 1, 1, "D"), (1, 1, 1, 512)]
)
def test_many_queries_are_another_kernels(sizes):
    queries, group, heads, depth = sizes
    shape = AttentionShape((1,), heads, group, queries, 100, depth, 64, 0.1)
    assert plan_decode(shape, MACHINE) is None
