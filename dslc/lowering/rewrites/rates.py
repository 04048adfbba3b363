"""How fast CPUs do what convolutions and products are made of, for those who choose their form.

Output: `Rates` of the kinds of CPUs, in the units of `winograd.py` and `strassen.py`: one
multiply-add of vectors by a CPU that does one in a cycle. Non-goals: tiles of kernels, whose costs
are the schedules'.
"""

from __future__ import annotations

from math import inf

from dslc._frozen import dataclass


@dataclass(frozen=True, slots=True)
class Rates:
    """`product`: of a multiply-add, beside what Winograd's transforms cost; `weights` and `sums`:
    bytes of Winograd's and Strassen's weights that come from memory meanwhile; `added`: what the
    sums of Strassen's way cost, beside a multiply-add (infinite: it never pays); `rows`: pixels up
    to which a convolution by weights from memory is quicker as a product of rows; `hidden`: the
    part of the time of products in which weights come that were asked for, where each time that
    they are read counts (0: they count once, hidden or not); `narrow`: the part of a vector that
    so few columns fill that sums over lanes are quicker than a panel of them."""

    product: float
    weights: float
    sums: float = 6
    added: float = 1
    rows: int = 0
    hidden: float = 0
    narrow: float = 1


# Vectors of 512 bits take two cycles of each of two units (Zen 4), those of 256 bits one.
ONE = Rates(product=1, weights=24)
# Two vectors of 512 bits in a cycle, and a memory that is as far (Xeons; measured on one with AMX).
TWO = Rates(product=0.75, weights=5, added=inf, rows=128, hidden=0.25, narrow=0.5)
