"""Two tiny ops, so that what is tested here depends on no real one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from dslc.ir.dims import Dim
from dslc.ir.op import Attrs, NoFacet, Op, TypeRuleError
from dslc.ir.types import DType, TensorType

NONE = NoFacet("a toy")
PAIR = TensorType("f32", (2,))


@dataclass(frozen=True, slots=True)
class FillAttrs(Attrs):
    dims: tuple[Dim, ...]
    value: float | int | bool = 0.0
    dtype: DType = "f32"


@dataclass(frozen=True, slots=True)
class OddAttrs(Attrs):
    """One attribute of every kind that has a text."""

    flag: bool = True
    count: int = 1
    scale: float = 1.0
    word: str = "plain"
    size: Dim = 1
    limit: Dim | None = None
    pair: tuple[int, int] = (1, 1)
    many: tuple[tuple[Dim, Dim], ...] = ()
    type: TensorType = PAIR
    inner: FillAttrs = FillAttrs((3,))


def _same(attrs: Attrs, x: TensorType, y: TensorType) -> TensorType:
    if x != y:
        raise TypeRuleError(f"cannot join {x} and {y}")
    return x


def _op(name: str, rule: Any, reference: Any, attrs: type[Attrs] | None = None) -> Op:
    given = {} if attrs is None else {"attrs": attrs}
    return Op(name, rule, reference, NONE, NONE, (), **given)


plus = _op("plus", _same, lambda attrs, x, y: x + y)
split = _op(
    "split",
    lambda attrs, x: (x, x.with_dtype("i64")),
    lambda attrs, x: (np.floor(x), np.round(x).astype(np.int64)),
)
fill = _op(
    "fill",
    lambda attrs: TensorType(attrs.dtype, attrs.dims),
    lambda attrs: np.full(attrs.dims, attrs.value, np.float32),
    FillAttrs,
)
odd = _op("odd", lambda attrs, x: x, lambda attrs, x: x, OddAttrs)
liar = _op("liar", lambda attrs, x: x, lambda attrs, x: x.astype(np.float64))

OPS = {op.name: op for op in (plus, split, fill, odd, liar)}


def f32(*dims: Dim) -> TensorType:
    return TensorType("f32", dims)
