"""Random numbers: counter-based, so that a seed gives the same ones on every device.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): element e of
a tensor is word e % 4 of block e // 4, which the seed (the key), the equation's stream and the
step (parts of the counter) choose. No state is kept anywhere. Uniform numbers are the upper 24
bits, so every value is a multiple of 2**-24 in [0, 1); normal ones come from two uniform ones by
Box and Muller's transform.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from dslc._frozen import dataclass
from dslc._lazy import lazy
from dslc.ir.dims import Dim
from dslc.ir.op import (
    Attrs,
    Expr,
    Index,
    Kernels,
    NoFacet,
    Op,
    Operand,
    Reader,
    Sample,
    TypeRuleError,
)
from dslc.ir.types import TensorType

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy("numpy")

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
MASK = 0xFFFFFFFF
CHUNK = 1 << 13

# (key, stream, step, first, count) -> numbers in [0, 1)
Units = Callable[[int, int, int, int, int], Any]


@dataclass(frozen=True, slots=True)
class RandomAttrs(Attrs):
    """`stream`, an integer, tells apart the random equations of a program; where kernels are made
    it is a variable, so that those that draw from different streams are one (`lowering/shared.py`).
    """

    dims: tuple[Dim, ...] = ()
    stream: Dim = 0


def philox_rounds(words: list[Any], key: tuple[int, int]) -> list[Any]:
    """The ten rounds: four words of a counter (u64 arrays of u32 values) to four random ones."""
    k0, k1 = key
    for _ in range(ROUNDS):
        a = words[0] * np.uint64(MULTIPLIERS[0])
        b = words[2] * np.uint64(MULTIPLIERS[1])
        first, third = b >> np.uint64(32), a >> np.uint64(32)
        for word, other, part in ((first, words[1], k0), (third, words[3], k1)):
            word ^= other
            word ^= np.uint64(part)
        for word in (a, b):
            word &= np.uint64(MASK)
        words = [first, b, third, a]
        k0, k1 = (k0 + WEYL[0]) & MASK, (k1 + WEYL[1]) & MASK
    return words


def philox(key: int, stream: int, step: int, counters: Any) -> Any:
    """The numbers `counters` (u64 array) of a stream, as a u64 array of values below 2**32."""
    words = _of_blocks(key, stream, step, counters // np.uint64(4))
    return np.choose((counters % np.uint64(4)).astype(np.int64), words)


def units(key: int, stream: int, step: int, first: int, count: int) -> Any:
    """The numbers of `count` counters from `first` on, both multiples of four, as f32 in [0, 1)."""
    blocks = np.arange(first // 4, (first + count) // 4, dtype=np.uint64)
    numbers = np.stack(_of_blocks(key, stream, step, blocks), axis=-1).reshape(-1)
    # The upper 24 of 32 bits. NumPy makes floats of i32 many times as fast as of u64.
    return (numbers >> np.uint64(8)).astype(np.int32).astype(np.float32) * np.float32(2**-24)


def _of_blocks(key: int, stream: int, step: int, blocks: Any) -> list[Any]:
    """The four numbers of each block."""
    words = [
        blocks & np.uint64(MASK),
        blocks >> np.uint64(32),
        np.full(blocks.shape, stream & MASK, np.uint64),
        np.full(blocks.shape, step & MASK, np.uint64),
    ]
    return philox_rounds(words, (key & MASK, (key >> 32) & MASK))


def _random_type(attrs: RandomAttrs, seed: TensorType, step: TensorType) -> TensorType:
    for name, type in (("seed", seed), ("step", step)):
        if type != TensorType("i64"):
            raise TypeRuleError(f"the {name} of random numbers is an i64 scalar, not {type}")
    return TensorType("f32", attrs.dims)


def uniform(attrs: RandomAttrs, seed: Any, step: Any, units: Units = units) -> Any:
    """Numbers in [0, 1)."""
    return _filled(attrs, seed, step, units, 1, lambda each: each[:, 0])


def normal(attrs: RandomAttrs, seed: Any, step: Any, units: Units = units) -> Any:
    """Normal numbers, from two uniform ones each."""

    def box_muller(pair: Any) -> Any:
        # 1 - u lies in (0, 1], where the logarithm is finite.
        radius = np.sqrt(np.float32(-2) * np.log(np.float32(1) - pair[:, 0]))
        return radius * np.cos(np.float32(2 * np.pi) * pair[:, 1])

    return _filled(attrs, seed, step, units, 2, box_muller)


def _filled(
    attrs: RandomAttrs,
    seed: Any,
    step: Any,
    units: Units,
    per_element: int,
    make: Callable[[Any], Any],
) -> Any:
    """A tensor of what `make` makes of `per_element` numbers in [0, 1) for each element; of so many
    at a time that all lie in the cache."""
    made = np.empty(cast(tuple[int, ...], attrs.dims), np.float32)
    flat = made.reshape(-1)
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        count = -(-part.size // 4) * 4 * per_element
        numbers = units(int(seed), cast(int, attrs.stream), int(step), start * per_element, count)
        part[:] = make(numbers.reshape(-1, per_element))[: part.size]
    return made


def _linear(k: Kernels, index: Index, dims: Sequence[Dim]) -> Expr:
    """The row-major position of an element."""
    position = k.dim(0)
    for i, dim in zip(index, dims):
        position = k.binary("mul", position, k.dim(dim), "index")
        position = k.binary("add", position, i, "index")
    return position


def _unit_at(k: Kernels, attrs: RandomAttrs, operands: Sequence[Operand], counter: Expr) -> Expr:
    seed, step = (operand(()) for operand in operands)
    number = k.philox(seed, k.dim(attrs.stream), step, counter)
    upper = k.binary("floordiv", number, k.const(256, "i64"), "i64")
    return k.binary("mul", k.cast(upper, "i64", "f32"), k.const(2**-24, "f32"), "f32")


def _uniform_compute(
    k: Kernels, attrs: RandomAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    return lambda index: _unit_at(k, attrs, operands, _linear(k, index, attrs.dims))


def _normal_compute(
    k: Kernels, attrs: RandomAttrs, operands: Sequence[Operand], outputs: Sequence[TensorType]
) -> Reader:
    def read(index: Index) -> Expr:
        first = k.binary("mul", _linear(k, index, attrs.dims), k.dim(2), "index")
        u = _unit_at(k, attrs, operands, first)
        v = _unit_at(k, attrs, operands, k.binary("add", first, k.dim(1), "index"))
        log = k.unary("log", k.binary("sub", k.const(1, "f32"), u, "f32"), "f32")
        radius = k.unary("sqrt", k.binary("mul", k.const(-2, "f32"), log, "f32"), "f32")
        angle = k.binary("mul", k.const(6.2831853071795864, "f32"), v, "f32")
        return k.binary("mul", radius, k.unary("cos", angle, "f32"), "f32")

    return read


_SCALAR = TensorType("i64")
_SAMPLES = tuple(
    Sample((_SCALAR, _SCALAR), RandomAttrs(dims, stream), rtol=1e-4, why="cos of up to 2 pi in f32")
    for dims, stream in (((3, 5), 0), ((), 1), ((0, 4), 2), ((1023,), 7))
)
_NO_GRADIENT = NoFacet("random numbers depend on integers alone")

random_uniform = Op(
    "random_uniform",
    attrs=RandomAttrs,
    type_rule=_random_type,
    reference=uniform,
    gradient=_NO_GRADIENT,
    compute=_uniform_compute,
    samples=_SAMPLES,
)

random_normal = Op(
    "random_normal",
    attrs=RandomAttrs,
    type_rule=_random_type,
    reference=normal,
    gradient=_NO_GRADIENT,
    compute=_normal_compute,
    samples=_SAMPLES,
)

OPS: tuple[Op, ...] = (random_uniform, random_normal)
