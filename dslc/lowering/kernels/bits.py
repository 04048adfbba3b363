"""Arithmetic on bits: Philox random numbers, and bf16 as the upper half of a f32, as TIR."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx

from dslc.ir.op import Expr
from dslc.lowering.kernels.sizes import i64

Bind = Callable[[Expr], Expr]


def philox_number(bind: Bind, key: Expr, stream: Expr, step: Expr, counter: Expr) -> Expr:
    """Number `counter` of a Philox4x32-10 stream, as `Kernels.philox` says: an i64 in [0, 2**32).

    All four words of the block are computed and one is taken.
    """
    block = bind(tirx.shift_right(counter, i64(2)))
    words = [_u32(block), _u32(tirx.shift_right(block, i64(32)))]
    words += [_u32(stream), _u32(step)]
    keys = [_u32(key), _u32(tirx.shift_right(key, i64(32)))]
    for _ in range(10):
        words = [bind(word) for word in _philox_round(words, keys)]
        keys = [bind(_wrapping_sum(k, by)) for k, by in zip(keys, (0x9E3779B9, 0xBB67AE85))]
    word = bind(tirx.bitwise_and(counter, i64(3)))
    low = tirx.Select(tirx.EQ(word, i64(0)), words[0], words[1])
    high = tirx.Select(tirx.EQ(word, i64(2)), words[2], words[3])
    return bind(tirx.Cast("int64", tirx.Select(tirx.LT(word, i64(2)), low, high)))


def _const32(value: int) -> Expr:
    return tirx.const(value, "uint32")


def _wrapping_sum(value: Expr, by: int) -> Expr:
    """A sum modulo 2**32. TVM tells LLVM that a sum of u32 never wraps, so that it may not."""
    wide = tirx.Cast("uint64", value) + tirx.const(by, "uint64")
    return _u32(tirx.bitwise_and(wide, tirx.const(0xFFFFFFFF, "uint64")))


def _u32(value: Expr) -> Expr:
    return tirx.Cast("uint32", value)


def _philox_round(words: list[Expr], keys: list[Expr]) -> list[Expr]:
    a = tirx.Cast("uint64", words[0]) * tirx.const(0xD2511F53, "uint64")
    b = tirx.Cast("uint64", words[2]) * tirx.const(0xCD9E8D57, "uint64")
    shift, low = tirx.const(32, "uint64"), tirx.const(0xFFFFFFFF, "uint64")
    high_a, high_b = _u32(tirx.shift_right(a, shift)), _u32(tirx.shift_right(b, shift))
    return [
        tirx.bitwise_xor(tirx.bitwise_xor(high_b, words[1]), keys[0]),
        # Masked first: TVM refuses to fold the cast of a constant that doesn't fit.
        _u32(tirx.bitwise_and(b, low)),
        tirx.bitwise_xor(tirx.bitwise_xor(high_a, words[3]), keys[1]),
        _u32(tirx.bitwise_and(a, low)),
    ]


def to_bf16_bits(value: Expr) -> Expr:
    """The upper half of a f32, rounded to nearest even; NaN stays NaN. Gives a u16."""
    bits = tirx.reinterpret("uint32", value)
    odd = tirx.bitwise_and(tirx.shift_right(bits, _const32(16)), _const32(1))
    rounded = tirx.shift_right(bits + _const32(0x7FFF) + odd, _const32(16))
    return tirx.Cast("uint16", tirx.Select(tirx.isnan(value), _const32(0x7FC0), rounded))


def from_bf16_bits(bits: Expr) -> Expr:
    """A f32 of the u16 that holds its upper half."""
    return tirx.reinterpret("float32", tirx.shift_left(_u32(bits), _const32(16)))
