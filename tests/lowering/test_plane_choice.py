"""Which convolutions run over planes, and that what is fused behind them is right there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dslc
from dslc.build import driver, session
from dslc.build.target import Target
from dslc.ir.evaluate import evaluate
from dslc.schedules.cpu.conv.plane_choice import choose_template
from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.source import SourceFile

TARGET = Target("test", "cpu", "x86-64-v3", (), 256, 1)


def layouts(text: str) -> set[str]:
    """Of the images of the program's convolutions: NCHW ones are not packed."""
    program = session.program_of(SourceFile("net", text))
    eqns = driver.optimise(program, TARGET).entry("forward").function.eqns
    return {"NCHW" if e.op.name == "conv2d" else "NHWC" for e in eqns if "conv2d" in e.op.name}


def net(dims: str, body: str, result: str) -> str:
    return f"model Net(x: f32[{dims}]) -> f32[{result}] {{\n    return x |> {body}\n}}\n"


@pytest.mark.parametrize(
    ("dims", "body", "result", "layout"),
    [
        ("4, 20, 60, 50", "c: conv2d[20, kernel=3, padding=1, groups=20]", "4, 20, 60, 50", "NCHW"),
        ("N, 3, 60, 50", "c: conv2d[5, kernel=5, padding=2] |> relu", "N, 5, 60, 50", "NCHW"),
        ("1, 64, 40, 40", "c: conv2d[8, kernel=1]", "1, 8, 40, 40", "NCHW"),
        # Copied, its channels would lie far apart.
        ("2, 648, 19, 9", "c: conv2d[1492, kernel=1, stride=2]", "2, 1492, 10, 5", "NHWC"),
        (
            "1, 64, 56, 56",
            "c: conv2d[64, kernel=3, padding=1]",
            "1, 64, 56, 56",
            "NHWC",
        ),  # Winograd's way
        (
            "2, 4, 68, 12",
            "c: conv2d[480, kernel=7, stride=2, padding=3]",
            "2, 480, 34, 6",
            "NHWC",
        ),  # of phases, by Winograd's way
        ("1, 3, H, 50", "c: conv2d[5, kernel=3, padding=1]", "1, 5, H, 50", "NHWC"),
        ("1, 3, 60, 50", "c: conv2d[5, kernel=3] |> max_pool2d[2]", "1, 5, 29, 24", "NHWC"),
    ],
)
def test_the_quicker_layout_is_chosen(dims: str, body: str, result: str, layout: str) -> None:
    assert layouts(net(dims, body, result)) == {layout}


def drawn(*dims: tuple[int, ...]) -> list[np.ndarray]:
    draw = np.random.default_rng(1)
    return [draw.normal(size=each).astype(np.float32) for each in dims]


def meaning(text: str, values: Mapping[str, Any]) -> np.ndarray:
    """What the evaluator makes of inputs and weights, by name."""
    entry = session.program_of(SourceFile("net", text)).entry("forward")
    given = [np.asarray(values[argument.name]) for argument in entry.arguments]
    return evaluate(entry.function, given)[0]


FUSED = """
model Net(x: f32[N, 4, 9, 13], y: f32[N, 6, 9, 13], row: f32[9, 1]) -> f32[N, 6, 9, 13] {
    a = x |> first: conv2d[6, kernel=1] |> relu
    return (a |> second: conv2d[6, kernel=1]) * row + y
}
"""


def test_what_is_fused_behind_them() -> None:
    """Behind the first the place in the plane is enough; the second is multiplied row by row."""
    assert layouts(FUSED) == {"NCHW"}
    model = dslc.compile(FUSED, seed=1)
    x, y, row = drawn((2, 4, 9, 13), (2, 6, 9, 13), (9, 1))
    np.testing.assert_allclose(
        model(x, y, row), meaning(FUSED, {**model.weights, "x": x, "y": y, "row": row}), atol=1e-5
    )


NARROW = """
model Net(x: f32[N, 20, 30, 6], y: f32[N, 20, 15, 3], row: f32[15, 1]) -> f32[N, 20, 15, 3] {
    a = x |> first: conv2d[20, kernel=3, padding=1, groups=20] |> relu
    return (a |> second: conv2d[20, kernel=3, stride=2, padding=1, groups=20]) * row + y
}
"""


def test_what_is_fused_behind_turned_planes() -> None:
    assert layouts(NARROW) == {"NCHW"}
    deep = ConvShape(1, 30, 6, 20, 20, (3, 3), (2, 2), ((1, 1), (1, 1)), groups=20)
    assert choose_template(deep, "float32", 8, 16, flat=True)[0] == "turned"
    model = dslc.compile(NARROW, seed=1)
    x, y, row = drawn((3, 20, 30, 6), (3, 20, 15, 3), (15, 1))
    np.testing.assert_allclose(
        model(x, y, row), meaning(NARROW, {**model.weights, "x": x, "y": y, "row": row}), atol=1e-5
    )


def test_short_rows_are_stored_as_they_lie() -> None:
    """LLVM unrolls loops over 14 pixels; of the channels around them it must make no lanes."""
    text = net("3, 20, 14, 2", "c: conv2d[48, kernel=1]", "3, 48, 14, 2")
    target = Target("test", "cpu", "znver4", (), 512, 1)
    program = session.program_of(SourceFile("net", text))
    optimised = driver.optimise(program, target)
    code = driver.run_job(driver.make_job(optimised, target, Path(), "asm")).text
    assert layouts(text) == {"NCHW"}
    assert "vfmadd" in code
    assert "vscatter" not in code
