"""Scalars of a formula as tensors: each gets an axis for every index that it depends on.

Input: a formula whose indices have ranges and whose reads are proven. Output: equations in the
function around, and the tensor of the left side. A read whose positions each walk one index is a
view (slices and transposes); any other is a `read`. Arithmetic is element by element over the
indices of both sides. Nothing is stored between: `lowering/grouping/group.py` fuses it into one
loop nest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, Extremum, Quotient, Remainder, Sym, free_symbols, product
from dslc.ir.types import DType, TensorType
from dslc.ops.surface_math import mean
from dslc.semantics import errors
from dslc.semantics.context import Context, Mistake, call_text
from dslc.semantics.formulas.affine import Walk, as_dim, moving, parts, walk
from dslc.semantics.formulas.formula import Formula, Index, Inside, Read, Reduction
from dslc.source import Span

# Ops that a rank of 0 makes do nothing.
_IDENTITIES = frozenset(["broadcast", "reshape", "relabel"])


@dataclass(frozen=True, slots=True)
class Cell:
    """A scalar as a tensor: dim i is the size of `axes[i]`."""

    value: Value
    axes: tuple[Index, ...] = ()


Known: TypeAlias = "Callable[[Lowering, Reduction], Cell | None]"


class Lowering:
    """The state of lowering one formula. `known` finds the reductions that are an op of their own;
    `order` says which index is an outer loop of which, where nothing else does; what is lowered is
    remembered."""

    def __init__(self, ctx: Context, formula: Formula, known: Known) -> None:
        self.ctx, self.formula, self.known = ctx, formula, known
        self.producers = formula.producers()
        self.symbols = {index.symbol: index for index in formula.indices}
        self.order: tuple[Index, ...] = tuple(formula.indices)
        self.span: Span = formula.span
        self._cells: dict[Value, Cell] = {}

    def emit(self, name: str, inputs: Sequence[Value], **attrs: object) -> Value:
        return self.ctx.emit(name, inputs, self.span, **attrs)

    # --- scalars --------------------------------------------------------------------------------

    def cell(self, value: Value) -> Cell:
        """The tensor that a scalar of the formula is."""
        if value not in self._cells:
            self._cells[value] = self._cell(value)
        return self._cells[value]

    def _cell(self, value: Value) -> Cell:
        meaning = self.formula.meanings.get(value)
        match meaning:
            case Index():
                return self.index(meaning)
            case Read():
                return self.read(meaning)
            case Inside():
                return self._inside(meaning.read)
            case Reduction():
                return self.reduced(meaning)
            case Value():
                return Cell(meaning)
        return self._equation(self.producers[value])

    def index(self, index: Index) -> Cell:
        value = self.emit("iota", (), dims=(index.size,), axis=0)
        if index.low != 0:
            low = self.emit("dim_value", (), dim=index.low)
            low = self.emit("broadcast", (low,), dims=(index.size,), axes=())
            value = self.emit("add", (value, low))
        return Cell(value, (index,))

    def _equation(self, eqn: Eqn) -> Cell:
        builder = self.ctx.emission.builder
        if not all(v.type.rank == 0 for v in (*eqn.inputs, *eqn.outputs)):
            raise _not_of_scalars(eqn, self.span)
        cells = [self.cell(value) for value in eqn.inputs]
        if eqn.op.name in _IDENTITIES:
            return cells[0]
        axes = self.union(cells)
        if axes and not eqn.op.elementwise:
            raise _not_of_scalars(eqn, self.span)
        values = [self.placed(cell, axes) for cell in cells]
        return Cell(builder.emit(eqn.op, values, eqn.attrs, eqn.origin)[0], axes)

    # --- axes -----------------------------------------------------------------------------------

    def union(self, cells: Sequence[Cell]) -> tuple[Index, ...]:
        """The axes of what is computed from `cells`, in the order of one that has them all."""
        every = {axis for cell in cells for axis in cell.axes}
        for cell in cells:
            if len(cell.axes) == len(every):
                return cell.axes
        return self.sorted(every)

    def sorted(self, axes: set[Index]) -> tuple[Index, ...]:
        return tuple(index for index in self.order if index in axes)

    def placed(self, cell: Cell, axes: Sequence[Index]) -> Value:
        """The cell with all of `axes`, in this order."""
        wanted = [axis for axis in axes if axis in cell.axes]
        value = self.transposed(cell.value, [cell.axes.index(axis) for axis in wanted])
        if len(wanted) == len(axes):
            return value
        dims = tuple(axis.size for axis in axes)
        places = tuple(i for i, axis in enumerate(axes) if axis in cell.axes)
        return self.emit("broadcast", (value,), dims=dims, axes=places)

    def transposed(self, value: Value, perm: Sequence[int]) -> Value:
        if list(perm) == list(range(len(perm))):
            return value
        return self.emit("transpose", (value,), perm=tuple(perm))

    def reshaped(self, value: Value, dims: tuple[Dim, ...]) -> Value:
        return value if value.type.dims == dims else self.emit("reshape", (value,), dims=dims)

    def relabelled(self, value: Value, dims: tuple[Dim, ...]) -> Value:
        return value if value.type.dims == dims else self.emit("relabel", (value,), dims=dims)

    # --- reductions -----------------------------------------------------------------------------

    def reduced(self, reduction: Reduction) -> Cell:
        """A reduction as an op of its own, or by its definition."""
        found = self.known(self, reduction)
        if found is not None:
            return found
        before, self.order = self.order, self.loops(reduction)
        cell = self.cell(reduction.body)
        self.order = before
        return self.reduce(reduction.kind, cell, reduction.indices)

    def reduce(self, kind: str, cell: Cell, indices: Sequence[Index]) -> Cell:
        missing = [index for index in indices if index not in cell.axes]
        if missing:  # it was used in something that does not depend on it: 0 * k
            every = (*cell.axes, *missing)
            cell = Cell(self.placed(cell, every), every)
        axes = tuple(i for i, axis in enumerate(cell.axes) if axis in indices)
        kept = tuple(axis for axis in cell.axes if axis not in indices)
        value, builder = cell.value, self.ctx.emission.builder
        if kind == "mean":
            with builder.at(self.ctx.origin(self.span)):
                return Cell(mean(builder, value, axes, False), kept)
        if kind == "sum" and value.type.dtype == "bool":
            value = self.emit("cast", (value,), dtype="i64")
        return Cell(self.emit(f"reduce_{kind}", (value,), axes=axes), kept)

    def loops(self, reduction: Reduction) -> tuple[Index, ...]:
        """The indices in a good order for the loops of a reduction: the reduced ones innermost if
        they walk the last dims of what is read, else outermost."""
        kept = [index for index in self.order if index not in reduction.indices]
        along = 0
        for read in self.reads_below(reduction.body):
            last = read.positions[-1].at if read.positions else 0
            symbols = free_symbols(last) if not isinstance(last, Value) else frozenset()
            inner = any(index.symbol in symbols for index in reduction.indices)
            outer = any(index.symbol in symbols for index in kept)
            along += int(inner) - int(outer)
        if along > 0:
            return (*kept, *reduction.indices)
        return (*reduction.indices, *kept)

    def reads_below(self, value: Value) -> list[Read]:
        """The reads that a scalar is computed from, but for those in reductions."""
        meaning = self.formula.meanings.get(value)
        if isinstance(meaning, Read):
            return [meaning]
        if meaning is not None:
            return []
        return [read for x in self.producers[value].inputs for read in self.reads_below(x)]

    # --- reads ----------------------------------------------------------------------------------

    def read(self, read: Read) -> Cell:
        """An element of a tensor for each of the indices that its position depends on."""
        view = self._view(read)
        return view if view is not None else self._general(read)

    def is_view(self, read: Read) -> bool:
        """Whether the read is a view of its tensor."""
        return self._walks(read) is not None

    def _walks(self, read: Read) -> list[Walk] | None:
        """How each axis is walked, if all are as a view can, by indices of their own, and nothing
        is outside."""
        if read.guarded:
            return None
        dims = read.source.type.dims
        found = [walk(self.ctx.prover, self.symbols, p, d) for p, d in zip(read.positions, dims)]
        walks = [along for along in found if along is not None]
        axes = [index for along in walks for index in along.indices]
        return walks if len(walks) == len(dims) and len(set(axes)) == len(axes) else None

    def _view(self, read: Read) -> Cell | None:
        """The read by slices and reshapes of the tensor."""
        walks = self._walks(read)
        if walks is None:
            return None
        starts = tuple(along.start for along in walks)
        stops = tuple(along.stop for along in walks)
        steps = tuple(along.step for along in walks)
        kept = tuple(along.size for along in walks if along.indices)
        axes = tuple(index for along in walks for index in along.indices)
        value = read.source
        if not self._whole(starts, stops, steps, value.type.dims):
            value = self.emit("slice", (value,), starts=starts, stops=stops, steps=steps)
        if len(kept) < value.type.rank:
            pairs = zip(walks, value.type.dims)
            value = self.reshaped(value, tuple(dim for along, dim in pairs if along.indices))
        value = self.relabelled(value, kept)
        return Cell(self.reshaped(value, tuple(axis.size for axis in axes)), axes)

    def _whole(
        self,
        starts: Sequence[Dim],
        stops: Sequence[Dim],
        steps: Sequence[int],
        dims: Sequence[Dim],
    ) -> bool:
        """Whether the slices are provably all of the tensor."""
        return all(
            start == 0 and step == 1 and (stop == dim or self.ctx.prover.equal(stop, dim) is True)
            for start, stop, step, dim in zip(starts, stops, steps, dims)
        )

    def merged(self, value: Value, dims: tuple[Dim, ...]) -> Value:
        """The same elements with other dims, which are equal by proof where not by form."""
        size = product(dims)
        if value.type.size != size:
            flat = self.reshaped(value, (value.type.size,))
            value = self.relabelled(flat, (size,))
        return self.reshaped(value, dims)

    def _general(self, read: Read) -> Cell:
        found = [
            (0, {}, self.cell(p.at)) if isinstance(p.at, Value) else parts(self.symbols, p.at)
            for p in read.positions
        ]
        rests = [
            rest if isinstance(rest, Cell) else None if rest == 0 else self._computed(rest)
            for _, _, rest in found
        ]
        every = {index for _, steps, _ in found for index in steps}
        every.update(axis for rest in rests if rest is not None for axis in rest.axes)
        axes = self.sorted(every)
        inputs = [self.placed(rest, axes) for rest in rests if rest is not None]
        value = self.emit(
            "read",
            (read.source, *inputs),
            dims=tuple(axis.size for axis in axes),
            offsets=tuple(offset for offset, _, _ in found),
            steps=tuple(tuple(steps.get(axis, 0) for axis in axes) for _, steps, _ in found),
            indexed=tuple(i for i, rest in enumerate(rests) if rest is not None),
            guarded=read.guarded,
            value=0 if read.outside is None else read.outside,
        )
        return Cell(value, axes)

    def number(self, dim: Dim, dtype: DType) -> Cell:
        """A dim as a scalar."""
        value = self.emit("dim_value", (), dim=dim)
        return Cell(value if dtype == "i64" else self.emit("cast", (value,), dtype=dtype))

    # --- positions as integers ------------------------------------------------------------------

    def _computed(self, at: Dim) -> Cell:
        """A position as an integer tensor."""
        if not moving(self.symbols, at):
            return Cell(self.emit("dim_value", (), dim=at))
        if isinstance(at, int):
            raise InternalError("a number depends on no index")
        total: Cell | None = None
        for monomial, coefficient in at.terms:
            term: Cell | None = None
            for atom in monomial:
                factor = self._of_atom(atom)
                term = factor if term is None else self.binary("mul", term, factor)
            if term is None:
                term = self._computed(coefficient)
            elif coefficient != 1:
                term = self.binary("mul", term, self._computed(coefficient))
            total = term if total is None else self.binary("add", total, term)
        if total is None:
            raise InternalError("a position without terms")
        return total

    def _of_atom(self, atom: Sym | Quotient | Remainder | Extremum) -> Cell:
        match atom:
            case Sym(name):
                if name in self.symbols:
                    index = self.symbols[name]
                    return Cell(self.emit("iota", (), dims=(index.size,), axis=0), (index,))
                return Cell(self.emit("dim_value", (), dim=as_dim(atom)))
            case Quotient(num, den):
                return self.binary("floordiv", self._computed(num), self._computed(den))
            case Remainder(num, den):
                return self.binary("mod", self._computed(num), self._computed(den))
        total = self._computed(atom.args[0])
        for arg in atom.args[1:]:
            total = self.binary(f"{atom.kind}imum", total, self._computed(arg))
        return total

    def binary(self, name: str, x: Cell, y: Cell) -> Cell:
        axes = self.union((x, y))
        return Cell(self.emit(name, (self.placed(x, axes), self.placed(y, axes))), axes)

    def _inside(self, read: Read) -> Cell:
        """Whether the read is inside of its tensor."""
        total: Cell | None = None
        for axis in read.guarded:
            at = read.positions[axis].at
            place = self.cell(at) if isinstance(at, Value) else self._computed(at)
            low = self.binary("ge", place, self._computed(0))
            high = self.binary("lt", place, self._computed(read.source.type.dims[axis]))
            both = self.binary("and", low, high)
            total = both if total is None else self.binary("and", total, both)
        if total is None:
            return Cell(self.emit("constant", (), value=True, type=TensorType("bool")))
        return total


def _not_of_scalars(eqn: Eqn, span: Span) -> Mistake:
    """An equation of the formula makes or takes a tensor."""
    place = eqn.origin.span or span
    what = eqn.origin.library[-1] if eqn.origin.library else call_text(place)
    return Mistake(errors.not_of_scalars(f"`{what}`", place))
