"""Comparisons, logic over bools, and `select`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.op import (
    Attrs,
    Kernels,
    Op,
    Operand,
    Reader,
    Sample,
    TypeRuleError,
)
from dslc.ir.types import DType, TensorType
from dslc.ops.constants import fill
from dslc.ops.errors import shapes_differ, wrong_dtype
from dslc.ops.pointwise import (
    BOOL_RESULT,
    NUMBERS,
    Cotangents,
    binary,
    binary_compute,
    check_same,
    quiet,
    repeated,
    tensor,
    unary,
)

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")

# --- comparison and logic ---------------------------------------------------------------------


def _comparison(name: str, function: Any, verb: str = "compare") -> Op:
    dtypes: tuple[DType, ...] = (*NUMBERS, "bool") if name in ("eq", "ne") else NUMBERS

    def rule(attrs: Attrs, x: TensorType, y: TensorType) -> TensorType:
        check_same(verb, (x, y))
        if x.dtype not in dtypes:
            raise wrong_dtype(verb, (x, y), "numbers")
        return x.with_dtype("bool")

    pairs: tuple[tuple[DType, tuple[Dim, ...]], ...] = (
        ("f32", (3, 5)), ("i64", (4, 7)), ("f64", ()), ("u8", (0, 2)), ("f16", (1, sym("N"))),
    )  # fmt: skip
    return Op(
        name,
        type_rule=rule,
        reference=lambda attrs, x, y: function(x, y),
        gradient=BOOL_RESULT,
        compute=binary_compute(lambda k, x, y, dtype: k.compare(name, x, y, dtype)),
        samples=tuple(Sample((tensor(d, *dims),) * 2, int_high=3) for d, dims in pairs),
        elementwise=True,
    )


eq = _comparison("eq", lambda x, y: np.equal(x, y))
ne = _comparison("ne", lambda x, y: np.not_equal(x, y))
lt = _comparison("lt", lambda x, y: np.less(x, y))
le = _comparison("le", lambda x, y: np.less_equal(x, y))
gt = _comparison("gt", lambda x, y: np.greater(x, y))
ge = _comparison("ge", lambda x, y: np.greater_equal(x, y))

_BOOLS = (Sample((tensor("bool", 3, 5),)), Sample((tensor("bool"),)), Sample((tensor("bool", 0),)))


def _logical(name: str, function: Any) -> Op:
    return binary(
        name,
        function,
        BOOL_RESULT,
        verb=f"take the logical {name} of",
        dtypes=("bool",),
        samples=repeated(_BOOLS, 2),
    )


logical_and = _logical("and", lambda x, y: np.logical_and(x, y))
logical_or = _logical("or", lambda x, y: np.logical_or(x, y))
logical_xor = _logical("xor", lambda x, y: np.logical_xor(x, y))
logical_not = unary(
    "not",
    lambda x: np.logical_not(x),
    BOOL_RESULT,
    dtypes=("bool",),
    samples=_BOOLS,
    verb="negate",
)


def _select_type(attrs: Attrs, condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    types = (condition, x, y)
    if condition.dtype != "bool":
        raise wrong_dtype("select by", types, "bool")
    try:
        check_same("select from", (x, y))
    except TypeRuleError as error:
        error.inputs = (1, 2)
        raise
    if condition.dims != x.dims:
        raise shapes_differ("select by", types)
    return x


def _select_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    condition = eqn.inputs[0]
    zero = fill(b, 0.0, g.type)
    return None, select(b, condition, g, zero), select(b, condition, zero, g)


def _select_compute(
    k: Kernels, attrs: Attrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    condition, x, y = operands
    return lambda index: k.select(condition(index), x(index), y(index))


select = Op(
    "select",
    type_rule=_select_type,
    reference=lambda attrs, condition, x, y: np.where(condition, x, y),
    gradient=quiet(_select_gradient),
    compute=_select_compute,
    samples=tuple(
        Sample((tensor("bool", *dims), *(tensor(dtype, *dims),) * 2))
        for dtype, dims in cast(
            "tuple[tuple[DType, tuple[Dim, ...]], ...]",
            (("f32", (3, 5)), ("f32", ()), ("f64", (2, sym("N"))), ("i64", (4,)), ("bool", (0,))),
        )
    ),
    elementwise=True,
)

OPS: tuple[Op, ...] = (
    eq, ne, lt, le, gt, ge, logical_and, logical_or, logical_xor, logical_not, select,
)  # fmt: skip
