"""What templates ask for beside their products: every vector of their results, and no other."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from harness import MACHINE, compile_body, guarded
from test_cpu_conv2d import dense, image, shape
from test_cpu_strassen import pointwise
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.conv.conv2d import emit_conv2d, plan_conv2d
from dslc.schedules.cpu.conv.winograd import emit_winograd
from dslc.schedules.cpu.conv.winograd_plan import plan_winograd
from dslc.schedules.cpu.matmul.strassen import emit_strassen, plan_strassen
from dslc.schedules.cpu.tiles.contract import Operand, Panels

LANES = MACHINE.lanes("float32")
WIDTH = 2 * LANES


def asked(conv, plan_for, emit):
    """How often each vector of the results is asked for; 0 or 1."""
    dims = (conv.batch, *conv.out, conv.out_channels)

    def body(x, w, out, scratch, marks, batch):
        target, live = dense(out, "float32", *dims), dense(marks, "float32", *dims)
        emit(
            plan_for(batch), image(x, "float32", conv), Panels(w, "float32", WIDTH),
            lambda index, value: T.buffer_store(out, value, [target.at(*index)]),
            Operand(scratch, "float32", (1,)),
            lambda index: T.buffer_store(marks, tvm.tirx.const(1.0, "float32"), [live.at(*index)]),
        )  # fmt: skip

    kernel = compile_body(body, ["float32"] * 5, 1)
    plan = plan_for(tvm.tirx.Var("n", "int64"))
    marks, whole = guarded(int(np.prod(dims)), "float32")
    rng = np.random.default_rng(0)
    x = rng.standard_normal(conv.batch * conv.height * conv.width * conv.channels)
    w = rng.standard_normal(64 * conv.channels * conv.out_channels)
    scratch = np.zeros(plan.scratch_bytes // 4 + 1, "float32")
    kernel(x.astype("f4"), w.astype("f4"), np.zeros(marks.size, "f4"), scratch, whole, conv.batch)
    assert np.isnan(whole[marks.size :]).all()
    found = np.nan_to_num(marks).reshape(-1, LANES)
    assert not found[:, 1:].any()
    return found[:, 0]


@pytest.mark.parametrize("channels", [32, 2048], ids=["tile by tile", "a block at once"])
def test_strassen(channels):
    conv = pointwise(2, 5, 9, channels, 4 * LANES)

    def plan(batch):
        return plan_strassen(
            (batch, *conv.out), conv.out_channels, channels // 2, (1, 1, 1), WIDTH, MACHINE
        )

    assert plan(2).products.apart == (channels == 32)
    assert asked(conv, plan, emit_strassen).all()


@pytest.mark.parametrize("m", [2, 4])
def test_winograd(m):
    conv = shape(2, 9, 11, 96, 2 * WIDTH)

    def plan(batch):
        return plan_winograd(shape(batch, 9, 11, 96, 2 * WIDTH), m, WIDTH, MACHINE)

    assert plan(tvm.tirx.Var("n", "int64")).deep
    assert asked(conv, plan, emit_winograd).all()


def test_direct():
    conv = pointwise(2, 5, 9, 48, 2 * WIDTH)

    def plan(batch):
        return plan_conv2d(pointwise(batch, 5, 9, 48, 2 * WIDTH), "float32", WIDTH, MACHINE)

    assert plan(2).pointwise
    assert asked(conv, plan, emit_conv2d).all()
