"""Functions of one body, for tests of what lowering makes of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dslc.ir.builder import Builder
from dslc.ir.core import Function, Value
from dslc.ir.dims import Dim
from dslc.ir.types import TensorType

Body = Callable[[Builder], Sequence[Value]]


def f32(*dims: Dim) -> TensorType:
    return TensorType("f32", dims)


def function_of(body: Body) -> Function:
    """`body` gives the results."""
    b = Builder()
    return b.function("f", body(b))
