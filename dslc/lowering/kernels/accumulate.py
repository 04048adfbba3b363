"""Accumulators of a CPU reduction: neighbouring results, or partial results of one, side by side.

Input: a reduction, as its `compute` asked for it, and loops to run its terms in. Output: statements
in the TIR builder's current scope. Float sums are added up in two levels. Non-goals: which terms
go to which lane, loops over results (`loops.py`), sums of products (`dslc/schedules/cpu`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr, Index
from dslc.ir.types import is_float
from dslc.lowering.kernels.expressions import extremum
from dslc.lowering.kernels.scalar import COMPUTED, Reduction, ScalarKernels
from dslc.lowering.kernels.sizes import i64
from dslc.lowering.kernels.stack import aligned
from dslc.schedules.cpu.tiles.vector import lane_max, lane_min, lane_product, lane_sum

VECTOR = 16  # lanes that are folded as a vector
TERMS = 128  # of a float sum that are added one by one: longer sums are sums of such parts

# Of vectors of floats, none of which is NaN where it is an extremum.
_LANES: Mapping[str, Callable[[Expr, int], Expr]] = {
    "sum": lane_sum, "prod": lane_product, "max": lane_max, "min": lane_min,
}  # fmt: skip


class Accumulators:
    """Accumulators of a reduction, one for each lane below `size` (at most `lanes`).

    Float sums are added up in parts of at most TERMS terms, so that rounding errors grow with the
    number of parts; summing millions of terms one by one would lose half of f32's digits.
    """

    def __init__(self, k: ScalarKernels, asked: Reduction, lanes: int, size: Expr) -> None:
        self.k, self.kind, self.dtype, self.size = k, asked.kind, asked.dtype, size
        steps = product(asked.dims)
        short = isinstance(steps, int) and steps <= TERMS
        self.parts = aligned(lanes, COMPUTED[asked.dtype])
        in_parts = asked.kind == "sum" and is_float(asked.dtype) and not short
        self.totals = aligned(lanes, COMPUTED[asked.dtype]) if in_parts else None
        # Extrema of floats: whether a lane has met NaN, apart from its extremum without them. Both
        # together would be twice as many steps, each of which waits for the one before.
        odd = asked.kind in ("max", "min") and is_float(asked.dtype)
        self.odd = aligned(lanes, "int32") if odd else None
        if self.odd is not None:
            with k.loop(size) as lane:
                T.buffer_store(self.odd, tirx.const(0, "int32"), [lane])
        self._clear(self.parts)
        if self.totals is not None:
            self._clear(self.totals)

    def _clear(self, cells: Any) -> None:
        with self.k.loop(self.size) as lane:
            T.buffer_store(cells, self.k.identity(self.kind, self.dtype), [lane])

    def add(self, lane: Expr, term: Expr) -> None:
        if self.odd is None:
            combined = self.k.combine(self.kind, self.parts[lane], term, self.dtype)
        else:
            term = self.k.bind(term)
            combined = extremum(self.kind, self.parts[lane], term)
            odd = tirx.Select(tirx.isnan(term), tirx.const(1, "int32"), self.odd[lane])
            T.buffer_store(self.odd, odd, [lane])
        T.buffer_store(self.parts, combined, [lane])

    def total(self, lane: Expr) -> Expr:
        """After all additions."""
        if self.odd is not None:
            return self._or_nan(self.odd[lane], self.parts[lane])
        return self.parts[lane] if self.totals is None else self.totals[lane]

    def folded(self, lanes: int) -> Expr:
        """All lanes, a power of two, as one: halves on to each other. After all additions."""
        cells = self.parts if self.totals is None else self.totals
        while lanes > (VECTOR if is_float(self.dtype) else 1):
            lanes //= 2
            with self.k.loop(lanes) as lane:
                self._fold(cells, lane, lane + lanes)
        if lanes == 1:
            return T.bind(cells[0])
        # Written out as a vector: LLVM makes scalars of the last rounds, which wait for each other.
        place = tirx.Ramp(i64(0), i64(1), lanes)
        total = T.bind(_LANES[self.kind](T.bind(cells[place]), lanes))
        if self.odd is None:
            return total
        met = tirx.call_llvm_pure_intrin(
            "int32", f"llvm.vector.reduce.or.v{lanes}i32", self.odd[place]
        )
        return T.bind(self._or_nan(met, total))

    def _fold(self, cells: Any, lane: Expr, other: Expr) -> None:
        """One lane on to another."""
        if self.odd is None:
            combined = self.k.combine(self.kind, cells[lane], cells[other], self.dtype)
        else:
            combined = extremum(self.kind, cells[lane], cells[other])
            met = tirx.bitwise_or(self.odd[lane], self.odd[other])
            T.buffer_store(self.odd, met, [lane])
        T.buffer_store(cells, combined, [lane])

    def _or_nan(self, met: Expr, extremum: Expr) -> Expr:
        nan = tirx.const(math.nan, COMPUTED[self.dtype])
        return tirx.Select(tirx.NE(met, tirx.const(0, "int32")), nan, extremum)

    def over(self, dims: Sequence[Dim], terms: int, body: Callable[[Index], None]) -> None:
        """Runs `body` for every index into `dims`; it adds at most `terms` terms to each lane."""
        k, position = self.k, len(dims)
        if self.totals is None:
            self._part(dims, body)
            return
        while position and isinstance(size := dims[position - 1], int) and size * terms <= TERMS:
            terms, position = terms * size, position - 1
        if position == 0:
            self._part(dims, body)
            return
        cut, step = dims[position - 1], max(1, TERMS // max(1, terms))
        with k.nest(dims[: position - 1]) as first, k.loop(_ceil(cut, step)) as number:
            start = k.binary("mul", number, k.dim(step), "index")
            left = k.binary("sub", k.dim(cut), start, "index")
            whole = isinstance(cut, int) and cut % step == 0
            extent = k.dim(step) if whole else k.bind(tirx.min(left, i64(step)))

            def inner(r: Index) -> None:
                body((*first, k.binary("add", start, r[0], "index"), *r[1:]))

            self._part((extent, *dims[position:]), inner)

    def _part(self, dims: Sequence[Dim | Expr], body: Callable[[Index], None]) -> None:
        """The terms of `dims`, then their sums on to the totals."""
        k, totals = self.k, self.totals
        with k.nest(dims) as index:
            body(index)
        if totals is None:
            return
        with k.loop(self.size) as lane:
            combined = k.combine(self.kind, totals[lane], self.parts[lane], self.dtype)
            T.buffer_store(totals, combined, [lane])
            T.buffer_store(self.parts, k.identity(self.kind, self.dtype), [lane])


def _ceil(size: Dim, step: int) -> Dim:
    return size if step == 1 else (size + (step - 1)) // step
