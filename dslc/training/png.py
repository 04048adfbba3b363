"""The loss curve as PNG, through matplotlib (extra `plot`): series in, bytes out."""

from __future__ import annotations

import io

from matplotlib.figure import Figure

from dslc.training.curve import Series


def png(series: Series, title: str, x_label: str) -> bytes:
    """The picture that `curve.svg` draws, as PNG bytes."""
    figure = Figure(figsize=(7.2, 4.0), layout="tight")
    axes = figure.subplots()
    for name, points in series.items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, linewidth=1.2)
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=120)
    return out.getvalue()
