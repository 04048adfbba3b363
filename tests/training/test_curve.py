"""The loss curve: well-formed SVG, inside its frame."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from dslc.training.curve import HEIGHT, WIDTH, svg, thin, ticks


def coordinates(text: str) -> list[tuple[float, float]]:
    tree = ElementTree.fromstring(text)
    paths = [e.get("d", "") for e in tree.iter() if e.get("fill") == "none"]
    return [(float(x), float(y)) for d in paths for x, y in re.findall(r"([-\d.]+) ([-\d.]+)", d)]


def test_points_lie_inside_the_frame() -> None:
    text = svg({"loss": [(i, 3 / (i + 1)) for i in range(2000)]}, "<Digits>", "step")
    points = coordinates(text)
    assert 2 <= len(points) <= WIDTH
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


@pytest.mark.parametrize("points", [[], [(1.0, 2.0)], [(1.0, 0.0), (2.0, 0.0)], [(1.0, math.nan)]])
def test_degenerate_series(points: list[tuple[float, float]]) -> None:
    ElementTree.fromstring(svg({"loss": points}, "t", "x"))


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0.0, 1.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(3.0, 47.0) == [10.0, 20.0, 30.0, 40.0]


def test_thinning_keeps_the_mean() -> None:
    points = [(float(i), float(i)) for i in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert sum(y for _, y in thinned) / 100 == pytest.approx(499.5)
