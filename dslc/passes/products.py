"""Multiplies three matrices in the order that takes less work.

    d = p @ q;  d @ r           becomes   p @ (q @ r)

where nothing but such products reads d, and all of them together take less than half of the work.
So does the gradient of a matrix of low rank beside a large one: the product of the large one's
size is never computed, which is what makes LoRA cheap to train.
Input and output: a Function. Results may differ by the rounding of sums. Sizes known only at a call
are taken to be large. Non-goals: longer chains, products of batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim, free_symbols, substitute
from dslc.ir.rewrite import drop_dead, map_bodies, with_inputs
from dslc.ops.linalg import MatmulAttrs, matmul

# What the work must be less than, as a part of what it was.
GAIN = 0.5
# A dim known only at a call.
_USUAL = 256


class _Side(NamedTuple):
    """A matrix, or its transpose."""

    value: Value
    turned: bool

    @property
    def rows(self) -> Dim:
        return self.value.type.dims[1 if self.turned else 0]

    @property
    def columns(self) -> Dim:
        return self.value.type.dims[0 if self.turned else 1]

    def transposed(self) -> _Side:
        return _Side(self.value, not self.turned)


def products(function: Function) -> Function:
    function = map_bodies(function, products)
    readers: dict[Value, list[Eqn]] = {}
    for eqn in function.eqns:
        for value in eqn.inputs:
            readers.setdefault(value, []).append(eqn)
    inner = _dissolved(function, readers)
    if not inner:
        return function
    b = Builder.over(function)
    replaced: dict[Value, Value] = {}
    for eqn in function.eqns:
        if eqn.outputs[0] in inner:
            continue
        made = next((inner[v] for v in eqn.inputs if v in inner), None)
        if made is None:
            b.keep(with_inputs(eqn, replaced))
            continue
        with b.at(eqn.origin):
            replaced[eqn.outputs[0]] = _other_order(b, eqn, made, replaced)
    results = [replaced.get(result, result) for result in function.results]
    return drop_dead(b.function(function.name, results))


def _dissolved(function: Function, readers: Mapping[Value, Sequence[Eqn]]) -> dict[Value, Eqn]:
    """The products that are to be read no more, by their values."""
    found: dict[Value, Eqn] = {}
    taken: set[Value] = set(function.results)  # what stays as it is
    for eqn in function.eqns:
        (value, *_) = eqn.outputs
        users = readers.get(value, ())
        if not is_product(eqn) or value in taken or not users:
            continue
        if not all(is_product(u) and u.inputs.count(value) == 1 for u in users):
            continue
        if any(v in found for v in eqn.inputs) or not _pays(eqn, users):
            continue
        found[value] = eqn
        taken.update(eqn.inputs)
        taken.update(user.outputs[0] for user in users)
    return found


def is_product(eqn: Eqn) -> bool:
    """Whether it is one product of two matrices."""
    return eqn.op is matmul and eqn.outputs[0].type.rank == 2


def _pays(eqn: Eqn, users: Sequence[Eqn]) -> bool:
    before = _work(*_sides(eqn)) + sum(_work(*_sides(user)) for user in users)
    after = 0
    for user in users:
        (p, q, r), on_left = _three(user, eqn)
        if on_left:
            after += _work(q, r) + _size(p.rows) * _size(p.columns) * _size(r.columns)
        else:
            after += _work(p, q) + _size(p.rows) * _size(r.rows) * _size(r.columns)
    return after < GAIN * before


def _other_order(b: Builder, user: Eqn, eqn: Eqn, replaced: Mapping[Value, Value]) -> Value:
    """The product of three matrices, which `user` takes of `eqn`'s result and another."""
    (p, q, r), on_left = _three(user, eqn)
    p, q, r = (_Side(replaced.get(s.value, s.value), s.turned) for s in (p, q, r))
    if on_left:
        return _product(b, p, _Side(_product(b, q, r), False))
    return _product(b, _Side(_product(b, p, q), False), r)


def _three(user: Eqn, eqn: Eqn) -> tuple[tuple[_Side, _Side, _Side], bool]:
    """The three matrices in the order of the product; whether `eqn`'s two stand first."""
    left, right = _sides(user)
    p, q = _sides(eqn)
    on_left = left.value is eqn.outputs[0]
    if (left if on_left else right).turned:
        p, q = q.transposed(), p.transposed()
    return ((p, q, right) if on_left else (left, p, q)), on_left


def _sides(eqn: Eqn) -> tuple[_Side, _Side]:
    attrs = cast(MatmulAttrs, eqn.attrs)
    return _Side(eqn.inputs[0], attrs.transpose_a), _Side(eqn.inputs[1], attrs.transpose_b)


def _product(b: Builder, left: _Side, right: _Side) -> Value:
    made: Value = matmul(
        b, left.value, right.value, transpose_a=left.turned, transpose_b=right.turned
    )
    return made


def _work(left: _Side, right: _Side) -> int:
    return _size(left.rows) * _size(left.columns) * _size(right.columns)


def _size(dim: Dim) -> int:
    usual: dict[str, Dim] = dict.fromkeys(free_symbols(dim), _USUAL)
    size = substitute(dim, usual)
    return size if isinstance(size, int) else _USUAL
