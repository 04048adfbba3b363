"""Entries that `put` into a cache, in place or not, for tests on CPU and CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from dslc.ir.builder import Builder
from dslc.ir.core import Argument, Entry, Value
from dslc.ir.dims import sym
from dslc.ir.types import TensorType
from dslc.ops import BY_NAME as OPS

N, T = sym("N"), sym("T")


def f32(*dims: Any) -> TensorType:
    return TensorType("f32", dims)


def _entry(build: Callable[..., list[Value]], outputs: int, updates: bool = True) -> Entry:
    """`build(b, cache, new, at)` over a cache of 4 sequences of 7 places in 2 heads."""
    b = Builder()
    cache, new = b.param("cache", f32(4, 2, 7, 3)), b.param("new", f32(N, T, 6))
    at = b.param("at", TensorType("i64", (N,)))
    function = b.function(build.__name__.strip("_"), build(b, cache, new, at))
    arguments = (Argument("cache", "state"), Argument("new", "input"), Argument("at", "input"))
    names = tuple(f"result_{i}" for i in range(outputs))
    return Entry(function.name, function, arguments, names, ("cache",) if updates else ())


def _put(b: Builder, cache: Value, new: Value, at: Value) -> Value:
    """Heads of `new` at `at` of each sequence."""
    heads = OPS["transpose"](b, OPS["reshape"](b, new, dims=(N, T, 2, 3)), perm=(0, 2, 1, 3))
    result: Value = OPS["put"](b, cache, heads, at, axis=2)
    return result


def _first(b: Builder, x: Value) -> Value:
    """The sequences that there are."""
    dims = x.type.dims[1:]
    result: Value = OPS["slice"](b, x, starts=(0,) * 4, stops=(N, *dims), steps=(1,) * 4)
    return result


def _of_all(b: Builder, x: Value) -> Value:
    result: Value = OPS["matmul"](b, x, x, transpose_b=True)
    return result


def _cached(b: Builder, cache: Value, new: Value, at: Value) -> list[Value]:
    made = _put(b, cache, new, at)
    return [_of_all(b, _first(b, made)), made]


def _read_late(b: Builder, cache: Value, new: Value, at: Value) -> list[Value]:
    made = _put(b, cache, new, at)
    return [OPS["add"](b, OPS["reduce_sum"](b, _of_all(b, made), axes=(3,)), _sum(b, cache)), made]


def _sum(b: Builder, x: Value) -> Value:
    """(4, 2, 7), by a kernel of its own."""
    result: Value = OPS["reduce_sum"](b, _of_all(b, x), axes=(3,))
    return result


def _on_its_way(b: Builder, cache: Value, new: Value, at: Value) -> list[Value]:
    made = _put(b, OPS["exp"](b, cache), new, at)
    return [_of_all(b, made)]


def _into_zeros(b: Builder, cache: Value, new: Value, at: Value) -> list[Value]:
    zeros = OPS["constant"](b, value=0.0, type=cache.type)
    return [_put(b, zeros, new, at)]


def _from_itself(b: Builder, cache: Value, new: Value, at: Value) -> list[Value]:
    """The first two places, put one place further."""
    some = OPS["slice"](b, cache, starts=(0,) * 4, stops=(4, 2, 2, 3), steps=(1,) * 4)
    one = OPS["constant"](b, value=1, type=TensorType("i64"))
    return [OPS["put"](b, cache, some, one, axis=2)]


ENTRIES = [
    _entry(_cached, 1),
    _entry(_read_late, 1),
    _entry(_on_its_way, 1, updates=False),
    _entry(_into_zeros, 1, updates=False),
    _entry(_from_itself, 0),
]


def arguments() -> Iterator[list[Any]]:
    """Positions before, in, across the end of and behind the cache, and as far out as can be."""
    rng = np.random.default_rng(0)
    cache = rng.standard_normal((4, 2, 7, 3), dtype=np.float32)
    far = np.iinfo(np.int64)
    for at in ([0, 3, 6], [-1, 5, 7], [-9, 40, 2], [far.min, far.max, 1], [2], []):
        for length in (1, 3):
            new = rng.standard_normal((len(at), length, 6), dtype=np.float32)
            yield [cache, new, np.array(at, np.int64)]
