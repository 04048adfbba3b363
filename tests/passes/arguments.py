"""Random arguments for a function."""

from __future__ import annotations

from typing import Any

import numpy as np

from dslc.ir.core import Function
from dslc.ir.dims import Dim
from dslc.ir.evaluate import concrete, numpy_dtype
from dslc.ir.types import is_float
from dslc.ir.verify import type_symbols


def arguments(function: Function, rng: np.random.Generator, size: int) -> list[Any]:
    """One array per parameter; every dim variable is `size`."""
    symbols = frozenset[str]().union(*(type_symbols(p.type) for p in function.params))
    env: dict[str, Dim] = dict.fromkeys(symbols, size)
    out = []
    for param in function.params:
        shape, dtype = concrete(param.type, env), numpy_dtype(param.type.dtype)
        if is_float(param.type.dtype):
            out.append(rng.normal(size=shape).astype(dtype))
        else:
            out.append(rng.integers(0, 2, shape).astype(dtype))
    return out
