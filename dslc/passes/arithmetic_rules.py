"""Rules of `canonicalize` about numbers: only what holds for every input, NaN, infinities and the
sign of zero included. `x + 0` is not among them: it turns -0 into 0. Only `maximum` and `minimum`,
which may give either zero of two, do so in place of a choice, too.
"""

from __future__ import annotations

from typing import cast as typed

from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Poly
from dslc.ir.rewrite import Context, Rule
from dslc.ir.types import DType, is_float
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import CastAttrs, DimAttrs, cast, constant, dim_value, stop_gradient
from dslc.ops.elementwise import add, div, maximum, minimum, mul, neg, power_op, relu, sub
from dslc.ops.logic import ge, gt, le, logical_and, logical_not, logical_or, lt, select
from dslc.ops.shape import IotaAttrs, iota, reshape
from dslc.passes.match import constant_of, is_number, producer_of

# Casts that lose nothing, and so can be undone or jumped over.
_WIDER: dict[DType, tuple[DType, ...]] = {
    "bool": ("u8", "i8", "i16", "i32", "i64", "f16", "bf16", "f32", "f64"),
    "u8": ("i16", "i32", "i64", "f16", "bf16", "f32", "f64"),
    "i8": ("i16", "i32", "i64", "f16", "bf16", "f32", "f64"),
    "i16": ("i32", "i64", "f32", "f64"),
    "i32": ("i64", "f64"),
    "f16": ("f32", "f64"),
    "bf16": ("f32", "f64"),
    "f32": ("f64",),
}


def neutral(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """x * 1, 1 * x, x / 1, x - 0, x + -0 (and x + 0 of integers)."""
    if eqn.op not in (mul, div, sub, add):
        return None
    x, y = eqn.inputs
    zero = -0.0 if eqn.op is add and is_float(x.type.dtype) else 0
    number = 1 if eqn.op in (mul, div) else zero
    if is_number(y, number, context):
        return x
    if eqn.op in (mul, add) and is_number(x, number, context):
        return y
    return None


def twice(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """-(-x), not not x, relu(relu(x))."""
    if eqn.op not in (neg, logical_not, relu):
        return None
    inner = producer_of(eqn.inputs[0], eqn.op, context)
    if inner is None:
        return None
    return eqn.inputs[0] if eqn.op is relu else inner.inputs[0]


def small_power(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """x ** 1 and x ** 2."""
    if eqn.op is not power_op:
        return None
    x, exponent = eqn.inputs
    if is_number(exponent, 1, context):
        return x
    if is_number(exponent, 2, context):
        return typed(Value, mul(b, x, x))
    return None


def known_choice(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """select of a known condition, or between equals."""
    if eqn.op is not select:
        return None
    condition, x, y = eqn.inputs
    if x is y:
        return x
    known = constant_of(condition, context)
    return None if known is None else (x if known else y)


def cut(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """select of a number where x is beyond it, else of x: a maximum or minimum."""
    if eqn.op is not select:
        return None
    condition, bound, x = eqn.inputs
    compared, number = context.producer(condition), constant_of(bound, context)
    if compared is None or compared.op not in _CUTS or compared.inputs[0] is not x:
        return None
    if number is None or not is_number(compared.inputs[1], number, context):  # NaN is no number
        return None
    return typed(Value, _CUTS[compared.op](b, x, bound))


_CUTS = {lt: maximum, le: maximum, gt: minimum, ge: minimum}


def known_logic(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """x and true, x or false, x and x."""
    if eqn.op not in (logical_and, logical_or):
        return None
    x, y = eqn.inputs
    if x is y:
        return x
    for value, other in ((x, y), (y, x)):
        known = constant_of(value, context)
        if known is not None:
            return other if known == (eqn.op is logical_and) else value
    return None


def index_within(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """i < n, where i are the indices of an axis that is not longer than n."""
    if eqn.op is not lt:
        return None
    left, right = (_spread_from(value, context) for value in eqn.inputs)
    if left is None or left.op is not iota or right is None:
        return None
    indices = typed(IotaAttrs, left.attrs)
    count: object = constant_of(right.outputs[0], context)
    if right.op is dim_value:
        count = typed(DimAttrs, right.attrs).dim
    if not isinstance(count, int | Poly):
        return None
    room = count - indices.dims[indices.axis]
    if not isinstance(room, int) or room < 0:
        return None
    return typed(Value, constant(b, value=True, type=eqn.outputs[0].type))


def _spread_from(value: Value, context: Context) -> Eqn | None:
    """What makes the elements that the value repeats."""
    eqn = context.producer(value)
    while eqn is not None and eqn.op in (broadcast, reshape):
        eqn = context.producer(eqn.inputs[0])
    return eqn


def cast_chain(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A cast to the same dtype, and a cast of a cast that lost nothing."""
    if eqn.op is not cast:
        return None
    (x,) = eqn.inputs
    target = typed(CastAttrs, eqn.attrs).dtype
    if x.type.dtype == target:
        return x
    inner = producer_of(x, cast, context)
    if inner is None:
        return None
    (source,) = inner.inputs
    if x.type.dtype not in _WIDER.get(source.type.dtype, ()):
        return None
    return source if source.type.dtype == target else typed(Value, cast(b, source, dtype=target))


def gradient_marks(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """stop_gradient, which says nothing any more once gradients are made."""
    return eqn.inputs[0] if eqn.op is stop_gradient else None


RULES: tuple[Rule, ...] = (
    neutral,
    twice,
    small_power,
    known_choice,
    cut,
    known_logic,
    index_within,
    cast_chain,
    gradient_marks,
)
