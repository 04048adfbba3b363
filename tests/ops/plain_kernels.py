"""Kernels in plain Python: `compute` facets run element by element, without a code generator.

Index expressions are Python ints, elements are NumPy scalars of their dtype. Reading outside of a
tensor fails the test, also where the value would be thrown away by a `select`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from dslc.ir.dims import Dim
from dslc.ir.evaluate import numpy_dtype
from dslc.ir.op import NoFacet, Op, Ranking, Sample, Scatter
from dslc.ir.types import DType, TensorType
from dslc.ops.random import philox

Array = Any

_UNARY: Mapping[str, Callable[[Any], Any]] = {
    "neg": lambda x: -x,
    "abs": np.abs,
    "exp": np.exp,
    "log": np.log,
    "log1p": np.log1p,
    "expm1": np.expm1,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "exp2": np.exp2,
    "log2": np.log2,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "sin": np.sin,
    "cos": np.cos,
    "tanh": np.tanh,
    "erf": math.erf,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "sign": np.sign,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
}
_TESTS: Mapping[str, Callable[[Any], Any]] = {
    "not": np.logical_not,
    "isnan": np.isnan,
    "isinf": np.isinf,
}
_BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "floordiv": lambda x, y: x // y,
    "mod": lambda x, y: x % y,
    "pow": np.power,
    "min": np.minimum,
    "max": np.maximum,
    "and": lambda x, y: x and y,
    "or": lambda x, y: x or y,
    "xor": lambda x, y: x != y,
}
_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "lt": lambda x, y: x < y,
    "le": lambda x, y: x <= y,
    "gt": lambda x, y: x > y,
    "ge": lambda x, y: x >= y,
}


class Operand:
    """Reads an array, strictly inside of its bounds."""

    def __init__(self, array: Array, type: TensorType) -> None:
        self.array, self.type = array, type

    def __call__(self, index: tuple[int, ...]) -> Any:
        assert len(index) == self.array.ndim, f"{index} into {self.type}"
        inside = all(0 <= i < size for i, size in zip(index, self.array.shape))
        assert inside, f"reads {self.type} at {index}"
        return self.array[tuple(index)]


class PlainKernels:
    """The verbs of `dslc.ir.op.Kernels` over Python and NumPy numbers."""

    def const(self, value: float | bool, dtype: DType) -> Any:
        return numpy_dtype(dtype).type(value)

    def dim(self, dim: Dim) -> int:
        assert isinstance(dim, int)
        return dim

    def index(self, value: Any) -> int:
        return int(value)

    def from_index(self, value: int, dtype: DType) -> Any:
        assert type(value) is int
        return numpy_dtype(dtype).type(value)

    def cast(self, value: Any, source: DType, target: DType) -> Any:
        assert value.dtype == numpy_dtype(source)
        return value.astype(numpy_dtype(target))

    def unary(self, name: str, x: Any, dtype: DType) -> Any:
        self._check(dtype, x)
        if name in _TESTS:
            return np.bool_(_TESTS[name](x))
        return numpy_dtype(dtype).type(_UNARY[name](x))

    def binary(self, name: str, x: Any, y: Any, dtype: str) -> Any:
        self._check(dtype, x, y)
        result = _BINARY[name](x, y)
        return int(result) if dtype == "index" else numpy_dtype(dtype).type(result)  # type: ignore[arg-type]

    def compare(self, name: str, x: Any, y: Any, dtype: str) -> Any:
        self._check(dtype, x, y)
        return np.bool_(_COMPARE[name](x, y))

    def select(self, condition: Any, x: Any, y: Any) -> Any:
        assert type(x) is type(y)
        return x if condition else y

    def guarded(self, condition: Any, x: Callable[[], Any], y: Any) -> Any:
        return x() if condition else y

    def reduce(
        self, kind: str, dims: Sequence[Dim], body: Callable[[Any], Any], dtype: DType
    ) -> Any:
        values = [body(r) for r in itertools.product(*(range(d) for d in dims))]  # type: ignore[arg-type]
        self._check(dtype, *values)
        array = np.asarray(values, numpy_dtype(dtype))
        if kind in ("argmax", "argmin"):
            return int(getattr(np, kind)(array)) if values else 0
        if kind in ("any", "all"):
            return np.bool_(getattr(np, kind)(array))
        if kind in ("sum", "prod"):
            return getattr(np, kind)(array, dtype=array.dtype)
        return getattr(np, kind)(array, initial=_worst(kind, array.dtype)).astype(array.dtype)

    def philox(self, key: Any, stream: int, step: Any, counter: int) -> Any:
        counters = np.asarray([counter], np.uint64)
        return np.int64(philox(int(key), stream, int(step), counters)[0])

    def _check(self, dtype: str, *values: Any) -> None:
        """Operands are of the dtype that the op claims."""
        claimed = int if dtype == "index" else numpy_dtype(dtype).type  # type: ignore[arg-type]
        for value in values:
            assert type(value) is claimed, f"{value!r} is not {dtype}"


def _worst(kind: str, dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return info.min if kind == "max" else info.max
    return dtype.type(-np.inf if kind == "max" else np.inf)


def run(op: Op, sample: Sample, inputs: Sequence[Array]) -> list[Array]:
    """The results of `op`'s compute facet on a concrete sample."""
    assert not isinstance(op.compute, NoFacet)
    types = op.infer(sample.attrs, sample.inputs)
    operands = [Operand(np.asarray(x), t) for x, t in zip(inputs, sample.inputs)]
    k = PlainKernels()
    with np.errstate(all="ignore"):
        made = op.compute(k, sample.attrs, operands, types)
        if isinstance(made, Scatter):
            return [_scatter(made, types[0])]
        if isinstance(made, Ranking):
            return [_ranking(made, types[0])]
        readers = made if isinstance(made, tuple) else (made,)
        return [_fill(reader, type) for reader, type in zip(readers, types)]


def _fill(reader: Callable[[Any], Any], type: TensorType) -> Array:
    out = np.zeros(type.dims, numpy_dtype(type.dtype))  # type: ignore[arg-type]
    for index in np.ndindex(out.shape):
        value = reader(index)
        assert value.dtype == out.dtype, f"gives {value.dtype}, not {type}"
        out[index] = value
    return out


def _scatter(made: Scatter, type: TensorType) -> Array:
    dtype = numpy_dtype(type.dtype)
    join = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum}[made.kind]
    start = {"sum": 0, "prod": 1}.get(made.kind)
    nothing = _worst(made.kind, dtype) if start is None else start
    out = np.full(type.dims, nothing, dtype)  # type: ignore[arg-type]
    for index in np.ndindex(*made.domain):  # type: ignore[arg-type]
        target = made.target(index)
        out[target] = join(out[target], made.value(index))
    return out


def _ranking(made: Ranking, type: TensorType) -> Array:
    """Each element's rank is the number of those before it."""
    axis, length = made.axis, made.length
    out = np.full(type.dims, -1, np.int64)  # type: ignore[arg-type]
    rows = [range(1) if a == axis else range(dim) for a, dim in enumerate(type.dims)]  # type: ignore[arg-type]
    for row in itertools.product(*rows):
        places = [(*row[:axis], i, *row[axis + 1 :]) for i in range(length)]  # type: ignore[arg-type]
        for i, place in enumerate(places):
            rank = sum(bool(made.before(other, place)) for other in places)
            if rank < out.shape[axis]:
                out[(*row[:axis], rank, *row[axis + 1 :])] = i
    assert (out >= 0).all(), "the order is not total"
    return out
