"""Constants, dims as values, and ops that change what a tensor is called: its dtype or its dims.

Meanings are NumPy's; a float that an integer type cannot hold casts to an unspecified value.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.core import Eqn, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.evaluate import numpy_dtype
from dslc.ir.op import (
    Attrs,
    Kernels,
    Op,
    Operand,
    Reader,
    Sample,
)
from dslc.ir.types import DType, TensorType, is_float, is_integer
from dslc.ops.errors import bad_static, shapes_differ
from dslc.ops.pointwise import (
    INTEGER_RESULT,
    Cotangents,
    float_samples,
    integer_samples,
    quiet,
    tensor,
)

if TYPE_CHECKING:
    import numpy as np

    from dslc.ir.builder import Builder
else:
    np = lazy("numpy")

# --- constants --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ConstantAttrs(Attrs):
    """Every element of a tensor of this type is `value`."""

    value: int | float | bool
    type: TensorType


@dataclass(frozen=True, slots=True)
class DimAttrs(Attrs):
    dim: Dim


def integer_range(dtype: DType) -> tuple[int, int]:
    bits = int(dtype[1:])
    return (0, 2**bits - 1) if dtype[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def _constant_type(attrs: ConstantAttrs) -> TensorType:
    value, dtype = attrs.value, attrs.type.dtype
    if dtype == "bool" and value not in (0, 1):
        raise bad_static(f"{value} is not a bool")
    if is_integer(dtype):
        low, high = integer_range(dtype)
        if not low <= value <= high or value != int(value):  # NaN is not between them
            raise bad_static(f"{value} is not a value of {dtype}")
    return attrs.type


def _constant_reference(attrs: ConstantAttrs) -> Any:
    return np.full(
        typing.cast(tuple[int, ...], attrs.type.dims), attrs.value, numpy_dtype(attrs.type.dtype)
    )


def _constant_compute(
    k: Kernels, attrs: ConstantAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    return lambda index: k.const(attrs.value, attrs.type.dtype)


constant = Op(
    "constant",
    attrs=ConstantAttrs,
    type_rule=_constant_type,
    reference=_constant_reference,
    gradient=lambda b, eqn, cotangents: (),
    compute=_constant_compute,
    samples=(
        Sample((), ConstantAttrs(1.5, tensor("f32", 2, 3))),
        Sample((), ConstantAttrs(-7, tensor("i64"))),
        Sample((), ConstantAttrs(True, tensor("bool", 2))),
        Sample((), ConstantAttrs(-math.inf, tensor("f16", 0, 2))),
    ),
)

dim_value = Op(
    "dim_value",
    attrs=DimAttrs,
    type_rule=lambda attrs: TensorType("i64"),
    reference=lambda attrs: np.asarray(attrs.dim, np.int64),
    gradient=INTEGER_RESULT,
    compute=lambda k, attrs, operands, outputs: lambda index: k.from_index(k.dim(attrs.dim), "i64"),
    samples=(Sample((), DimAttrs(5)), Sample((), DimAttrs(sym("N") * 2 + 1))),
)


def fill(b: Builder, value: float, type: TensorType) -> Value:
    """A constant of `type`; the helper of the gradient rules."""
    return typing.cast(Value, constant(b, value=value, type=type))


# --- change of type ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CastAttrs(Attrs):
    dtype: DType


@dataclass(frozen=True, slots=True)
class RelabelAttrs(Attrs):
    """Other expressions for the same dims, which the checker proved equal."""

    dims: tuple[Dim, ...]


def _cast_compute(
    k: Kernels, attrs: CastAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    (x,) = operands
    source = x.type.dtype
    if attrs.dtype == "bool" and source != "bool":
        return lambda index: k.compare("ne", x(index), k.const(0, source), source)
    return lambda index: k.cast(x(index), source, attrs.dtype)


def _cast_gradient(b: Builder, eqn: Eqn, g: Value) -> Cotangents:
    (x,) = eqn.inputs
    if not is_float(x.type.dtype) or not is_float(g.type.dtype):
        return (None,)
    return (typing.cast(Value, cast(b, g, dtype=x.type.dtype)),)


cast = Op(
    "cast",
    attrs=CastAttrs,
    type_rule=lambda attrs, x: x.with_dtype(attrs.dtype),
    reference=lambda attrs, x: x.astype(numpy_dtype(attrs.dtype)),
    gradient=quiet(_cast_gradient),
    compute=_cast_compute,
    samples=(
        Sample((tensor("f32", 3, 5),), CastAttrs("f64")),
        Sample((tensor("f64", 7),), CastAttrs("f32")),
        Sample((tensor("f32", 2, sym("N")),), CastAttrs("f16"), rtol=2e-3, why="f16 has 11 bits"),
        Sample((tensor("f32", 4),), CastAttrs("bf16"), rtol=2e-2, why="bf16 has 8 bits"),
        Sample((tensor("f32", 9),), CastAttrs("i32"), away=0.05),
        Sample((tensor("i64", 9),), CastAttrs("f32")),
        Sample((tensor("bool", 5),), CastAttrs("f32")),
        Sample((tensor("i32", 5),), CastAttrs("bool")),
        Sample((tensor("f32", 5),), CastAttrs("bool"), away=0.05),
        Sample((tensor("u8", 0, 2),), CastAttrs("i64")),
    ),
    elementwise=True,
)


def _identity_compute(
    k: Kernels, attrs: Attrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    return operands[0]


def _relabel_type(attrs: RelabelAttrs, x: TensorType) -> TensorType:
    if len(attrs.dims) != x.rank:
        raise shapes_differ("relabel", (x, x.with_dims(attrs.dims)))
    return x.with_dims(attrs.dims)


relabel: Op = Op(
    "relabel",
    attrs=RelabelAttrs,
    type_rule=_relabel_type,
    reference=lambda attrs, x: x,
    gradient=quiet(lambda b, eqn, g: (relabel(b, g, dims=eqn.inputs[0].type.dims),)),
    compute=_identity_compute,
    samples=(
        Sample((tensor("f32", 3, sym("N")),), RelabelAttrs((3, sym("N")))),
        Sample((tensor("i64", sym("N") * 2),), RelabelAttrs((sym("N") * 4 // 2,))),
    ),
    view=True,
)

stop_gradient = Op(
    "stop_gradient",
    type_rule=lambda attrs, x: x,
    reference=lambda attrs, x: x,
    gradient=lambda b, eqn, cotangents: (None,),  # not the derivative, but what it is for
    compute=_identity_compute,
    samples=(*float_samples(), *integer_samples("i64"), Sample((tensor("bool", 3),))),
    elementwise=True,
)

OPS: tuple[Op, ...] = (constant, dim_value, cast, relabel, stop_gradient)
