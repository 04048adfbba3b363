"""Winograd's convolutions are the sums NumPy gives, within the bounds that docs/design/0024 states,
and write nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from harness import MACHINE, compile_body, guarded
from test_cpu_conv2d import SHAPES, arrays, dense, forward, image, pack, shape
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ops.winograd import WAYS, tiles
from dslc.schedules.cpu.conv.winograd import emit_winograd
from dslc.schedules.cpu.conv.winograd_plan import plan_winograd
from dslc.schedules.cpu.conv.winograd_transform import PlainWeights
from dslc.schedules.cpu.tiles.contract import Machine, Operand, Panels, panel_width

# Times 2**-24, of the norms of what a result is summed from: pixels by weights.
BOUND = {(3, 1, 2): 2, (3, 1, 4): 20, (3, 2, 2): 2, (3, 2, 4): 8, (4, 1, 3): 20}
CASES = {
    name: SHAPES[name]
    for name in ("plain", "ragged", "one channel", "narrow", "no padding", "cropped", "one pixel")
} | {
    "whole vectors": shape(batch=1, height=14, width=16, channels=32, out_channels=64),
    "several blocks": shape(batch=3, height=20, width=20, channels=512, out_channels=8),
    "empty": shape(batch=0, channels=16),
}
STRIDED = {
    "ragged": shape(height=17, width=15, channels=4, out_channels=40, stride=(2, 2)),
    "whole tiles": shape(batch=1, height=16, width=32, channels=32, out_channels=64, stride=(2, 2)),
    "uneven padding": shape(stride=(2, 2), padding=((0, 1), (1, 0))),
    "cropped": shape(stride=(2, 2), padding=((-1, 2), (1, -1))),
    "one pixel": shape(batch=1, height=1, width=2, stride=(2, 2)),
}
LARGER = {
    "few channels": shape(2, 19, 15, 12, 40, kernel=(4, 4), padding=((0, 0), (0, 0))),
    "whole tiles": shape(1, 15, 15, 16, 32, kernel=(4, 4), padding=((0, 0), (0, 0))),
    "padding": shape(1, 8, 9, 3, 8, kernel=(4, 4), padding=((2, 1), (0, 3))),
}


def run(conv, m, x, w, machine=MACHINE, dynamic=False, plain=None):
    """`dynamic`: the batch is not known. `plain`: how the kernel is given the weights that it
    transforms itself, "as they lie" or "turned"."""
    width = panel_width(conv.out_channels, "float32", machine)
    dims = (conv.batch, *conv.out, conv.out_channels)

    def body(x_buffer, w_buffer, out, scratch, *sizes):
        live = replace(conv, batch=sizes[0]) if dynamic else conv
        target = dense(out, "float32", *dims)
        weights = Panels(w_buffer, "float32", width)
        if plain is not None:
            sides = conv.channels, conv.out_channels, conv.kernel[0]
            weights = PlainWeights(w_buffer, *sides, turned=plain == "turned")
        emit_winograd(
            plan_winograd(live, m, width, machine, plain is not None),
            image(x_buffer, "float32", live), weights,
            lambda index, value: T.buffer_store(out, value, [target.at(*index)]),
            Operand(scratch, "float32", (1,)),
        )  # fmt: skip

    kernel = compile_body(body, ["float32"] * 4, 1 * dynamic, machine.vector_bits)
    unknown = replace(conv, batch=tvm.tirx.Var("n", "int64"))
    plan = plan_winograd(unknown if dynamic else conv, m, width, machine, plain is not None)
    out, whole = guarded(int(np.prod(dims)), "float32")
    scratch, spare = guarded(plan.scratch_bytes // 4, "float32")
    g = np.array(WAYS[conv.kernel[0], conv.stride[0], m].g)
    transformed = np.einsum("pi,qj,ocij->ocpq", g, g, w.astype("f8")).astype("float32")
    given = pack(transformed, width, 1)
    if plain is not None:
        given = w if plain == "as they lie" else w.swapaxes(0, 1)[:, :, ::-1, ::-1]
        given = np.ascontiguousarray(given).reshape(-1)
    kernel(x.reshape(-1), given, whole, spare, *[conv.batch] * dynamic)
    assert np.isnan(whole[out.size :]).all()
    assert np.isnan(spare[scratch.size :]).all()
    return out.reshape(dims)


def check(conv, m, machine=MACHINE, dynamic=False, plain=None):
    x, w, _ = arrays(conv)
    wanted = forward(x.astype("f8"), w.astype("f8"), conv)
    pixels = forward(x.astype("f8") ** 2, np.ones_like(w, "f8"), conv) ** 0.5
    weights = (w.astype("f8") ** 2).sum((1, 2, 3)) ** 0.5
    error = np.abs(run(conv, m, x, w, machine, dynamic, plain) - wanted)
    # Beside what a tile sees of other pixels than the result's own: twice as many.
    bound = BOUND[conv.kernel[0], conv.stride[0], m] * 2**-24
    assert (error <= bound * (2 * pixels.max(initial=0)) * weights).all()


@pytest.mark.parametrize("m", tiles(3, 1))
@pytest.mark.parametrize("conv", CASES.values(), ids=CASES)
def test_as_the_plain_sum(conv, m):
    check(conv, m)


@pytest.mark.parametrize("m", tiles(3, 2))
@pytest.mark.parametrize("conv", STRIDED.values(), ids=STRIDED)
def test_strides(conv, m):
    check(conv, m)


@pytest.mark.parametrize("conv", LARGER.values(), ids=LARGER)
def test_larger_kernels(conv):
    check(conv, 3)


@pytest.mark.parametrize(("name", "m"), [("ragged", 2), ("plain", 4), ("several blocks", 4)])
def test_any_batch(name, m):
    check(CASES[name], m, dynamic=True)


@pytest.mark.parametrize("bits", [256, 128])
def test_narrower_vectors(bits):
    check(CASES["ragged"], 4, Machine(vector_bits=bits))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_tasks_share_tiles(dynamic):
    conv = shape(3, 20, 20, 32, 64)
    machine = Machine(MACHINE.vector_bits, tasks=3)
    assert plan_winograd(conv, 4, 32, machine).tasks == 3
    check(conv, 4, machine, dynamic)


@pytest.mark.parametrize(("tasks", "out"), [(2, 250), (3, 288)])
def test_tasks_share_panels_of_large_weights(tasks, out):
    conv, machine = shape(1, 14, 13, 64, out), replace(MACHINE, tasks=tasks)
    assert plan_winograd(conv, 2, 32, machine).by_panels
    check(conv, 2, machine)


@pytest.mark.parametrize(
    ("conv", "machine"),
    [
        (shape(1, 14, 13, 64, 250), MACHINE),
        (shape(1, 14, 13, 64, 260), replace(MACHINE, tasks=2)),
        (shape(1, 14, 13, 64, 128), replace(MACHINE, tasks=2)),
        (shape(1, 14, 13, 64, 250), replace(MACHINE, tasks=2, l2_bytes=64 << 10)),
    ],
    ids=["one task", "panels that can't be shared evenly", "small weights", "several blocks"],
)
def test_tiles_are_shared_else(conv, machine):
    assert not plan_winograd(conv, 2, 32, machine).by_panels


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(
    ("machine", "conv", "m", "width", "panels", "units"),
    [
        (Machine(256, l2_bytes=64 << 10), shape(1, 20, 20, 64, 60), 4, 16, 4, 2),
        (Machine(512, l2_bytes=256 << 10, matrices=True), shape(1, 12, 12, 128, 60), 2, 32, 2, 3),
    ],
    ids=["narrow vectors", "far memory"],
)
def test_all_panels_of_a_product_before_the_next_one(
    machine, conv, m, width, panels, units, dynamic
):
    products = plan_winograd(conv, m, width, machine).products
    assert (products.panels, products.units) == (panels, units)
    check(conv, m, machine, dynamic)


PLAIN = {
    "ragged": (shape(batch=2, height=13, width=9, channels=37, out_channels=45), MACHINE),
    "few columns": (shape(batch=1, height=9, width=9, channels=16, out_channels=7), MACHINE),
    "tasks": (shape(3, 20, 20, 40, 64), replace(MACHINE, tasks=3)),
    "strided": (shape(height=17, width=15, channels=32, out_channels=40, stride=(2, 2)), MACHINE),
    "chunks": (shape(1, 12, 12, 48, 72), replace(MACHINE, l2_bytes=320 << 10)),
    "chunks of tasks": (shape(2, 20, 20, 48, 72), replace(MACHINE, l2_bytes=320 << 10, tasks=2)),
    "256 bits": (shape(1, 12, 12, 24, 40), replace(MACHINE, vector_bits=256)),
    "256 bits, chunks": (shape(1, 12, 12, 24, 40), Machine(256, l2_bytes=96 << 10)),
    "128 bits": (shape(1, 12, 12, 18, 22), replace(MACHINE, vector_bits=128)),
}


@pytest.mark.parametrize("plain", ["as they lie", "turned"])
@pytest.mark.parametrize("m", [2, 4])
@pytest.mark.parametrize("name", PLAIN)
def test_the_kernel_transforms_weights(name, m, plain):
    conv, machine = PLAIN[name]
    width = panel_width(conv.out_channels, "float32", machine)
    plan = plan_winograd(conv, m, width, machine, plain=True)
    assert m == 2 or (plan.chunk > 0) == ("chunks" in name)
    check(conv, m, machine, plain=plain)


def test_the_kernel_transforms_weights_for_any_batch():
    check(PLAIN["ragged"][0], 4, dynamic=True, plain="turned")


@pytest.mark.parametrize("plain", ["as they lie", "turned"])
def test_all_panels_of_a_product_by_weights_that_change(plain):
    """They are transformed first, all of them."""
    conv, machine = shape(2, 12, 12, 64, 124), Machine(512, l2_bytes=256 << 10, matrices=True)
    plan = plan_winograd(conv, 4, 32, machine, plain=True)
    assert (plan.products.panels, plan.chunk) == (4, 0)
    check(conv, 4, machine, plain=plain)


def test_other_kernels_are_refused():
    with pytest.raises(InternalError, match="not by Winograd"):
        plan_winograd(shape(stride=(2, 1)), 4, 32, MACHINE)
