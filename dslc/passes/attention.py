"""Finds attention, written as the formula, and makes one equation of it.

    softmax(where(mask, q @ k.T * scale + bias, -1e30)) @ v      becomes     attention(q, k, v, ...)

Input and output: a Function, before gradients are made. Any part but the products and the softmax
may be missing; a division may stand for the scale, `mask` may be several conditions, set the
weights to 0 as well, or come with dropout of the weights. Bounds on positions (causal masks,
windows) become attributes, and heads of keys and values that are repeated are read where they
are.

A function without attention comes back as it is. Results may differ by rounding, and a row of
scores that are all -inf gives zeros, not NaN. Weights that anything else uses stay the formula.
Non-goals: gradients (the op's record has them); kernels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from typing import cast as typed

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim
from dslc.ir.op import Op
from dslc.ir.rewrite import drop_dead, map_bodies, rewrite, with_inputs
from dslc.ir.types import DType, TensorType
from dslc.ops.attention import attention as attention_op
from dslc.ops.attention_formula import AttentionAttrs
from dslc.ops.broadcast import broadcast, reduce_sum
from dslc.ops.constants import cast, constant, stop_gradient
from dslc.ops.elementwise import add, div, exp, mul, neg, sub
from dslc.ops.linalg import accumulator, matmul
from dslc.ops.logic import logical_and, logical_not, select
from dslc.ops.reduce import reduce_max
from dslc.ops.shape import reshape, transpose
from dslc.passes import arithmetic_rules, fold, shape_rules
from dslc.passes.conditions import Band, Placed, band_of, conditions, join, placed
from dslc.passes.cse import cse

# A score that the largest one always leaves without weight: hidden keys that have it are not seen.
HIDDEN = -1e9

_RULES = (
    *shape_rules.RULES,
    *(rule for rule in arithmetic_rules.RULES if rule is not arithmetic_rules.gradient_marks),
    *fold.RULES,
)


def attention(function: Function) -> Function:
    function = map_bodies(function, attention)
    if not any(eqn.op is exp for eqn in function.eqns):
        return function
    simple = cse(rewrite(function, _RULES))
    found = _Finder(simple).found()
    return _replaced(simple, found) if found else function


@dataclass(frozen=True, slots=True)
class _Scores:
    """q @ k.T * scale + bias, where the conditions hold, else `fill`. `bias`: what is added, each
    times a number. `inside`: the values on the way, which nothing else may use."""

    product: Eqn
    inside: tuple[Value, ...]
    scale: float = 1.0
    bias: tuple[tuple[Value, float], ...] = ()
    hidden: tuple[Placed, ...] = ()
    fill: float | None = None


@dataclass(frozen=True, slots=True)
class _Weights:
    """softmax(scores), times `number` where the conditions hold and else 0."""

    scores: _Scores
    number: float
    kept: tuple[Placed, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A product of weights and values that is attention."""

    eqn: Eqn
    weights: _Weights


@dataclass(slots=True)
class _Finder:
    function: Function
    producers: dict[Value, Eqn] = field(init=False)
    users: dict[Value, list[Eqn]] = field(init=False)

    def __post_init__(self) -> None:
        self.producers = {out: eqn for eqn in self.function.eqns for out in eqn.outputs}
        self.users = {}
        for eqn in self.function.eqns:
            for value in eqn.inputs:
                self.users.setdefault(value, []).append(eqn)

    def found(self) -> dict[Eqn, _Found]:
        all_ = (self.product(eqn) for eqn in self.function.eqns if eqn.op is matmul)
        return {found.eqn: found for found in all_ if found is not None}

    def product(self, eqn: Eqn) -> _Found | None:
        attrs: Any = eqn.attrs
        if attrs.transpose_a or eqn.inputs[0] is eqn.inputs[1]:
            return None
        inside: list[Value] = []
        weights = self.weights(eqn.inputs[0], inside)
        if weights is None:
            return None
        made = {self.producers[value] for value in (*inside, *weights.scores.inside)}
        for value in (*inside, *weights.scores.inside):
            if value in self.function.results:
                return None
            if any(user is not eqn and user not in made for user in self.users[value]):
                return None
        return _Found(eqn, weights)

    def made_by(self, value: Value, op: Op) -> Eqn | None:
        eqn = self.producers.get(value)
        return eqn if eqn is not None and eqn.op is op else None

    def number(self, value: Value) -> float | None:
        """The one value that all elements have, if that is known."""
        eqn = self.made_by(value, constant)
        return None if eqn is None else float(typed(Any, eqn.attrs).value)

    # --- the weights --------------------------------------------------------------------------

    def weights(self, value: Value, inside: list[Value]) -> _Weights | None:
        """What `value` is; adds to `inside` the values on the way."""
        number, kept = 1.0, list[Placed]()
        while (eqn := self.producers.get(value)) is not None:
            inside.append(value)
            chosen = self.choice(eqn)
            scaled = self.scaled(eqn)
            if chosen is not None and chosen[2] == 0:
                kept += chosen[0]
                value = chosen[1]
            elif scaled is not None:
                value, number = scaled[0], number * scaled[1]
            else:
                scores = self.softmax(eqn, inside)
                return None if scores is None else _Weights(scores, number, tuple(kept))
        return None

    def choice(self, eqn: Eqn) -> tuple[list[Placed], Value, float] | None:
        """A select between a value and a number: the conditions of the value, and both."""
        if eqn.op is not select:
            return None
        condition, x, y = eqn.inputs
        for value, other, negated in ((x, y, False), (y, x, True)):
            number = self.number(other)
            if number is not None:
                return conditions(condition, self.producers, negated), value, number
        return None

    def scaled(self, eqn: Eqn) -> tuple[Value, float] | None:
        """A value times a number."""
        if eqn.op is mul:
            for value, other in (eqn.inputs, eqn.inputs[::-1]):
                number = self.number(other)
                if number is not None:
                    return value, number
        if eqn.op is div and (number := self.number(eqn.inputs[1])):
            return eqn.inputs[0], 1 / number
        return None

    def softmax(self, eqn: Eqn, inside: list[Value]) -> _Scores | None:
        """The scores, of which the equation divides the exponentials by their sum."""
        if eqn.op is not div:
            return None
        power, total = eqn.inputs
        sums = self.along_rows(total, reduce_sum, inside)
        top = self.made_by(power, exp)
        if sums is not power or top is None:
            return None
        inside.append(power)
        (value,) = top.inputs
        down = self.made_by(value, sub)
        if down is not None and self.along_rows(down.inputs[1], reduce_max, []) is down.inputs[0]:
            self.along_rows(down.inputs[1], reduce_max, inside)
            inside.append(value)
            value = down.inputs[0]
        return self.scores(value, 1.0)

    def along_rows(self, value: Value, op: Op, inside: list[Value]) -> Value | None:
        """What `value` is a reduction of, along the last axis, spread out along it again."""
        rank = value.type.rank
        while (eqn := self.producers.get(value)) is not None:
            inside.append(value)
            if eqn.op is op:
                whole: Any = eqn.attrs
                return eqn.inputs[0] if whole.axes == (rank - 1,) else None
            if eqn.op not in (broadcast, reshape, stop_gradient) or not _keeps_rows(eqn):
                return None
            value = eqn.inputs[0]
        return None

    # --- the scores ---------------------------------------------------------------------------

    def scores(self, value: Value, outer: float) -> _Scores | None:
        """What `value` is, which is multiplied by `outer` after all."""
        eqn = self.producers.get(value)
        if eqn is None:
            return None
        if eqn.op is matmul:
            return _Scores(eqn, (value,), outer)
        scaled, chosen = self.scaled(eqn), self.choice(eqn)
        found: _Scores | None = None
        if scaled is not None:
            found = self.scores(scaled[0], outer * scaled[1])
        elif chosen is not None and outer == 1:
            hidden, x, fill = chosen
            found = self.scores(x, outer)
            if found is not None and found.fill in (None, fill):
                found = replace(found, hidden=(*hidden, *found.hidden), fill=fill)
            else:
                found = None
        elif eqn.op in (add, sub):
            found = self.biased(eqn, outer)
        return None if found is None else replace(found, inside=(value, *found.inside))

    def biased(self, eqn: Eqn, outer: float) -> _Scores | None:
        x, y = eqn.inputs
        sides = [(x, y, -outer if eqn.op is sub else outer)]
        if eqn.op is add:
            sides.append((y, x, outer))
        for value, bias, factor in sides:
            found = self.scores(value, outer)
            if found is not None and found.fill is None:
                return replace(found, bias=(*found.bias, (bias, factor)))
        return None


def _keeps_rows(eqn: Eqn) -> bool:
    """Whether a broadcast or reshape only spreads out along a new last axis, or puts that in."""
    before, after = eqn.inputs[0].type.dims, eqn.outputs[0].type.dims
    if eqn.op is stop_gradient:
        return True
    axes = getattr(eqn.attrs, "axes", None)
    if eqn.op is broadcast:
        rows = len(after) - 1
        kept = axes in (tuple(range(rows)), tuple(range(rows + 1)))
        return kept and before[:rows] == after[:rows]
    return after == (*before, 1)


# --- what takes its place -----------------------------------------------------------------------


def _replaced(function: Function, found: dict[Eqn, _Found]) -> Function:
    b = Builder.over(function)
    producers = {out: eqn for eqn in function.eqns for out in eqn.outputs}
    replaced: dict[Value, Value] = {}
    for old in function.eqns:
        eqn = with_inputs(old, replaced)
        if old not in found:
            b.keep(eqn)
            continue
        with b.at(old.origin):
            replaced[old.outputs[0]] = _Made(
                b, producers, eqn, found[old].weights, replaced
            ).value()
    results = [replaced.get(result, result) for result in function.results]
    return drop_dead(b.function(function.name, results))


@dataclass(slots=True)
class _Made:
    """The attention of one product of weights and values while it is made."""

    b: Builder
    producers: dict[Value, Eqn]
    eqn: Eqn
    weights: _Weights
    replaced: dict[Value, Value]

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The scores'."""
        return self.weights.scores.product.outputs[0].type.dims

    def value(self) -> Value:
        b, scores = self.b, self.weights.scores
        product: Any = scores.product
        q = self.turned(self.now(product.inputs[0]), product.attrs.transpose_a)
        (k, v), group = self.shared(self.now(product.inputs[1]), self.eqn.inputs[1])
        k = self.turned(k, not product.attrs.transpose_b)
        v = self.turned(v, typed(Any, self.eqn.attrs).transpose_b)
        band, mask, fill, dropped = self.split()
        operands: dict[str, Value | None] = {
            "mask": self.all_of(mask),
            "bias": self.bias(),
            "factor": self.factor(dropped, q.type.dtype),
            "past": band.past and self.now(band.past),
        }
        given = {name: value for name, value in operands.items() if value is not None}
        attrs = AttentionAttrs(
            scores.scale, band.low, band.high, group, fill if mask else None,
            **dict.fromkeys(given, True),
        )  # fmt: skip
        out, _ = b.emit(attention_op, (q, k, v, *given.values()), attrs)
        if not dropped and self.weights.number != 1:
            number = constant(b, value=self.weights.number, type=out.type)
            out = mul(b, out, number)
        return out

    def now(self, value: Value) -> Value:
        """What stands for the value by now."""
        return self.replaced.get(value, value)

    def turned(self, x: Value, across: bool) -> Value:
        """The matrices of `x`, transposed if they lie across."""
        if not across:
            return x
        eqn = self.producers.get(x)
        rank = x.type.rank
        perm = (*range(rank - 2), rank - 1, rank - 2)
        if eqn is not None and eqn.op is transpose and typed(Any, eqn.attrs).perm == perm:
            return eqn.inputs[0]
        return typed(Value, transpose(self.b, x, perm=perm))

    # --- heads ----------------------------------------------------------------------------------

    def shared(self, k: Value, v: Value) -> tuple[tuple[Value, Value], int]:
        """Keys and values before each of their heads was repeated, and how often it was."""
        (few_k, times_k), (few_v, times_v) = self.unrepeated(k), self.unrepeated(v)
        if times_k == times_v != 1:
            return (few_k, few_v), times_k
        return (k, v), 1

    def unrepeated(self, x: Value) -> tuple[Value, int]:
        """`x` before each head was repeated: by a broadcast of heads, or along a new dim that was
        joined with theirs."""
        eqn = self.producers.get(x)
        if eqn is None or x.type.rank < 3:
            return x, 1
        if eqn.op is reshape:
            return self.unjoined(x, eqn)
        if eqn.op is broadcast:
            (few,), dims, attrs = eqn.inputs, x.type.dims, typed(Any, eqn.attrs)
            one = (*dims[:-3], 1, *dims[-2:])
            heads = dims[-3]
            if isinstance(heads, int) and few.type.dims == one and len(attrs.axes) == len(dims):
                return few, heads
            batch = len(dims) - 3
            places = (*range(batch), batch + 1, batch + 2)
            without = (*dims[:-3], *dims[-2:])
            if isinstance(heads, int) and attrs.axes == places and few.type.dims == without:
                return typed(Value, reshape(self.b, few, dims=one)), heads
        return x, 1

    def unjoined(self, x: Value, eqn: Eqn) -> tuple[Value, int]:
        (wide,) = eqn.inputs
        spread, (*batch, _, rows, columns) = self.producers.get(wide), x.type.dims
        if spread is None or spread.op is not broadcast or wide.type.rank != x.type.rank + 1:
            return x, 1
        *before, few, times, _, _ = wide.type.dims
        source, axes = spread.inputs[0], typed(Any, spread.attrs).axes
        fits = wide.type.dims == (*batch, few, times, rows, columns) and isinstance(times, int)
        places = (*range(len(before) + 1), len(before) + 2, len(before) + 3)
        if not fits or axes != places or source.type.dims != (*batch, few, rows, columns):
            return x, 1
        return source, typed(int, times)

    # --- masks ----------------------------------------------------------------------------------

    def split(self) -> tuple[Band, list[Placed], float | None, list[Placed]]:
        """The bounds on positions, the other conditions of a score, what it is elsewhere (None:
        nothing, the key isn't seen), and the conditions of a weight that is not 0."""
        scores, kept = self.weights.scores, self.weights.kept
        hidden = list(dict.fromkeys(scores.hidden))
        fill = -math.inf if scores.fill is None else scores.fill
        strict = fill == -math.inf or (fill <= HIDDEN and set(hidden) <= set(kept))
        dropped = [c for c in kept if not (strict and c in hidden)]
        band, rest = self.bounded(hidden)
        if not strict and not rest and self.sees_something(band):
            strict = fill <= HIDDEN
        return (band, rest, None, dropped) if strict else (Band(), hidden, fill, dropped)

    def bounded(self, hidden: Sequence[Placed]) -> tuple[Band, list[Placed]]:
        """The conditions that bound positions, as a band, and the others."""
        band, rest = Band(), list[Placed]()
        for condition in hidden:
            bounds = band_of(condition, self.dims, self.producers)
            joined = None if bounds is None else join(band, bounds)
            if joined is None:
                rest.append(condition)
            else:
                band = joined
        return band, rest

    def sees_something(self, band: Band) -> bool:
        """Whether each query sees a key: here, the one at its own position."""
        queries, keys = self.dims[-2:]
        enough = queries == keys
        if isinstance(queries, int) and isinstance(keys, int):
            enough = queries <= keys
        low, high = band.low or 0, band.high or 0
        if not isinstance(low, int) or not isinstance(high, int):
            return False
        return enough and band.past is None and low <= 0 <= high

    def all_of(self, parts: Sequence[Placed]) -> Value | None:
        """Whether all conditions hold, broadcasting to the scores."""
        if not parts:
            return None
        if len(parts) == 1 and not parts[0].negated:
            return self.aligned(parts[0])
        values = [self.signed(part) for part in parts]
        total = values[0]
        for value in values[1:]:
            total = logical_and(self.b, total, value)
        return total

    def signed(self, part: Placed) -> Value:
        """The condition at every score."""
        value = self.spread(part)
        return typed(Value, logical_not(self.b, value)) if part.negated else value

    def spread(self, part: Placed) -> Value:
        value = self.now(part.value)
        if value.type.dims == self.dims:
            return value
        return typed(Value, broadcast(self.b, value, dims=self.dims, axes=part.axes))

    def aligned(self, part: Placed) -> Value:
        """The value as it broadcasts to the scores, aligned at the last dim."""
        rank, value = len(self.dims), self.now(part.value)
        first = rank - value.type.rank
        if part.axes == tuple(range(first, rank)):
            return value
        if {rank - 2, rank - 1} <= set(part.axes):
            return self.spread(part)  # as big as the scores: computed where it is read
        sizes = dict(zip(part.axes, value.type.dims))
        dims = tuple(sizes.get(axis, 1) for axis in range(min(part.axes, default=rank), rank))
        return typed(Value, reshape(self.b, value, dims=dims))

    # --- what is added and multiplied -----------------------------------------------------------

    def wide(self, x: Value) -> Value:
        """`x` in the dtype that sums of its products are kept in."""
        dtype = accumulator(x.type.dtype)
        return x if x.type.dtype == dtype else typed(Value, cast(self.b, x, dtype=dtype))

    def bias(self) -> Value | None:
        terms = [(v, n) for v, n in self.weights.scores.bias if not self.is_zero(v)]
        if not terms:
            return None
        if len(terms) == 1 and terms[0][1] == 1:
            return self.wide(self.aligned(placed(terms[0][0], self.producers)))
        total: Value | None = None
        for value, number in terms:
            value = self.wide(self.now(value))
            if number == -1:
                value = neg(self.b, value)
            elif number != 1:
                value = mul(self.b, value, constant(self.b, value=number, type=value.type))
            total = value if total is None else add(self.b, total, value)
        return total

    def is_zero(self, value: Value) -> bool:
        eqn = self.producers.get(value)
        return eqn is not None and eqn.op is constant and typed(Any, eqn.attrs).value == 0

    def factor(self, kept: Sequence[Placed], dtype: DType) -> Value | None:
        """`number` where the conditions hold, else 0."""
        if not kept:
            return None
        condition = self.all_of(kept)
        if condition is None:
            return None
        type = TensorType(accumulator(dtype), condition.type.dims)
        number = constant(self.b, value=self.weights.number, type=type)
        zero = constant(self.b, value=0.0, type=type)
        return typed(Value, select(self.b, condition, number, zero))
