"""What `random_uniform` and `random_normal` mean, by machine code: first weights in less time.

Output: `DRAWS`, for `evaluate`. Where the runtime's library is missing, NumPy makes the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from dslc.ir.evaluate import Meaning
from dslc.ir.op import Op
from dslc.ops import random
from dslc_runtime import philox
from dslc_runtime.dtypes import Array


def units(key: int, stream: int, step: int, first: int, count: int) -> Array:
    """`ops.random.units`."""
    made = philox.units(key, stream, step, first, count)
    return random.units(key, stream, step, first, count) if made is None else made


def prepare() -> None:
    """Compiles the runtime's library where that was not done yet."""
    philox.units(0, 0, 0, 0, 4)


DRAWS: Mapping[Op, Meaning] = {
    random.random_uniform: partial(random.uniform, units=units),
    random.random_normal: partial(random.normal, units=units),
}
