"""Tensors in memory: flat buffers, and how a scalar is loaded from and stored into them.

A value lies in row-major order in a flat buffer. What it is stored as is not always what it is
computed in: bool is a byte, f16 is widened to f32, bf16 is the upper half of a f32 (kept in a u16,
because LLVM's own bf16 can't be relied on here).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc._frozen import dataclass
from dslc.ir.dims import strides_of
from dslc.ir.op import Expr, Index
from dslc.ir.types import DType, TensorType
from dslc.lowering.kernels.bits import from_bf16_bits, to_bf16_bits
from dslc.lowering.kernels.scalar import ScalarKernels

# TIR's name of the type a value is stored in.
STORED: Mapping[DType, str] = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "uint16",
    "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "u8": "uint8", "bool": "uint8",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Memory:
    """A value in a flat buffer, in row-major order; of the first `rows` dims there is only what one
    index into them has, from element `start` on."""

    buffer: Any
    type: TensorType
    rows: int = 0
    start: Expr = None

    def offset(self, k: ScalarKernels, index: Index) -> Expr:
        """Position of an element; an index of one entry is that position already when the value
        is read flat (`index` then stands for all dims)."""
        if len(index) == 1 and self.type.rank != 1:
            return index[0]
        total = k.dim(0) if self.start is None else self.start
        for i, stride in zip(index[self.rows :], strides_of(self.type.dims[self.rows :])):
            total = k.binary("add", total, k.binary("mul", i, k.dim(stride), "index"), "index")
        return total

    def load(self, k: ScalarKernels, index: Index) -> Expr:
        return widened(self.buffer[self.offset(k, index)], self.type.dtype)

    def store(self, k: ScalarKernels, index: Index, value: Expr) -> None:
        T.buffer_store(self.buffer, narrowed(value, self.type.dtype), [self.offset(k, index)])


def widened(stored: Expr, dtype: DType) -> Expr:
    """A loaded element as what it is computed in."""
    match dtype:
        case "bool":
            return tirx.NE(stored, tirx.const(0, "uint8"))
        case "f16":
            return tirx.Cast("float32", stored)
        case "bf16":
            return from_bf16_bits(stored)
        case _:
            return stored


def narrowed(value: Expr, dtype: DType) -> Expr:
    """A computed element as what it is stored in."""
    match dtype:
        case "bool":
            return tirx.Select(value, tirx.const(1, "uint8"), tirx.const(0, "uint8"))
        case "f16":
            return tirx.Cast("float16", value)
        case "bf16":
            return to_bf16_bits(T.bind(value))
        case _:
            return value
