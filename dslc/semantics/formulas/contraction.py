"""Sums of products as matrix products and convolutions.

    sum[k](x[n, k] * w[k, o])        x @ w
    sum[i, j](a[n, i] * w[o, i, j] * b[n, j])        two products, in the order that costs least

Input: a reduction of a formula. Output: the tensor it is, with an axis for each index that is left.
Factors without a reduced index are multiplied in afterwards. Two factors become a `matmul` if each
has an index of its own: then there is data to be used again. Others, and factors that read a small
tensor in a large index space, stay one loop nest that stores nothing but its result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

from dslc.ir.core import Value
from dslc.ir.dims import Dim, product
from dslc.semantics.formulas.convolution import as_convolution
from dslc.semantics.formulas.formula import Index, Inside, Read, Reduction
from dslc.semantics.formulas.lowering import Cell, Lowering

_UNKNOWN = 256  # what an unknown dim counts as
_STORED = 4  # what storing an element costs, in multiplications


class Contracting(Lowering):
    """Lowers sums of products to the ops that have kernels of their own."""

    def reduced(self, reduction: Reduction) -> Cell:
        if reduction.kind == "sum":
            factors = self._factors(reduction.body)
            bound = [f for f in factors if self.depends(f) & set(reduction.indices)]
            free = [f for f in factors if f not in bound]
            total = self._product(reduction, bound)
            if total is not None:
                return self._times(total, free)
        return super().reduced(reduction)

    def _times(self, cell: Cell, factors: Sequence[Value]) -> Cell:
        for factor in factors:
            cell = self._binary("mul", cell, self.cell(factor))
        return cell

    def _factors(self, value: Value) -> list[Value]:
        eqn = self.producers.get(value)
        if eqn is None or eqn.op.name != "mul":
            return [value]
        return [factor for x in eqn.inputs for factor in self._factors(x)]

    def depends(self, value: Value) -> set[Index]:
        """The indices that a scalar depends on."""
        meaning = self.formula.meanings.get(value)
        match meaning:
            case Index():
                return {meaning}
            case Read():
                return self._read_depends(meaning)
            case Inside():
                return self._read_depends(meaning.read)
            case Reduction():
                return self.depends(meaning.body) - set(meaning.indices)
            case Value():
                return set()
        inputs = self.producers[value].inputs
        return {index for x in inputs for index in self.depends(x)}

    def _read_depends(self, read: Read) -> set[Index]:
        out: set[Index] = set()
        for position in read.positions:
            if isinstance(position.at, Value):
                out |= self.depends(position.at)
            else:
                out |= self.moving(position.at)
        return out

    # --- which op it is -------------------------------------------------------------------------

    def _product(self, reduction: Reduction, factors: list[Value]) -> Cell | None:
        """The sum over the product of `factors`; None if it is best left one loop nest."""
        if len(factors) == 2:
            reads = [self.formula.meanings.get(factor) for factor in factors]
            for x, w in (reads, reads[::-1]):
                if isinstance(x, Read) and isinstance(w, Read):
                    found = as_convolution(self, reduction, x, w)
                    if found is not None:
                        return found
        if not 2 <= len(factors) <= 5 or any(map(self._is_spread, factors)):
            return None
        summed = set(reduction.indices)
        sets = [frozenset(self.depends(factor)) for factor in factors]
        _, order, has_matmul = _cheapest(sets, summed)
        if not has_matmul:
            return None
        cells = [self.cell(factor) for factor in factors]
        for i, j in order:
            rest = [cell for k, cell in enumerate(cells) if k not in (i, j)]
            needed = {axis for cell in rest for axis in cell.axes}
            cells = [*rest, self._pair(cells[i], cells[j], summed - needed)]
        return cells[0]

    def _is_spread(self, value: Value) -> bool:
        """Whether elements of some tensor are read again and again: then it is not worth storing
        what was read."""
        for read in self.reads_below(value):
            moving = [p.at for p in read.positions if not isinstance(p.at, Value)]
            axes = {index for at in moving for index in self.moving(at)}
            if len(axes) > sum(bool(self.moving(at)) for at in moving):
                return True
        return False

    def _pair(self, x: Cell, y: Cell, summed: set[Index]) -> Cell:
        """The sum over `summed` of the product of two cells."""
        x, y = (self._without(a, summed - set(b.axes)) for a, b in ((x, y), (y, x)))
        inner = [axis for axis in x.axes if axis in y.axes and axis in summed]
        if not _is_matmul(frozenset(x.axes), frozenset(y.axes), set(inner)):
            product_ = self._binary("mul", x, y)
            return self.reduce("sum", product_, inner) if inner else product_
        own = self.sorted(set(x.axes) ^ set(y.axes))
        if own[0] in y.axes:
            x, y = y, x
        batch = [axis for axis in self.sorted(set(x.axes)) if axis in y.axes and axis not in inner]
        left = [axis for axis in own if axis in x.axes]
        right = [axis for axis in own if axis in y.axes]
        inner.sort(key=x.axes.index)
        a = self._matrix(x, batch, left, inner)
        b = self._matrix(y, batch, inner, right)
        axes = (*batch, *left, *right)
        dims = tuple(axis.size for axis in axes)
        return Cell(self.reshaped(self.emit("matmul", (a, b)), dims), axes)

    def _without(self, cell: Cell, summed: set[Index]) -> Cell:
        """The cell summed over indices that are its own."""
        indices = [axis for axis in cell.axes if axis in summed]
        return self.reduce("sum", cell, indices) if indices else cell

    def _matrix(
        self, cell: Cell, batch: Sequence[Index], rows: Sequence[Index], columns: Sequence[Index]
    ) -> Value:
        placed = self.placed(cell, (*batch, *rows, *columns))
        dims = tuple(axis.size for axis in batch)
        return self.reshaped(placed, (*dims, _size(rows), _size(columns)))


def _size(axes: Iterable[Index]) -> Dim:
    return product(axis.size for axis in axes)


def _is_matmul(x: frozenset[Index], y: frozenset[Index], inner: set[Index]) -> bool:
    """Whether there is more than one product to each element: a matrix with a vector is one for the
    kernels of matrix products only if there is one of them."""
    batch = (x & y) - inner
    both = bool(x - y) and bool(y - x)
    return bool(inner) and (both or (bool(x ^ y) and not batch))


# --- the order of products ----------------------------------------------------------------------

Order = list[tuple[int, int]]


def _cheapest(sets: Sequence[frozenset[Index]], summed: set[Index]) -> tuple[int, Order, bool]:
    """(cost, which two of those left to multiply next, whether there is a matmul among them); the
    result of a step stands last."""
    if len(sets) == 1:
        return 0, [], False
    best: tuple[int, Order, bool] | None = None
    for i, j in combinations(range(len(sets)), 2):
        rest = [axes for k, axes in enumerate(sets) if k not in (i, j)]
        needed = {axis for axes in rest for axis in axes}
        gone = summed - needed
        x, y = (sets[i] - (gone - sets[j]), sets[j] - (gone - sets[i]))
        result = (x | y) - gone
        cost, order, has_matmul = _cheapest([*rest, frozenset(result)], summed)
        cost += _count(x | y) + _STORED * _count(result)
        is_matmul = _is_matmul(x, y, gone & x & y)
        if best is None or cost < best[0]:
            best = cost, [(i, j), *order], has_matmul or is_matmul
    return best or (0, [], False)


def _count(axes: Iterable[Index]) -> int:
    total = 1
    for axis in axes:
        total *= axis.size if isinstance(axis.size, int) else _UNKNOWN
    return total
