"""Decides which 1x1 convolutions and products by weights a CPU does by Strassen's way, and sums the
weights.

Input: the sizes of a convolution, a program of products; packed weights. Output: whether it is; the
sums of weights, by ordinary equations.

The decision counts cycles: an eighth of the multiply-adds is saved, rows and results are summed,
and the weights, seven quarters of what they were, may come from memory. Of a weight that several
products read, as in an entry for one row and another for many, there is one form: sums, if that is
quicker in all of them.

Non-goals: packing (`pack.py`), how it runs (`schedules/cpu/matmul/strassen.py`).
"""

from __future__ import annotations

from collections.abc import Container
from typing import cast

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Program, Value
from dslc.ir.dims import Dim, free_symbols, substitute
from dslc.ir.op import Op
from dslc.lowering.rewrites.rates import ONE, Rates
from dslc.ops.constants import relabel
from dslc.ops.elementwise import add, neg
from dslc.ops.linalg import MatmulAttrs, matmul
from dslc.ops.packed import panel_width
from dslc.ops.scan_attrs import ScanAttrs
from dslc.ops.shape import concat, reshape, transpose
from dslc.ops.slicing import slice_, slice_axis
from dslc.ops.strassen import RIGHT

# Cycles, beside a multiply-add of vectors that takes one: for the sums of a vector of the left
# side, and for those of a vector of the result (measured).
INTO = 4
BACK = 5
WIDE = 16  # lanes; lower tiles of narrow vectors wait for the L2 cache, and gain nothing (measured)
WORTH = 0.95  # of the plain product's time
ROWS = 96  # of a plain product, at least: fewer wait for seven quarters of the weights
MOVES: tuple[Op, ...] = (reshape, relabel, transpose, slice_)


@dataclass(frozen=True, slots=True)
class Product:
    """Of `rows` pixels by weights."""

    rows: Dim
    channels: int
    out_channels: int


def pays(given: Product, lanes: int, width: int, rates: Rates = ONE) -> bool:
    """Whether it is quicker; `width`: of a panel of weights."""
    rows, k, n = given.rows, given.channels, given.out_channels
    if lanes < WIDE or not isinstance(rows, int) or rows < 2 or k % (2 * lanes) or n % (2 * width):
        return False
    vectors = n // lanes
    plain = rows * k * vectors
    sums = rows * (k // lanes * INTO + vectors * BACK) * rates.added
    fast = -(-rows // 2) * 7 * (k // 2) * (vectors // 2) + sums
    return max(fast, 7 * k * n / rates.sums) < WORTH * max(plain, 4 * k * n / rates.sums)


def multiplied_by(
    program: Program, fixed: Container[str], lanes: int, rates: Rates = ONE
) -> frozenset[str]:
    """The `fixed` variables that are in products where it is quicker, and in no others. A size that
    is known only at each call counts as one."""
    found: set[str] = set()
    other: set[str] = set()
    for entry in program.entries:
        names = {
            param: argument.name
            for param, argument in zip(entry.function.params, entry.arguments)
            if argument.role in ("weight", "state") and argument.name in fixed
        }
        for eqn in entry.function.eqns:
            if eqn.op in MOVES and eqn.inputs[0] in names:
                names[eqn.outputs[0]] = names[eqn.inputs[0]]
            elif eqn.op is matmul or isinstance(eqn.attrs, ScanAttrs):
                read = {names[value] for value in eqn.inputs if value in names}
                quicker = eqn.op is matmul and _is_quicker(eqn, lanes, rates)
                (found if quicker else other).update(read)
    return frozenset(found - other)


def _is_quicker(eqn: Eqn, lanes: int, rates: Rates) -> bool:
    (x, w), attrs = eqn.inputs, cast(MatmulAttrs, eqn.attrs)
    if {x.type.dtype, w.type.dtype} != {"f32"} or (x.type.rank, w.type.rank) != (2, 2):
        return False
    rows, columns = eqn.outputs[0].type.dims
    channels = w.type.dims[1 if attrs.transpose_b else 0]
    if attrs.transpose_a or not isinstance(columns, int) or not isinstance(channels, int):
        return False
    rows = substitute(rows, dict.fromkeys(free_symbols(rows), 1))
    if not isinstance(rows, int) or rows < ROWS:
        return False
    return pays(Product(rows, channels, columns), lanes, panel_width(columns, lanes), rates)


def summed(b: Builder, packed: Value) -> Value:
    """The sums of weights of panels [panels, 1, 1, C, width], or [panels, C, width]."""
    panels, *_, channels, width = cast(tuple[int, ...], packed.type.dims)
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
