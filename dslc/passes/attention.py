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
from dataclasses import replace
from typing import Any
from typing import cast as typed

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.dims import Dim
from dslc.ir.rewrite import drop_dead, map_bodies, rewrite, with_inputs
from dslc.ir.types import DType, TensorType
from dslc.ops.attention import attention as attention_op
from dslc.ops.attention_formula import AttentionAttrs
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import cast, constant
from dslc.ops.elementwise import add, exp, mul, neg
from dslc.ops.linalg import accumulator
from dslc.ops.logic import logical_and, logical_not, lt, select
from dslc.ops.shape import reshape, transpose
from dslc.passes import arithmetic_rules, fold, shape_rules
from dslc.passes.attention_match import Finder, Term, Weights
from dslc.passes.conditions import Band, Placed, band_of, join, number_of, parts_of, placed
from dslc.passes.cse import cse

# A score that the largest one always leaves without weight: hidden keys that have it are not seen.
HIDDEN = -1e9
NEARLY_LEAST = -1e38

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
    found = Finder(simple).found()
    return _replaced(simple, found) if found else function


# --- what takes its place -----------------------------------------------------------------------


def _replaced(function: Function, found: dict[Eqn, Weights]) -> Function:
    b = Builder.over(function)
    producers = {out: eqn for eqn in function.eqns for out in eqn.outputs}
    replaced: dict[Value, Value] = {}
    for old in function.eqns:
        eqn = with_inputs(old, replaced)
        if old not in found:
            b.keep(eqn)
            continue
        with b.at(old.origin):
            replaced[old.outputs[0]] = _Made(b, producers, eqn, found[old], replaced).value()
    results = [replaced.get(result, result) for result in function.results]
    return drop_dead(b.function(function.name, results))


@dataclass(slots=True)
class _Made:
    """The attention of one product of weights and values while it is made."""

    b: Builder
    producers: dict[Value, Eqn]
    eqn: Eqn
    weights: Weights
    replaced: dict[Value, Value]

    @property
    def dims(self) -> tuple[Dim, ...]:
        """The scores'."""
        return self.weights.scores.product.outputs[0].type.dims

    def value(self) -> Value:
        b, scores = self.b, self.weights.scores
        product: Any = scores.product
        q = self.turned(self.now(product.inputs[0]), product.attrs.transpose_a)
        keys, scale = self.unscaled(product.inputs[1])
        across = not product.attrs.transpose_b
        if across and (rows := self.untransposed(keys)) is not None:
            keys, across = rows, False
        (k, v), group = self.shared(self.now(keys), self.eqn.inputs[1])
        k = self.turned(k, across)
        v = self.turned(v, typed(Any, self.eqn.attrs).transpose_b)
        band, mask, fill, dropped = self.split()
        if not mask:
            band, terms = self.with_added(band)
        else:
            terms = list(scores.bias)
        operands: dict[str, Value | None] = {
            "mask": self.all_of(mask),
            "bias": self.bias(terms),
            "factor": self.factor(dropped, q.type.dtype),
            "past": band.past and self.scalar(self.now(band.past)),
        }
        given = {name: value for name, value in operands.items() if value is not None}
        attrs = AttentionAttrs(
            scores.scale * scale, band.low, band.high, group, fill if mask else None,
            **dict.fromkeys(given, True),
        )  # fmt: skip
        out, _ = b.emit(attention_op, (q, k, v, *given.values()), attrs)
        if not dropped and self.weights.number != 1:
            number = constant(b, value=self.weights.number, type=out.type)
            out = mul(b, out, number)
        return out

    def unscaled(self, keys: Value) -> tuple[Value, float]:
        """Keys before they were multiplied by a number, and the number: it scales scores."""
        eqn = self.producers.get(keys)
        if eqn is not None and eqn.op is mul:
            for value, other in (eqn.inputs, eqn.inputs[::-1]):
                number = number_of(other, self.producers)
                if number is not None:
                    return value, number
        return keys, 1.0

    def now(self, value: Value) -> Value:
        """What stands for the value by now."""
        return self.replaced.get(value, value)

    def scalar(self, x: Value) -> Value:
        """The one number that `x` is."""
        return x if x.type.rank == 0 else typed(Value, reshape(self.b, x, dims=()))

    def turned(self, x: Value, across: bool) -> Value:
        """The matrices of `x`, transposed if they lie across."""
        if not across:
            return x
        rows = self.untransposed(x)
        if rows is not None:
            return self.now(rows)
        rank = x.type.rank
        return typed(Value, transpose(self.b, x, perm=(*range(rank - 2), rank - 1, rank - 2)))

    def untransposed(self, x: Value) -> Value | None:
        """The matrices of which those of `x` are the transposes, if it is made so."""
        eqn, last = self.producers.get(x), x.type.rank - 1
        if eqn is None or eqn.op is not transpose:
            return None
        swapped = typed(Any, eqn.attrs).perm == (*range(last - 1), last, last - 1)
        return eqn.inputs[0] if swapped else None

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
            few, dims, attrs = self.now(eqn.inputs[0]), x.type.dims, typed(Any, eqn.attrs)
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
        source, axes = self.now(spread.inputs[0]), typed(Any, spread.attrs).axes
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

    def with_added(self, band: Band) -> tuple[Band, list[Term]]:
        """The bounds with those of masks that are added to the scores as large negative numbers,
        where each query sees a key all the same; and what else is added."""
        terms: list[Term] = []
        for term in self.weights.scores.bias:
            more, rest = self.bounded(self.added_mask(term))
            joined = None if rest else join(band, more)
            if joined is None or joined == band or not self.sees_something(joined):
                terms.append(term)
            else:
                band = joined
        return band, terms

    def added_mask(self, term: Term) -> list[Placed]:
        """The conditions in which the term adds 0, if it adds a large negative number elsewhere."""
        part = placed(term[0], self.producers)
        eqn = self.producers.get(part.value)
        if eqn is None or eqn.op is not select:
            return []
        condition, *sides = eqn.inputs
        for (shown, hidden), negated in ((sides, False), (sides[::-1], True)):
            number = number_of(hidden, self.producers)
            if self.is_zero(shown) and number is not None and number * term[1] <= HIDDEN:
                given = replace(part, value=condition, negated=negated)
                return parts_of(given, self.producers)
        return []

    def bias(self, given: Sequence[Term]) -> Value | None:
        terms = [(v, n) for v, n in given if not self.is_zero(v)]
        if not terms:
            return None
        if len(terms) == 1 and terms[0][1] == 1:
            term = terms[0][0]
            return self.seen(self.wide(self.aligned(placed(term, self.producers))), terms)
        total: Value | None = None
        for value, number in terms:
            value = self.wide(self.now(value))
            if number == -1:
                value = neg(self.b, value)
            elif number != 1:
                value = mul(self.b, value, constant(self.b, value=number, type=value.type))
            total = value if total is None else add(self.b, total, value)
        return total if total is None else self.seen(total, terms)

    def seen(self, bias: Value, terms: Sequence[Term]) -> Value:
        """The bias, where it is nearly the least number (as masks have it) half of that: kernels
        multiply scores by log2(e), and -inf would hide a key even from a query that sees no other.
        """
        if bias.type.dtype != "f32" or not any(self.may_be_least(value) for value, _ in terms):
            return bias
        b, bound = self.b, constant(self.b, value=NEARLY_LEAST, type=bias.type)
        half = mul(b, bias, constant(b, value=0.5, type=bias.type))
        return typed(Value, select(b, lt(b, bias, bound), half, bias))

    def may_be_least(self, value: Value) -> bool:
        """Whether the value is given as it is, or made with a number that is nearly the least."""
        if self.producers.get(placed(value, self.producers).value) is None:
            return True
        seen, waiting = {value}, [value]
        while waiting:
            number = number_of(value := waiting.pop(), self.producers)
            if number is not None and abs(number) > -NEARLY_LEAST:
                return True
            eqn = self.producers.get(value)
            moved = eqn is not None and (eqn.op.elementwise or eqn.op.view or eqn.op is broadcast)
            more = set(eqn.inputs) - seen if eqn is not None and moved else set()
            seen |= more
            waiting += more
        return False

    def is_zero(self, value: Value) -> bool:
        return number_of(value, self.producers) == 0

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
