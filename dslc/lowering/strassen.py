"""Decides which 1x1 convolutions a CPU does by Strassen's way, and sums their weights.

Input: the sizes of a convolution; packed weights. Output: whether it is; the sums of weights, by
ordinary equations.

The decision counts cycles: an eighth of the multiply-adds is saved, rows and results are summed,
and the weights, seven quarters of what they were, may come from memory.

Non-goals: packing (`pack.py`), how it runs (`schedules/cpu/strassen.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import Dim
from dslc.ops.elementwise import add, neg
from dslc.ops.shape import concat, reshape
from dslc.ops.slicing import slice_axis
from dslc.ops.strassen import RIGHT

# Cycles, beside a multiply-add of vectors that takes one: for the sums of a vector of the left
# side, and for those of a vector of the result (measured).
INTO = 4
BACK = 5
FROM_MEMORY = 6  # bytes a cycle that weights come with while products run
WORTH = 0.95  # of the plain product's time


@dataclass(frozen=True, slots=True)
class Product:
    """Of `rows` pixels by weights."""

    rows: Dim
    channels: int
    out_channels: int


def pays(given: Product, lanes: int, width: int) -> bool:
    """Whether it is quicker; `width`: of a panel of weights."""
    rows, k, n = given.rows, given.channels, given.out_channels
    if not isinstance(rows, int) or rows < 2 or k % (2 * lanes) or n % (2 * width):
        return False
    vectors = n // lanes
    plain = rows * k * vectors
    sums = rows * (k // lanes * INTO + vectors * BACK)
    fast = -(-rows // 2) * 7 * (k // 2) * (vectors // 2) + sums
    return max(fast, 7 * k * n / FROM_MEMORY) < WORTH * max(plain, 4 * k * n / FROM_MEMORY)


def summed(b: Builder, packed: Value) -> Value:
    """The sums of weights of panels [panels, 1, 1, C, width]."""
    panels, _, _, channels, width = cast(tuple[int, ...], packed.type.dims)
    run = channels // 2 * width
    # Of two panels: the halves of the channels of the first, those of the second.
    quarters = reshape(b, packed, dims=(panels // 2, 4 * run))
    upper_left, lower_left, upper_right, lower_right = (
        slice_axis(b, quarters, 1, i * run, (i + 1) * run) for i in range(4)
    )
    terms = (upper_left, upper_right, lower_left, lower_right)
    made = [_sum(b, terms, signs) for signs in RIGHT]
    joined = cast(Value, concat(b, *made, axis=1))
    return cast(Value, reshape(b, joined, dims=(panels // 2, len(RIGHT), channels // 2, width)))


def _sum(b: Builder, terms: tuple[Value, ...], signs: tuple[int, ...]) -> Value:
    total: Value | None = None
    for term, sign in zip(terms, signs):
        if sign:
            signed = term if sign > 0 else cast(Value, neg(b, term))
            total = signed if total is None else cast(Value, add(b, total, signed))
    assert total is not None
    return total
