from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dslc.autodiff.train_step import add_train_step, clip_by_norm
from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import (
    Argument,
    DimRange,
    Entry,
    Function,
    Program,
    TrainPlan,
    Value,
    Variable,
)
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate, initial_variables, run_entry
from dslc.ir.types import TensorType
from dslc.ir.verify import verify_program
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.constants import cast, constant, dim_value
from dslc.ops.elementwise import add, div, mul, sub, tanh
from dslc.ops.linalg import matmul
from dslc.ops.random import random_normal
from dslc.passes.pipeline import OPTIMISE, run

Array = np.ndarray
N = sym("N")
I64 = TensorType("i64")
SHAPES = {"first.weight": (6, 4), "second.weight": (2, 6)}


def f32(*dims: object) -> TensorType:
    return TensorType("f32", dims)  # type: ignore[arg-type]


def full(b: Builder, value: float, type: TensorType) -> Value:
    return constant(b, value=value, type=type)


def loss_entry() -> Entry:
    """Mean squared error of a two-layer net; counts its calls in the state `calls`."""
    b = Builder()
    x, target = b.param("x", f32(N, 4)), b.param("target", f32(N, 2))
    seed, step = b.param("seed", I64), b.param("step", I64)
    w1, w2 = (b.param(name, f32(*dims)) for name, dims in SHAPES.items())
    calls = b.param("calls", I64)
    y = matmul(b, tanh(b, matmul(b, x, w1, transpose_b=True)), w2, transpose_b=True)
    error = sub(b, y, target)
    count = mul(b, cast(b, dim_value(b, dim=N), dtype="f32"), full(b, 2.0, f32()))
    loss = div(b, reduce_sum(b, mul(b, error, error), axes=(0, 1)), count)
    more = add(b, calls, full(b, 1, I64))
    del seed, step
    arguments = [Argument(name, "input") for name in ("x", "target", "seed", "step")]
    arguments += [Argument(name, "weight") for name in SHAPES]
    return Entry(
        "loss",
        b.function("loss", (loss, reduce_sum(b, y, axes=(0, 1)), more)),
        (*arguments, Argument("calls", "state")),
        ("loss", "total"),
        ("calls",),
    )


def momentum(dims: tuple[int, ...]) -> Function:
    """velocity <- 0.9 velocity + g + step; p <- p - 0.1 velocity."""
    b = Builder()
    p, g = b.param("p", f32(*dims)), b.param("g", f32(*dims))
    step, velocity = b.param("step", I64), b.param("velocity", f32(*dims))
    counted = broadcast(b, cast(b, step, dtype="f32"), dims=dims, axes=())
    kept = mul(b, velocity, full(b, 0.9, p.type))
    new = add(b, add(b, kept, g), counted)
    return b.function("momentum", (sub(b, p, mul(b, new, full(b, 0.1, p.type))), new))


def made(type: TensorType, stream: int | None = None) -> Function:
    b = Builder()
    seed = b.param("seed", I64)
    if stream is None:
        return b.function("init", (full(b, 0, type),))
    zero = full(b, 0, I64)
    return b.function("init", (random_normal(b, seed, zero, dims=type.dims, stream=stream),))


def program(clip: float | None = None, accumulate: int = 1, frozen: bool = False) -> Program:
    variables = [Variable("calls", I64, "state", made(I64))]
    for stream, (name, dims) in enumerate(SHAPES.items()):
        variables.append(Variable(name, f32(*dims), "weight", made(f32(*dims), stream)))
        state = f"optimizer.{name}.velocity"
        variables.append(Variable(state, f32(*dims), "optimizer", made(f32(*dims))))
    plan = TrainPlan(
        loss_entry(),
        ("second.weight",) if frozen else tuple(SHAPES),
        {name: momentum(dims) for name, dims in SHAPES.items()},
        {name: (f"optimizer.{name}.velocity",) for name in SHAPES},
        clip,
        accumulate,
    )
    return Program("Net", (), tuple(variables), (DimRange("N"),), (), plan)


def batch(index: int) -> dict[str, Array]:
    rng = np.random.default_rng(index)
    return {
        "x": rng.normal(size=(5, 4)).astype(np.float32),
        "target": rng.normal(size=(5, 2)).astype(np.float32),
    }


def gradients(w: dict[str, Array], data: dict[str, Array]) -> tuple[float, dict[str, Array]]:
    """Loss and gradients by hand."""
    w1, w2 = (w[name].astype(np.float64) for name in SHAPES)
    hidden = np.tanh(data["x"] @ w1.T)
    error = hidden @ w2.T - data["target"]
    dy = 2 * error / error.size
    dh = (dy @ w2) * (1 - hidden**2)
    return float(np.mean(error**2)), dict(zip(SHAPES, (dh.T @ data["x"], dy.T @ hidden)))


def simulate(steps: int, clip: float | None, every: int) -> tuple[list[float], dict[str, Array]]:
    """The same training by hand, in f64."""
    w = {k: v for k, v in initial_variables(program(), 3).items() if k in SHAPES}
    velocity = {k: np.zeros(v.shape) for k, v in w.items()}
    sums = {k: np.zeros(v.shape) for k, v in w.items()}
    losses = []
    for step in range(steps):
        loss, grads = gradients(w, batch(step))
        losses.append(loss)
        sums = {k: sums[k] + grads[k] for k in sums}
        if (step + 1) % every:
            continue
        grads = {k: v / every for k, v in sums.items()}
        norm = np.sqrt(sum(float((g**2).sum()) for g in grads.values()))
        scale = 1.0 if clip is None else min(1.0, clip / (norm + 1e-6))
        for k, g in grads.items():
            velocity[k] = 0.9 * velocity[k] + g * scale + step // every
            w[k] = w[k] - 0.1 * velocity[k]
        sums = {k: np.zeros(v.shape) for k, v in w.items()}
    return losses, w


def train(trained: Program, steps: int) -> tuple[list[float], dict[str, Array]]:
    variables = initial_variables(trained, 3)
    losses = []
    for step in range(steps):
        inputs = batch(step) | {"seed": np.asarray(3), "step": np.asarray(step)}
        outputs, updates = run_entry(trained, "train_step", variables, inputs)
        losses.append(float(outputs["loss"]))
        variables |= updates
    assert variables["calls"] == steps
    return losses, variables


@pytest.mark.parametrize(("clip", "every"), [(None, 1), (0.05, 1), (None, 2), (0.05, 3)])
@pytest.mark.parametrize("optimised", [False, True])
def test_steps_agree_with_those_by_hand(clip: float | None, every: int, optimised: bool) -> None:
    trained = add_train_step(program(clip, every))
    verify_program(trained)
    if optimised:
        trained = run(trained, OPTIMISE)
    losses, variables = train(trained, 7)
    expected, w = simulate(7, clip, every)
    np.testing.assert_allclose(losses, expected, rtol=2e-5)
    for name in SHAPES:
        np.testing.assert_allclose(variables[name], w[name], rtol=1e-4, atol=1e-5)


def test_frozen_weights_cost_nothing() -> None:
    trained = add_train_step(program(frozen=True))
    entry = trained.entry("train_step")
    assert entry.updates == ("second.weight", "calls", "optimizer.second.weight.velocity")
    assert sum(eqn.op is matmul for eqn in entry.function.eqns) == 3
    assert trained.training is None


def test_a_weight_that_the_loss_does_not_read_is_left_alone() -> None:
    p = program()
    assert p.training is not None
    plan = replace(p.training, trainable=("idle", *p.training.trainable))
    variables = (*p.variables, Variable("idle", f32(2), "weight"))
    entry = add_train_step(replace(p, training=plan, variables=variables)).entry("train_step")
    assert "idle" not in entry.updates


def test_a_program_without_a_plan() -> None:
    with pytest.raises(InternalError, match="not elaborated for training"):
        add_train_step(replace(program(), training=None))


def test_clipping_keeps_short_gradients() -> None:
    b = Builder()
    g, h = b.param("g", f32(2)), b.param("h", f32())
    function = b.function("f", clip_by_norm(b, [g, h], 10.0))
    args = [np.array([3.0, 0.0], np.float32), np.asarray(4.0, np.float32)]
    for value, arg in zip(evaluate(function, args), args):
        np.testing.assert_array_equal(value, arg)
    assert clip_by_norm(b, [], 1.0) == []
