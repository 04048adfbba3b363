"""Random formulas of index notation against their definition: loops over all indices, in Python;
and their gradients against differences.

The generator makes reads that may be outside, sums of products of up to four factors, nested
reductions, `//` and `%`, places that are read, and dims that are dynamic; so matrix products,
convolutions, views and general reads all come up.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from dslc.autodiff.reverse import gradient
from dslc.build import session
from dslc.ir.builder import Builder
from dslc.ir.core import Function
from dslc.ir.evaluate import evaluate
from dslc.ops.broadcast import reduce_sum
from dslc.ops.elementwise import mul
from dslc.passes.pipeline import OPTIMISE, run
from dslc.source import SourceFile
from dslc.syntax import ast
from dslc.syntax.parser import parse

Array = Any
FORMULAS = 80
SIZES = {"N": 3, "T": 4}
REDUCE = {"sum": np.sum, "max": np.max, "min": np.min, "prod": np.prod, "mean": np.mean}


# --- the definition -----------------------------------------------------------------------------


class Definition:
    """Computes an expression for given values of the indices."""

    def __init__(self, tensors: Mapping[str, Array], sizes: Mapping[str, int]) -> None:
        self.tensors, self.sizes = tensors, sizes

    def of(self, expr: ast.Expr, at: Mapping[str, int]) -> Any:
        match expr:
            case ast.Int() | ast.Float():
                return expr.value
            case ast.Name(_, name):
                return at[name] if name in at else self.sizes[name]
            case ast.Unary():
                return -self.of(expr.operand, at)
            case ast.Binary():
                return self.binary(expr.op, self.of(expr.left, at), self.of(expr.right, at))
            case ast.Compare():
                return self.of(expr.left, at) >= self.of(expr.right, at)
            case ast.Subscript():
                found = self.read(expr, at)
                assert found is not None, "reads outside"
                return found
            case ast.ElseRead():
                found = self.read(expr.read, at)
                return self.of(expr.default, at) if found is None else found
            case ast.Call(_, ast.Subscript() as function, (argument,)):
                return self.reduce(function, argument.value, at)
            case ast.Call(_, ast.Name(_, name), args):
                values = [self.of(a.value, at) for a in args]
                if name == "where":
                    return values[1] if values[0] else values[2]
                return {"exp": math.exp, "tanh": math.tanh}[name](values[0])
        raise TypeError(f"no definition of {expr}")

    def binary(self, op: str, x: Any, y: Any) -> Any:
        return (
            {"+": x + y, "-": x - y, "*": x * y}.get(op)
            if op in "+-*"
            else (x // y if op == "//" else x % y)
        )

    def read(self, expr: ast.Subscript, at: Mapping[str, int]) -> Any:
        assert isinstance(expr.value, ast.Name)
        tensor = self.tensors[expr.value.name]
        place = tuple(int(self.of(item.value, at)) for item in expr.items)  # type: ignore[union-attr]
        inside = all(0 <= p < size for p, size in zip(place, tensor.shape, strict=True))
        return tensor[place] if inside else None

    def reduce(self, function: ast.Subscript, body: ast.Expr, at: Mapping[str, int]) -> Any:
        assert isinstance(function.value, ast.Name)
        ranges: list[tuple[str, range]] = []
        for item in function.items:
            assert isinstance(item, ast.BoundedDim)
            low, high = int(self.of(item.low, at)), int(self.of(item.high, at))
            ranges.append((item.name.name, range(low, high)))
        names = [name for name, _ in ranges]
        values = [
            self.of(body, {**at, **dict(zip(names, index))})
            for index in itertools.product(*(r for _, r in ranges))
        ]
        return REDUCE[function.value.name](values)


def defined(source: str, tensors: Mapping[str, Array]) -> Array:
    """The result of the one formula in the program, element by element."""
    tree, _ = parse(SourceFile("m.dl", source))
    (model,) = (d for d in tree.decls if isinstance(d, ast.ModelDecl))
    stmt = next(s for s in model.entries[0].body if isinstance(s, ast.IndexAssign))
    assert isinstance(stmt.type, ast.TensorTypeExpr)
    definition = Definition(tensors, SIZES)
    shape = [int(definition.of(dim, {})) for dim in stmt.type.dims]  # type: ignore[arg-type]
    out = np.zeros(shape)
    names = [index.name for index in stmt.indices]
    for place in np.ndindex(out.shape):
        out[place] = definition.of(stmt.value, dict(zip(names, place)))
    return out


# --- the generator ------------------------------------------------------------------------------


class Generator:
    """One random program. `sizes` are the indices in scope and their ranges."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.names: Iterator[str] = (f"i{n}" for n in itertools.count())
        self.arguments: dict[str, tuple[str, ...]] = {}
        self.integers: set[str] = set()

    def program(self) -> str:
        choice = self.random.random()
        if choice < 0.3:
            left, value = self.convolution()
        else:
            left = [(next(self.names), self.size()) for _ in range(self.random.randint(1, 3))]
            value = self.sum_of_products(left) if choice < 0.7 else self.value(left, 2)
        type = f"f64[{', '.join(size for _, size in left)}]"
        indices = ", ".join(name for name, _ in left)
        dims = {"N": "f64[N in 1..9]", "T": "f64[T in 1..9]"}
        arguments = [f"keep_{n}: {t}" for n, t in dims.items()] + [
            f"{name}: {'i64' if name in self.integers else 'f64'}[{', '.join(size)}]"
            for name, size in self.arguments.items()
        ]
        return (
            f"model M({', '.join(arguments)}) -> {type} {{\n"
            f"    y[{indices}]: {type} = {value}\n    return y\n}}\n"
        )

    def size(self) -> str:
        return self.random.choice(["1", "2", "3", "N", "T", "N + 1", "2 * T"])

    def sum_of_products(self, around: Sequence[tuple[str, str]]) -> str:
        count = self.random.randint(1, 3)
        own = [(next(self.names), self.random.choice(["2", "3", "N", "T"])) for _ in range(count)]
        factors = []
        for _ in range(self.random.randint(2, 4)):
            chosen = [i for i in (*around, *own) if self.random.random() < 0.6] or [own[0]]
            factors.append(self.read(chosen, simple=self.random.random() < 0.6))
        for index in own:  # each must matter
            if not any(f"{index[0]}]" in f or f"{index[0]}," in f or f"{index[0]} " in f
                       for f in factors):  # fmt: skip
                factors.append(self.read([index], simple=True))
        ranges = ", ".join(f"{name} in 0..{size}" for name, size in own)
        return f"sum[{ranges}]({' * '.join(factors)})"

    def convolution(self) -> tuple[list[tuple[str, str]], str]:
        """A window of an image, with batch, channels, outputs and groups or without."""
        batch, groups, channels, outputs = (
            [(next(self.names), self.random.choice(sizes))] if self.random.random() < 0.7 else []
            for sizes in (["N", "2"], ["1", "2"], ["T", "1", "3"], ["2", "3"])
        )
        rank = self.random.randint(1, 2)
        kernels = [(next(self.names), self.random.choice("123")) for _ in range(rank)]
        places = [(next(self.names), self.random.choice(["3", "T", "N + 1"])) for _ in range(rank)]
        windows = []
        for (out, size), (kernel, _) in zip(places, kernels):
            step, dilation = self.random.choice([1, 1, 2]), self.random.choice([1, 1, 2, -1])
            offset = self.random.choice([0, -1, -2, 1, 5, -6])
            dim = self.random.choice([size, f"{size} + 2", f"2 * ({size})"])
            windows.append((f"{step} * {out} + {dilation} * {kernel} + {offset}", dim))
        image, weight = f"t{len(self.arguments)}", f"t{len(self.arguments) + 1}"
        axes = [*batch, *groups, *channels, *windows]
        taps = [*groups, *outputs, *channels, *kernels]
        for dims in (axes, taps):
            self.random.shuffle(dims)
        self.arguments[image] = tuple(size for _, size in axes)
        self.arguments[weight] = tuple(size for _, size in taps)
        reads = [
            f"({image}[{', '.join(place for place, _ in axes)}] else 0)",
            f"{weight}[{', '.join(place for place, _ in taps)}]",
        ]
        self.random.shuffle(reads)
        ranges = ", ".join(f"{name} in 0..{size}" for name, size in [*channels, *kernels])
        left = [*batch, *groups, *outputs, *places]
        self.random.shuffle(left)
        return left, f"sum[{ranges}]({' * '.join(reads)})"

    def value(self, indices: Sequence[tuple[str, str]], depth: int) -> str:
        choice = self.random.random()
        if depth == 0 or choice < 0.2:
            chosen = [i for i in indices if self.random.random() < 0.7] or [indices[0]]
            return self.read(chosen, simple=self.random.random() < 0.3)
        if choice < 0.45:
            a, b = self.value(indices, depth - 1), self.value(indices, depth - 1)
            return f"({a} {self.random.choice('+-*')} {b})"
        if choice < 0.55:
            return f"{self.random.choice(['exp', 'tanh'])}(0.3 * {self.value(indices, depth - 1)})"
        if choice < 0.65:
            name, _ = self.random.choice(indices)
            a, b = self.value(indices, depth - 1), self.value(indices, depth - 1)
            return f"where({name} >= {self.random.randint(0, 2)}, {a}, {b})"
        name, size = next(self.names), self.random.choice(["1", "2", "3", "N"])
        low = self.random.choice([0, 0, -1, 2])
        kind = self.random.choice(list(REDUCE))
        body = self.value([(name, size), *indices], depth - 1)
        first = self.read([(name, size)], simple=False)
        return f"{kind}[{name} in {low}..{size} + {low}]({body} + {first})"

    def read(self, indices: Sequence[tuple[str, str]], *, simple: bool) -> str:
        """A read whose positions are single indices, or expressions of them with a default."""
        tensor = f"t{len(self.arguments)}"
        if simple and all(
            size in ("2", "3", "N", "T", "1", "N + 1", "2 * T") for _, size in indices
        ):
            order = list(indices)
            self.random.shuffle(order)
            self.arguments[tensor] = tuple(size for _, size in order)
            return f"({tensor}[{', '.join(name for name, _ in order)}] else 0)"
        rank = self.random.randint(1, 3)
        self.arguments[tensor] = tuple(self.size() for _ in range(rank))
        places = [self.place([name for name, _ in indices]) for _ in range(rank)]
        if self.random.random() < 0.1:
            at = f"at{len(self.arguments)}"
            self.arguments[at] = ("N",)
            self.integers.add(at)
            places[0] = f"{at}[({indices[0][0]} + 4) % N] + {places[0]}"
        for name, _ in indices:  # every index stands somewhere
            if not any(name in place for place in places):
                places[-1] += f" + {name}"
        default = self.random.choice(["0", "0", "-1.5", "2"])
        return f"({tensor}[{', '.join(places)}] else {default})"

    def place(self, names: Sequence[str]) -> str:
        a, b = self.random.choice(names), self.random.choice(names)
        return self.random.choice([
            a, f"{a} + {b} - 1", f"2 * {a} + {b}", f"N - 1 - {a}", f"{a} - 2 * {b}", f"{a} // 2",
            f"{a} % 2 + {b}", f"3 * {a} - 2", "1", f"T * {a} + {b}", f"({a} + 1) % T",
            f"{a} * {b}", f"2 * {a} + 1 - {b}",
        ])  # fmt: skip


# --- the comparison -----------------------------------------------------------------------------


def inputs_of(function: Function, seed: int) -> list[Array]:
    rng = np.random.default_rng(seed)
    out: list[Array] = []
    for param in function.params:
        shape = [eval(str(dim), {}, dict(SIZES)) for dim in param.type.dims]
        if param.type.dtype == "i64":
            out.append(rng.integers(-1, 3, shape))
        else:
            out.append(np.asarray(rng.uniform(-1, 1, shape)))
    return out


@pytest.mark.parametrize("seed", range(FORMULAS))
def test_random_formula(seed: int) -> None:
    check(seed)


def check(seed: int) -> None:
    source = Generator(seed).program()
    program = session.program_of(SourceFile("m.dl", source))
    function = program.entry("forward").function
    inputs = inputs_of(function, seed)
    wanted = defined(source, dict(zip((p.name for p in function.params), inputs)))
    for version in (function, run(program, OPTIMISE).entry("forward").function):
        (found,) = evaluate(version, inputs)
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9, err_msg=source)
    check_gradient(function, inputs, source)


def check_gradient(function: Function, inputs: Sequence[Array], source: str) -> None:
    """Along a random direction, the gradient is a central difference."""
    floats = [i for i, param in enumerate(function.params) if param.type.dtype == "f64"]
    b = Builder.over(function)
    for eqn in function.eqns:
        b.keep(eqn)
    (y,) = function.results
    loss = reduce_sum(b, mul(b, y, y), axes=tuple(range(y.type.rank)))
    extended = gradient(b.function("loss", (loss,)), 0, floats)
    _, *grads = evaluate(extended, list(inputs))
    rng = np.random.default_rng(0)
    direction = {i: rng.normal(size=inputs[i].shape) for i in floats}
    slope = sum(float((g * direction[i]).sum()) for g, i in zip(grads, floats, strict=True))
    ends = []
    for step in (1e-6, -1e-6):
        moved = [x + step * direction[i] if i in direction else x for i, x in enumerate(inputs)]
        ends.append(float((evaluate(function, moved)[0] ** 2).sum()))
    expected = (ends[0] - ends[1]) / 2e-6
    assert slope == pytest.approx(expected, rel=1e-5, abs=1e-5 * (1 + abs(ends[0]))), source
