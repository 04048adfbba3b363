"""How much rounding changes the results of a program.

Input: a program, and what its entries are called with. Output: a run of its reference meaning in
which each number that is computed is off by the last bits of its type, at random, as if it had been
computed in another order. What two such runs differ by tells what may be asked of compiled code,
also of sums that cancel and of f64 that comes from f32. Non-goal: a bound that always holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np

from dslc.ir import evaluate

# What a number differs by in its last bits.
LAST_BITS: Mapping[str, float] = {
    "float64": 2.0**-50,
    "float32": 2.0**-21,
    "bfloat16": 2.0**-8,
    "float16": 2.0**-10,
}
# They give numbers that they are given: whoever computes them, they are equal.
EXACT = frozenset({
    "abs", "broadcast", "concat", "constant", "gather", "max_pool2d", "maximum", "minimum", "neg",
    "pad", "put", "reduce_max", "reduce_min", "relu", "reshape", "select", "slice",
    "stop_gradient", "take_along", "transpose",
})  # fmt: skip


def moved(array: Any, rng: np.random.Generator) -> Any:
    """The numbers, each off by its last bits; what are no floats, as they are."""
    noise = LAST_BITS.get(array.dtype.name)
    if noise is None:
        return array
    steps = noise * rng.choice([-1.0, 1.0], array.shape)
    return np.asarray(np.asarray(array, np.float64) * (1 + steps)).astype(array.dtype)


@contextmanager
def rounded(seed: int) -> Iterator[None]:
    """`evaluate` computes each number a little off."""
    rng = np.random.default_rng(seed)
    run = evaluate._run

    def run_off(eqn: Any, inputs: list[Any], *given: Any) -> list[Any]:
        made = run(eqn, inputs, *given)
        # Random bits and constants are the same for all.
        floats = any(array.dtype.name in LAST_BITS for array in inputs)
        if eqn.op.name in EXACT or not floats:
            return made
        return [moved(array, rng) for array in made]

    with patch.object(evaluate, "_run", run_off), np.errstate(all="ignore"):
        yield
