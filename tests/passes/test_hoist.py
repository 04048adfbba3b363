from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dslc.ir.builder import Builder
from dslc.ir.core import Argument, DimRange, Entry, Program, Value, Variable
from dslc.ir.dims import sym
from dslc.ir.evaluate import run_entry
from dslc.ir.types import TensorType
from dslc.ir.verify import verify_program
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import constant
from dslc.ops.elementwise import add, mul, rsqrt, sin
from dslc.ops.linalg import matmul
from dslc.ops.shape import iota, reshape, transpose
from dslc.passes.absorb import absorb_transposes
from dslc.passes.hoist import hoist_weights

N = sym("N")
TYPES = {"w": (3, 4), "scale": (4,), "variance": (4,), "count": ()}
KINDS = {"w": "weight", "scale": "weight", "variance": "state", "count": "state"}


def f32(*dims: object) -> TensorType:
    return TensorType("f32", dims)  # type: ignore[arg-type]


def start(name: str) -> tuple[Builder, dict[str, Value]]:
    b = Builder()
    return b, {"x": b.param("x", f32(N, 4))} | {k: b.param(k, f32(*d)) for k, d in TYPES.items()}


def entry(
    b: Builder, name: str, results: list[Value], outputs: tuple[str, ...], *updates: str
) -> Entry:
    roles = [Argument("x", "input"), *(Argument(k, KINDS[k]) for k in TYPES)]  # type: ignore[arg-type]
    return Entry(name, b.function(name, results), tuple(roles), outputs, updates)


def program(*entries: Entry) -> Program:
    variables = [Variable(k, f32(*d), KINDS[k]) for k, d in TYPES.items()]  # type: ignore[arg-type]
    return Program("P", entries, tuple(variables), (DimRange("N"),))


def scaled_weight(b: Builder, p: dict[str, Value]) -> Value:
    """w scaled per column by scale / sqrt(variance)."""
    factor = mul(b, p["scale"], rsqrt(b, p["variance"]))
    return mul(b, p["w"], broadcast(b, factor, dims=(3, 4), axes=(1,)))


def forward(name: str = "forward") -> Entry:
    b, p = start(name)
    y = matmul(b, p["x"], scaled_weight(b, p), transpose_b=True)
    one = constant(b, value=1.0, type=f32(N, 4))
    bias = broadcast(b, reshape(b, p["scale"], dims=(1, 4)), dims=(N, 4), axes=(0, 1))
    z = matmul(b, add(b, one, bias), transpose(b, p["w"], perm=(1, 0)))
    return entry(b, name, [add(b, y, z)], ("y",))


def test_work_on_weights_moves_to_prepare() -> None:
    before = program(forward())
    after = hoist_weights(before)
    verify_program(after, "hoist")
    prepare = after.entry("prepare")
    assert [a.name for a in prepare.arguments] == ["w", "scale", "variance"]
    assert prepare.outputs == ("prepared.0", "prepared.1")
    left = after.entry("forward")
    assert [str(a.name) for a in left.arguments] == ["x", "scale", "prepared.0", "prepared.1"]
    # Broadcasts and constants stay: a fused kernel has them for free.
    names = [eqn.op.name for eqn in left.function.eqns]
    assert sorted(names) == ["add", "add", "broadcast", "constant", "matmul", "matmul", "reshape"]
    agree(before, after, "forward")


def agree(before: Program, after: Program, name: str) -> None:
    rng = np.random.default_rng(0)
    values = {k: np.asarray(rng.uniform(0.5, 2, d), np.float32) for k, d in TYPES.items()}
    x = {"x": rng.normal(size=(5, 4)).astype(np.float32)}
    prepared, _ = run_entry(after, "prepare", values, {})
    (expected,) = run_entry(before, name, values, x)[0].values()
    (found,) = run_entry(after, name, values | prepared, x)[0].values()
    np.testing.assert_array_equal(found, expected)


def test_entries_share_what_is_prepared() -> None:
    before = program(forward(), forward("again"))
    after = hoist_weights(before)
    verify_program(after, "hoist")
    assert after.entry("prepare").outputs == ("prepared.0", "prepared.1")
    assert [v.name for v in after.variables if v.kind == "prepared"] == ["prepared.0", "prepared.1"]
    agree(before, after, "again")


def test_states_that_change_are_not_prepared() -> None:
    b, p = start("count")
    counted = entry(b, "count", [p["x"], mul(b, p["variance"], p["variance"])], ("x",), "variance")
    after = hoist_weights(program(forward(), counted))
    verify_program(after, "hoist")
    assert [a.name for a in after.entry("prepare").arguments] == ["w"]


def test_tables_that_are_dear_are_made_once_also_without_weights() -> None:
    """64 sines, and a matrix that a product reads; neither 63 sines nor a cheap sum."""
    b = Builder()
    x = b.param("x", f32(N, 64))
    steps = iota(b, dims=(64,), axis=0, dtype="f32")
    table = add(b, sin(b, steps), steps)
    matrix = add(
        b,
        iota(b, dims=(64, 64), axis=0, dtype="f32"),
        broadcast(b, table, dims=(64, 64), axes=(1,)),
    )
    few = sin(b, iota(b, dims=(63,), axis=0, dtype="f32"))
    cheap = add(b, steps, steps)
    y = matmul(b, add(b, x, broadcast(b, table, dims=(N, 64), axes=(1,))), matrix)
    y = add(b, y, broadcast(b, cheap, dims=(N, 64), axes=(1,)))
    results = [y, broadcast(b, few, dims=(N, 63), axes=(1,))]
    made = Entry("forward", b.function("forward", results), (Argument("x", "input"),), ("y", "z"))
    before = Program("P", (made,), (), (DimRange("N"),))
    after = hoist_weights(before)
    verify_program(after, "hoist")
    prepare = after.entry("prepare")
    assert prepare.arguments == ()
    assert sorted(r.type.dims for r in prepare.function.results) == [(64,), (64, 64)]
    names = [eqn.op.name for eqn in after.entry("forward").function.eqns]
    assert names.count("sin") == 1
    x_value = {"x": np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)}
    prepared, _ = run_entry(after, "prepare", {}, {})
    found, _ = run_entry(after, "forward", prepared, x_value)
    wanted, _ = run_entry(before, "forward", {}, x_value)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_nothing_to_hoist() -> None:
    b, p = start("plain")
    steps = iota(b, dims=(4,), axis=0, dtype="f32")
    bias = broadcast(b, add(b, steps, steps), dims=(N, 4), axes=(1,))
    y = add(b, bias, broadcast(b, p["scale"], dims=(N, 4), axes=(1,)))
    before = program(entry(b, "plain", [y], ("y",)))
    assert hoist_weights(before) is before


def test_trained_weights_are_not_prepared() -> None:
    b, p = start("step")
    step = entry(b, "step", [p["x"], mul(b, p["w"], p["w"])], ("x",), "w")
    before = program(forward(), step)
    assert hoist_weights(before) is before


def flattening(last: bool) -> Program:
    """x as an image, transposed, flattened, times a weight."""
    b = Builder()
    x = b.param("x", f32(N, 2, 3, 4))
    w = b.param("w", f32(*((5, 24) if last else (24, 5))))
    image = transpose(b, x, perm=(0, 3, 1, 2))
    y = matmul(b, reshape(b, image, dims=(N, 24)), w, transpose_b=last)
    entry = Entry(
        "forward",
        b.function("forward", (y,)),
        (Argument("x", "input"), Argument("w", "weight")),
        ("y",),
    )
    return Program("P", (entry,), (Variable("w", w.type, "weight"),), (DimRange("N"),))


@pytest.mark.parametrize("last", [False, True])
def test_transposes_move_onto_weights(last: bool) -> None:
    before = flattening(last)
    after = hoist_weights(absorb_transposes(before))
    verify_program(after, "hoist")
    assert [e.op.name for e in after.entry("forward").function.eqns] == ["reshape", "matmul"]
    rng = np.random.default_rng(0)
    x = {"x": rng.normal(size=(2, 2, 3, 4)).astype(np.float32)}
    w = {"w": rng.normal(size=(5, 24) if last else (24, 5)).astype(np.float32)}
    prepared, _ = run_entry(after, "prepare", w, {})
    found = run_entry(after, "forward", w | prepared, x)[0]["y"]
    np.testing.assert_allclose(found, run_entry(before, "forward", w, x)[0]["y"], atol=1e-5)


def test_transposes_stay_where_weights_are_trained() -> None:
    before = flattening(True)
    entry = before.entries[0]
    step = replace(
        entry,
        name="step",
        function=replace(
            entry.function, results=(*entry.function.results, entry.function.params[1])
        ),
        updates=("w",),
    )
    trained = replace(before, entries=(entry, step))
    assert absorb_transposes(trained) is trained


def test_a_prepared_result() -> None:
    b, p = start("table")
    before = program(entry(b, "table", [scaled_weight(b, p)], ("w",)))
    after = hoist_weights(before)
    verify_program(after, "hoist")
    agree(before, after, "table")
