"""The scores of an attention inside of a kernel: one at a time, at (batch index, query, key).

Input: a group of kind `attention` while it is emitted. Output: expressions, in the dtype that
sums are kept in. Mask, bias and factor are computed where they are asked for, from whatever the
group fused; what is the same for all of a block (its bounds) is asked for once. Non-goals: loops
(`attention.py` for all targets' plain ones, the templates of `schedules/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.diagnostics import InternalError
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, strides_of
from dslc.ir.op import Expr, Index
from dslc.ir.types import DType
from dslc.lowering.grouping.group import Group
from dslc.lowering.grouping.moves import Strided, placed
from dslc.lowering.grouping.operands import scores_of
from dslc.lowering.kernels.graph import Graph
from dslc.lowering.kernels.scalar import ScalarKernels
from dslc.lowering.kernels.sizes import i64
from dslc.ops.attention_formula import AttentionAttrs, by_name
from dslc.ops.linalg import accumulator

# Below any score, and a number: the largest score so far, before there is one.
LOWEST: Mapping[DType, float] = {"f32": -3.0e38, "f64": -1.0e308}
# What hides a key is often f32's least number, which times log2(e) is none: it is brought nearer,
# where it is as far below every score, and above `LOWEST`.
_FARTHEST = 2.0e38


def anchor_of(group: Group) -> Eqn:
    """The equation of a group of kind `attention`."""
    if group.anchor is None or not isinstance(group.anchor.attrs, AttentionAttrs):
        raise InternalError("a group of kind attention without its equation")
    return group.anchor


class Scores:
    """`batch` is the index of a query before its row; of keys and values it is `shared(batch)`."""

    def __init__(self, group: Group, graph: Graph) -> None:
        self.k: ScalarKernels = graph.k
        self.group, self.graph, self.eqn = group, graph, anchor_of(group)
        self.attrs = cast(AttentionAttrs, self.eqn.attrs)
        self.values: dict[str, Value] = by_name(self.attrs, self.eqn.inputs)
        self.dtype: DType = accumulator(self.values["q"].type.dtype)
        self.dims = scores_of(self.eqn)

    # --- sizes ------------------------------------------------------------------------------------

    @property
    def batch(self) -> tuple[Dim, ...]:
        """Dims before the rows of queries."""
        return self.dims[:-2]

    @property
    def shared_batch(self) -> tuple[Dim, ...]:
        """Dims before the rows of keys and values."""
        return self.values["k"].type.dims[:-2]

    @property
    def queries(self) -> Dim:
        return self.dims[-2]

    @property
    def keys(self) -> Dim:
        return self.dims[-1]

    def width(self, name: str) -> Dim:
        return self.values[name].type.dims[-1]

    def shared(self, batch: Index) -> Index:
        """The batch index of the keys and values that a query head reads."""
        if self.attrs.group == 1:
            return batch
        group = self.k.dim(self.attrs.group)
        return (*batch[:-1], self.k.binary("floordiv", batch[-1], group, "index"))

    def sharing(self, shared: Index, member: Expr) -> Index:
        """The batch index of one of the query heads that read keys and values at `shared`."""
        if self.attrs.group == 1:
            return shared
        group = self.k.dim(self.attrs.group)
        first = self.k.binary("mul", shared[-1], group, "index")
        return (*shared[:-1], self.k.binary("add", first, member, "index"))

    # --- which keys a query may see by where they stand -------------------------------------------

    def past(self) -> Expr:
        """The position of the first query, an index expression."""
        if not self.attrs.past:
            return self.k.dim(0)
        return self.k.index(self.graph.at(self.values["past"], ()))

    def key_range(self, first: Expr, last: Expr) -> tuple[Expr, Expr]:
        """The keys `[start, stop)` that some query of `first..last` may see by its position, for
        one query exactly those. When there are none, stop <= start."""
        start, stop = self.k.dim(0), self.k.dim(self.keys)
        if self.attrs.high is not None:
            start = tirx.max(start, first + self.past() - self.k.dim(self.attrs.high))
        if self.attrs.low is not None:
            stop = tirx.min(stop, last + self.past() - self.k.dim(self.attrs.low) + i64(1))
        return self._bound(start), self._bound(stop)

    def query_range(self, first: Expr, last: Expr) -> tuple[Expr, Expr]:
        """The queries that may see some key of `first..last`, as `key_range`."""
        start, stop = self.k.dim(0), self.k.dim(self.queries)
        if self.attrs.low is not None:
            start = tirx.max(start, first + self.k.dim(self.attrs.low) - self.past())
        if self.attrs.high is not None:
            stop = tirx.min(stop, last + self.k.dim(self.attrs.high) - self.past() + i64(1))
        return self._bound(start), self._bound(stop)

    def _bound(self, value: Expr) -> Expr:
        return self.k.intern(value if isinstance(value, tirx.IntImm) else T.bind(value))

    # --- one score --------------------------------------------------------------------------------

    def element(self, name: str, index: Index) -> Expr:
        """An operand at an index of its own."""
        return self.graph.at(self.values[name], index)

    def at_score(self, name: str, batch: Index, query: Expr, key: Expr) -> Expr:
        """A mask, bias or factor at a score."""
        dims, index = self.values[name].type.dims, (*batch, query, key)
        zero = self.k.dim(0)
        places = zip(dims, index[len(index) - len(dims) :])
        return self.element(name, tuple(zero if dim == 1 else at for dim, at in places))

    def store(self, value: Value, index: Index, result: Expr) -> None:
        """Stores an element of a result, wherever the group keeps it, if it does."""
        kept, axes = placed(self.group, value)
        if kept in self.graph.memory:
            self.graph.memory[kept].store(self.k, tuple(index[axis] for axis in axes), result)

    def kept(self, value: Value) -> Strided:
        """Where the group keeps a result."""
        kept, axes = placed(self.group, value)
        strides = strides_of(kept.type.dims)
        return Strided(kept, tuple(strides[axes.index(axis)] for axis in range(len(axes))), 0)

    def constant(self, value: float) -> Expr:
        return self.k.const(value, self.dtype)

    def score(self, batch: Index, query: Expr, key: Expr, product: Expr) -> Expr:
        """The score, from the product of query and key: scaled, with its bias; what it is where the
        mask hides the key (-inf where that has no weight). The band is not looked at."""
        score = product * self.constant(self.attrs.scale)
        if self.attrs.bias:
            score = score + self.at_score("bias", batch, query, key)
        if not self.attrs.mask:
            return score
        hidden = float("-inf")
        if self.attrs.fill is not None:
            hidden = min(max(self.attrs.fill, -_FARTHEST), _FARTHEST)
        seen = self.at_score("mask", batch, query, key)
        return self.k.select(seen, self.k.bind(score), self.constant(hidden))

    def times_factor(self, value: Expr, batch: Index, query: Expr, key: Expr) -> Expr:
        """`value` times the factor of the weight there."""
        if not self.attrs.factor:
            return value
        return value * self.at_score("factor", batch, query, key)

    def score_gradient(
        self, batch: Index, query: Expr, key: Expr, weight: Expr, product: Expr, delta: Expr
    ) -> Expr:
        """The cotangent of the scaled product of query and key, from the weight, the product of the
        result's cotangent with the value, and the row's delta."""
        change = self.times_factor(product, batch, query, key) - delta
        return self.where_seen(weight * change, batch, query, key)

    def where_seen(self, moved: Expr, batch: Index, query: Expr, key: Expr) -> Expr:
        """A score's cotangent; 0 where the mask puts `fill` in its place."""
        if self.attrs.fill is None or not self.attrs.mask:
            return moved
        seen = self.at_score("mask", batch, query, key)
        return self.k.select(seen, self.k.bind(moved), self.constant(0.0))
