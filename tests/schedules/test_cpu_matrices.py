"""Products and convolutions by registers that hold matrices, where this CPU has them, at sizes that
fill none of them; and that they are used."""

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
from dslc.schedules.cpu.choices import choices
from dslc.schedules.cpu.conv.conv2d_matrices import emit_conv2d_matrices, plan_conv2d_matrices
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.matmul.matrices import emit_matrices, plan_matrices
from dslc.schedules.cpu.tiles.contract import Machine, Operand, Panels
from dslc.schedules.cpu.tiles.dots import PAIRS, imported
from dslc.schedules.cpu.tiles.matrix_tile import LLVM_IR
from tests.lowering.native import needs_matrices

MACHINE = Machine(vector_bits=512, dots=True, matrices=True)
# Weights don't stay in the L2 cache, but some images.
SEVERAL = replace(MACHINE, l2_bytes=128 << 10)
# All panels of a product are packed, and don't fit with the results of more than a few rows.
TIGHT = replace(MACHINE, l2_bytes=64 << 10)
FAR = replace(MACHINE, l2_bytes=2048)  # weights come from memory, and are asked for
CPU = "sapphirerapids"


def draw(rng: np.random.Generator, *dims: int) -> np.ndarray:
    """bf16 numbers, in f32."""
    return rng.standard_normal(dims).astype(ml_dtypes.bfloat16).astype("f4")


def pairs(x: np.ndarray, axis: int) -> np.ndarray:
    """Pairs of bf16 along an axis of even length, an int32 each."""
    moved = np.moveaxis(x.astype(ml_dtypes.bfloat16).view("u2"), axis, -1)
    joined = np.ascontiguousarray(moved).view("i4")
    return np.ascontiguousarray(np.moveaxis(joined, -1, axis))


def panels(b: np.ndarray, width: int) -> np.ndarray:
    k, n = b.shape
    count = -(-n // width)
    padded = np.zeros((k, count * width), b.dtype)
    padded[:, :n] = b
    return np.ascontiguousarray(padded.reshape(k, count, width).transpose(1, 0, 2))


# (m, n, k), k in pairs: one register and two of rows, whole and not, and parts of K.
SIZES = [
    (1, 1, 1), (1, 40, 33), (16, 16, 16), (17, 32, 15), (32, 33, 48), (33, 70, 17), (65, 31, 40),
    (100, 64, 100), (3, 5, 0), (70, 1100, 20),
]  # fmt: skip


@needs_matrices
@pytest.mark.parametrize("kind", ["NP", "NN", "NT", "TN", "TP"])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("machine", [MACHINE, TIGHT, FAR], ids=["near", "tight", "far"])
def test_products(kind: str, dynamic: bool, machine: Machine) -> None:
    """`kind`: how a and b lie: N row-major, T transposed, P packed."""
    for m, n, k in SIZES:
        rng = np.random.default_rng(m)
        a, b = draw(rng, m, 2 * k), draw(rng, 2 * k, n)
        a_data, b_data = pairs(a, 1), pairs(b, 0)
        width = 16 if n <= 16 else 32
        laid = {"N": b_data, "T": np.ascontiguousarray(b_data.T), "P": panels(b_data, width)}
        plans = []

        def body(a_buffer, b_buffer, out, scratch, *dims, m=m, n=n, k=k, width=width, plans=plans):
            rows = dims[0] if dims else m
            left = Operand(a_buffer, PAIRS, (1, rows) if kind[0] == "T" else (k, 1))
            right = (
                Panels(b_buffer, PAIRS, width)
                if kind[1] == "P"
                else Operand(b_buffer, PAIRS, (1, k) if kind[1] == "T" else (n, 1))
            )
            plan = plan_matrices(left, right, rows, n, k, machine)
            plans.append(plan_matrices(left, right, m, n, k, machine))
            with imported(PAIRS, LLVM_IR):
                emit_matrices(
                    plan, left, right,
                    lambda index, value: T.buffer_store(out, value, [index[0] * n + index[1]]),
                    Operand(scratch, PAIRS, (1,)),
                )  # fmt: skip

        run = compile_body(body, ["int32", "int32", "float32", "int32"], int(dynamic), 512, CPU)
        out, whole = guarded(m * n, "float32")
        scratch = np.zeros(plans[0].scratch_bytes(k) // 4 + 1, "i4")
        lying = np.ascontiguousarray(a_data.T) if kind[0] == "T" else a_data
        run(lying.reshape(-1), laid[kind[1]].reshape(-1), whole, scratch, *[m] * dynamic)
        np.testing.assert_allclose(out.reshape(m, n), a @ b, atol=2e-6 * max(1, 2 * k))
        assert np.isnan(whole[m * n :]).all()


# Narrow and wide rows, an odd number of them, strides, dilation, groups, padding, ragged channels.
SHAPES = [
    ConvShape(2, 7, 7, 32, 40, (3, 3), padding=((1, 1), (1, 1))),
    ConvShape(1, 9, 35, 12, 20, (3, 2), (2, 1), ((1, 0), (0, 1))),
    ConvShape(1, 1, 20, 32, 16, (1, 3), (1, 2)),
    ConvShape(2, 6, 40, 8, 6, (2, 2), (1, 1), ((2, 2), (2, 2)), (2, 2)),
    ConvShape(1, 5, 17, 64, 96, (1, 1), (2, 2), groups=2),
    ConvShape(1, 3, 3, 4, 1, (3, 3)),
    ConvShape(2, 6, 5, 16, 40, (3, 3), padding=((1, 2), (1, 1)), input_dilation=(2, 2)),
    ConvShape(5, 7, 7, 64, 84, (3, 3), padding=((1, 1), (1, 1))),
    ConvShape(5, 9, 9, 256, 168, (1, 1), (2, 2)),
]


@needs_matrices
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("machine", [MACHINE, SEVERAL, FAR], ids=["near", "several", "far"])
def test_convolutions(shape: ConvShape, machine: Machine) -> None:
    rng = np.random.default_rng(0)
    x = draw(rng, shape.batch, shape.height, shape.width, shape.channels)
    w = draw(rng, shape.out_channels, *shape.kernel, shape.group_channels)
    width = 16 if shape.group_out_channels <= 16 else 32
    each = w.reshape(shape.groups, shape.group_out_channels, -1)
    packed = np.concatenate([panels(pairs(part.T, 0), width) for part in each])
    paired = replace(shape, channels=shape.channels // 2)
    plan = plan_conv2d_matrices(paired, width, machine)
    dims = (shape.batch, *shape.out, shape.out_channels)
    strides = np.cumprod((1, *dims[:0:-1]))[::-1]

    def body(image, weights, out, scratch):
        height, across, channels = shape.height, shape.width, paired.channels
        lying = Operand(
            image, PAIRS, (height * across * channels, across * channels, channels, 1)
        )  # fmt: skip

        def store(index, value):
            T.buffer_store(out, value, [sum(i * int(s) for i, s in zip(index, strides))])

        with imported(PAIRS, LLVM_IR):
            emit_conv2d_matrices(
                plan, lying, Panels(weights, PAIRS, width), store, Operand(scratch, PAIRS, (1,))
            )

    run = compile_body(body, ["int32", "int32", "float32", "int32"], 0, 512, CPU)
    out, whole = guarded(int(np.prod(dims)), "float32")
    scratch = np.zeros(plan.scratch_bytes // 4 + 1, "i4")
    run(pairs(x, 3).reshape(-1), packed.reshape(-1), whole, scratch)
    np.testing.assert_allclose(out.reshape(dims), convolved(shape, x, w), atol=1e-4)
    assert np.isnan(whole[out.size :]).all()


@pytest.mark.parametrize(("tasks", "images"), [(1, 8), (2, 4)])
def test_a_panel_meets_several_images(tasks: int, images: int) -> None:
    for shape in SHAPES[-2:]:
        paired = replace(shape, batch=8, channels=shape.channels // 2)
        machine = replace(SEVERAL, tasks=tasks, l2_bytes=160 << 10)
        assert plan_conv2d_matrices(paired, 32, machine).images == images


def test_nothing_is_tuned() -> None:
    assert choices(plan_conv2d_matrices(SHAPES[0], 32, MACHINE), MACHINE) == []


def convolved(shape: ConvShape, x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The definition."""
    down, across = shape.input_dilation
    spread = np.zeros((len(x), (shape.height - 1) * down + 1, (shape.width - 1) * across + 1,
                       shape.channels), x.dtype)  # fmt: skip
    spread[:, ::down, ::across] = x
    x = np.pad(spread, ((0, 0), *shape.padding, (0, 0)))
    (oh, ow), (sh, sw), (dh, dw) = shape.out, shape.stride, shape.dilation
    result = np.zeros((shape.batch, oh, ow, shape.groups, shape.group_out_channels), "f8")
    kernels = w.reshape(shape.groups, shape.group_out_channels, *shape.kernel, -1)
    for y in range(shape.kernel[0]):
        for z in range(shape.kernel[1]):
            seen = x[:, y * dh :, z * dw :][:, : (oh - 1) * sh + 1 : sh, : (ow - 1) * sw + 1 : sw]
            grouped = seen.reshape(*seen.shape[:3], shape.groups, -1)
            result += np.einsum("nijgc,goc->nijgo", grouped, kernels[:, :, y, z])
    return result.reshape(shape.batch, oh, ow, -1)


def test_they_are_used_where_the_cpu_has_them() -> None:
    """On whatever machine the code is made."""
    features = ("amx_bf16", "amx_tile", "avx512_bf16")
    target = cpu_target("x86-64-v4", 1)
    target = replace(target, features=tuple(sorted({*target.features, *features})))
    source = """from std.attention import scaled_dot_product_attention
    model M(x: f32[40, 64], y: f32[1, 32, 9, 9], q: f32[2, 20, 40]) -> (
        f32[40, 48], f32[1, 32, 7, 7], f32[2, 20, 40]
    ) {
        z = scaled_dot_product_attention[causal=true](q, q, q)
        return (x |> a: dense[48], y |> b: conv2d[32, kernel=3], z)
    }
    """
    program = driver.optimise(api.lower(source), target, precision="bf16")
    code = driver.run_job(driver.make_job(program, target, Path(), "asm")).text
    assert code.count("tdpbf16ps") >= 16
    assert "vcvtne2ps2bf16" in code
    assert "vdpbf16ps" not in code
    assert code.count("ldtilecfg") == code.count("tilerelease") > 0


@pytest.mark.parametrize(("m", "n", "split"), [(25088, 256, "rows"), (128, 1536, "columns")])
def test_tasks_share_out_what_is_longer(m, n, split):
    """All of them read all of the other side."""
    stored, panels = Operand(None, PAIRS, (32, 1)), Panels(None, PAIRS, 32)
    machine = Machine(512, tasks=2, dots=True, matrices=True)
    assert plan_matrices(stored, panels, m, n, 32, machine).split == split
