"""What a mask over queries and keys says: its conditions, and which of them bound positions.

Input: a bool value broadcast to the scores' dims [*B, T, S], and the equations around it. Output:
the conditions that must all hold, each as a value and where its dims stand among the scores'; and
of one that compares positions (a causal mask, a window), its bounds on query + past - key:

    reshape[T, 1](past + arange[T]()) - arange[S]() >= 0        low = 0, past

Non-goals: conditions that are not joined by `and`; what attention makes of them (`attention.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from typing import cast as typed

from dslc._frozen import dataclass
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim
from dslc.ir.types import TensorType, is_integer
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import ConstantAttrs, cast, constant, dim_value, relabel
from dslc.ops.elementwise import absolute, add, mul, neg, sub
from dslc.ops.logic import ge, gt, le, logical_and, logical_not, logical_or, lt
from dslc.ops.shape import iota, reshape
from dslc.passes.shape_rules import inserted_ones

Producers = Mapping[Value, Eqn]


@dataclass(frozen=True, slots=True)
class Placed:
    """A value whose dim i stands along axis `axes[i]` of the scores, or is 1 and is stretched along
    it; `negated` if it must not hold."""

    value: Value
    axes: tuple[int, ...]
    negated: bool = False


def placed(value: Value, producers: Producers) -> Placed:
    """`value`, which has the scores' dims, below the broadcasts that gave it those."""
    return _below(Placed(value, tuple(range(value.type.rank))), producers)


def _below(given: Placed, producers: Producers) -> Placed:
    while (eqn := producers.get(given.value)) is not None:
        inner = _placed_input(eqn, given)
        if inner is None:
            break
        given = inner
    return given


def _placed_input(eqn: Eqn, given: Placed) -> Placed | None:
    """What a broadcast, or a reshape that only puts in dims of size 1, makes `given` from."""
    attrs: Any = eqn.attrs
    if eqn.op is broadcast:
        axes: Sequence[int] | None = attrs.axes
    elif eqn.op in (reshape, relabel):
        axes = inserted_ones(eqn.inputs[0].type.dims, eqn.outputs[0].type.dims)
    else:
        return None
    if axes is None:
        return None
    places = tuple(given.axes[axis] for axis in axes)
    return replace(given, value=eqn.inputs[0], axes=places)


def number_of(value: Value, producers: Producers) -> float | None:
    """The one number that all elements of a value are, if that is known."""
    eqn = producers.get(value)
    if eqn is None or eqn.op is not constant:
        return None
    return float(typed(ConstantAttrs, eqn.attrs).value)


def conditions(value: Value, producers: Producers, negated: bool = False) -> list[Placed]:
    """What must all hold for `value`, which has the scores' dims, to be true (or not to be)."""
    return parts_of(Placed(value, tuple(range(value.type.rank)), negated), producers)


def parts_of(given: Placed, producers: Producers) -> list[Placed]:
    """What must all hold for `given` to hold."""
    return list(dict.fromkeys(_split(given, producers)))


def _split(given: Placed, producers: Producers) -> Iterator[Placed]:
    given = _below(given, producers)
    eqn = producers.get(given.value)
    if eqn is not None and eqn.op is logical_not:
        inner = replace(given, value=eqn.inputs[0], negated=not given.negated)
        yield from _split(inner, producers)
    elif eqn is not None and eqn.op is (logical_or if given.negated else logical_and):
        for value in eqn.inputs:
            yield from _split(replace(given, value=value), producers)
    elif number_of(given.value, producers) != (not given.negated):  # what always holds is left out
        yield given


# --- positions ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Affine:
    """query * i + key * j + constant + the sum of `scalars`, each times its number."""

    query: int = 0
    key: int = 0
    constant: Dim = 0
    scalars: tuple[tuple[Value, int], ...] = ()

    def times(self, number: int) -> _Affine:
        scalars = tuple((value, count * number) for value, count in self.scalars)
        return _Affine(self.query * number, self.key * number, self.constant * number, scalars)

    def plus(self, other: _Affine) -> _Affine:
        counts = dict(self.scalars)
        for value, count in other.scalars:
            counts[value] = counts.get(value, 0) + count
        left = tuple((value, count) for value, count in counts.items() if count)
        total = self.constant + other.constant
        return _Affine(self.query + other.query, self.key + other.key, total, left)


@dataclass(frozen=True, slots=True)
class Band:
    """low <= query + past - key <= high"""

    low: Dim | None = None
    high: Dim | None = None
    past: Value | None = None


def band_of(condition: Placed, dims: Sequence[Dim], producers: Producers) -> Band | None:
    """The bounds that the condition is, if it is nothing else. `dims` are the scores'."""
    bounds = _bounds(condition, dims, producers)
    if not bounds:
        return None
    found = Band()
    for bound in bounds:
        one = _band(bound, dims)
        joined = None if one is None else join(found, one)
        if joined is None:
            return None
        found = joined
    return found


def join(a: Band, b: Band) -> Band | None:
    """Both bands, where that is a band."""
    if a.past is not b.past and a != Band() and b != Band():
        return None
    lows = [low for low in (a.low, b.low) if low is not None]
    highs = [high for high in (a.high, b.high) if high is not None]
    low, high = _the_one(lows, max), _the_one(highs, min)
    if (lows and low is None) or (highs and high is None):
        return None
    return Band(low, high, a.past if a.past is not None else b.past)


def _the_one(bounds: Sequence[Dim], pick: Any) -> Dim | None:
    """The bound that holds with all others; None if it isn't known."""
    if not bounds or all(bound == bounds[0] for bound in bounds):
        return bounds[0] if bounds else None
    return pick(bounds) if all(isinstance(bound, int) for bound in bounds) else None


def _band(form: _Affine, dims: Sequence[Dim]) -> Band | None:
    """The band in which form >= 0."""
    query, key = form.query, form.key
    if dims[-2] == 1 and key and not query:
        query = -key  # the only query is number 0
    if (query, key) not in ((1, -1), (-1, 1)) or len(form.scalars) > 1:
        return None
    past = None
    for value, count in form.scalars:
        if count != query:
            return None
        past = value
    if query == 1:
        return Band(low=form.constant * -1, past=past)
    return Band(high=form.constant, past=past)


def _bounds(condition: Placed, dims: Sequence[Dim], producers: Producers) -> list[_Affine]:
    """Forms that must not be negative, which together are the condition; none if it is no such."""
    eqn = producers.get(condition.value)
    if eqn is None or eqn.op not in (ge, gt, le, lt):
        return []
    if not is_integer(eqn.inputs[0].type.dtype):
        return []
    x, y = (replace(condition, value=value) for value in eqn.inputs)
    if eqn.op in (le, lt):
        x, y = y, x  # y >= x, y > x
    strict = eqn.op in (gt, lt)
    if condition.negated:  # not x >= y: y > x
        x, y, strict = y, x, not strict
    uppers = _signed(y, producers)  # x >= |z|: x >= z and x >= -z
    right = [_affine(value, dims, producers) for value in uppers]
    left = _affine(x, dims, producers)
    if left is None or any(form is None for form in right):
        return []
    signs = (1, -1) if len(uppers) == 1 and uppers[0] is not y else (1,)
    one = _Affine(constant=-1 if strict else 0)
    return [left.plus(form.times(-sign)).plus(one) for form in right if form for sign in signs]


def _signed(given: Placed, producers: Producers) -> list[Placed]:
    """What is under an absolute value; else `given` itself."""
    below = _below(given, producers)
    eqn = producers.get(below.value)
    if eqn is not None and eqn.op is absolute:
        return [replace(below, value=eqn.inputs[0])]
    return [given]


def _affine(given: Placed, dims: Sequence[Dim], producers: Producers) -> _Affine | None:
    """An integer value as a form of the positions of query and key."""
    given = _below(given, producers)
    eqn = producers.get(given.value)
    known = None if eqn is None else _known(eqn, given, dims, producers)
    if known is None and is_number(given.value.type):
        return _Affine(scalars=((given.value, 1),))
    return known


def is_number(type: TensorType) -> bool:
    """Whether it is one i64, of whatever rank: of a batch of 1, the past is i64[1]."""
    return type.dtype == "i64" and all(dim == 1 for dim in type.dims)


def _known(eqn: Eqn, given: Placed, dims: Sequence[Dim], producers: Producers) -> _Affine | None:
    attrs: Any = eqn.attrs
    if eqn.op is constant:
        return _Affine(constant=attrs.value)
    if eqn.op is dim_value:
        return _Affine(constant=attrs.dim)
    if eqn.op is iota:
        return _of_iota(given, attrs.axis, len(dims))
    if eqn.op in (add, sub, neg, mul, cast):
        return _arithmetic(eqn, given, dims, producers)
    return None


def _of_iota(given: Placed, axis: int, rank: int) -> _Affine | None:
    if given.value.type.dims[axis] == 1:
        return _Affine()
    match rank - given.axes[axis]:
        case 2:
            return _Affine(query=1)
        case 1:
            return _Affine(key=1)
    return None


def _arithmetic(
    eqn: Eqn, given: Placed, dims: Sequence[Dim], producers: Producers
) -> _Affine | None:
    parts = []
    for value in eqn.inputs:
        if not is_integer(value.type.dtype):
            return None
        parts.append(_affine(replace(given, value=value), dims, producers))
    first = parts[0]
    if first is None:
        return None
    if eqn.op is neg:
        return first.times(-1)
    if eqn.op is cast:
        return first if eqn.outputs[0].type.dtype == "i64" else None
    second = parts[1]
    if second is None:
        return None
    if eqn.op is mul:
        for x, y in ((first, second), (second, first)):
            if isinstance(x.constant, int) and x == _Affine(constant=x.constant):
                return y.times(x.constant)
        return None
    return first.plus(second.times(-1 if eqn.op is sub else 1))
