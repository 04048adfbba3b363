"""Models with a `scan`, compiled, against `evaluate`: lengths, directions, axes, nests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from build.corpus import Model
from build.lockstep import Lockstep

from dslc.ir.core import body_of
from dslc.lowering.host import steps
from dslc.lowering.kernels import tasks
from dslc.schedules.cpu.tiles import contract, machine
from dslc_runtime import launcher
from dslc_runtime._ffi import tvm_ffi

RNN = """
layer rnn[hidden](x: float[N, T, I]) -> (float[N, T, hidden], float[N, hidden]) {
    param w_hh: float[hidden, hidden] ~ uniform[-1 / sqrt(hidden), 1 / sqrt(hidden)]
    param w_xh: float[hidden, I] ~ uniform[-1 / sqrt(hidden), 1 / sqrt(hidden)]
    param b_h: float[hidden] ~ uniform[-1, 1]
    hs, last = scan x_t in x along 1, h = zeros[N, hidden]() {
        h = tanh(h @ w_hh.T + x_t @ w_xh.T + b_h)
        yield h
    }
    return hs, last
}
model M(x: f32[N, T, 5]) -> (f32[N, T, 3], f32[N, 18]) {
    hs, last = x |> first: rnn[18]
    more, end = hs |> second: rnn[18]
    return (more |> out: dense[3]), last + end
}
"""
BACK = """
fn back(x: f64[T, N]) -> (f64[T, N], f64[N], f64[N]) {
    ys, s, q = scan x_t in x along 0 reversed, s = ones[N, dtype=f64](), q = ones[N, dtype=f64]() {
        s = 0.5 * s + x_t
        q = q * s / (1 + abs(q))
        yield s - q
    }
    return ys, s, q
}
model M(x: f64[T, N]) -> (f64[T, N], f64[N], f64[N]) { return back(x) }
"""
# The next values of the carries are each other's old ones, the yield is a carry's old value.
SWAPS = """
model M(x: f32[A, T in 1..9, B]) -> (f32[A, T, B], f32[A, T], f32[A, B], f32[A, B], i64) {
    ys, sums, a, b, n = scan x_t in x along 1, a = x[:, 0], b = zeros[A, B](), n = cast[i64](0) {
        yield a, sum[axis=-1](a * x_t)
        c = a
        a = b + x_t
        b = c
        n = n + 1
    }
    return ys, sums, a, b, n
}
"""
NESTED = """
model M(x: f32[A, B, 4], w: f32[4, 4]) -> (f32[A, B, 4], f32[A, B], f32[4]) {
    table, sums, above = scan row in x along 0, above = zeros[4]() {
        inner, counts, count, last = scan e in row along 0 reversed, n = 0, h = above {
            h = tanh(h @ w + e @ w)
            n = n + sum(h * above)
            yield h, n
        }
        above = above * 0.5 + last * count
        yield inner, counts
    }
    return table, sums, above
}
"""
# Both carries are read where the step before has yielded them; the inner begins with the outer one.
DEEP = """
model M(x: f64[A, B, 5], w: f64[5]) -> (f64[A, 5], f64[A, B, 5], f64[5]) {
    hs, all, last = scan row in x along 0 reversed, h = w {
        ss, h = scan e in row along 0, s = h {
            s = tanh(s * w + e)
            yield s
        }
        yield h, ss
    }
    return hs, all, last
}
"""
# A state goes through; what is yielded does not depend on a carry, or is the element itself.
STATE = """
layer counted(x: f32[T, 7]) -> (f32[T, 7], f32[T, 7], f32[T, 7]) {
    state seen: f32[7] = 1
    xs, doubled, sums, total = scan x_t in x along 0, s = seen {
        s = s + x_t
        yield x_t, 2 * x_t, s
    }
    seen <- total
    return xs, doubled, sums
}
model M(x: f32[T, 7]) -> (f32[T, 7], f32[T, 7], f32[T, 7]) { return counted(x) }
"""
TRAINED = """
layer step[hidden](x: f32[N, I], h: f32[N, hidden]) -> f32[N, hidden] {
    return tanh((x |> ih: dense[hidden]) + (h |> hh: dense[hidden]))
}
model M(x: f32[N, T, 3], length: f32[T]) -> f32[N, 4] {
    hs, h, n = scan x_t in x along 1 reversed, h = ones[N, 6](), n = zeros[]() {
        n = n + 1
        h = step[6](x_t |> dropout[0.25], h) * sigmoid(n)
        yield h
    }
    totals, last = scan row in hs along 0, t = zeros[6]() {
        sums = scan e in row along 0, s = t {
            s = 0.5 * s + e * e
        }
        t = t + 0.1 * sums
        yield t
    }
    return (h + totals) |> out: dense[4]
}
train M {
    input label: i64[N]
    loss cross_entropy(output, label) + mean(length)
    optimizer adam[lr=0.01]
}
"""
# Two layers in one body, whose gradients stop every few steps; sequences of several lengths.
DEEP_CELLS = """
from std.recurrent import lstm_cell, gru_cell
model M(x: f32[N, T, 3]) -> f32[N, 4] {
    low, high = lstm_cell[5], gru_cell[6]
    zero, one = zeros[N, 5](), ones[N, 6]()
    hs, h, c, g = scan[truncate=3] x_t in x along 1, h = zero, c = zero, g = one {
        h, c = low(x_t, h, c)
        g = high(h, g)
        yield g |> seen: dense[2] |> relu
    }
    return concat[axis=-1](g |> out: dense[2], sum[axis=1](hs))
}
train M {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
}
"""
# Wide enough for gates that are taken where they are summed up.
GATES = """
from std.recurrent import lstm_cell, gru_cell
model M(x: f32[N, T, 3]) -> f32[N, 4] {
    low, high = lstm_cell[30], gru_cell[16]
    zero, one = zeros[N, 30](), ones[N, 16]()
    hs, h, c, g = scan x_t in x along 1, h = zero, c = zero, g = one {
        h, c = low(x_t, h, c)
        g = high(h, g)
        yield g
    }
    return (sum[axis=1](hs) |> out: dense[4]) + (c |> last: dense[4])
}
train M {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
}
"""
CHECKPOINTS = """
from std.recurrent import lstm
model M(x: f32[N, T, 3], lengths: i64[N]) -> f32[N, 4] {
    hs, h, c = x |> net: lstm[5, bidirectional=true, keep="checkpoints"](lengths=lengths)
    return concat[axis=-1](h[0], h[1], c[0], sum[axis=1](hs)) |> out: dense[4]
}
train M {
    input label: i64[N]
    loss cross_entropy(output, label)
    optimizer sgd[lr=0.1]
}
"""
# Reductions and a softmax over what came before; values of several dtypes in one body.
ATTEND = """
model M(x: f32[N, T, 6]) -> (f32[N, T, 6], f32[N, 6], bool[N]) {
    ys, m, hit = scan x_t in x along 1, m = zeros[N, 6](), hit = zeros[N, dtype=bool]() {
        p = softmax[axis=-1](m * x_t)
        m = m + p * max[axis=-1, keepdims=true](x_t)
        hit = hit or argmax[axis=-1](m) == 2
        yield where(reshape[N, 1](hit), m, -x_t)
    }
    return ys, m, hit
}
"""
LENGTHS = tuple({"T": t, "N": n} for t, n in ((0, 2), (1, 1), (2, 3), (7, 2)))
MODELS = [
    Model("rnn", RNN, sizes=LENGTHS),
    Model("back", BACK, sizes=LENGTHS),
    Model("swaps", SWAPS, sizes=({"T": 1, "A": 2, "B": 3}, {"T": 6, "A": 1, "B": 5})),
    Model("nested", NESTED, sizes=({"A": 3, "B": 2}, {"A": 1, "B": 5}, {"A": 2, "B": 0})),
    Model("deep", DEEP, sizes=({"A": 3, "B": 2}, {"A": 1, "B": 5}, {"A": 2, "B": 0}, {"A": 0})),
    Model("state", STATE, sizes=({"T": 0}, {"T": 1}, {"T": 4})),
    Model("trained", TRAINED, sizes=({"T": 1, "N": 2}, {"T": 5, "N": 3})),
    Model("deep cells", DEEP_CELLS, sizes=({"T": 2, "N": 2}, {"T": 3, "N": 3}, {"T": 8, "N": 1})),
    Model("gates", GATES, sizes=({"T": 2, "N": 1}, {"T": 3, "N": 7})),
    Model("checkpoints", CHECKPOINTS,
          sizes=({"T": 0, "N": 1}, {"T": 1, "N": 2}, {"T": 11, "N": 3})),
    Model("attend", ATTEND, sizes=LENGTHS),
]  # fmt: skip
BY_NAME = {model.name: model for model in MODELS}
TOGETHER = ("rnn", "swaps", "nested", "gates")


@pytest.fixture(scope="module")
def serial() -> Lockstep:
    return Lockstep(MODELS, tasks=1)


@pytest.fixture(scope="module")
def parallel() -> Iterator[Lockstep]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (contract, machine, steps):
            patch.setattr(module, "PARALLEL_WORK", 1)
        patch.setattr(tasks, "PARALLEL_OPERATIONS", 1)
        patch.setattr(machine, "REPEATED_WORK", 1)
        patch.setattr(tasks, "REPEATED_OPERATIONS", 1)
        yield Lockstep([BY_NAME[name] for name in TOGETHER], tasks=2)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    launcher.install(tvm_ffi.LIB)
    before = launcher.get_num_threads()
    launcher.set_num_threads(count)
    try:
        yield
    finally:
        launcher.set_num_threads(before)


@pytest.mark.parametrize("name", BY_NAME)
def test_one_task(serial: Lockstep, name: str) -> None:
    for sizes in BY_NAME[name].sizes:
        serial.check(BY_NAME[name], sizes)


@pytest.mark.parametrize("name", TOGETHER)
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_go_through_the_loops_together(parallel: Lockstep, name: str, threads: int) -> None:
    """Of two tasks; whether there is a thread for each of them or not."""
    for sizes in BY_NAME[name].sizes:
        with on_threads(threads):
            parallel.check(BY_NAME[name], sizes)


def test_kernels_that_threads_go_through_together_launch_nothing(parallel: Lockstep) -> None:
    """In each loop there is one region, and in it a barrier for each kernel."""
    text = str(parallel.compiled.lowered["rnn_forward"].module)
    _, host = text.split("def rnn_forward(")
    regions = host.split("pragma_parallel_launch_point")[1:]
    assert len(regions) == 2
    for region in regions:
        loop, _ = region.split("else:", 1)
        assert loop.count("pragma_parallel_barrier_when_finish") == 1
        assert "T.parallel(T.int64(2))" in loop


def test_the_loop_of_an_rnn_holds_one_product_with_packed_weights(serial: Lockstep) -> None:
    forward = serial.optimised["rnn"].entry("forward")
    bodies = [body for eqn in forward.function.eqns if (body := body_of(eqn)) is not None]
    assert len(bodies) == 2
    for body in bodies:
        names = [eqn.op.name for eqn in body.eqns]
        assert [name for name in names if "matmul" in name] == ["matmul_packed"]
        assert set(names) == {"matmul_packed", "add", "broadcast", "tanh"}
    outside = [eqn for eqn in forward.function.eqns if eqn.op.name == "matmul_packed"]
    prepared = [a.role for a in forward.arguments].count("prepared")
    assert prepared == len(bodies) + len(outside)
