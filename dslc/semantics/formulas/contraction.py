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
from dslc.semantics.formulas.affine import moving
from dslc.semantics.formulas.convolution import as_convolution
from dslc.semantics.formulas.formula import Index, Inside, Read, Reduction
from dslc.semantics.formulas.lowering import Cell, Lowering

_UNKNOWN = 256  # what an unknown dim counts as
_STORED = 4  # what storing an element costs, in multiplications


def contracted(lowering: Lowering, reduction: Reduction) -> Cell | None:
    """A sum of products as an op that has kernels of its own; None if it is best one loop nest."""
    dtype = reduction.body.type.dtype
    if reduction.kind not in ("sum", "mean") or dtype == "bool":
        return None
    factors = _factors(lowering, reduction.body)
    bound = [f for f in factors if depends(lowering, f) & set(reduction.indices)]
    if dtype in ("f16", "bf16") and (len(bound) < len(factors) or reduction.kind == "mean"):
        return None  # the sum itself may be too large a number before it is scaled
    total = _product(lowering, reduction, bound)
    if total is not None:
        for factor in factors:
            if factor not in bound:
                total = lowering.binary("mul", total, lowering.cell(factor))
        if reduction.kind == "mean":
            count = lowering.number(_size(reduction.indices), dtype)
            total = lowering.binary("div", total, count)
    return total


def _factors(lowering: Lowering, value: Value) -> list[Value]:
    eqn = lowering.producers.get(value)
    if eqn is None or eqn.op.name != "mul":
        return [value]
    return [factor for x in eqn.inputs for factor in _factors(lowering, x)]


def depends(lowering: Lowering, value: Value) -> set[Index]:
    """The indices that a scalar depends on."""
    meaning = lowering.formula.meanings.get(value)
    match meaning:
        case Index():
            return set(meaning.parts or (meaning,))
        case Read():
            return _read_depends(lowering, meaning)
        case Inside():
            return _read_depends(lowering, meaning.read)
        case Reduction():
            return depends(lowering, meaning.body) - set(meaning.indices)
        case Value():
            return set()
    return {i for x in lowering.producers[value].inputs for i in depends(lowering, x)}


def _read_depends(lowering: Lowering, read: Read) -> set[Index]:
    out: set[Index] = set()
    for position in read.positions:
        if isinstance(position.at, Value):
            out |= depends(lowering, position.at)
        else:
            out |= moving(lowering.symbols, position.at)
    return out


# --- which op it is -----------------------------------------------------------------------------


def _product(lowering: Lowering, reduction: Reduction, factors: list[Value]) -> Cell | None:
    """The sum over the product of `factors`."""
    if len(factors) == 2:
        reads = [lowering.formula.meanings.get(factor) for factor in factors]
        for x, w in (reads, reads[::-1]):
            if isinstance(x, Read) and isinstance(w, Read):
                found = as_convolution(lowering, reduction, x, w)
                if found is not None:
                    return found
    if not 2 <= len(factors) <= 5 or any(_is_spread(lowering, factor) for factor in factors):
        return None
    summed = set(reduction.indices)
    sets = [frozenset(depends(lowering, factor)) for factor in factors]
    _, order, has_matmul = _cheapest(sets, summed)
    if not has_matmul:
        return None
    cells = [lowering.cell(factor) for factor in factors]
    for i, j in order:
        rest = [cell for k, cell in enumerate(cells) if k not in (i, j)]
        needed = {axis for cell in rest for axis in cell.axes}
        cells = [*rest, _pair(lowering, cells[i], cells[j], summed - needed)]
    return cells[0]


def _is_spread(lowering: Lowering, value: Value) -> bool:
    """Whether elements of some tensor are read again and again: then it is not worth storing what
    was read."""
    for read in lowering.reads_below(value):
        if lowering.is_view(read):
            continue
        places = [p.at for p in read.positions if not isinstance(p.at, Value)]
        moved = [moving(lowering.symbols, at) for at in places]
        if len({index for some in moved for index in some}) > sum(map(bool, moved)):
            return True
    return False


def _pair(lowering: Lowering, x: Cell, y: Cell, summed: set[Index]) -> Cell:
    """The sum over `summed` of the product of two cells."""
    x, y = (_without(lowering, a, summed - set(b.axes)) for a, b in ((x, y), (y, x)))
    inner = [axis for axis in x.axes if axis in y.axes and axis in summed]
    if not _is_matmul(frozenset(x.axes), frozenset(y.axes), set(inner)):
        both = lowering.binary("mul", x, y)
        return lowering.reduce("sum", both, inner) if inner else both
    own = lowering.sorted(set(x.axes) ^ set(y.axes))
    if own[0] in y.axes:
        x, y = y, x
    batch = [axis for axis in lowering.sorted(set(x.axes)) if axis in y.axes and axis not in inner]
    left = [axis for axis in own if axis in x.axes]
    right = [axis for axis in own if axis in y.axes]
    a = _matrix(lowering, x, batch, left, inner)
    b = _matrix(lowering, y, batch, inner, right)
    axes = (*batch, *left, *right)
    product_ = lowering.emit("matmul", (a, b))
    return Cell(lowering.reshaped(product_, tuple(axis.size for axis in axes)), axes)


def _without(lowering: Lowering, cell: Cell, summed: set[Index]) -> Cell:
    """The cell summed over indices that are its own."""
    indices = [axis for axis in cell.axes if axis in summed]
    return lowering.reduce("sum", cell, indices) if indices else cell


def _matrix(
    lowering: Lowering,
    cell: Cell,
    batch: Sequence[Index],
    rows: Sequence[Index],
    columns: Sequence[Index],
) -> Value:
    placed = lowering.placed(cell, (*batch, *rows, *columns))
    dims = tuple(axis.size for axis in batch)
    return lowering.reshaped(placed, (*dims, _size(rows), _size(columns)))


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
