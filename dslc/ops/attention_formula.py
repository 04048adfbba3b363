"""Attention as the formula, in IR: matrix products with the whole matrix of scores between them.

Input: operands of `attention` or of its gradient, by name. Output: equations. The gradients that
need that matrix anyway come from here: those of a bias and of a factor, and second derivatives.
Non-goals: the records (`attention.py`, which says what the operands mean).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar
from typing import cast as typed

from dslc._frozen import dataclass
from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import Dim
from dslc.ir.op import Attrs
from dslc.ir.types import TensorType, is_float
from dslc.ops.broadcast import broadcast, broadcast_to, reduce_sum
from dslc.ops.constants import cast, constant, dim_value
from dslc.ops.elementwise import add, exp, mul, sub
from dslc.ops.linalg import accumulator, matmul
from dslc.ops.logic import ge, le, select
from dslc.ops.shape import iota, reshape

T = TypeVar("T")

FEW = 8  # queries of a head of keys


@dataclass(frozen=True, slots=True)
class AttentionAttrs(Attrs):
    """What `attention.py` says; the bools tell which operands there are."""

    scale: float
    low: Dim | None = None
    high: Dim | None = None
    group: int = 1
    fill: float | None = None
    mask: bool = False
    bias: bool = False
    factor: bool = False
    past: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The operands, in order."""
        optional = ("mask", "bias", "factor", "past")
        return ("q", "k", "v", *(name for name in optional if getattr(self, name)))


# Behind them, those of the gradient: the result's cotangent, the logarithms of the rows' sums, and
# the products of each row of the result with its cotangent.
GRADIENT_NAMES = ("g", "lse", "delta")


def by_name(attrs: AttentionAttrs, items: Sequence[T]) -> dict[str, T]:
    """The operands (or whatever stands beside them), those of the gradient included."""
    return dict(zip((*attrs.names, *GRADIENT_NAMES), items))


def score_dims(q: TensorType, k: TensorType) -> tuple[Dim, ...]:
    """[*B, T, S]"""
    return (*q.dims[:-1], k.dims[-2])


def has_few_queries(attrs: AttentionAttrs, q: TensorType) -> bool:
    """Whether a head of keys has so few that to read keys and values is what takes the time."""
    queries = q.dims[-2]
    return isinstance(queries, int) and queries * attrs.group <= FEW


def row_sums(b: Builder, g: Value, o: Value) -> Value:
    """The sum of g * o along the last axis, in the dtype that sums are kept in."""
    wide = accumulator(o.type.dtype)
    product = mul(b, _cast(b, g, wide), _cast(b, o, wide))
    return typed(Value, reduce_sum(b, product, axes=(o.type.rank - 1,)))


def _cast(b: Builder, x: Value, dtype: str) -> Value:
    return x if x.type.dtype == dtype else typed(Value, cast(b, x, dtype=dtype))


class Formula:
    """The gradient of attention while it is written out, in the dtype that sums are kept in."""

    def __init__(self, b: Builder, attrs: AttentionAttrs, inputs: Sequence[Value]) -> None:
        self.b, self.attrs = b, attrs
        self.given = by_name(attrs, inputs)
        self.dims = score_dims(self.given["q"].type, self.given["k"].type)
        wide = accumulator(self.given["q"].type.dtype)
        self.at = {
            name: _cast(b, value, wide) if is_float(value.type.dtype) else value
            for name, value in self.given.items()
        }
        self.k, self.v = self.repeated("k"), self.repeated("v")
        self.weights = self.made_weights()
        self.products = typed(Value, matmul(b, self.at["g"], self.v, transpose_b=True))

    # --- shapes ---------------------------------------------------------------------------------

    def spread(self, name: str) -> Value:
        """A mask, bias or factor at every score."""
        return broadcast_to(self.b, self.at[name], self.dims)

    def rows(self, name: str) -> Value:
        """A value of each row at every score of it."""
        axes = tuple(range(len(self.dims) - 1))
        return typed(Value, broadcast(self.b, self.at[name], dims=self.dims, axes=axes))

    def repeated(self, name: str) -> Value:
        """Keys or values for each query head."""
        x, group = self.at[name], self.attrs.group
        if group == 1:
            return x
        *batch, rows, columns = x.type.dims
        places = (*range(len(batch)), len(batch) + 1, len(batch) + 2)
        each = broadcast(self.b, x, dims=(*batch, group, rows, columns), axes=places)
        return typed(Value, reshape(self.b, each, dims=(*self.dims[:-2], rows, columns)))

    def folded(self, x: Value, name: str) -> Value:
        """The adjoint of `repeated`."""
        wanted, group = self.given[name].type, self.attrs.group
        if group != 1:
            *batch, rows, columns = wanted.dims
            each = reshape(self.b, x, dims=(*batch, group, rows, columns))
            x = reduce_sum(self.b, each, axes=(len(batch),))
        return _cast(self.b, x, wanted.dtype)

    def summed(self, x: Value, name: str) -> Value:
        """The adjoint of `spread`."""
        wanted = self.given[name].type
        first = len(self.dims) - wanted.rank
        stretched = [i for i, d in enumerate(wanted.dims) if d == 1 and self.dims[first + i] != 1]
        axes = (*range(first), *(first + i for i in stretched))
        if axes:
            x = reduce_sum(self.b, x, axes=axes)
        if stretched:
            x = reshape(self.b, x, dims=wanted.dims)
        return _cast(self.b, x, wanted.dtype)

    def number(self, value: float, like: Value) -> Value:
        return typed(Value, constant(self.b, value=value, type=like.type))

    def scaled(self, x: Value) -> Value:
        return typed(Value, mul(self.b, x, self.number(self.attrs.scale, x)))

    # --- the formula ------------------------------------------------------------------------------

    def made_weights(self) -> Value:
        b, attrs = self.b, self.attrs
        scores = self.scaled(matmul(b, self.at["q"], self.k, transpose_b=True))
        if attrs.bias:
            scores = add(b, scores, self.spread("bias"))
        if attrs.fill is not None and attrs.mask:
            scores = select(b, self.spread("mask"), scores, self.number(attrs.fill, scores))
        weights = exp(b, sub(b, scores, self.rows("lse")))
        for seen in self.seen():
            weights = select(b, seen, weights, self.number(0.0, weights))
        return typed(Value, weights)

    def seen(self) -> list[Value]:
        """What must hold for a weight not to be 0."""
        b, attrs = self.b, self.attrs
        conditions = [self.spread("mask")] if attrs.mask and attrs.fill is None else []
        bounds = [(ge, attrs.low), (le, attrs.high)]
        if all(bound is None for _, bound in bounds):
            return conditions
        rank = len(self.dims)
        query, key = (iota(b, dims=self.dims, axis=axis) for axis in (rank - 2, rank - 1))
        behind = sub(b, query, key)
        if attrs.past:
            behind = add(b, behind, broadcast_to(b, self.at["past"], self.dims))
        for compare, bound in bounds:
            if bound is not None:
                limit = broadcast_to(b, dim_value(b, dim=bound), self.dims)
                conditions.append(compare(b, behind, limit))
        return conditions

    def times_factor(self, x: Value) -> Value:
        return typed(Value, mul(self.b, x, self.spread("factor"))) if self.attrs.factor else x

    def scores(self) -> Value:
        """The cotangent of the scores."""
        b = self.b
        change = sub(b, self.times_factor(self.products), self.rows("delta"))
        moved = mul(b, self.weights, change)
        if self.attrs.fill is not None and self.attrs.mask:
            moved = select(b, self.spread("mask"), moved, self.number(0.0, moved))
        return typed(Value, moved)

    def all(self) -> tuple[Value, Value, Value]:
        """The cotangents of q, k and v."""
        b, scores = self.b, self.scores()
        dq = self.scaled(matmul(b, scores, self.k))
        dk = self.scaled(matmul(b, scores, self.at["q"], transpose_a=True))
        dv = matmul(b, self.times_factor(self.weights), self.at["g"], transpose_a=True)
        dtype = self.given["q"].type.dtype
        return _cast(b, dq, dtype), self.folded(dk, "k"), self.folded(dv, "v")


def bias_and_factor_gradients(
    b: Builder, attrs: AttentionAttrs, inputs: Sequence[Value]
) -> Mapping[str, Value]:
    """The cotangents of a bias and of a factor, which are as big as the scores (before they are
    summed over what the operand is broadcast along)."""
    if not (attrs.bias or attrs.factor):
        return {}
    formula, found = Formula(b, attrs, inputs), dict[str, Value]()
    if attrs.bias:
        found["bias"] = formula.summed(formula.scores(), "bias")
    if attrs.factor:
        products = mul(b, formula.weights, formula.products)
        found["factor"] = formula.summed(products, "factor")
    return found
