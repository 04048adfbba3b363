"""Convolutions and their gradients are the sums NumPy gives, and write nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pytest
from harness import MACHINE, compile_body, guarded
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ir.dims import substitute, sym
from dslc.schedules.cpu.conv.conv2d import emit_conv2d, plan_conv2d
from dslc.schedules.cpu.conv.conv2d_weight import (
    emit_conv2d_backward_weight,
    plan_conv2d_backward_weight,
)
from dslc.schedules.cpu.conv.depthwise import (
    emit_depthwise,
    emit_depthwise_backward_weight,
    plan_depthwise,
    plan_depthwise_backward_weight,
)
from dslc.schedules.cpu.conv.shape import ConvShape, backward_input_shape
from dslc.schedules.cpu.conv.spread import emit_spread, plan_spread
from dslc.schedules.cpu.conv.winograd_weight import emit_winograd_weight
from dslc.schedules.cpu.conv.winograd_weight_plan import plan_winograd_weight
from dslc.schedules.cpu.tiles.contract import Machine, Operand, Panels, panel_width


def shape(batch=2, height=12, width=11, channels=6, out_channels=10, kernel=(3, 3), **rest):
    rest.setdefault("padding", ((1, 1), (1, 1)))
    return ConvShape(batch, height, width, channels, out_channels, kernel, **rest)


SHAPES = {
    "plain": shape(),
    "short": shape(height=5, width=6, channels=3, out_channels=5),
    "ragged": shape(height=17, width=15, channels=4, out_channels=40),
    "one channel": shape(height=8, width=8, channels=1, out_channels=16),
    "narrow": shape(height=9, width=4, channels=5, out_channels=33),
    "stride": shape(stride=(2, 2)),
    "stride and dilation": shape(stride=(2, 3), dilation=(2, 1)),
    "dilation": shape(dilation=(1, 2)),
    "pointwise": shape(kernel=(1, 1), padding=((0, 0), (0, 0)), stride=(2, 2)),
    "no padding": shape(padding=((0, 0), (0, 0))),
    "uneven padding": shape(kernel=(5, 3), padding=((2, 1), (0, 3))),
    "cropped": shape(padding=((-1, 2), (1, -1))),
    "groups": shape(groups=2),
    "one pixel": shape(batch=1, height=1, width=1),
    "less than a stride": shape(
        height=2, width=1, kernel=(1, 1), stride=(2, 2), padding=((3, 3), (3, 3))
    ),
    "empty": shape(batch=0),
}


def padded(x: np.ndarray, conv: ConvShape) -> np.ndarray:
    """x [n, h, w, c], dilated and padded (or cropped)."""
    down, across = conv.input_dilation
    n, h, w, c = x.shape
    spread = np.zeros((n, (h - 1) * down + 1, (w - 1) * across + 1, c), x.dtype)
    spread[:, ::down, ::across] = x
    (top, bottom), (left, right) = conv.padding
    spread = spread[:, max(0, -top) : spread.shape[1] - max(0, -bottom)]
    spread = spread[:, :, max(0, -left) : spread.shape[2] - max(0, -right)]
    around = [(max(0, top), max(0, bottom)), (max(0, left), max(0, right))]
    return np.pad(spread, [(0, 0), *around, (0, 0)])


def windows(x: np.ndarray, conv: ConvShape):
    """(kh, kw, the pixels [n, oh, ow, c] that kernel position sees)."""
    (oh, ow), (sh, sw), (dh, dw) = conv.out, conv.stride, conv.dilation
    p = padded(x, conv)
    for i in range(conv.kernel[0]):
        for j in range(conv.kernel[1]):
            rows, columns = slice(i * dh, None, sh), slice(j * dw, None, sw)
            yield i, j, p[:, rows, columns][:, :oh, :ow]


def by_group(array: np.ndarray, conv: ConvShape) -> np.ndarray:
    return array.reshape(*array.shape[:-1], conv.groups, array.shape[-1] // conv.groups)


def forward(x: np.ndarray, w: np.ndarray, conv: ConvShape) -> np.ndarray:
    """y [n, oh, ow, o] from w [o, c / groups, kh, kw]."""
    y = np.zeros((conv.batch, *conv.out, conv.groups, conv.group_out_channels))
    grouped = w.reshape(conv.groups, -1, *w.shape[1:])
    for i, j, pixels in windows(x, conv):
        y += np.einsum("nyxgc,goc->nyxgo", by_group(pixels, conv), grouped[..., i, j])
    return y.reshape(*y.shape[:3], conv.out_channels)


def weight_gradient(x: np.ndarray, dy: np.ndarray, conv: ConvShape) -> np.ndarray:
    dw = np.zeros((conv.groups, conv.group_out_channels, conv.group_channels, *conv.kernel))
    for i, j, pixels in windows(x, conv):
        dw[..., i, j] = np.einsum("nyxgc,nyxgo->goc", by_group(pixels, conv), by_group(dy, conv))
    return dw.reshape(conv.out_channels, *dw.shape[2:])


def pack(w: np.ndarray, width: int, groups: int) -> np.ndarray:
    o, c, kh, kw = w.shape
    panels = -(-o // groups // width)
    wide = np.zeros((groups, panels * width, c, kh, kw), w.dtype)
    wide[:, : o // groups] = w.reshape(groups, o // groups, c, kh, kw)
    wide = wide.reshape(groups, panels, width, c, kh, kw)
    return np.ascontiguousarray(wide.transpose(0, 1, 4, 5, 3, 2)).reshape(-1)


def dense(buffer, dtype, *dims):
    """A row-major operand."""
    strides = [1]
    for dim in reversed(dims[1:]):
        strides.insert(0, strides[0] * dim)
    return Operand(buffer, dtype, tuple(strides))


def image(buffer, dtype, conv):
    return dense(buffer, dtype, conv.batch, conv.height, conv.width, conv.channels)


def gradient(buffer, dtype, conv):
    return dense(buffer, dtype, conv.batch, *conv.out, conv.out_channels)


Emit = Callable[..., None]


def execute(make_plan, emit: Emit, conv, x, second, result_dims, machine=MACHINE, dynamic=False):
    """Runs a template on x and its second operand, row-major results of `result_dims(conv)`."""
    dtype = str(x.dtype)
    kernel = replace(conv, batch=1, height=1, width=1) if dynamic else conv
    run = compiled(make_plan, emit, kernel, dtype, result_dims, machine, dynamic)
    dims = result_dims(conv)
    out, whole = guarded(int(np.prod(dims)), dtype)
    sizes = (conv.batch, conv.height, conv.width) if dynamic else ()
    unknown = {"batch": sym("batch"), "height": sym("height"), "width": sym("width")}
    planned = make_plan(replace(conv, **unknown) if dynamic else conv, machine)
    nbytes = substitute(planned.scratch_bytes, dict(zip(unknown, sizes)))
    scratch, whole_scratch = guarded(nbytes // x.itemsize, dtype)
    run(x.reshape(-1), second.reshape(-1), whole, whole_scratch, *sizes)
    assert np.isnan(whole[out.size :]).all()
    assert np.isnan(whole_scratch[scratch.size :]).all()
    return out.reshape(dims)


@lru_cache(maxsize=1)
def compiled(make_plan, emit: Emit, conv, dtype, result_dims, machine, dynamic):
    """The kernel, of any batch, height and width where it is dynamic."""

    def body(x_buffer, second_buffer, out, scratch, *dims):
        live = conv
        if dynamic:
            live = replace(conv, batch=dims[0], height=dims[1], width=dims[2])
        plan = make_plan(live, machine)
        target = dense(out, dtype, *result_dims(live))

        def epilogue(index, value):
            T.buffer_store(out, value, [target.at(*index)])

        emit(plan, live, x_buffer, second_buffer, epilogue, Operand(scratch, dtype, (1,)))

    return compile_body(body, [dtype] * 4, 3 * dynamic, machine.vector_bits)


def run_forward(conv, x, w, machine=MACHINE, dynamic=False, vectors=0):
    dtype = str(x.dtype)
    width = panel_width(conv.group_out_channels, dtype, machine)
    width = vectors * machine.lanes(dtype) if vectors else width

    spread = conv.input_dilation != (1, 1)

    def emit(plan, live, x_buffer, w_buffer, epilogue, scratch):
        weights, run = Panels(w_buffer, dtype, width), emit_spread if spread else emit_conv2d
        run(plan, image(x_buffer, dtype, live), weights, epilogue, scratch)

    plan = plan_spread if spread else plan_conv2d
    return execute(
        lambda c, m: plan(c, dtype, width, m), emit, conv, x, pack(w, width, conv.groups),
        lambda c: (c.batch, *c.out, c.out_channels), machine, dynamic,
    )  # fmt: skip


def run_weight(conv, x, dy, machine=MACHINE, dynamic=False, flat=False):
    dtype = str(x.dtype)

    def emit(plan, live, x_buffer, dy_buffer, epilogue, scratch):
        inputs = image(x_buffer, dtype, live), gradient(dy_buffer, dtype, live)
        emit_conv2d_backward_weight(plan, *inputs, epilogue, scratch, flat)

    return execute(
        lambda c, m: plan_conv2d_backward_weight(c, dtype, m), emit, conv, x, dy,
        lambda c: (c.out_channels, c.group_channels, *c.kernel), machine, dynamic,
    )  # fmt: skip


def arrays(conv: ConvShape, dtype="float32"):
    """x, w, dy."""
    random = np.random.default_rng(0)
    x = random.standard_normal((conv.batch, conv.height, conv.width, conv.channels))
    w = random.standard_normal((conv.out_channels, conv.group_channels, *conv.kernel))
    dy = random.standard_normal((conv.batch, *conv.out, conv.out_channels))
    return x.astype(dtype), w.astype(dtype), dy.astype(dtype)


def close(actual, expected, terms):
    tolerance = 1e-6 if actual.dtype == np.float32 else 1e-15
    np.testing.assert_allclose(actual, expected, atol=tolerance * 8 * max(4, terms) ** 0.5)


def terms(conv):
    return conv.kernel[0] * conv.kernel[1] * conv.group_channels


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("conv", SHAPES.values(), ids=SHAPES)
def test_forward(conv, dynamic):
    x, w, _ = arrays(conv)
    close(run_forward(conv, x, w, dynamic=dynamic), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("conv", SHAPES.values(), ids=SHAPES)
def test_weight_gradient(conv, dynamic):
    x, _, dy = arrays(conv)
    expected = weight_gradient(x.astype("f8"), dy, conv)
    # Weights one by one, or in runs of an output channel's.
    close(run_weight(conv, x, dy, dynamic=dynamic, flat=not dynamic), expected, dy.size)


@pytest.mark.parametrize("conv", SHAPES.values(), ids=SHAPES)
def test_input_gradient(conv):
    """<forward(x), dy> = <x, backward(dy)> for all x."""
    x, w, dy = arrays(conv)
    back = backward_input_shape(conv)
    assert back.out == (conv.height, conv.width)
    grouped = w.reshape(conv.groups, -1, *w.shape[1:]).transpose(0, 2, 1, 3, 4)[..., ::-1, ::-1]
    turned = np.ascontiguousarray(grouped).reshape(conv.channels, -1, *conv.kernel)
    dx = run_forward(back, dy, turned)
    for probe in range(3):
        direction = np.random.default_rng(probe).standard_normal(x.shape)
        along = (forward(direction, w, conv) * dy).sum()
        np.testing.assert_allclose((dx * direction).sum(), along, atol=1e-4 * max(1, x.size) ** 0.5)


@pytest.mark.parametrize("conv", [SHAPES["ragged"], SHAPES["groups"]], ids=["ragged", "groups"])
def test_double_precision(conv):
    x, w, dy = arrays(conv, "float64")
    close(run_forward(conv, x, w), forward(x, w, conv), terms(conv))
    close(run_weight(conv, x, dy), weight_gradient(x, dy, conv), dy.size)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("name", ["ragged", "pointwise"])
def test_wide_panels(name, dynamic):
    """As they are for pixels that alias in the L1 cache."""
    x, w, _ = arrays(SHAPES[name])
    y = run_forward(SHAPES[name], x, w, dynamic=dynamic, vectors=4)
    close(y, forward(x, w, SHAPES[name]), terms(SHAPES[name]))


def test_weights_from_memory_are_asked_for_where_it_is_far():
    """By tiles of one row and of several, of kernels of one position and more."""
    machine = replace(MACHINE, matrices=True, l2_bytes=4096)
    for conv in (
        shape(channels=24, out_channels=70),
        shape(height=7, width=5, channels=64, out_channels=40, kernel=(1, 1), stride=(2, 2)),
    ):
        assert plan_conv2d(conv, "float32", 32, machine).asks
        x, w = arrays(conv)[:2]
        close(run_forward(conv, x, w, machine), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize("bits", [256, 128])
def test_narrower_vectors(bits):
    conv, machine = SHAPES["ragged"], Machine(vector_bits=bits)
    x, w, dy = arrays(conv)
    close(run_forward(conv, x, w, machine), forward(x, w, conv), terms(conv))
    expected = weight_gradient(x.astype("f8"), dy, conv)
    close(run_weight(conv, x, dy, machine), expected, dy.size)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize(("batch", "height"), [(1, 48), (5, 48), (1, 1)])
def test_tasks_share_images_and_strips(batch, height, dynamic):
    """A small convolution of unknown size runs as one task in the same kernel."""
    conv = shape(batch, height, 48, 16, 32)
    machine = Machine(MACHINE.vector_bits, tasks=3)
    x, w, dy = arrays(conv)
    assert plan_conv2d(conv, "float32", 32, machine).tasks == (3 if height == 48 else 1)
    close(run_forward(conv, x, w, machine, dynamic), forward(x, w, conv), terms(conv))
    expected = weight_gradient(x.astype("f8"), dy, conv)
    close(run_weight(conv, x, dy, machine, dynamic), expected, dy.size)


@pytest.mark.parametrize(
    ("batch", "tasks", "rows"),
    # The cache holds 8 rows, so 7 strips: one of two tasks would do 4, which is 32 rows.
    [(1, 1, 56), (1, 2, 28), (1, 3, 21), (2, 2, 56), (5, 2, 140)],
)
def test_tasks_have_about_as_many_rows(batch, tasks, rows):
    conv = shape(batch, 56, 56, 256, 64, (1, 1), padding=((0, 0), (0, 0)))
    strips = plan_conv2d(conv, "float32", 32, replace(MACHINE, tasks=tasks)).strips
    assert -(-batch * strips.count // tasks) * strips.rows == rows
    assert strips.rows <= 8


def test_tasks_take_panels_where_rows_are_uneven():
    conv = shape(1, 7, 7, 40, 120, (1, 1), padding=((0, 0), (0, 0)))
    machine = replace(MACHINE, tasks=2, repeated=True)
    plan = plan_conv2d(conv, "float32", 32, machine)
    assert plan.by_panels
    assert plan.strips.count == 1
    x, w, _ = arrays(conv)
    close(run_forward(conv, x, w, machine), forward(x, w, conv), terms(conv))


DEPTHWISE = {
    "ragged": shape(channels=20, out_channels=20, groups=20),
    "whole vectors": shape(channels=32, out_channels=32, groups=32, padding=((0, 0), (0, 0))),
    "stride": shape(channels=5, out_channels=5, groups=5, stride=(2, 2), kernel=(5, 5)),
    "dilation": shape(channels=16, out_channels=16, groups=16, dilation=(2, 1)),
    "wide": shape(
        width=61, channels=16, out_channels=16, groups=16, kernel=(5, 5), padding=((2, 2), (2, 2))
    ),
    "wide, stride": shape(
        width=61, channels=32, out_channels=32, groups=32, stride=(2, 2), dilation=(1, 2)
    ),
    "cropped": shape(channels=16, out_channels=16, groups=16, padding=((-1, 2), (1, -1))),
    "little": shape(
        height=3, width=2, channels=16, out_channels=16, groups=16, kernel=(5, 5),
        padding=((2, 2), (2, 2)),
    ),
    "more positions than registers": shape(
        channels=20, out_channels=20, groups=20, kernel=(7, 7), padding=((3, 3), (3, 3))
    ),
    "long": shape(
        channels=16, out_channels=16, groups=16, kernel=(1, 31), padding=((0, 0), (15, 15))
    ),
}  # fmt: skip


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("conv", DEPTHWISE.values(), ids=DEPTHWISE)
def test_depthwise(conv, dynamic):
    x, w, dy = arrays(conv)
    lanes = MACHINE.lanes("float32")
    blocks = -(-conv.channels // lanes)
    packed = np.zeros((blocks * lanes, *conv.kernel), "float32")
    packed[: conv.channels] = w[:, 0]
    packed = packed.reshape(blocks, lanes, *conv.kernel).transpose(0, 2, 3, 1)

    def emit(plan, live, x_buffer, w_buffer, epilogue, scratch):
        weights = Panels(w_buffer, "float32", lanes)
        emit_depthwise(plan, image(x_buffer, "float32", live), weights, epilogue, scratch)

    y = execute(
        lambda c, m: plan_depthwise(c, "float32", m), emit, conv, x, np.ascontiguousarray(packed),
        lambda c: (c.batch, *c.out, c.channels), dynamic=dynamic,
    )  # fmt: skip
    close(y, forward(x, w, conv), terms(conv))

    def emit_weight(plan, live, x_buffer, dy_buffer, epilogue, scratch):
        inputs = image(x_buffer, "float32", live), gradient(dy_buffer, "float32", live)
        emit_depthwise_backward_weight(plan, *inputs, epilogue, scratch)

    dw = execute(
        lambda c, m: plan_depthwise_backward_weight(c, "float32", m), emit_weight, conv, x, dy,
        lambda c: (c.channels, 1, *c.kernel), dynamic=dynamic,
    )  # fmt: skip
    close(dw, weight_gradient(x.astype("f8"), dy, conv), dy.size)


def test_weights_packed_for_another_tile_are_refused():
    plan = plan_conv2d(SHAPES["plain"], "float32", 16, MACHINE)
    with pytest.raises(InternalError, match="another tile"):
        emit_conv2d(plan, Operand(None, "float32", (1, 1, 1, 1)), Panels(None, "float32", 8), print)


def test_multipliers_are_not_depthwise():
    with pytest.raises(InternalError, match="depthwise"):
        plan_depthwise(shape(channels=4, out_channels=8, groups=4), "float32", MACHINE)


WINOGRAD = {
    "whole tiles": shape(height=8, width=12, channels=16, out_channels=32),
    "ragged": shape(height=9, width=14, channels=21, out_channels=37),
    "few channels": shape(batch=3, channels=9, out_channels=10),
    "uneven padding": shape(channels=16, out_channels=16, padding=((0, 1), (2, 1))),
    "cropped": shape(channels=16, out_channels=16, padding=((-1, 2), (1, -1))),
    "small": shape(height=2, width=3, channels=16, out_channels=16),
    "empty": shape(batch=0, channels=16, out_channels=16),
}


def run_winograd_weight(conv, x, dy, machine=MACHINE, dynamic=False):
    emit = emit_winograd_rows if not dynamic else emit_winograd_weights
    return execute(plan_winograd, emit, conv, x, dy, weight_dims, machine, dynamic)


def plan_winograd(conv, machine):
    return plan_winograd_weight(conv, "float32", machine)


def weight_dims(conv):
    return conv.out_channels, conv.channels, *conv.kernel


def emit_winograd_weights(plan, live, x_buffer, dy_buffer, epilogue, scratch, flat=False):
    inputs = image(x_buffer, "float32", live), gradient(dy_buffer, "float32", live)
    emit_winograd_weight(plan, *inputs, epilogue, scratch, flat)


emit_winograd_rows = partial(emit_winograd_weights, flat=True)


def close_to_direct(actual, x, dy, conv):
    """As exact as sums at points are: a few times the error of plain sums."""
    terms = max(1, conv.batch * conv.out[0] * conv.out[1])
    np.testing.assert_allclose(actual, weight_gradient(x, dy, conv), atol=3e-5 * terms**0.5)


BLOCKS = replace(MACHINE, l2_bytes=1 << 10)  # of tiles: several


@pytest.mark.parametrize("conv", WINOGRAD.values(), ids=WINOGRAD)
def test_winograd_weight_gradient(conv):
    x, _, dy = arrays(conv)
    close_to_direct(run_winograd_weight(conv, x, dy, BLOCKS), x, dy, conv)


def test_winograd_weight_gradient_of_unknown_sizes():
    """One kernel for all; what depends on channels and padding alone, known sizes show."""
    known = replace(WINOGRAD["ragged"], padding=((0, 1), (2, 1)))
    sizes = [(c.batch, c.height, c.width) for c in WINOGRAD.values()]
    for batch, height, width in sizes:
        conv = replace(known, batch=batch, height=height, width=width)
        x, _, dy = arrays(conv)
        close_to_direct(run_winograd_weight(conv, x, dy, BLOCKS, dynamic=True), x, dy, conv)


@pytest.mark.parametrize("bits", [256, 128])
def test_winograd_weight_gradient_in_narrower_vectors(bits):
    conv, machine = WINOGRAD["ragged"], Machine(vector_bits=bits)
    x, _, dy = arrays(conv)
    close_to_direct(run_winograd_weight(conv, x, dy, machine), x, dy, conv)


def test_winograd_weight_gradient_of_panels_that_lack_whole_vectors():
    """24 channels of results are three vectors of 8 in two panels of two: there is no fourth."""
    conv, machine = shape(channels=16, out_channels=24), Machine(vector_bits=256)
    assert plan_winograd_weight(conv, "float32", machine).vectors == 2
    x, _, dy = arrays(conv)
    close_to_direct(run_winograd_weight(conv, x, dy, machine), x, dy, conv)


@pytest.mark.parametrize("whole", [False, True], ids=["tiles", "products"])
def test_winograd_tasks_share_tiles_or_products(whole):
    size, channels = (12, 64) if whole else (60, 16)
    conv = shape(height=size, width=size, channels=channels, out_channels=channels)
    machine = replace(MACHINE, tasks=2)
    plan = plan_winograd_weight(conv, "float32", machine)
    assert (plan.tasks, plan.whole) == (2, whole)
    x, _, dy = arrays(conv)
    close_to_direct(run_winograd_weight(conv, x, dy, machine), x, dy, conv)


@pytest.mark.parametrize(("tasks", "channels"), [(1, 136), (3, 136), (1, 144), (1, 64)])
@pytest.mark.parametrize("flat", [False, True], ids=["elements", "rows"])
def test_winograd_weights_are_done_run_by_run(tasks, channels, flat):
    """Where all sums are more than the cache holds: the last run is no whole one, nor the last
    chunk of runs."""
    conv = shape(batch=2, height=7, width=7, channels=channels, out_channels=200)
    machine = replace(MACHINE, l2_bytes=400 << 10, tasks=tasks)
    plan = plan_winograd_weight(conv, "float32", machine)
    assert (plan.chunk > 0, plan.tasks) == (True, tasks)
    assert channels == 64 or plan.runs > plan.chunk > 1
    x, _, dy = arrays(conv)
    emit = emit_winograd_rows if flat else emit_winograd_weights
    actual = execute(plan_winograd, emit, conv, x, dy, weight_dims, machine, False)
    close_to_direct(actual, x, dy, conv)
