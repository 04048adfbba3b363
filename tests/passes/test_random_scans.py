"""Scans with random bodies: the passes change neither what they give nor their gradients, and
compiled they give the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lowering.native import compile_all, entry_of

from dslc.autodiff.reverse import gradient
from dslc.ir.builder import Builder
from dslc.ir.core import Function, Value
from dslc.ir.dims import Dim, sym
from dslc.ir.evaluate import evaluate
from dslc.ir.types import TensorType
from dslc.ir.verify import verify
from dslc.ops import BY_NAME as OPS
from dslc.ops.recurrent import scan
from dslc.ops.scan_attrs import Keep, ScanAttrs
from dslc.passes.canonicalize import canonicalize
from dslc.passes.cse import cse
from dslc.passes.dce import dce
from dslc.passes.fold import fold
from dslc.passes.scans import scans
from dslc.passes.sums import sums
from dslc.passes.yields import yields

T, SIZE = sym("T"), 3
SQUARE = TensorType("f64", (SIZE, SIZE))
PASSES = (canonicalize, fold, cse, sums, yields, scans, canonicalize, cse, scans, dce)


class Draw:
    """A random function around a scan; all values are squares of one size."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def pick(self, values: list[Value]) -> Value:
        return values[int(self.rng.integers(len(values)))]

    def grow(self, b: Builder, values: list[Value], count: int) -> None:
        """Adds random equations over the values, whose results are values from then on."""
        for _ in range(count):
            x, y = self.pick(values), self.pick(values)
            match int(self.rng.integers(9)):
                case 0 | 1:
                    flags = [bool(f) for f in self.rng.integers(0, 2, 2)]
                    made = OPS["matmul"](b, x, y, transpose_a=flags[0], transpose_b=flags[1])
                    made = OPS["tanh"](b, made)
                case 2:
                    made = OPS["add"](b, x, y)
                case 3:
                    made = OPS["mul"](b, x, y)
                case 4:
                    made = OPS["sigmoid"](b, x)
                case 5:
                    axis = int(self.rng.integers(2))
                    row = OPS["reduce_sum"](b, x, axes=(axis,))
                    made = OPS["broadcast"](b, row, dims=SQUARE.dims, axes=(1 - axis,))
                case 6:
                    made = OPS["transpose"](b, x, perm=(1, 0))
                case 7:
                    made = OPS["constant"](b, value=0.5, type=SQUARE)
                case _:
                    axis = int(self.rng.integers(2))
                    both = OPS["concat"](b, x, y, axis=axis)
                    starts, stops = [0, 0], [SIZE, SIZE]
                    starts[axis] = int(self.rng.integers(SIZE))
                    stops[axis] = starts[axis] + SIZE
                    made = OPS["slice"](
                        b, both, starts=tuple(starts), stops=tuple(stops), steps=(1, 1)
                    )
            values.append(made)

    def body(self, elements: int, carries: int, captured: int, depth: int) -> tuple[Function, int]:
        """A body, and how many of its results are yields."""
        b = Builder()
        values = [b.param(f"p{i}", SQUARE) for i in range(elements + carries + captured)]
        carried = values[elements : elements + carries]
        self.grow(b, values, int(self.rng.integers(1, 9)))
        if depth:
            values += self.scan(b, values, [self.pick(values)], 2, depth - 1)[0:1]
            self.grow(b, values, 2)
        yields = [self.pick(values) for _ in range(int(self.rng.integers(0, 4)))]
        following = []
        for carry in carried:
            value = self.pick(values)
            if self.rng.integers(2):
                flags = [bool(f) for f in self.rng.integers(0, 2, 2)]
                other = self.pick(values)
                value = OPS["matmul"](b, value, other, transpose_a=flags[0], transpose_b=flags[1])
                value = OPS["add"](b, carry, OPS["tanh"](b, value) if flags[0] else value)
                values += [value] if self.rng.integers(3) == 0 else []
            following.append(value)
        return b.function("body", (*yields, *following)), len(yields)

    def scan(
        self, b: Builder, values: list[Value], stacks: list[Value], length: Dim, depth: int
    ) -> list[Value]:
        """Adds a scan over stacks; its results: last carries, then stacks."""
        carries, captured = int(self.rng.integers(1, 4)), int(self.rng.integers(0, 3))
        if length == 2:  # in a body: two of its values are the slices
            pair = [OPS["reshape"](b, self.pick(values), dims=(1, SIZE, SIZE)) for _ in range(2)]
            stacks = [OPS["concat"](b, *pair, axis=0)]
        body, yields = self.body(len(stacks), carries, captured, depth)
        keep: Keep = "all" if self.rng.integers(2) else "carries"
        attrs = ScanAttrs(body, length, len(stacks), carries, bool(self.rng.integers(2)), keep)
        given = [self.pick(values) for _ in range(carries + captured)]
        made = list(b.emit(scan, [*stacks, *given], attrs))
        return made[yields:] + made[:yields]

    def function(self) -> Function:
        """Its first result is a scalar."""
        b = Builder()
        values = [b.param(f"a{i}", SQUARE) for i in range(3)]
        stacks = [b.param(f"x{i}", TensorType("f64", (T, SIZE, SIZE))) for i in range(2)]
        self.grow(b, values, 2)
        made = self.scan(b, values, stacks, T, int(self.rng.integers(2)))
        total = None
        for value in made:
            if self.rng.integers(4) == 0:
                continue  # not used
            axes = tuple(range(value.type.rank))
            part = OPS["reduce_sum"](b, OPS["tanh"](b, value), axes=axes)
            total = part if total is None else OPS["add"](b, total, part)
        return b.function(
            "f", [OPS["constant"](b, value=0.0, type=TensorType("f64")) if total is None else total]
        )


def arrays(seed: int, length: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    shapes = [(SIZE, SIZE)] * 3 + [(length, SIZE, SIZE)] * 2
    return [rng.uniform(-1, 1, shape) for shape in shapes]


def optimised(function: Function) -> Function:
    for change in PASSES:
        function = change(function)
        verify(function, change.__name__)
    return function


def agree(found: list[Any], wanted: list[Any]) -> None:
    for got, want in zip(found, wanted):
        np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(40))
def test_passes_keep_the_meaning(seed: int) -> None:
    function = Draw(seed).function()
    verify(function)
    small = optimised(function)
    for length in (0, 1, 3):
        args = arrays(seed, length)
        agree(evaluate(small, args), evaluate(function, args))


@pytest.mark.parametrize("seed", range(12))
def test_passes_keep_the_gradient_and_it_is_right(seed: int) -> None:
    function = Draw(seed).function()
    made = gradient(function, 0, range(5))
    verify(made)
    args = arrays(seed, 3)
    found = evaluate(made, args)
    agree(evaluate(optimised(made), args), found)
    direction = [
        np.random.default_rng(seed + i).uniform(-1, 1, a.shape) for i, a in enumerate(args)
    ]
    step = 1e-6
    up, down = (
        evaluate(function, [a + sign * step * d for a, d in zip(args, direction)])[0]
        for sign in (1, -1)
    )
    slope = sum(float((g * d).sum()) for g, d in zip(found[1:], direction))
    np.testing.assert_allclose(slope, (up - down) / (2 * step), rtol=1e-5, atol=1e-6)


# Small kernels that LLVM inlines into the loop are among the last three.
COMPILED = (0, 1, 2, 3, 132, 113, 127)


def test_compiled_they_give_the_same() -> None:
    entries, wanted = [], []
    for seed in COMPILED:
        function = Draw(seed).function()
        made = optimised(gradient(function, 0, range(5))) if seed % 2 else function
        entries.append(entry_of(made, f"f{seed}"))
        wanted.append([evaluate(made, arrays(seed, length), {"T": length}) for length in (0, 3)])
    compiled = compile_all(entries)
    for seed, entry, results in zip(COMPILED, entries, wanted):
        for length, result in zip((0, 3), results):
            found = compiled.call(entry.name, arrays(seed, length), {"T": length})
            for got, want in zip(found, result):
                np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-7)
