"""Computes at compile time what depends on constants alone.

Input and output: a Function. A constant is one value everywhere, so an element-wise op or a move of
elements over constants gives a constant of any size, dynamic dims included; other ops are run by
their reference meaning when their result is small, and folded when it is one value everywhere.
Non-goals: tensors of many values (there is no op for them), random numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dslc._lazy import lazy
from dslc.ir.builder import Builder
from dslc.ir.core import Eqn, Function, Value
from dslc.ir.evaluate import concrete, numpy_dtype
from dslc.ir.op import attrs_symbols
from dslc.ir.rewrite import Context, Rule, rewrite
from dslc.ir.types import TensorType, is_float
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import constant, dim_value
from dslc.ops.shape import reshape, transpose
from dslc.ops.slicing import slice_
from dslc.passes.match import constant_of

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

MOVES = (broadcast, reshape, transpose, slice_)
# Elements of a result that is worth computing here.
SMALL = 4096


def fold(function: Function) -> Function:
    return rewrite(function, RULES)


def fold_dim(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A dim that is a number by now."""
    dim = getattr(eqn.attrs, "dim", None)
    if eqn.op is not dim_value or not isinstance(dim, int):
        return None
    made: Value = constant(b, value=dim, type=eqn.outputs[0].type)
    return made


def fold_move(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """A constant in another shape."""
    if eqn.op not in MOVES or (found := constant_of(eqn.inputs[0], context)) is None:
        return None
    made: Value = constant(b, value=found, type=eqn.outputs[0].type)
    return made


def fold_elementwise(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """The op on one element stands for all."""
    if not eqn.op.elementwise or (scalars := _scalars(eqn, context)) is None:
        return None
    return _as_constant(eqn, b, scalars)


def fold_small(eqn: Eqn, b: Builder, context: Context) -> Value | None:
    """Anything else (a reduction, a product), when it is small."""
    if not all(_is_small(value.type) for value in (*eqn.inputs, *eqn.outputs)):
        return None
    if attrs_symbols(eqn.attrs) or (scalars := _scalars(eqn, context)) is None:
        return None
    arrays = [np.broadcast_to(s, concrete(v.type, {})) for s, v in zip(scalars, eqn.inputs)]
    return _as_constant(eqn, b, arrays)


def _is_small(type: TensorType) -> bool:
    size = type.size
    return isinstance(size, int) and size <= SMALL


def _scalars(eqn: Eqn, context: Context) -> list[Any] | None:
    """The inputs' one values as arrays of rank 0; None when one is no constant."""
    if not eqn.inputs or len(eqn.outputs) != 1:
        return None
    values = [constant_of(value, context) for value in eqn.inputs]
    if any(value is None for value in values):
        return None
    dtypes = [numpy_dtype(value.type.dtype) for value in eqn.inputs]
    return [np.asarray(value).astype(dtype) for value, dtype in zip(values, dtypes)]


def _as_constant(eqn: Eqn, b: Builder, arrays: list[Any]) -> Value | None:
    with np.errstate(all="ignore"):
        result = np.asarray(eqn.op.reference(eqn.attrs, *arrays))
    type = eqn.outputs[0].type
    if not result.size:
        return None
    first = result.reshape(-1)[0]
    if not np.array_equal(result, np.broadcast_to(first, result.shape)):
        return None
    value = float(first) if is_float(type.dtype) else first.item()
    made: Value = constant(b, value=value, type=type)
    return made


RULES: tuple[Rule, ...] = (fold_dim, fold_move, fold_elementwise, fold_small)
