"""Accumulators of a CPU reduction: neighbouring results, or partial results of one, side by side.

Input: a reduction, as its `compute` asked for it, and loops to run its terms in. Output: statements
in the TIR builder's current scope. Float sums are added up in two levels. Non-goals: which terms
go to which lane, loops over results (`loops.py`), sums of products (`dslc/schedules/cpu`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.ir.dims import Dim, product
from dslc.ir.op import Expr, Index
from dslc.ir.types import is_float
from dslc.lowering.scalar import COMPUTED, Reduction, ScalarKernels, local
from dslc.lowering.sizes import i64

TERMS = 128  # of a float sum that are added one by one: longer sums are sums of such parts


class Accumulators:
    """Accumulators of a reduction, one for each lane below `size` (at most `lanes`).

    Float sums are added up in parts of at most TERMS terms, so that rounding errors grow with the
    number of parts; summing millions of terms one by one would lose half of f32's digits.
    """

    def __init__(self, k: ScalarKernels, asked: Reduction, lanes: int, size: Expr) -> None:
        self.k, self.kind, self.dtype, self.size = k, asked.kind, asked.dtype, size
        steps = product(asked.dims)
        short = isinstance(steps, int) and steps <= TERMS
        self.parts = local(lanes, COMPUTED[asked.dtype])
        in_parts = asked.kind == "sum" and is_float(asked.dtype) and not short
        self.totals = local(lanes, COMPUTED[asked.dtype]) if in_parts else None
        self._clear(self.parts)
        if self.totals is not None:
            self._clear(self.totals)

    def _clear(self, cells: Any) -> None:
        with self.k.loop(self.size) as lane:
            T.buffer_store(cells, self.k.identity(self.kind, self.dtype), [lane])

    def add(self, lane: Expr, term: Expr) -> None:
        combined = self.k.combine(self.kind, self.parts[lane], term, self.dtype)
        T.buffer_store(self.parts, combined, [lane])

    def total(self, lane: Expr) -> Expr:
        """After all additions."""
        return self.parts[lane] if self.totals is None else self.totals[lane]

    def folded(self, lanes: int) -> Expr:
        """All lanes, a power of two, as one: halves on to each other. After all additions."""
        cells = self.parts if self.totals is None else self.totals
        while lanes > 1:
            lanes //= 2
            with self.k.loop(lanes) as lane:
                combined = self.k.combine(self.kind, cells[lane], cells[lane + lanes], self.dtype)
                T.buffer_store(cells, combined, [lane])
        return T.bind(cells[0])

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
