"""Attention: `attention` is softmax(q k^T * scale + bias) v, made without its matrix of scores.

    %o: f32[N, H, T, E], %lse: f32[N, H, T] = attention[scale=0.125, low=0](%q, %k, %v)

q is [*B, T, D], k [*B, S, D], v [*B, S, E]; where `group` query heads share one head of keys and
values, the last dim of k's and v's *B is that much smaller. Behind them stand, where the attributes
say that they are there:

- `mask`, bool: whether query i sees key j. Keys that it doesn't see have weight 0; with a `fill`
  they have that score instead.
- `bias`, added to the scores; `factor`, by which the weights are multiplied (dropout).
  These three broadcast to [*B, T, S], aligned at the last dim.
- `past`, an i64 scalar: query i stands at position i + past, key j at j.

`low` and `high` bound how far behind the query a key may stand: low <= i + past - j <= high. A
causal mask is low=0, with a window of w keys high=w-1 as well. A query that sees no key (or only
scores of -inf) gets zeros. The second result is the logarithm of each row's sum of exponentials (0
where no key is seen), from which the gradient makes the weights again (Dao 2023,
arXiv:2307.08691).

Products of f16 and bf16 are summed in f32, then the dtype of bias, factor and the second result.
Nothing in the language names these ops: `passes/attention.py` finds the formula.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from dslc._lazy import lazy
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import NoFacet, Op, Sample, TypeRuleError
from dslc.ir.types import DType, TensorType, is_float
from dslc.ops.attention_formula import (
    GRADIENT_NAMES,
    AttentionAttrs,
    Formula,
    bias_and_factor_gradients,
    by_name,
    row_sums,
    score_dims,
)
from dslc.ops.cotangents import cotangents, zeros
from dslc.ops.elementwise import sub
from dslc.ops.linalg import accumulator
from dslc.ops.pointwise import Cotangents, is_narrow, tensor

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

# --- types ------------------------------------------------------------------------------------


def _check(attrs: AttentionAttrs, types: dict[str, TensorType]) -> None:
    q, k, v = types["q"], types["k"], types["v"]
    if not is_float(q.dtype) or not q.dtype == k.dtype == v.dtype:
        raise TypeRuleError(f"attention takes floats of one dtype, not {q}, {k} and {v}")
    if not 2 <= q.rank == k.rank == v.rank or attrs.group < 1:
        raise TypeRuleError(f"attention of {q}, {k} and {v}: the ranks don't fit")
    *batch, _, width = q.dims
    if attrs.group != 1:
        batch = [*k.dims[:-2]]
        shared = batch[-1] * attrs.group if batch else 0
        if q.dims[:-2] != (*batch[:-1], shared):
            raise TypeRuleError(f"{q} has not {attrs.group} heads for each of {k}")
    if k.dims != (*batch, k.dims[-2], width) or v.dims[:-1] != k.dims[:-1]:
        raise TypeRuleError(f"attention of {q}, {k} and {v}: the dims don't fit")
    wide = accumulator(q.dtype)
    dtypes: dict[str, DType] = {"mask": "bool", "bias": wide, "factor": wide}
    for name, dtype in dtypes.items():
        if name in types:
            _check_broadcast(name, types[name], TensorType(dtype, score_dims(q, k)))
    if types.get("past", TensorType("i64")) != TensorType("i64"):
        raise TypeRuleError(f"the past of attention is an i64 scalar, not {types['past']}")


def _check_broadcast(name: str, type: TensorType, scores: TensorType) -> None:
    first = scores.rank - type.rank
    fits = first >= 0 and all(d in (1, wide) for d, wide in zip(type.dims, scores.dims[first:]))
    if type.dtype != scores.dtype or not fits:
        raise TypeRuleError(f"the {name} of attention broadcasts to {scores}, not {type}")


def _attention_type(attrs: AttentionAttrs, *inputs: TensorType) -> tuple[TensorType, ...]:
    if len(inputs) != len(attrs.names):
        raise TypeRuleError(f"attention takes {', '.join(attrs.names)}")
    types = by_name(attrs, inputs)
    _check(attrs, types)
    rows = types["q"].dims[:-1]
    out = types["q"].with_dims((*rows, types["v"].dims[-1]))
    return out, TensorType(accumulator(out.dtype), rows)


def _gradient_type(attrs: AttentionAttrs, *inputs: TensorType) -> tuple[TensorType, ...]:
    count = len(attrs.names)
    out, rows = _attention_type(attrs, *inputs[:count])
    if inputs[count:] != (out, rows, rows):
        raise TypeRuleError(f"the gradient of attention takes {out}, {rows} and {rows} as well")
    return inputs[:3]


# --- the reference ----------------------------------------------------------------------------


def _wide(x: Any) -> Any:
    return x.astype(np.float32) if is_narrow(x.dtype) else x


class _Rows:
    """Scores and what is seen, in the dtype that sums are kept in."""

    def __init__(self, attrs: AttentionAttrs, arrays: tuple[Any, ...]) -> None:
        at = {name: _wide(x) for name, x in by_name(attrs, arrays).items()}
        self.attrs, self.at = attrs, at
        q, k, v = at["q"], at["k"], at["v"]
        if attrs.group != 1:
            k, v = (np.repeat(x, attrs.group, axis=-3) for x in (k, v))
        self.q, self.k, self.v = q, k, v
        self.mask = at.get("mask", np.bool_(True))
        scores = q @ np.swapaxes(k, -1, -2) * q.dtype.type(attrs.scale) + at.get("bias", 0)
        if attrs.fill is not None:
            scores = np.where(self.mask, scores, q.dtype.type(attrs.fill))
        rows, columns = np.indices((q.shape[-2], k.shape[-2]), sparse=True)
        behind = rows - columns + at.get("past", 0)
        seen = np.ones_like(scores, np.bool_)
        if attrs.low is not None:
            seen &= behind >= attrs.low
        if attrs.high is not None:
            seen &= behind <= attrs.high
        self.seen = seen if attrs.fill is not None else seen & self.mask
        self.scores = np.where(self.seen, scores, -np.inf)
        self.factor = at.get("factor", q.dtype.type(1))


def _attention_reference(attrs: AttentionAttrs, *arrays: Any) -> tuple[Any, Any]:
    rows = _Rows(attrs, arrays)
    top = rows.scores.max(axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(np.isneginf(top), 0, top)
    weights = np.exp(rows.scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    empty = total == 0
    weights = weights / np.where(empty, 1, total)
    lse = np.where(empty, 0, top + np.log(np.where(empty, 1, total)))[..., 0]
    dtype = arrays[0].dtype
    return ((weights * rows.factor) @ rows.v).astype(dtype), lse.astype(rows.q.dtype)


def _gradient_reference(attrs: AttentionAttrs, *arrays: Any) -> tuple[Any, ...]:
    rows = _Rows(attrs, arrays)
    g, lse, delta = (rows.at[name] for name in GRADIENT_NAMES)
    weights = np.where(rows.seen, np.exp(rows.scores - lse[..., None]), 0)
    products = g @ np.swapaxes(rows.v, -1, -2) * rows.factor
    moved = weights * (products - delta[..., None])
    if attrs.fill is not None:
        moved = np.where(rows.mask, moved, 0)
    scale = rows.q.dtype.type(attrs.scale)
    dq = moved @ rows.k * scale
    dk = np.swapaxes(moved, -1, -2) @ rows.q * scale
    dv = np.swapaxes(weights * rows.factor, -1, -2) @ g
    if attrs.group != 1:
        dk, dv = (
            x.reshape(*shape[:-2], attrs.group, *shape[-2:]).sum(axis=-3)
            for x, shape in ((dk, arrays[1].shape), (dv, arrays[2].shape))
        )
    return tuple(x.astype(arrays[0].dtype) for x in (dq, dk, dv))


# --- gradients --------------------------------------------------------------------------------


def _attention_gradient(b: Builder, eqn: Eqn, arriving: Cotangents) -> Cotangents:
    g, along = arriving
    attrs, (o, lse) = cast(AttentionAttrs, eqn.attrs), eqn.outputs
    if g is None and along is None:
        return (None,) * len(eqn.inputs)
    g = g if g is not None else zeros(b, o.type)
    delta = row_sums(b, g, o)
    if along is not None:
        delta = cast(Value, sub(b, delta, along))
    operands = (*eqn.inputs, g, lse, delta)
    found = dict(zip(("q", "k", "v"), b.emit(attention_gradient, operands, attrs)))
    found.update(bias_and_factor_gradients(b, attrs, operands))
    return tuple(found.get(name) for name in attrs.names)


def _second_gradient(b: Builder, eqn: Eqn, arriving: Cotangents) -> Cotangents:
    """By the formula, written out."""
    start = len(b.eqns)
    found = Formula(b, cast(AttentionAttrs, eqn.attrs), eqn.inputs).all()
    seeds = {value: g for value, g in zip(found, arriving) if g is not None}
    flowing = cotangents(b, b.eqns[start:], seeds, eqn.inputs)
    return tuple(flowing.get(value) for value in eqn.inputs)


# --- the records ------------------------------------------------------------------------------

_N = sym("N")
_WHY = "sums in another order"
_NO_COMPUTE = NoFacet(
    "a kernel of its own: lowering/kernels/attention.py, with the scores in blocks"
)


def _case(
    q: tuple[Dim, ...], k: tuple[Dim, ...], attrs: AttentionAttrs, dtype: DType = "f32",
    values: Dim = 3, **optional: tuple[Dim, ...],
) -> tuple[AttentionAttrs, tuple[TensorType, ...]]:  # fmt: skip
    """Attributes and operand types, of the optional ones by name."""
    wide = accumulator(dtype)
    dtypes: dict[str, DType] = {"mask": "bool", "bias": wide, "factor": wide, "past": "i64"}
    types = [tensor(dtype, *q), tensor(dtype, *k), tensor(dtype, *k[:-1], values)]
    types += [tensor(dtypes[name], *dims) for name, dims in optional.items()]
    return attrs, tuple(types)


_CASES = (
    _case((5, 4), (7, 4), AttentionAttrs(0.5)),
    _case((2, 3, 5, 4), (2, 3, 5, 4), AttentionAttrs(0.5, low=0), values=4),
    _case((2, _N, 4), (2, _N, 4), AttentionAttrs(0.5, low=0, high=2)),
    _case((2, 3, 4), (2, _N, 4), AttentionAttrs(0.7, low=-1, high=1, mask=True), mask=(2, 1, _N)),
    _case((2, 4, 3, 5), (2, 2, 6, 5), AttentionAttrs(0.4, low=0, group=2, past=True), past=()),
    _case(
        (2, 3, 4), (2, 6, 4), AttentionAttrs(0.5, fill=-1.5, mask=True, bias=True),
        mask=(3, 6), bias=(2, 1, 6),
    ),
    _case(
        (2, 2, 4, 3), (2, 1, 5, 3), AttentionAttrs(0.6, group=2, bias=True, factor=True),
        "f64", 2, bias=(2, 4, 5), factor=(2, 2, 4, 5),
    ),
    _case((2, 9, 8), (2, 9, 8), AttentionAttrs(0.3, low=0), "f16"),
    _case(
        (2, 9, 8), (2, 9, 8), AttentionAttrs(0.3, mask=True, bias=True), "bf16",
        mask=(9, 9), bias=(9,),
    ),
)  # fmt: skip


def _samples(gradient: bool) -> tuple[Sample, ...]:
    samples = []
    for attrs, types in _CASES:
        if gradient:
            out, rows = _attention_type(attrs, *types)
            types = (*types, out, rows, rows)
        rtol = {"f16": 4e-3, "bf16": 3e-2}.get(types[0].dtype, 1e-5)
        samples.append(Sample(types, attrs, -1.0, 1.0, int_high=3, rtol=rtol, why=_WHY))
    return tuple(samples)


attention = Op(
    "attention",
    attrs=AttentionAttrs,
    type_rule=_attention_type,
    reference=_attention_reference,
    gradient=_attention_gradient,
    compute=_NO_COMPUTE,
    samples=_samples(gradient=False),
)

# (q, k, v, ..., g, lse, delta) -> cotangents of q, k and v; `delta` is each row's sum of g * o.
attention_gradient = Op(
    "attention_gradient",
    attrs=AttentionAttrs,
    type_rule=_gradient_type,
    reference=_gradient_reference,
    gradient=_second_gradient,
    compute=_NO_COMPUTE,
    samples=_samples(gradient=True),
)

OPS: tuple[Op, ...] = (attention, attention_gradient)
