"""Vectors as TIR values of a known number of lanes: what templates compute with beside products.

Scalar code that LLVM makes vectors of is simpler, but a sum or a maximum of floats it leaves
scalar, since it may not reorder; here the lanes are written out.

Non-goals: functions of any other argument than attention needs (`vmath.py` has them, as scalars).
"""

from __future__ import annotations

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.tiles.contract import Expr
from dslc.schedules.cpu.tiles.vmath import ROUND

LOG2E = 1.4426950408889634
LN2 = 0.6931471805599453
# 2**r on [-1/2, 1/2], highest power first: relative error 1e-7, and exactly 1 at 0.
EXP2 = (1.3264590756563563e-3, 9.671619003729861e-3, 5.550734735031563e-2, 2.4022240460534333e-1,
        6.931469763829021e-1, 1.0)  # fmt: skip
LOWEST = -125.5  # powers of two below this one are 0


def constant(value: float, lanes: int) -> Expr:
    """A float32 in every lane."""
    return tirx.Broadcast(tirx.const(value, "float32"), lanes)


def exp2_below(x: Expr, lanes: int) -> Expr:
    """2**x of a float32 vector, none of whose lanes is above 127; below -125.5 it is 0. Maximum
    relative error 2e-7. NaN stays NaN."""
    # As in `vmath.exp`: 2**n / 2 is made of the bits of n + 126 + ROUND.
    low, shift = constant(-126.0, lanes), constant(ROUND + 126.0, lanes)
    integers, floats = f"int32x{lanes}", f"float32x{lanes}"
    bound = T.bind(tirx.Select(x < low, low, x))
    bits = T.bind(tirx.reinterpret(integers, bound + shift))
    rest = T.bind(bound - (tirx.reinterpret(floats, bits) - shift))
    power = constant(2.0 * EXP2[0], lanes)
    for coefficient in EXP2[1:]:
        power = T.bind(power * rest + constant(2.0 * coefficient, lanes))
    exponent = tirx.shift_left(bits, tirx.Broadcast(tirx.const(23, "int32"), lanes))
    return T.bind(power * tirx.reinterpret(floats, exponent))


def lane_sum(vector: Expr, lanes: int) -> Expr:
    """Sum of a vector's lanes, halves first."""
    while lanes > 1:
        low, high = _halves(vector, lanes)
        vector, lanes = low + high, lanes // 2
    return vector


def lane_product(vector: Expr, lanes: int) -> Expr:
    """Product of a vector's lanes, halves first."""
    while lanes > 1:
        low, high = _halves(vector, lanes)
        vector, lanes = low * high, lanes // 2
    return vector


def lane_sums(vectors: list[Expr], lanes: int) -> Expr:
    """The lane sums of as many vectors as each has lanes, as one vector. Each round puts the sums
    of halves of two vectors side by side."""
    half = lanes // 2
    while len(vectors) > 1:
        starts = [base + group for base in (0, lanes) for group in range(0, lanes, 2 * half)]
        low = [tirx.IntImm("int32", start + i) for start in starts for i in range(half)]
        high = [tirx.IntImm("int32", start + half + i) for start in starts for i in range(half)]
        pairs = list(zip(vectors[::2], vectors[1::2]))
        sums = [tirx.Shuffle(list(pair), low) + tirx.Shuffle(list(pair), high) for pair in pairs]
        vectors, half = [T.bind(each) for each in sums], half // 2
    return vectors[0]


def lane_max(vector: Expr, lanes: int) -> Expr:
    """The greatest lane."""
    while lanes > 1:
        low, high = _halves(vector, lanes)
        vector, lanes = tirx.max(low, high), lanes // 2
    return vector


def lane_min(vector: Expr, lanes: int) -> Expr:
    """The least lane."""
    while lanes > 1:
        low, high = _halves(vector, lanes)
        vector, lanes = tirx.min(low, high), lanes // 2
    return vector


def _halves(vector: Expr, lanes: int) -> tuple[Expr, Expr]:
    bound, half = T.bind(vector), lanes // 2
    low = [tirx.IntImm("int32", i) for i in range(half)]
    high = [tirx.IntImm("int32", i + half) for i in range(half)]
    return tirx.Shuffle([bound], low), tirx.Shuffle([bound], high)
