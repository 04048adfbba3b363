"""Tensor types of the IR: a dtype and dims.

`TensorType("f32", (N, 32))` prints as `f32[N, 32]`; a scalar is `f32[]`. Dims are `int` or
`Poly` (see `dims.py`); two types are equal when dtype and dims' normal forms are equal.
Nothing here knows NumPy: the names of NumPy's dtypes live with the evaluator.
"""

from __future__ import annotations

from typing import Literal

from dslc._frozen import dataclass
from dslc.ir.dims import Dim, Poly, product

DType = Literal["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"]

FLOATS: tuple[DType, ...] = ("f64", "f32", "f16", "bf16")
SIGNED: tuple[DType, ...] = ("i64", "i32", "i16", "i8")
INTEGERS: tuple[DType, ...] = (*SIGNED, "u8")
DTYPES: tuple[DType, ...] = (*FLOATS, *INTEGERS, "bool")

# Bytes of one element; a bool takes one byte, as in NumPy.
ITEMSIZE: dict[DType, int] = {
    "f64": 8, "f32": 4, "f16": 2, "bf16": 2,
    "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1,
}  # fmt: skip


def is_float(dtype: DType) -> bool:
    return dtype in FLOATS


def is_integer(dtype: DType) -> bool:
    return dtype in INTEGERS


@dataclass(frozen=True, slots=True)
class TensorType:
    """dtype and dims of a tensor; `dims` is empty for a scalar."""

    dtype: DType
    dims: tuple[Dim, ...] = ()

    @property
    def rank(self) -> int:
        return len(self.dims)

    @property
    def size(self) -> Dim:
        """Number of elements."""
        return product(self.dims)

    @property
    def nbytes(self) -> Dim:
        return self.size * ITEMSIZE[self.dtype]

    @property
    def is_static(self) -> bool:
        return not any(isinstance(dim, Poly) for dim in self.dims)

    def with_dims(self, dims: tuple[Dim, ...]) -> TensorType:
        return TensorType(self.dtype, dims)

    def with_dtype(self, dtype: DType) -> TensorType:
        return TensorType(dtype, self.dims)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.dims))}]"
