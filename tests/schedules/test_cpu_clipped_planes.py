"""Convolutions of planes that are read in place: NumPy's sums, and nothing else is
written."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_cpu_conv2d import arrays, close, forward, shape, terms
from test_cpu_planes import run

from dslc.schedules.cpu.conv.clipped_planes import emit_clipped, plan_clipped
from dslc.schedules.cpu.conv.clipped_planes_plan import choose_clipped, takes_clipped
from dslc.schedules.cpu.conv.plane_choice import choose_template
from dslc.schedules.cpu.tiles.contract import Machine

NARROW = Machine(vector_bits=256)


def deep(height, width, channels=3, kernel=(3, 3), padding=((1, 1), (1, 1)), **rest):
    return shape(
        channels=channels, out_channels=channels, groups=channels, height=height, width=width,
        kernel=kernel, padding=padding, **rest,
    )  # fmt: skip


SHAPES = {
    "edges and what lies between": deep(11, 230),
    "narrower than a vector": deep(5, 4),
    "stride": deep(12, 301, stride=(2, 2)),
    "stride, rows that no result sees": deep(12, 77, stride=(2, 2), padding=((0, 0), (0, 0))),
    "stride of three": deep(13, 140, stride=(1, 3)),
    "dilation": deep(14, 90, stride=(2, 2), dilation=(3, 2), padding=((3, 2), (4, 1))),
    "large kernel": deep(9, 75, kernel=(5, 7), stride=(1, 2), padding=((2, 2), (3, 3))),
    "more padding than pixels": deep(2, 3, kernel=(2, 5), padding=((3, 4), (9, 2))),
    "from memory": deep(300, 900, channels=1, stride=(2, 2)),
    "channels": shape(
        channels=10,
        out_channels=14,
        groups=2,
        height=9,
        width=150,
        kernel=(3, 3),
        stride=(2, 2),
        padding=((1, 1), (1, 1)),
    ),
    "channels from memory": shape(
        channels=4,
        out_channels=2,
        height=90,
        width=930,
        kernel=(2, 3),
        padding=((0, 1), (1, 1)),
    ),
    "pixels": deep(7, 37, kernel=(1, 1), stride=(2, 2), padding=((0, 0), (0, 0))),
    "empty": deep(3, 40, batch=0),
}


def clipped(conv, x, w, machine=NARROW):
    return run(
        conv, x, w, machine, False,
        lambda conv, dtype, machine, _flat: plan_clipped(conv, dtype, machine),
        lambda plan, x, w, epilogue, _scratch: emit_clipped(plan, x, w, epilogue),
    )  # fmt: skip


@pytest.mark.parametrize("conv", SHAPES.values(), ids=SHAPES)
def test_clipped(conv):
    x, w, _ = arrays(conv)
    close(clipped(conv, x, w), forward(x, w, conv), terms(conv))


def test_narrower_vectors():
    conv = SHAPES["stride"]
    x, w, _ = arrays(conv)
    close(clipped(conv, x, w, Machine(vector_bits=128)), forward(x, w, conv), 9)


def test_double_precision_and_strips_of_a_plane_for_all_tasks():
    conv = deep(23, 61, channels=1, batch=1, stride=(2, 2))
    machine = Machine(256, tasks=3, repeated=True)
    assert plan_clipped(deep(900, 610, channels=1, batch=1), "float64", machine).strips == 3
    x, w, _ = arrays(conv, "float64")
    close(clipped(conv, x, w, machine), forward(x, w, conv), 9)


def test_what_spills_is_not_copied():
    wide = shape(
        channels=96, out_channels=15, height=15, width=559, kernel=(3, 3), stride=(2, 2),
        padding=((1, 1), (1, 1)),
    )  # fmt: skip
    assert choose_template(wide, "float32", 8, 16, True)[0] == "clipped"
    narrow = replace(wide, width=159)
    assert choose_template(narrow, "float32", 8, 16, True)[0] == "planes"


def test_tiles_hide_the_latency_of_sums():
    wide, high = choose_clipped(deep(40, 900, stride=(2, 2)), "float32", 8), deep(40, 14)
    assert (wide.rows, wide.vectors) == (1, 8)
    assert choose_clipped(high, "float32", 8).rows > 1


def test_what_it_takes():
    assert choose_template(deep(52, 1004, stride=(2, 2)), "float32", 8, 16, True)[0] == "clipped"
    assert not takes_clipped(deep(52, 1004), "float32", 16)
    assert not takes_clipped(deep(52, 1004, kernel=(1, 1)), "float32", 8)
