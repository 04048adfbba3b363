"""Strided 1x1 depthwise convolutions are the products NumPy gives, and write nothing else."""

from __future__ import annotations

import pytest
from harness import MACHINE
from test_cpu_conv2d import arrays, close, forward, shape
from test_cpu_planes import run

from dslc.schedules.cpu.conv.picked import emit_picked, plan_picked
from dslc.schedules.cpu.conv.picked_plan import takes_picked
from dslc.schedules.cpu.conv.plane_choice import choose_template
from dslc.schedules.cpu.tiles.contract import Machine


def strided(height, width, channels=3, stride=(2, 2), **rest):
    rest.setdefault("padding", ((0, 0), (0, 0)))
    return shape(
        channels=channels, out_channels=channels, groups=channels, height=height, width=width,
        kernel=(1, 1), stride=stride, **rest,
    )  # fmt: skip


LANES = MACHINE.lanes("float32")
SHAPES = {
    "short rows": strided(89, 4),
    "one column": strided(45, 1),
    "two columns of a row": strided(17, 2, stride=(3, 2)),
    "rows of a vector": strided(11, 2 * LANES - 1),
    "few pixels": strided(3, 2),
    "one pixel": strided(1, 1),
    "columns alone": strided(12, 9, stride=(1, 3)),
    "several strips": strided(599, LANES - 1),
    "empty": strided(3, 4, batch=0),
}


def picked(conv, x, w, machine=MACHINE, flat=True):
    return run(
        conv, x, w, machine, flat, plan_picked,
        lambda plan, x, w, epilogue, _scratch: emit_picked(plan, x, w, epilogue),
    )  # fmt: skip


@pytest.mark.parametrize("conv", SHAPES.values(), ids=SHAPES)
def test_picked(conv):
    x, w, _ = arrays(conv)
    close(picked(conv, x, w), forward(x, w, conv), 1)


@pytest.mark.parametrize("bits", [256, 128])
def test_narrower_vectors(bits):
    conv = strided(41, 5)
    x, w, _ = arrays(conv)
    close(picked(conv, x, w, Machine(vector_bits=bits)), forward(x, w, conv), 1)


@pytest.mark.parametrize("name", ["short rows", "several strips"])
def test_double_precision_rows_and_tasks(name):
    conv = SHAPES[name]
    x, w, _ = arrays(conv, "float64")
    machine = Machine(MACHINE.vector_bits, tasks=3, repeated=True)
    close(picked(conv, x, w, machine, flat=False), forward(x, w, conv), 1)


def test_moves_are_work_for_several_tasks():
    machine = Machine(512, tasks=2)
    large, small = strided(89, 4, channels=970), strided(89, 4, channels=9)
    assert plan_picked(large, "float32", machine, True).tasks == 2
    assert plan_picked(small, "float32", machine, True).tasks == 1


def test_what_it_takes():
    assert takes_picked(strided(9, 4), "float64", 8)
    assert not takes_picked(strided(9, 64), "float32", 16)
    assert not takes_picked(strided(9, 4, stride=(1, 1)), "float32", 16)
    assert not takes_picked(strided(9, 4, padding=((1, 1), (1, 1))), "float32", 16)
    assert choose_template(strided(89, 4), "float32", 16, 32, flat=True)[0] == "picked"
