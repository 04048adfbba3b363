"""Dim expressions of a manifest."""

from __future__ import annotations

from typing import Any

import pytest

from dslc_runtime import dims
from dslc_runtime.dims import DimError


@pytest.mark.parametrize(
    ("data", "value", "text"),
    [
        (7, 7, "7"),
        ("N", 5, "N"),
        (["+", ["*", 2, "N"], 1], 11, "2 * N + 1"),
        (["*", ["+", "N", 1], 3], 18, "(N + 1) * 3"),
        (["//", ["+", "N", "M"], 2], 4, "(N + M) // 2"),
        (["%", "N", 2], 1, "N % 2"),
        (["min", "N", "M", 4], 3, "min(N, M, 4)"),
        (["max", "N", ["*", "M", -1]], 5, "max(N, M * -1)"),
        (["//", -7, 2], -4, "-7 // 2"),
        (["+", ["*", -1, "N"], 20], 15, "20 - N"),
        (["+", ["*", -2, "N"], ["*", -1, "N", "M"], -3], -28, "-2 * N - N * M - 3"),
        (["//", ["+", ["*", -1, "N"], "M"], 2], -1, "(M - N) // 2"),
        (["*", -1, "N"], -5, "-N"),
    ],
)
def test_value_and_text(data: Any, value: int, text: str) -> None:
    expr = dims.from_json(data)
    assert dims.evaluate(expr, {"N": 5, "M": 3}) == value
    assert dims.text(expr) == text
    assert dims.to_json(expr) == data


def deep() -> Any:
    expr: Any = "N"
    for _ in range(100):
        expr = ["+", expr, 1]
    return expr


@pytest.mark.parametrize(
    "data",
    [None, True, 1.5, "a b", "", [], ["+"], ["+", 1], ["-", 1, 2], ["//", 1, 2, 3], 2**62, [[]]],
)
def test_what_is_no_size_is_refused(data: Any) -> None:
    with pytest.raises(DimError):
        dims.from_json(data)


def test_depth_is_bounded() -> None:
    with pytest.raises(DimError):
        dims.from_json(deep())


def test_errors_of_evaluation_say_why() -> None:
    with pytest.raises(DimError, match="N // M divides by zero"):
        dims.evaluate(("//", "N", "M"), {"N": 1, "M": 0})
    with pytest.raises(DimError, match="the dim K has no value"):
        dims.evaluate("K", {})


def test_variables() -> None:
    assert dims.variables(("+", "N", ("*", "M", 2))) == {"N", "M"}
