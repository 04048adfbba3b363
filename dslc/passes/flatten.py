"""Lets what is computed from a product keep the product's dims.

A dense layer over sequences multiplies all rows of them as one matrix, and gives them back:

    reshape(matmul(reshape(x), w), (N, T, D)) + y    becomes    matmul(..) + reshape(y, (N * T, D))

so that bias, activation, dropout and shortcut stand right behind the product, where they become its
epilogue, and so on through norms and reductions to the next product. Only the leading dims (the
first ones, which become one) are flattened; what needs them apart gets a reshape, which costs
nothing.

Input and output: a Function. A value in between is made in one form or the other, as its inputs
are; the other form is made when something asks for it. Non-goals: images (`layout.py`), axes other
than leading ones.
"""

from __future__ import annotations

from dataclasses import field, replace
from typing import Any

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim, product
from dslc.ir.op import Op
from dslc.ir.rewrite import drop_dead, map_bodies
from dslc.ops import reduce, shape, slicing
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.constants import constant, relabel
from dslc.ops.linalg import matmul
from dslc.ops.packed import matmul_packed
from dslc.ops.random import random_normal, random_uniform

PRODUCTS = (matmul, matmul_packed)
# What counts its elements in row-major order.
COUNTED = (random_uniform, random_normal)
REDUCTIONS = (
    reduce_sum,
    reduce.reduce_max,
    reduce.reduce_min,
    reduce.reduce_prod,
    reduce.reduce_any,
    reduce.reduce_all,
)
Rows = tuple[Dim, ...]


def flatten(function: Function) -> Function:
    function = map_bodies(function, flatten)
    walk = _Walk(Builder.over(function), {p: p for p in function.params})
    for eqn in function.eqns:
        with walk.b.at(eqn.origin):
            walk.convert(eqn)
    if not walk.flat:
        return function
    results = [walk.whole(result) for result in function.results]
    return drop_dead(walk.b.function(function.name, results))


@dataclass(slots=True)
class _Walk:
    """Old values and what stands for them now, as they were or flat, or both. `rows[v]`: the
    leading dims that the flat form of `v` has as one; `native`: what is made flat; `matrices`:
    products, and what was made of one element by element."""

    b: Builder
    plain: dict[Value, Value]
    flat: dict[Value, Value] = field(default_factory=dict)
    rows: dict[Value, Rows] = field(default_factory=dict)
    native: set[Value] = field(default_factory=set)
    makers: dict[Value, Eqn] = field(default_factory=dict)
    matrices: set[Value] = field(default_factory=set)

    def whole(self, old: Value) -> Value:
        """The value with the dims it had."""
        if old not in self.plain:
            self.plain[old] = shape.reshape(self.b, self.flat[old], dims=old.type.dims)
        return self.plain[old]

    def flattened(self, old: Value, rows: Rows) -> Value:
        """The value with its leading dims as one."""
        if old not in self.flat or self.rows[old] != rows:
            if old in self.native:  # of other rows
                return self._made(shape.reshape, [self.whole(old)], dims=joined(old, rows))
            self.flat[old], self.rows[old] = self.made_flat(old, rows), rows
        return self.flat[old]

    def made_flat(self, old: Value, rows: Rows) -> Value:
        """A value that was not made flat: what costs nothing is made again."""
        maker = self.makers.get(old)
        dims = joined(old, rows)
        if maker is not None and maker.op is constant:
            return self._made(constant, [], maker, type=old.type.with_dims(dims))
        if maker is not None and maker.op in COUNTED:
            return self._made(maker.op, [self.whole(v) for v in maker.inputs], maker, dims=dims)
        if maker is not None and maker.op is broadcast:
            axes = broadcast_axes(maker, rows)
            if axes is not None and (not axes or axes[0] != 0):
                return self._made(broadcast, [self.whole(maker.inputs[0])], dims=dims, axes=axes)
        return self._made(shape.reshape, [self.whole(old)], dims=dims)

    def _made(self, op: Op, inputs: list[Value], like: Eqn | None = None, **attrs: Any) -> Value:
        if like is None:
            made: Value = op(self.b, *inputs, **attrs)
            return made
        changed = replace(like.attrs, **attrs)  # type: ignore[type-var]
        return self.b.emit(op, inputs, changed, like.origin)[0]

    def convert(self, eqn: Eqn) -> None:
        self.makers.update(dict.fromkeys(eqn.outputs, eqn))
        if eqn.op in PRODUCTS or (eqn.op.elementwise and self.matrices & set(eqn.inputs)):
            self.matrices.update(eqn.outputs)
        if eqn.op is shape.reshape and self.reshape(eqn):
            return
        rows = next((self.rows[v] for v in eqn.inputs if v in self.native), None)
        if rows is None or not self.follow(eqn, rows):
            outputs = self.b.copy(eqn, [self.whole(value) for value in eqn.inputs])
            self.plain.update(zip(eqn.outputs, outputs))

    def reshape(self, eqn: Eqn) -> bool:
        """Whether a reshape begins or ends what is flat: it is no equation then."""
        (x,), (out,) = eqn.inputs, eqn.outputs
        if x in self.matrices and x.type.rank == 2:
            rows = _rows_of(x, out)
            if rows is not None:
                self.set(out, self.whole(x), rows)
                return True
        if x in self.native and self.flat[x].type == out.type:
            self.plain[out] = self.flat[x]
            return True
        return False

    def set(self, old: Value, made: Value, rows: Rows) -> None:
        self.flat[old], self.rows[old] = made, rows
        self.native.add(old)

    def follow(self, eqn: Eqn, rows: Rows) -> bool:
        """Makes the equation of flat values; False when it can't be."""
        (out, *more), attrs = eqn.outputs, eqn.attrs
        if more:
            return False
        leads = all(v.type.dims[: len(rows)] == rows for v in (*eqn.inputs, out))
        if eqn.op in REDUCTIONS:
            return self.reduction(eqn, rows)
        if not leads:
            return False
        changes = _changes(eqn, rows)
        if changes is None:
            return False
        inputs = [self.flattened(v, rows) for v in eqn.inputs]
        changed = replace(attrs, **changes) if changes else attrs  # type: ignore[type-var]
        self.set(out, self.b.emit(eqn.op, inputs, changed, eqn.origin)[0], rows)
        return True

    def reduction(self, eqn: Eqn, rows: Rows) -> bool:
        """A reduction over axes behind the leading ones, or over all of the leading ones."""
        attrs: Any = eqn.attrs
        (x,), (out,), count = eqn.inputs, eqn.outputs, len(rows)
        behind = tuple(axis - count + 1 for axis in attrs.axes if axis >= count)
        before = [axis for axis in attrs.axes if axis < count]
        if before and len(before) < count:
            return False
        axes = (0, *behind) if before else behind
        made = self._made(eqn.op, [self.flattened(x, rows)], eqn, axes=axes)
        if before:
            self.plain[out] = made
        else:
            self.set(out, made, rows)
        return True


def joined(value: Value, rows: Rows) -> tuple[Dim, ...]:
    """The value's dims with the leading ones as one."""
    return (product(rows), *value.type.dims[len(rows) :])


def _rows_of(x: Value, out: Value) -> Rows | None:
    """The dims that a reshape takes the first of a matrix apart into."""
    count = out.type.rank - 1
    if count < 2 or out.type.dims[-1] != x.type.dims[-1]:
        return None
    rows = out.type.dims[:count]
    return rows if product(rows) == x.type.dims[0] else None


def broadcast_axes(eqn: Eqn, rows: Rows) -> tuple[int, ...] | None:
    """Where the axes of a broadcast's operand are once the leading dims of its result are one, if
    it has all of these (then as one) or none."""
    attrs: Any = eqn.attrs
    count, (x,) = len(rows), eqn.inputs
    leading = [axis for axis in attrs.axes if axis < count]
    behind = tuple(axis - count + 1 for axis in attrs.axes if axis >= count)
    if not leading:
        return behind
    if leading == list(range(count)) and x.type.dims[:count] == rows:
        return (0, *behind)
    return None


def _changes(eqn: Eqn, rows: Rows) -> dict[str, Any] | None:
    """What changes in the attributes of an equation all of whose values have the leading dims;
    None when it can't be made of flat ones."""
    attrs: Any = eqn.attrs
    (out,), count = eqn.outputs, len(rows)
    if eqn.op in (shape.reshape, relabel):
        return {"dims": joined(out, rows)}
    if eqn.op.elementwise:
        return {}
    if eqn.op is broadcast:
        axes = broadcast_axes(eqn, rows)
        return {"dims": joined(out, rows), "axes": axes} if axes and axes[0] == 0 else None
    if eqn.op is shape.concat and attrs.axis >= count:
        return {"axis": attrs.axis - count + 1}
    if eqn.op is slicing.slice_:
        whole = attrs.stops[:count] == rows and not any(attrs.starts[:count])
        if not whole or set(attrs.steps[:count]) != {1}:
            return None
        return {
            "starts": (0, *attrs.starts[count:]),
            "stops": (product(rows), *attrs.stops[count:]),
            "steps": (1, *attrs.steps[count:]),
        }
    if eqn.op is slicing.pad and not any((*attrs.low[:count], *attrs.high[:count])):
        interior = attrs.interior
        if interior and any(interior[:count]):
            return None
        changes = {name: (0, *getattr(attrs, name)[count:]) for name in ("low", "high")}
        return {**changes, "interior": (0, *interior[count:]) if interior else ()}
    return None
