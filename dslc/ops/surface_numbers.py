"""Numbers that stand in a program, as a tensor: `tensor[0.485, 0.456, 0.406]()`.

Input: numbers or dims, or tuples of them for more dims, as deep as all are. Output: equations for a
tensor of them: one constant where all are equal, else what joins one for each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

from dslc.ir.builder import Builder
from dslc.ir.core import Value
from dslc.ir.dims import Poly
from dslc.ir.op import StaticParam, Surface
from dslc.ir.types import DType, TensorType
from dslc.ops import constants, shape
from dslc.ops.broadcast import broadcast_to
from dslc.ops.errors import bad_static

MOST = 256  # more of them belong into a file of weights


def _tensor(b: Builder, statics: Mapping[str, Any], args: tuple[Value, ...]) -> Value:
    values = statics["values"]
    dims, numbers = _dims(values), list(_flat(values))
    if len(numbers) > MOST:
        raise bad_static(
            f"{len(numbers)} numbers are too many for a text ({MOST} at most)",
            help="declare a state, and load its numbers with the weights",
        )
    dtype: DType = "f32" if any(isinstance(n, float) for n in numbers) else "i64"
    dtype = statics["dtype"] or dtype
    if len(set(map(repr, numbers))) == 1:
        return everywhere(b, numbers[0], TensorType(dtype, dims))
    one = TensorType(dtype, (1,))
    joined = shape.concat(b, *(everywhere(b, n, one) for n in numbers), axis=0)
    return cast(Value, joined if len(dims) == 1 else shape.reshape(b, joined, dims=dims))


def everywhere(b: Builder, number: float | Poly, type: TensorType) -> Value:
    """A number or a dim at each place of a tensor."""
    if not isinstance(number, Poly):
        return constants.fill(b, number, type)
    size = constants.dim_value(b, dim=number)
    if type.dtype != "i64":
        size = constants.cast(b, size, dtype=type.dtype)
    return broadcast_to(b, size, type.dims)


def _dims(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple):
        return ()
    inner = {_dims(value) for value in values}
    if len(inner) != 1:
        raise bad_static(
            "these numbers make no tensor" if inner else "a tensor of no numbers is zeros[0]()",
            help="side by side stand numbers, or tuples of as many numbers each" if inner else None,
        )
    return (len(values), *inner.pop())


def _flat(values: Any) -> Iterator[float | Poly]:
    if not isinstance(values, tuple):
        yield values
        return
    for value in values:
        yield from _flat(value)


SURFACES: tuple[Surface, ...] = (
    Surface(
        "tensor",
        (),
        _tensor,
        (StaticParam("values", "numbers", required=True), StaticParam("dtype", "dtype")),
        doc="The numbers as a tensor, tuples of them as its rows: of f32, or i64 if all are whole.",
    ),
)
