"""Depthwise convolutions of turned NCHW images are the sums NumPy gives, and write nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
from harness import MACHINE
from test_cpu_conv2d import arrays, close, forward, shape, terms
from test_cpu_planes import run

from dslc.schedules.cpu.conv.plane_choice import choose_template
from dslc.schedules.cpu.conv.turned import emit_turned, plan_turned
from dslc.schedules.cpu.conv.turned_plan import takes_turned
from dslc.schedules.cpu.tiles.contract import Machine


def deep(channels, height=11, width=5, **rest):
    return shape(
        channels=channels, out_channels=channels, groups=channels, height=height, width=width,
        **rest,
    )  # fmt: skip


NONE = ((0, 0), (0, 0))
SHAPES = {
    "plain": deep(32),
    "blocks of two sizes": deep(35, batch=3),
    "few channels": deep(3),
    "stride": deep(19, height=85, width=7, stride=(2, 2)),
    "few pixels": deep(18, height=3, width=2),
    "one column": deep(17, height=40, width=1),
    "large": deep(20, kernel=(7, 7), padding=((3, 3), (3, 3)), width=7),
    "wide": deep(16, width=40),
    "dilation, uneven padding": deep(
        21, stride=(2, 3), dilation=(2, 1), padding=((2, 1), (0, 3)), width=9
    ),
    "no padding": deep(16, padding=NONE),
    "pointwise, stride": deep(16, kernel=(1, 1), padding=NONE, stride=(2, 2)),
    "more padding than image": deep(16, height=2, padding=((6, 5), (1, 1))),
    "empty": deep(16, batch=0),
}


def turned(conv, x, w, machine=MACHINE, flat=True):
    return run(conv, x, w, machine, flat, plan_turned, emit_turned)


@pytest.mark.parametrize("conv", SHAPES.values(), ids=SHAPES)
def test_turned(conv):
    x, w, _ = arrays(conv)
    close(turned(conv, x, w), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize("bits", [256, 128])
@pytest.mark.parametrize("name", ["blocks of two sizes", "stride"])
def test_narrower_vectors(name, bits):
    conv = SHAPES[name]
    x, w, _ = arrays(conv)
    close(turned(conv, x, w, Machine(vector_bits=bits)), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize("name", ["blocks of two sizes", "stride", "large"])
def test_double_precision_rows_and_tasks(name):
    conv = SHAPES[name]
    x, w, _ = arrays(conv, "float64")
    machine = Machine(MACHINE.vector_bits, tasks=3, repeated=True)
    close(turned(conv, x, w, machine, flat=False), forward(x, w, conv), terms(conv))


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "rows"])
def test_several_strips(flat):
    conv = deep(20, height=41, width=6, batch=2, stride=(2, 1))
    machine = replace(MACHINE, l2_bytes=1 << 14)
    assert plan_turned(conv, "float32", machine, flat).strips > 2
    x, w, _ = arrays(conv)
    close(turned(conv, x, w, machine, flat), forward(x, w, conv), terms(conv))


def test_every_task_has_a_strip():
    """Moves count as work, too: there are few products for each pixel."""
    machine = Machine(512, tasks=4, repeated=True)
    assert plan_turned(deep(16, batch=1, height=400, width=9), "float32", machine, True).strips == 4


@pytest.mark.parametrize(
    ("conv", "template"),
    [
        (deep(400, batch=3, height=85, width=7, stride=(2, 2)), "turned"),
        (deep(96, batch=1, height=56, width=56), "planes"),  # rows of whole vectors
        (deep(64, kernel=(1, 1), padding=NONE), "planes"),  # as they lie
        (shape(width=5, groups=2), "planes"),
    ],
    ids=["narrow", "wide", "pointwise", "groups"],
)
def test_narrow_images_are_turned(conv, template):
    assert choose_template(conv, "float32", 16, 32, flat=True)[0] == template


def test_what_it_takes():
    assert takes_turned(deep(16), "float64")
    assert not takes_turned(shape(groups=2), "float32")
    assert not takes_turned(deep(1), "float32")
    assert not takes_turned(deep(16, input_dilation=(2, 2)), "float32")
