"""Sums of products in vectors: multiply-adds of floats, or dot products of pairs of bf16.

A template's `dtype` is "float32", "float64" or PAIRS: two bf16 side by side, handled as one int32,
whose products are added to a float32 sum by one instruction (AVX512_BF16's vdpbf16ps: products are
exact, subnormal numbers count as 0). LLVM doesn't find that instruction by itself and TVM takes no
vectors of bf16, so the function around it is LLVM IR, imported into each kernel that uses it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.tirx.script import builder as T

from dslc.schedules.cpu.tiles.machine import PAIRS as PAIRS

Expr = Any  # a TIR expression

# What is widened when it is loaded, beside the float32 that it is multiplied by: one bf16, or an
# integer.
HALF = "uint16"
WIDENED = (HALF, "int8")
_LANES = 16
_LLVM_IR = """
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)

define linkonce_odr <16 x float> @dslc_dot_bf16(
    <16 x float> %sum, <16 x i32> %a, <16 x i32> %b) #0 {
  %x = bitcast <16 x i32> %a to <32 x bfloat>
  %y = bitcast <16 x i32> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(
      <16 x float> %sum, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}

attributes #0 = { alwaysinline nounwind "target-features"="+avx512f,+avx512bw,+avx512bf16" }
"""


def stored(dtype: str) -> str:
    """What a buffer of `dtype` holds."""
    return "int32" if dtype == PAIRS else dtype


def summed(dtype: str) -> str:
    """What products of `dtype` are summed in."""
    return "float32" if dtype == PAIRS else dtype


def zero(dtype: str) -> Expr:
    """A 0 to be stored."""
    return tirx.const(0, stored(dtype))


def plus_product(dtype: str, total: Expr, x: Expr, y: Expr) -> Expr:
    """total + x * y, lane by lane; of pairs both products."""
    if dtype != PAIRS:
        return total + x * y
    return tirx.call_pure_extern(f"float32x{_LANES}", "dslc_dot_bf16", total, x, y)


def widened(vector: Expr, dtype: str, lanes: int) -> Expr:
    """The float32s that a vector of one of WIDENED stands for; any other vector as it is."""
    if dtype not in WIDENED:
        return vector
    if dtype != HALF:
        return tirx.Cast(f"float32x{lanes}", vector)
    sixteen = tirx.Broadcast(tirx.const(16, "uint32"), lanes)
    bits = tirx.shift_left(tirx.Cast(f"uint32x{lanes}", vector), sixteen)
    return tirx.reinterpret(f"float32x{lanes}", bits)


@contextmanager
def imported(dtype: str, more: str = "") -> Iterator[None]:
    """Around the body of a kernel that works on `dtype`; `more`: other LLVM IR that it needs."""
    if dtype != PAIRS:
        yield
        return
    with T.attr(tirx.const(0, "int32"), "pragma_import_llvm", _LLVM_IR + more):
        yield
