"""Kernels that don't wait for one another share a launch, and compute what they did."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from lowering.bodies import Body, f32, function_of
from lowering.native import compile_all, entry_of

from dslc.autodiff.train_step import add_train_step
from dslc.build import session
from dslc.ir.builder import Builder
from dslc.ir.core import Entry, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.evaluate import evaluate
from dslc.lowering.host.launches import is_above, meet
from dslc.lowering.memory.plan import InArena, InArgument
from dslc.lowering.program import Layout, layout_of, lower_entry
from dslc.ops import BY_NAME as OPS
from dslc.passes import pipeline
from dslc.schedules.cpu.tiles.contract import Machine
from dslc.source import SourceFile

N = sym("N")


def laid_out(body: Body, tasks: int = 2) -> Layout:
    return layout_of(entry_of(function_of(body)), Machine(256, tasks))


def squares(b: Builder) -> Sequence[Value]:
    """Of known and unknown sizes, small and large."""
    params = [b.param(f"x{i}", f32(*dims)) for i, dims in enumerate(SIZES)]
    return [OPS["mul"](b, x, x) for x in params]


SIZES: tuple[tuple[Dim, ...], ...] = ((3,), (700, 500), (N, 9), (129,), (N,), (2, N))


def sums(b: Builder) -> Sequence[Value]:
    """Reductions, rows and loops, one beside the other."""
    x, y = b.param("x", f32(400, 300)), b.param("y", f32(N, 40))
    total = OPS["reduce_sum"](b, y, axes=(1,))
    share = OPS["div"](b, y, OPS["broadcast"](b, total, dims=(N, 40), axes=(0,)))
    return [OPS["reduce_sum"](b, x, axes=(0, 1)), share, OPS["reduce_sum"](b, x, axes=(1,))]


def one_after_the_other(b: Builder) -> Sequence[Value]:
    x = b.param("x", f32(64, 64))
    turned = OPS["matmul"](b, x, x)
    total = OPS["reduce_sum"](b, turned, axes=(0,))
    return [OPS["reduce_sum"](b, OPS["exp"](b, total), axes=(0,))]


# --- which ----------------------------------------------------------------------------------------


def test_what_needs_nothing_of_the_others_shares_a_launch() -> None:
    assert laid_out(squares).launches == (range(len(SIZES)),)
    assert laid_out(sums).launches == (range(3),)


def test_one_task_shares_nothing() -> None:
    assert laid_out(squares, tasks=1).launches == ()


def test_what_reads_what_another_writes_waits_for_it() -> None:
    layout = laid_out(one_after_the_other)
    assert len(layout.grouping.groups) == 3
    assert layout.launches == ()


def test_places_that_may_have_memory_in_common() -> None:
    low, high = InArena(0, 64 * N), InArena(64 * N, 256)
    assert not meet([low], [high])
    assert meet([low], [InArena(64, 64)])
    assert meet([high], [InArena(0, 128 * N)])
    assert meet([InArgument(1), low], [InArgument(1)])
    assert not meet([InArgument(1), low], [InArgument(2), high])
    assert is_above(high, low)
    assert not is_above(low, high)


def test_memory_that_is_read_before_it_is_written_anew() -> None:
    """The last kernel needs nothing of the others, but lies where the first sum did."""

    def body(b: Builder) -> Sequence[Value]:
        x, y = b.param("x", f32(64, 64)), b.param("y", f32(64, 64))
        first = OPS["reduce_sum"](b, OPS["matmul"](b, x, x), axes=(0,))
        read = OPS["reduce_sum"](b, first, axes=(0,))
        second = OPS["reduce_max"](b, y, axes=(0,))
        return [read, OPS["matmul"](b, OPS["reshape"](b, second, dims=(1, 64)), y)]

    layout = laid_out(body)
    places, groups = layout.plan.places, layout.grouping.groups
    for launch in layout.launches:
        for i in launch:
            others = [g for j, g in enumerate(groups) if j in launch and j != i]
            written = [places[v] for v in groups[i].outputs]
            touched = [places[layout.grouping.base(v)] for g in others for v in g.inputs]
            assert not meet(written, touched)


# --- what they compute ----------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", [2, 3])
def test_they_compute_what_their_equations_mean(tasks: int) -> None:
    bodies = {"squares": squares, "sums": sums}
    entries = [entry_of(function_of(body), name) for name, body in bodies.items()]
    compiled = compile_all(entries, tasks, level=0)
    random = np.random.default_rng(0)
    for entry in entries:
        for n in (1, 7, 90_000 if entry.name == "squares" else 900):
            env = {"N": n}
            given = [array(value, env, random) for value in entry.function.params]
            wanted = evaluate(entry.function, given, env)
            for got, want in zip(compiled.call(entry.name, given, env), wanted):
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def array(value: Value, env: dict[str, int], random: np.random.Generator) -> Any:
    dims = [d if isinstance(d, int) else env[str(d)] for d in value.type.dims]
    return random.uniform(1, 2, dims).astype(np.float32)


# --- updates --------------------------------------------------------------------------------------

NET = """
model Net(x: f32[N, 40]) -> f32[N, 10] {
    return x |> fc1: dense[300] |> relu |> fc2: dense[200] |> relu |> fc3: dense[10]
}

train Net {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer adamw[lr=0.01]
    clip norm 1.0
}
"""


def training_entry() -> Entry:
    program = session.program_of(SourceFile("net", NET), training=True)
    return pipeline.run(add_train_step(program), pipeline.OPTIMISE).entry("train_step")


def test_updates_behind_the_norm_of_all_gradients_share_a_launch() -> None:
    entry = training_entry()
    layout = layout_of(entry, Machine(256, 2))
    updated = [
        i for i, g in enumerate(layout.grouping.groups)
        if any(value in entry.function.results[1:] for value in g.outputs)
    ]  # fmt: skip
    assert len(updated) >= 6
    assert any(set(updated) <= set(launch) for launch in layout.launches)
    text = str(lower_entry(entry, Machine(256, 2)).module["train_step"].script())
    assert text.count("T.parallel(") <= len(layout.launches)
