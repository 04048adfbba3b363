from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dslc.diagnostics import InternalError
from dslc.ir.builder import Builder
from dslc.ir.core import Argument, DimCheck, DimRange, Entry, Function, Program, Value, Variable
from dslc.ir.dims import sym
from dslc.ir.evaluate import evaluate, run_entry
from dslc.ir.op import Op
from dslc.ir.types import TensorType
from dslc.ir.verify import verify
from dslc.ops import BY_NAME
from dslc.ops.broadcast import broadcast
from dslc.ops.constants import constant
from dslc.ops.conv import conv2d
from dslc.ops.elementwise import add
from dslc.ops.linalg import matmul
from dslc.ops.logic import gt, select
from dslc.ops.pool import max_pool2d
from dslc.ops.shape import concat, reshape, transpose
from dslc.ops.slicing import pad, slice_
from dslc.passes.pipeline import FUNCTION_PASSES, OPTIMISE, check_interface, on_entries, run
from tests.passes.arguments import arguments

N = sym("N")


def f64(*dims: object) -> TensorType:
    return TensorType("f64", dims)  # type: ignore[arg-type]


@dataclass
class Maker:
    """Adds random equations; every choice is hypothesis's."""

    b: Builder
    draw: st.DataObject
    values: list[Value]

    def pick(self, rank: int | None = None) -> Value | None:
        found = [v for v in self.values if rank is None or v.type.rank == rank]
        return self.draw.draw(st.sampled_from(found)) if found else None

    def step(self) -> None:
        kinds = ["unary", "binary", "constant", "transpose", "spread", "reduce", "flat"]
        kind = self.draw.draw(st.sampled_from([*kinds, "matmul", "conv", "cut", "choose"]))
        made = getattr(self, kind)()
        if made is not None:
            self.values.append(made)

    def op(self, *names: str) -> Op:
        return BY_NAME[self.draw.draw(st.sampled_from(names))]

    def unary(self) -> Any:
        return self.op("neg", "relu", "tanh")(self.b, self.pick())

    def other(self, x: Value) -> Value:
        """Another value of the type of `x`; a constant if there is none."""
        same = [v for v in self.values if v.type == x.type and v is not x]
        number = self.draw.draw(st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.5]))
        filled = constant(self.b, value=number, type=x.type)
        return self.draw.draw(st.sampled_from([filled, *same]))

    def binary(self) -> Any:
        x = self.pick()
        assert x is not None
        args = [x, self.other(x)]
        if self.draw.draw(st.booleans()):
            args.reverse()
        return self.op("add", "sub", "mul", "maximum")(self.b, *args)

    def constant(self) -> Any:
        dims = self.draw.draw(st.sampled_from([(), (3,), (N, 3), (2, 3)]))
        return constant(self.b, value=0.5, type=f64(*dims))

    def transpose(self) -> Any:
        x = self.pick()
        assert x is not None
        perm = self.draw.draw(st.permutations(range(x.type.rank)))
        return transpose(self.b, x, perm=tuple(perm))

    def spread(self) -> Any:
        x = self.pick()
        assert x is not None
        if x.type.rank > 3:
            return None
        place = self.draw.draw(st.integers(0, x.type.rank))
        dims = (*x.type.dims[:place], 2, *x.type.dims[place:])
        axes = tuple(i + (i >= place) for i in range(x.type.rank))
        return broadcast(self.b, x, dims=dims, axes=axes)

    def reduce(self) -> Any:
        x = self.pick()
        assert x is not None
        axes = self.draw.draw(st.sets(st.integers(0, 3), max_size=2))
        kept = tuple(sorted(axis for axis in axes if axis < x.type.rank))
        return self.op("reduce_sum", "reduce_max")(self.b, x, axes=kept) if kept else None

    def flat(self) -> Any:
        x = self.pick()
        assert x is not None
        ones = (1, *x.type.dims) if x.type.rank < 4 else x.type.dims
        return reshape(self.b, x, dims=self.draw.draw(st.sampled_from([(x.type.size,), ones])))

    def matmul(self) -> Any:
        x = self.pick(2)
        if x is None:
            return None
        ta = self.draw.draw(st.booleans())
        return matmul(self.b, x, x, transpose_a=ta, transpose_b=not ta)

    def conv(self) -> Any:
        x = self.pick(4)
        if x is None or not all(isinstance(d, int) for d in x.type.dims[1:]):
            return None
        w = constant(self.b, value=0.5, type=f64(2, x.type.dims[1], 2, 1))
        y = conv2d(self.b, x, w, padding=(1, 0, 0, 0))
        if self.draw.draw(st.booleans()):
            return y
        return max_pool2d(self.b, y, kernel=(1, 1), stride=(1, 1))

    def cut(self) -> Any:
        x = self.pick()
        assert x is not None
        zeros = (0,) * x.type.rank
        padded = pad(self.b, x, low=zeros, high=(1,) * x.type.rank, value=2.0)
        if self.draw.draw(st.booleans()):
            return slice_(self.b, padded, starts=zeros, stops=x.type.dims, steps=(1,) * len(zeros))
        return concat(self.b, x, x, axis=0) if x.type.rank else x

    def choose(self) -> Any:
        x = self.pick()
        assert x is not None
        y = self.other(x)
        return select(self.b, gt(self.b, x, y), x, y)


@st.composite
def functions(draw: Any) -> Function:
    b = Builder()
    params = [
        b.param("x", f64(N, 3)),
        b.param("y", f64(3)),
        b.param("z", f64(2, 3, 4, 5)),
        b.param("image", f64(N, 2, 3, 1)),
    ]
    maker = Maker(b, draw(st.data()), list(params))
    for _ in range(draw(st.integers(1, 12))):
        maker.step()
    results = draw(st.lists(st.sampled_from(maker.values[-4:]), min_size=1, max_size=3))
    return b.function("random", results)


def agree(before: Function, after: Function, size: int = 2) -> None:
    args = arguments(before, np.random.default_rng(0), size)
    for x, y in zip(evaluate(before, args), evaluate(after, args)):
        np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9)


@settings(max_examples=50)
@given(functions())
def test_every_pass_keeps_the_meaning(function: Function) -> None:
    for name, apply in FUNCTION_PASSES.items():
        after = apply(function)
        verify(after, name)
        agree(function, after)


def as_program(function: Function) -> Program:
    """Its first parameter is an input, the others are weights where their dims are constant."""
    arguments, variables = [], []
    for param in function.params:
        static = param.type.is_static
        arguments.append(Argument(param.name, "weight" if static else "input"))
        if static:
            variables.append(Variable(param.name, param.type, "weight"))
    outputs = tuple(f"out{i}" for i in range(len(function.results)))
    entry = Entry("forward", function, tuple(arguments), outputs)
    return Program("P", (entry,), tuple(variables), (DimRange("N"),))


@settings(max_examples=50)
@given(functions(), st.integers(0, 2))
def test_the_pipeline_keeps_the_meaning(function: Function, size: int) -> None:
    names = [param.name for param in function.params]
    given = dict(zip(names, arguments(function, np.random.default_rng(0), size)))
    before = as_program(function)
    after = run(before, OPTIMISE)
    variables = {v.name: given[v.name] for v in before.variables}
    inputs = {name: given[name] for name in names if name not in variables}
    if any(entry.name == "prepare" for entry in after.entries):
        variables |= run_entry(after, "prepare", variables, {})[0]
    expected, _ = run_entry(before, "forward", given, inputs)
    found, _ = run_entry(after, "forward", variables, inputs)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=1e-9)


# --- the runner -------------------------------------------------------------------------------


def simple() -> Program:
    b = Builder()
    x = b.param("x", f64(N, 3))
    return as_program(b.function("f", (add(b, x, x),)))


def test_each_pass_is_told() -> None:
    told: list[str] = []
    run(simple(), OPTIMISE, lambda name, program: told.append(name))
    assert told == [name for name, _ in OPTIMISE]


def test_the_guilty_pass_is_named() -> None:
    def lose(function: Function) -> Function:
        return replace(function, eqns=())

    with pytest.raises(InternalError, match="bad IR after lose, in f"):
        run(simple(), (("lose", on_entries(lose)),))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entries": ()}, "dropped the entry forward"),
        ({"dims": (DimRange("N", 3, 3),)}, "changed the declared dims"),
        ({"checks": (DimCheck(N, "==", 3, ()),)}, "changed the declared dims"),
    ],
)
def test_declared_dims_and_entries_survive(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InternalError, match=message):
        check_interface(simple(), replace(simple(), **changes), "a pass")


def test_what_an_entry_takes_survives() -> None:
    def specialise(program: Program) -> Program:
        b = Builder()
        x = b.param("x", f64(4, 3))
        entry = replace(program.entries[0], function=b.function("f", (add(b, x, x),)))
        return replace(program, entries=(entry,))

    with pytest.raises(InternalError, match="specialise changed what forward takes or gives"):
        run(simple(), (("specialise", specialise),))
