"""1x1 convolutions by Strassen's way are the sums NumPy gives, within the bounds that
docs/design/0034 states, and write nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from harness import MACHINE, compile_body, guarded
from test_cpu_conv2d import arrays, dense, forward, image, pack, shape
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ops.strassen import RIGHT
from dslc.schedules.cpu.matmul.strassen import emit_strassen, plan_strassen
from dslc.schedules.cpu.tiles.contract import Machine, Operand, Panels

BOUND = 3  # times 2**-24, of the norms of what a result's pair of pixels and of panels is made from


def pointwise(batch, height, width, channels, out_channels, stride=(1, 1)):
    none = ((0, 0), (0, 0))
    return shape(batch, height, width, channels, out_channels, kernel=(1, 1), padding=none,
                 stride=stride)  # fmt: skip


CASES = {
    "pairs": pointwise(1, 4, 7, 64, 64),
    "odd": pointwise(1, 7, 7, 32, 128),
    "one pixel": pointwise(1, 1, 1, 96, 64),
    "stride": pointwise(2, 7, 6, 32, 64, (2, 3)),
    "several blocks": pointwise(3, 9, 9, 2048, 64),
    "empty": pointwise(0, 3, 3, 32, 64),
}


def sums(w, width):
    """The weights as the template wants them."""
    _, c, *_ = w.shape
    panels = pack(w.astype("f8"), width, 1).reshape(-1, 2, 2, c // 2, width)
    quarters = [panels[:, right, lower] for lower in range(2) for right in range(2)]
    made = [sum(sign * part for sign, part in zip(signs, quarters)) for signs in RIGHT]
    return np.stack(made, 1).astype("float32").reshape(-1)


def run(conv, x, w, width, machine=MACHINE, dynamic=False):
    """`dynamic`: the batch is not known."""
    dims = (conv.batch, *conv.out, conv.out_channels)

    def plan(batch):
        pixels = (batch, *conv.out)
        depth = conv.channels // 2
        return plan_strassen(pixels, conv.out_channels, depth, (1, *conv.stride), width, machine)

    def body(x_buffer, w_buffer, out, scratch, *sizes):
        target = dense(out, "float32", *dims)
        emit_strassen(
            plan(sizes[0] if dynamic else conv.batch), image(x_buffer, "float32", conv),
            Panels(w_buffer, "float32", width),
            lambda index, value: T.buffer_store(out, value, [target.at(*index)]),
            Operand(scratch, "float32", (1,)),
        )  # fmt: skip

    kernel = compile_body(body, ["float32"] * 4, 1 * dynamic, machine.vector_bits)
    made = plan(tvm.tirx.Var("n", "int64") if dynamic else conv.batch)
    out, whole = guarded(int(np.prod(dims)), "float32")
    scratch, spare = guarded(made.scratch_bytes // 4, "float32")
    kernel(x.reshape(-1), sums(w, width), whole, spare, *[conv.batch] * dynamic)
    assert np.isnan(whole[out.size :]).all()
    assert np.isnan(spare[scratch.size :]).all()
    return out.reshape(dims)


def check(conv, machine=MACHINE, dynamic=False):
    x, w, _ = arrays(conv)
    width = 2 * machine.lanes("float32")
    wanted = forward(x.astype("f8"), w.astype("f8"), conv)
    error = np.abs(run(conv, x, w, width, machine, dynamic) - wanted).reshape(-1, conv.out_channels)
    pixels = forward(x.astype("f8") ** 2, np.ones_like(w, "f8"), conv)[..., 0].reshape(-1)
    pixels = np.append(pixels, pixels[pixels.size // 2 * 2 :])  # the last one is its own neighbour
    pairs = np.repeat(pixels.reshape(-1, 2).sum(1), 2)[: len(error)] ** 0.5
    weights = (w.astype("f8") ** 2).sum((1, 2, 3)).reshape(-1, 2, width)
    columns = np.broadcast_to(weights.sum(1, keepdims=True), weights.shape).reshape(-1) ** 0.5
    assert (error <= BOUND * 2**-24 * pairs[:, None] * columns).all()


@pytest.mark.parametrize("conv", CASES.values(), ids=CASES)
def test_as_the_plain_sum(conv):
    check(conv)


@pytest.mark.parametrize("name", ["odd", "empty"])
def test_any_batch(name):
    check(CASES[name], dynamic=True)


@pytest.mark.parametrize("bits", [256, 128])
def test_narrower_vectors(bits):
    check(CASES["odd"], Machine(vector_bits=bits))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_tasks_share_tiles(dynamic):
    conv = pointwise(3, 19, 19, 32, 64)
    machine = Machine(MACHINE.vector_bits, tasks=3)
    made = plan_strassen((3, 19, 19), 64, 16, (1, 1, 1), 32, machine)
    assert made.tasks == 3
    check(conv, machine, dynamic)


@pytest.mark.parametrize("rows", [0, 1, 33])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_rows_of_a_product(rows, dynamic):
    random = np.random.default_rng(0)
    x, w = random.standard_normal((rows, 96)), random.standard_normal((128, 96, 1, 1))
    x, w = x.astype("float32"), w.astype("float32")

    def plan(count):
        return plan_strassen((count,), 128, 48, (1,), 32, MACHINE)

    def body(x_buffer, w_buffer, out, scratch, *sizes):
        emit_strassen(
            plan(sizes[0] if dynamic else rows), Operand(x_buffer, "float32", (96, 1)),
            Panels(w_buffer, "float32", 32),
            lambda index, value: T.buffer_store(out, value, [index[0] * 128 + index[1]]),
            Operand(scratch, "float32", (1,)),
        )  # fmt: skip

    kernel = compile_body(body, ["float32"] * 4, 1 * dynamic)
    made = plan(tvm.tirx.Var("n", "int64") if dynamic else rows)
    out, whole = guarded(rows * 128, "float32")
    scratch, spare = guarded(made.scratch_bytes // 4, "float32")
    kernel(x.reshape(-1), sums(w, 32), whole, spare, *[rows] * dynamic)
    assert np.isnan(whole[out.size :]).all()
    assert np.isnan(spare[scratch.size :]).all()
    np.testing.assert_allclose(out.reshape(rows, 128), x @ w[:, :, 0, 0].T, atol=2e-4)


def test_unknown_rows_are_planned_for_the_fewest():
    def products(rows, least=0):
        return plan_strassen((rows,), 128, 64, (1,), 32, MACHINE, least).products

    known, unknown = products(128), products(tvm.tirx.Var("n", "int64"), least=128)
    assert (unknown.rows, unknown.fewest) == (known.rows, known.fewest)


def test_others_are_refused():
    with pytest.raises(InternalError, match="not by Strassen"):
        plan_strassen((1, 7, 7), 96, 32, (1, 1, 1), 32, MACHINE)
