"""Convolutions of NCHW images are the sums NumPy gives, and write nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from harness import MACHINE, compile_body, guarded
from test_cpu_conv2d import arrays, close, dense, forward, shape, terms
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.conv import plane_tile
from dslc.schedules.cpu.conv.plane_plan import plan_planes
from dslc.schedules.cpu.conv.plane_tile import takes_planes
from dslc.schedules.cpu.conv.planes import emit_planes
from dslc.schedules.cpu.tiles.contract import Machine, Operand

NONE = ((0, 0), (0, 0))
SHAPES = {
    "plain": shape(),
    "wide": shape(height=7, width=83, channels=3, out_channels=9),
    "narrow": shape(height=21, width=3, channels=4, out_channels=5),
    "in place": shape(height=9, width=37, channels=2, out_channels=3, padding=NONE),
    "in place, narrow": shape(height=9, width=5, channels=2, out_channels=3, padding=NONE),
    "stride": shape(width=50, stride=(2, 2)),
    "stride, wide": shape(height=7, width=140, channels=2, out_channels=3, stride=(2, 2)),
    "wide padding": shape(width=20, channels=2, out_channels=3, padding=((1, 1), (40, 70))),
    "stride and dilation": shape(stride=(2, 3), dilation=(2, 1), padding=((2, 1), (0, 3))),
    "pointwise": shape(kernel=(1, 1), padding=NONE, height=13, width=9, channels=7),
    "pointwise, from memory": shape(
        batch=1, kernel=(1, 1), padding=NONE, height=301, width=99, channels=9, out_channels=2
    ),
    "pointwise, stride": shape(kernel=(1, 1), padding=NONE, stride=(2, 2)),
    "pointwise, wide stride": shape(
        kernel=(1, 1), padding=NONE, stride=(2, 3), width=115, channels=9
    ),
    "depthwise, stride": shape(
        height=15, width=70, channels=3, out_channels=3, groups=3, stride=(2, 2)
    ),
    "depthwise, stride, from memory": shape(
        batch=1, height=303, width=301, channels=3, out_channels=3, groups=3, stride=(2, 2)
    ),
    "depthwise": shape(height=11, width=40, channels=5, out_channels=5, groups=5),
    "large, depthwise": shape(
        height=9, channels=3, out_channels=3, groups=3, kernel=(7, 7), padding=((3, 3), (3, 3))
    ),
    "groups": shape(groups=2),
    "large": shape(
        height=9, width=33, channels=2, out_channels=17, kernel=(7, 7), stride=(2, 2),
        padding=((3, 3), (3, 3)),
    ),
    "empty": shape(batch=0),
}  # fmt: skip
# Many channels of results for which pixels are gathered.
GATHERED = {
    "narrow": shape(batch=1, height=9, width=3, channels=2, out_channels=41),
    "large": shape(
        height=13, width=10, channels=3, out_channels=43, kernel=(7, 5), padding=((3, 3), (2, 2))
    ),
    "stride and dilation": shape(
        height=11, width=37, channels=2, out_channels=34, stride=(2, 3), dilation=(1, 2),
        kernel=(3, 2), padding=((2, 1), (0, 3)),
    ),
    "no padding, groups": shape(
        height=9, width=5, channels=4, out_channels=132, groups=2, padding=NONE
    ),
    "pointwise, stride": shape(
        height=9, width=13, channels=5, out_channels=37, kernel=(1, 1), stride=(2, 2), padding=NONE
    ),
}  # fmt: skip


def run(conv, x, w, machine=MACHINE, flat=True, make_plan=plan_planes, emit=emit_planes):
    """y [n, oh, ow, o] of x [n, h, w, c] by a template, which sees planes."""
    dtype, dims = str(x.dtype), (conv.batch, conv.out_channels, *conv.out)
    plan = make_plan(conv, dtype, machine, flat)

    def body(x_buffer, w_buffer, out, scratch):
        target = dense(out, dtype, *dims)
        image = dense(x_buffer, dtype, conv.batch, conv.channels, conv.height, conv.width)

        def epilogue(index, value):
            T.buffer_store(out, value, [target.at(*index)])

        emit(plan, image, dense(w_buffer, dtype, *w.shape), epilogue, Operand(scratch, dtype, (1,)))

    kernel = compile_body(body, [dtype] * 4, 0, machine.vector_bits)
    out, whole = guarded(int(np.prod(dims)), dtype)
    scratch = np.full(getattr(plan, "scratch_bytes", 0) // x.itemsize + 1, np.nan, dtype)
    planes = np.ascontiguousarray(x.transpose(0, 3, 1, 2))
    kernel(planes.reshape(-1), w.reshape(-1), whole, scratch)
    assert np.isnan(whole[out.size :]).all()
    return out.reshape(dims).transpose(0, 2, 3, 1)


@pytest.mark.parametrize("conv", SHAPES.values(), ids=SHAPES)
def test_planes(conv):
    x, w, _ = arrays(conv)
    close(run(conv, x, w), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize("conv", GATHERED.values(), ids=GATHERED)
def test_gathered_pixels(conv):
    plan = plan_planes(conv, "float32", MACHINE, flat=True)
    assert plan.flat
    assert plan.copies
    x, w, _ = arrays(conv)
    close(run(conv, x, w), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize(("height", "strips"), [(24, 4), (23, 4)])
def test_gathered_strips(height, strips):
    """Of 24 rows, strips of 6; of 23, the last has 5."""
    conv = shape(batch=1, height=height, width=4, channels=2, out_channels=130)
    row = 4 * 4 * conv.channels * 9
    machine = Machine(MACHINE.vector_bits, tasks=2, repeated=True)
    machine = replace(machine, l2_bytes=machine.l2_bytes // machine.near_bytes * 6 * row)
    plan = plan_planes(conv, "float32", machine, flat=True)
    assert (plan.gathers, plan.strips, plan.tasks) == (True, strips, 2)
    x, w, _ = arrays(conv)
    close(run(conv, x, w, machine), forward(x, w, conv), terms(conv))


def test_gathered_rows_fill_vectors():
    """Of 42 pixels, three rows of them; to two tasks, as many strips."""
    conv = shape(1, 79, 42, 16, 327, kernel=(7, 7), padding=((3, 3), (3, 3)))
    plans = [plan_planes(conv, "float32", Machine(256, tasks), flat=True) for tasks in (1, 2)]
    assert [(plan.gathers, plan.strip, plan.strips % plan.tasks) for plan in plans] == [
        (True, 3, 0), (True, 2, 0)
    ]  # fmt: skip


def test_pointwise_strips():
    conv = shape(batch=1, height=9, width=51, channels=6, out_channels=41, kernel=(1, 1),
                 padding=NONE)  # fmt: skip
    machine = Machine(MACHINE.vector_bits, tasks=2, repeated=True, l2_bytes=1 << 12)
    assert plan_planes(conv, "float32", machine, flat=True).strips > 2
    x, w, _ = arrays(conv)
    close(run(conv, x, w, machine), forward(x, w, conv), terms(conv))


def test_planes_from_end_to_end():
    """The last of a plane's strips is shorter, and no whole vectors."""
    conv = shape(batch=2, kernel=(1, 1), padding=NONE, height=301, width=91, channels=20,
                 out_channels=4, groups=2)  # fmt: skip
    machine = Machine(256, tasks=2, repeated=True)
    plan = plan_planes(conv, "float32", machine, flat=True)
    assert (plan.streams, plan.even, plan.tasks) == (True, False, 2)
    x, w, _ = arrays(conv)
    close(run(conv, x, w, machine), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize(("stride", "width", "flat"), [((2, 2), 119, True), ((1, 1), 16, False)])
def test_rows_from_end_to_end(monkeypatch, stride, width, flat):
    """Pixels are picked as they are read, none behind a row; of the last strip's fewer rows, too.
    So are rows that results are asked for by."""
    monkeypatch.setattr(plane_tile, "FAR", 1)
    monkeypatch.setattr(plane_tile, "LONG", 1)
    conv = shape(batch=1, kernel=(1, 1), padding=NONE, stride=stride, height=9, width=width,
                 channels=401, out_channels=3)  # fmt: skip
    machine = Machine(256, tasks=2, repeated=True)
    plan = plan_planes(conv, "float32", machine, flat=flat)
    assert (plan.streams, plan.even, plan.strips) == (True, False, 2)
    x, w, _ = arrays(conv)
    close(run(conv, x, w, machine, flat=flat), forward(x, w, conv), terms(conv))


def test_what_memory_would_wait_for_is_asked_for(monkeypatch):
    """Of narrow vectors: the strip behind, by two tiles of channels, and places of results."""
    monkeypatch.setattr(plane_tile, "FAR", 1)
    conv = shape(batch=2, height=31, width=70, channels=3, out_channels=8, stride=(2, 2))
    machine = Machine(256, tasks=2, repeated=True, l2_bytes=1 << 14)
    plan = plan_planes(conv, "float32", machine, flat=False)
    assert (plan.asks_behind, plan.strips > 1, plan.channels) == (True, True, 4)
    places = []

    def emit(plan, image, w, epilogue, scratch):
        emit_planes(plan, image, w, epilogue, scratch, places.append)

    x, w, _ = arrays(conv)
    close(run(conv, x, w, machine, flat=False, emit=emit), forward(x, w, conv), terms(conv))
    assert places


def test_a_copy_asks_for_the_next_channel(monkeypatch):
    """Where memory is far and rows of a strip are short."""
    monkeypatch.setattr(plane_tile, "FAR", 1)
    conv = shape(batch=2, height=31, width=70, channels=3, out_channels=8, stride=(2, 2))
    machine = Machine(512, l2_bytes=1 << 14, matrices=True)
    plan = plan_planes(conv, "float32", machine, flat=False)
    assert (plan.copies, plan.asks_channels, plan.strips > 1) == (True, True, True)
    x, w, _ = arrays(conv)
    close(run(conv, x, w, machine, flat=False), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("bits", [256, 512])
def test_pixels_are_packed_for_many_channels(groups, bits):
    """Of narrow vectors or where memory is far, if many planes make many; the last tile lacks
    pixels."""
    conv = shape(batch=2, kernel=(1, 1), padding=NONE, height=71, width=7, channels=36 * groups,
                 out_channels=27 * groups, groups=groups)  # fmt: skip
    machine = Machine(bits, tasks=2, repeated=True, l2_bytes=1 << 15, matrices=bits == 512)
    plan = plan_planes(conv, "float32", machine, flat=True)
    assert (plan.packs, plan.even, plan.strips > 1) == (True, False, True)
    x, w, _ = arrays(conv)
    close(run(conv, x, w, machine), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize("bits", [256, 128])
@pytest.mark.parametrize(
    "name", ["wide", "in place", "stride, wide", "pointwise, wide stride", "gathered"]
)
def test_narrower_vectors(name, bits):
    conv = {**SHAPES, "gathered": GATHERED["narrow"]}[name]
    x, w, _ = arrays(conv)
    close(run(conv, x, w, Machine(vector_bits=bits)), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize("name", ["wide", "narrow", "pointwise"])
def test_double_precision_and_tasks(name):
    conv = SHAPES[name]
    x, w, _ = arrays(conv, "float64")
    machine = Machine(MACHINE.vector_bits, tasks=3, repeated=True)
    close(run(conv, x, w, machine, flat=False), forward(x, w, conv), terms(conv))


def test_several_strips():
    conv = shape(batch=1, height=23, width=30, channels=3, out_channels=4)
    machine = Machine(MACHINE.vector_bits, l2_bytes=1 << 12)
    assert plan_planes(conv, "float32", machine, False).strips > 2
    x, w, _ = arrays(conv)
    close(run(conv, x, w, machine), forward(x, w, conv), terms(conv))


def test_what_it_takes():
    assert takes_planes(shape(), "float32")
    assert not takes_planes(shape(), "float16")
    assert not takes_planes(shape(input_dilation=(2, 2)), "float32")
    assert not takes_planes(shape(padding=((-1, 2), (1, 1))), "float32")
