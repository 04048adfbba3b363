"""Which template runs a convolution of NCHW images: the one that takes fewest cycles.

Input: a `ConvShape` that `takes_planes`, and vector registers. Output: the template and its cycles.
Non-goals: TVM, for the choice of a layout asks, too (`lowering/rewrites/planes.py`).
"""

from __future__ import annotations

from typing import Literal

from dslc.schedules.cpu.conv import clipped_planes_plan, picked_plan, plane_tile, turned_plan
from dslc.schedules.cpu.conv.shape import ConvShape

Template = Literal["planes", "turned", "picked", "clipped"]
# So much less than tiles of planes they have to take: what turning takes is an upper bound; what is
# copied of an image comes from memory before it is multiplied, by little if channels stand alone.
QUICKER: dict[Template, float] = {"planes": 1.0, "turned": 1.5, "picked": 1.0, "clipped": 1.03}
ALONE = 0.85


def choose_template(
    shape: ConvShape, dtype: str, lanes: int, registers: int, flat: bool
) -> tuple[Template, float]:
    """`flat`: results are known by their place in a plane."""
    tiles = plane_tile.choose_tile(shape, dtype, lanes, registers, flat)
    found: list[tuple[Template, float]] = [("planes", plane_tile.cycles(tiles))]
    if turned_plan.takes_turned(shape, dtype):
        strips = turned_plan.choose_strips(shape, dtype, lanes, registers, flat)
        found.append(("turned", turned_plan.cycles(strips)))
    if picked_plan.takes_picked(shape, dtype, lanes):
        picked = picked_plan.choose_rows(shape, dtype, lanes, flat)
        found.append(("picked", picked_plan.cycles(picked)))
    if clipped_planes_plan.takes_clipped(shape, dtype, lanes):
        clipped = clipped_planes_plan.choose_clipped(shape, dtype, lanes)
        found.append(("clipped", clipped_planes_plan.cycles(clipped)))
    quicker = {**QUICKER, "clipped": ALONE} if shape.group_channels == 1 else QUICKER
    return min(found, key=lambda each: each[1] * quicker[each[0]])
