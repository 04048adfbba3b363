"""Loops are cut into tasks by what they take: operations, or the bytes that they move."""

from __future__ import annotations

import pytest
from lowering.native import entry_of

from dslc import api
from dslc.ir.core import Entry
from dslc.lowering.grouping.group import group
from dslc.lowering.kernels.tasks import bytes_moved
from dslc.lowering.program import lower_entry
from dslc.schedules.cpu.tiles.contract import Machine


def model(formula: str, dims: str) -> Entry:
    source = f"model M(x: f32[{dims}], b: f32[64]) -> f32[{dims}] {{ return {formula} }}\n"
    return entry_of(api.lower(source).entry("forward").function)


@pytest.mark.parametrize(
    ("formula", "rows", "cut"),
    [
        ("relu(x)", 300, False),  # 19,200 elements: 2 µs
        ("relu(x)", 2000, True),  # a copy of 0.5 MB is worth it, though of few operations
        ("tanh(x)", 100, False),
        ("tanh(x)", 1000, True),
    ],
)
def test_what_is_cut(formula: str, rows: int, cut: bool) -> None:
    lowered = lower_entry(model(formula, f"{rows}, 64"), Machine(256, 2))
    assert ("T.parallel(" in lowered.module.script()) == cut


def test_bytes_of_windows_count_for_each_result() -> None:
    source = "model M(x: f32[1, 16, 16, 8]) -> f32[1, 16, 8, 4] { return x |> max_pool2d[2] }\n"
    (only,) = group(api.lower(source).entry("forward").function).groups
    assert bytes_moved(only) == 20


def test_bytes_of_what_is_read_again_are_not_counted_again() -> None:
    for dims, most in (("4096, 64", 8.01), ("N, 64", 8.3)):
        (only,) = group(model("relu(x + b)", dims).function).groups
        assert 8 <= bytes_moved(only) < most
