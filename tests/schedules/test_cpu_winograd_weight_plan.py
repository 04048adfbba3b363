"""Which gradients of convolutions' weights go by Winograd's way, and in what blocks."""

from __future__ import annotations

from dataclasses import replace

from harness import MACHINE

from dslc.schedules.cpu.conv.shape import ConvShape
from dslc.schedules.cpu.conv.winograd_weight_plan import plan_winograd_weight, suits_winograd


def test_all_tiles_are_one_block_where_sums_are_more_than_their_values():
    """Sums of many channels would be read and written for every few tiles."""
    conv = ConvShape(2, 32, 32, 1024, 512, (3, 3), padding=((1, 1), (1, 1)))
    assert plan_winograd_weight(conv, "float32", MACHINE).whole
    wide = replace(conv, height=256, width=256, channels=64, out_channels=64)
    assert not plan_winograd_weight(wide, "float32", MACHINE).whole


def test_winograd_is_for_3x3_in_single_precision():
    fits = ConvShape(2, 28, 28, 32, 32, (3, 3), padding=((1, 1), (1, 1)))
    assert suits_winograd(fits, "float32", MACHINE)
    assert not suits_winograd(fits, "float64", MACHINE)
    for other in (
        replace(fits, stride=(2, 2)), replace(fits, groups=2), replace(fits, kernel=(5, 3)),
        replace(fits, channels=3), replace(fits, height=1, width=1),
    ):  # fmt: skip
        assert not suits_winograd(other, "float32", MACHINE)
