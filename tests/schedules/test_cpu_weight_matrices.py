"""Gradients of convolutions' weights by registers that hold matrices, where this CPU has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from harness import compile_body, guarded
from tvm.tirx.script import builder as T

from dslc import api
from dslc.build import driver
from dslc.build.target import cpu_target
from dslc.schedules.cpu.conv.conv2d_weight_matrices import (
    emit_weight_matrices,
    plan_weight_matrices,
)
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.tiles.contract import Machine, Operand
from dslc.schedules.cpu.tiles.dots import HALF, PAIRS, imported
from dslc.schedules.cpu.tiles.matrix_tile import LLVM_IR
from tests.lowering.native import needs_matrices

MACHINE = Machine(vector_bits=512, dots=True, matrices=True)
STRIPS = replace(MACHINE, l2_bytes=12 << 10)  # hold no image
CPU = "sapphirerapids"

SAME = ((1, 1), (1, 1))
SHAPES = {
    "3x3": ConvShape(3, 9, 12, 32, 32, (3, 3), padding=SAME),
    "ragged": ConvShape(2, 7, 7, 37, 45, (3, 3), padding=SAME),
    "few channels": ConvShape(2, 20, 41, 5, 70, (5, 3), padding=((2, 2), (1, 1))),
    "wide rows": ConvShape(1, 5, 140, 20, 33, (3, 3), padding=SAME),
    "pointwise": ConvShape(5, 8, 8, 64, 40, (1, 1)),
    "stride": ConvShape(2, 15, 18, 33, 32, (3, 3), (2, 2), ((1, 1), (1, 0))),
    "pointwise stride": ConvShape(2, 9, 9, 32, 64, (1, 1), (2, 2)),
    "dilation": ConvShape(1, 14, 13, 16, 17, (3, 3), (1, 2), ((2, 2), (2, 2)), (2, 2)),
    "cropped": ConvShape(1, 12, 12, 18, 18, (3, 2), padding=((-1, 0), (0, -2))),
    "one pixel": ConvShape(4, 3, 3, 40, 36, (3, 3)),
    "empty": ConvShape(0, 6, 6, 32, 32, (3, 3), padding=SAME),
}


@needs_matrices
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("machine", [MACHINE, STRIPS, replace(MACHINE, tasks=3)],
                         ids=["whole", "strips", "tasks"])  # fmt: skip
@pytest.mark.parametrize("name", SHAPES)
def test_weights(name: str, machine: Machine, dynamic: bool) -> None:
    shape = SHAPES[name]
    rng = np.random.default_rng(0)
    x, dy = (
        rng.standard_normal(dims).astype(ml_dtypes.bfloat16)
        for dims in (
            (shape.batch, shape.height, shape.width, shape.channels),
            (shape.batch, *shape.out, shape.out_channels),
        )
    )
    dims = (shape.out_channels, shape.channels, *shape.kernel)
    plans = []

    def body(image, cotangent, out, scratch, *sizes):
        live = replace(shape, batch=sizes[0]) if sizes else shape
        # However little there is to do.
        plan = replace(plan_weight_matrices(live, machine), tasks=machine.tasks)
        plans.append(plan)

        def store(index, value):
            o, c, y, z = index
            at = ((o * dims[1] + c) * dims[2] + y) * dims[3] + z
            T.buffer_store(out, value, [at])

        with imported(PAIRS, LLVM_IR):
            emit_weight_matrices(
                plan, dense(image, *x.shape), dense(cotangent, *dy.shape), store,
                Operand(scratch, "float32", (1,)),
            )  # fmt: skip

    run = compile_body(body, [HALF, HALF, "float32", "float32"], int(dynamic), 512, CPU)
    out, whole = guarded(int(np.prod(dims)), "float32")
    # What is in the memory at first counts for nothing.
    scratch = np.full(plans[0].scratch_bytes // 4, np.nan, "f4")
    given = [shape.batch] if dynamic else []
    run(x.view("u2").reshape(-1), dy.view("u2").reshape(-1), whole, scratch, *given)
    expected = gradient(shape, x.astype("f8"), dy.astype("f8"))
    np.testing.assert_allclose(out.reshape(dims), expected, atol=1e-4)
    assert np.isnan(whole[out.size :]).all()


def dense(buffer, *dims):
    strides = np.cumprod((1, *dims[:0:-1]))[::-1]
    return Operand(buffer, HALF, tuple(map(int, strides)))


def gradient(shape: ConvShape, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """The definition."""
    around = [(max(0, a), max(0, b)) for a, b in shape.padding]
    x = np.pad(x, ((0, 0), *around, (0, 0)))
    (top, bottom), (left, right) = [(max(0, -a), max(0, -b)) for a, b in shape.padding]
    x = x[:, top : x.shape[1] - bottom, left : x.shape[2] - right]
    (oh, ow), (sh, sw), (dh, dw) = shape.out, shape.stride, shape.dilation
    dw_ = np.zeros((shape.out_channels, shape.channels, *shape.kernel))
    for i in range(shape.kernel[0]):
        for j in range(shape.kernel[1]):
            seen = x[:, i * dh :: sh, j * dw :: sw][:, :oh, :ow]
            dw_[..., i, j] = np.einsum("nyxc,nyxo->oc", seen, dy)
    return dw_


def test_strips_are_what_the_cache_holds() -> None:
    shape = SHAPES["3x3"]
    assert plan_weight_matrices(shape, MACHINE).images == 3
    plan = plan_weight_matrices(shape, STRIPS)
    assert plan.strips > 1
    assert 4 * (plan.image + plan.cotangent // plan.panels) <= STRIPS.l2_bytes


def test_they_are_used_where_the_cpu_has_them() -> None:
    """On whatever machine the code is made."""
    target = cpu_target("x86-64-v4", 1)
    features = {*target.features, "amx_bf16", "amx_tile", "avx512_bf16"}
    target = replace(target, features=tuple(sorted(features)))
    source = """
    model M(x: f32[N, 32, 9, 9]) -> f32[N, 32, 7, 7] { return x |> conv: conv2d[32, kernel=3] }
    train M {
        loss mean(output)
        optimizer sgd[lr=0.1]
    }
    """
    program = driver.optimise(api.lower(source, train=True), target, precision="bf16")
    text = driver.run_job(driver.make_job(program, target, Path(), "tir")).text
    (kernel,) = [part for part in text.split("def ") if "weight_gradient" in part.split("(")[0]]
    assert kernel.count("dslc_matrix_multiply") >= 4
    driver.run_job(driver.make_job(program, target, Path(), "asm"))
