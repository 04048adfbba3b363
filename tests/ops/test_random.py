"""Random numbers: the published vectors, that seed, step and stream each matter, and that compiling
keeps them."""

from __future__ import annotations

import numpy as np
import pytest
from lowering.native import compile_all, entry_of

from dslc.ir.builder import Builder
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.ops.random import (
    CHUNK,
    RandomAttrs,
    philox,
    philox_rounds,
    random_normal,
    random_uniform,
    units,
)

PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
ONES = (0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2
ZEROS = (0,) * 4, (0,) * 2


# The known answers that come with Random123 (kat_vectors, philox4x32 10).
@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (ZEROS, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (ONES, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_known_answers(
    given: tuple[tuple[int, ...], tuple[int, int]], wanted: tuple[int, ...]
) -> None:
    counter, key = given
    words = philox_rounds([np.asarray([word], np.uint64) for word in counter], key)
    assert tuple(int(word[0]) for word in words) == wanted


@pytest.mark.parametrize(("first", "count"), [(0, 0), (0, 4), (8, 12)])
def test_units_are_the_upper_bits_of_their_counters(first: int, count: int) -> None:
    key, stream, step = 123_456_789_012, 7, 3
    numbers = philox(key, stream, step, np.arange(first, first + count, dtype=np.uint64))
    made = units(key, stream, step, first, count)
    np.testing.assert_array_equal(made, (numbers >> np.uint64(8)) * 2.0**-24)


@pytest.mark.parametrize("count", [0, 1, 6, CHUNK + 5])
def test_a_tensor_is_of_the_first_numbers(count: int) -> None:
    made = random_uniform.reference(RandomAttrs((count,), 7), 123_456_789_012, 3)
    wanted = philox(123_456_789_012, 7, 3, np.arange(count, dtype=np.uint64)) >> np.uint64(8)
    np.testing.assert_array_equal(made, wanted * 2.0**-24)


def test_words_of_a_block_follow_each_other() -> None:
    numbers = philox(0, 0, 0, np.arange(4, dtype=np.uint64))
    assert [int(n) for n in numbers] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


def draw(
    op: object, dims: tuple[int, ...], seed: int = 1, step: int = 0, stream: int = 0
) -> object:
    return op.reference(RandomAttrs(dims, stream), np.int64(seed), np.int64(step))


@pytest.mark.parametrize("change", [{"seed": 2}, {"seed": 1 + 2**32}, {"step": 1}, {"stream": 1}])
def test_each_part_of_the_counter_changes_the_numbers(change: dict[str, int]) -> None:
    first, other = draw(random_uniform, (64,)), draw(random_uniform, (64,), **change)
    assert not np.any(np.equal(first, other))


def test_negative_seeds_are_seeds() -> None:
    assert np.all(np.isfinite(draw(random_uniform, (8,), seed=-1)))


def test_numbers_do_not_depend_on_the_shape() -> None:
    flat, square = draw(random_uniform, (12,)), draw(random_uniform, (3, 4))
    np.testing.assert_array_equal(np.reshape(square, -1), flat)


@pytest.mark.parametrize("level", [0, 2])
def test_compiled_at_each_level(level: int) -> None:
    """The keys of the rounds wrap round: nothing may be told LLVM that lets it take another way."""
    b = Builder()
    counter = (b.param("seed", TensorType("i64", ())), b.param("step", TensorType("i64", ())))
    (drawn,) = b.emit(random_uniform, counter, RandomAttrs((16,), 3))
    function = b.function("forward", (drawn,))
    given = [np.asarray(-5), np.asarray(7)]
    (found,) = compile_all([entry_of(function)], level=level).call("forward", given)
    np.testing.assert_array_equal(found, evaluate(function, given)[0])


def test_uniform_numbers_are_uniform() -> None:
    x = np.asarray(draw(random_uniform, (40000,)))
    assert x.dtype == np.float32
    assert x.min() >= 0
    assert x.max() < 1
    counts, _ = np.histogram(x, bins=16, range=(0, 1))
    # 15 degrees of freedom: above 37.7 with probability 0.001, and the seed is fixed.
    assert ((counts - 2500) ** 2 / 2500).sum() < 37.7


def test_normal_numbers_are_normal() -> None:
    x = np.asarray(draw(random_normal, (40000,)), np.float64)
    assert abs(x.mean()) < 0.02
    assert abs(x.std() - 1) < 0.02
    assert abs((x**4).mean() - 3) < 0.15


def test_dims_may_be_symbolic() -> None:
    scalar = random_uniform.samples[0].inputs
    (type,) = random_uniform.infer(RandomAttrs((sym("N"), 2)), scalar)
    assert str(type) == "f32[N, 2]"
