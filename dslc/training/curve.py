"""A loss curve as a picture: numbers in, SVG text out.

`svg(series)` draws one line per named series over steps (or epochs), with axes, ticks and a legend;
a PNG of the same goes through matplotlib where it is installed. Long series are thinned to one
point per pixel (the mean of what falls there).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 44
COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed")

Series = Mapping[str, Sequence[tuple[float, float]]]


def svg(series: Series, title: str, x_label: str) -> str:
    """`series` maps a name to (x, y) points; points that are not finite are left out."""
    lines = {
        name: [(x, y) for x, y in points if math.isfinite(y)] for name, points in series.items()
    }
    lines = {name: points for name, points in lines.items() if points}
    xs = [x for points in lines.values() for x, _ in points] or [0.0, 1.0]
    ys = [y for points in lines.values() for _, y in points] or [0.0, 1.0]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1e-9)
    y_low, y_high = min(0.0, min(ys)), max(max(ys), min(0.0, min(ys)) + 1e-9)

    def px(x: float) -> float:
        return LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def py(y: float) -> float:
        return HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{LEFT}" y="22" font-size="15">{escape(title)}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(x_label)}</text>',
    ]
    for tick in ticks(y_low, y_high):
        out.append(
            f'<path d="M{LEFT} {py(tick):.1f}H{WIDTH - RIGHT}" stroke="#e5e7eb"/>'
            f'<text x="{LEFT - 6}" y="{py(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for tick in ticks(x_low, x_high):
        out.append(
            f'<text x="{px(tick):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{tick:g}</text>"
        )
    for number, (name, points) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = "L".join(f"{px(x):.1f} {py(y):.1f}" for x, y in thin(points, WIDTH))
        y = TOP + 4 + 16 * number
        out.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        out.append(
            f'<path d="M{WIDTH - 150} {y}h18" stroke="{colour}" stroke-width="3"/>'
            f'<text x="{WIDTH - 126}" y="{y + 4}">{escape(name)}</text>'
        )
    return "\n".join([*out, "</svg>", ""])


def thin(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """At most `most` points, each the mean of its neighbours."""
    step = max(1, math.ceil(len(points) / most))
    parts = [points[i : i + step] for i in range(0, len(points), step)]
    return [(sum(x for x, _ in p) / len(p), sum(y for _, y in p) / len(p)) for p in parts]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between `low` and `high`, at most `most` + 1."""
    raw = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * k for k in (1, 2, 5, 10) if unit * k >= raw * 0.999999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]
