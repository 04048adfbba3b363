"""What the numbers of integer inputs may be, looked at before native code sees them.

Input: a `Limit` and the dims of a call. Output: a `Bound`, which refuses an input that holds
another number. What is read of an input is its least and its greatest number: a token or a label
takes two microseconds, a thousand of them three.
Non-goals: dtypes and dims (`arrays.py`, `signature.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dslc_runtime import dims
from dslc_runtime.arrays import is_on_cuda
from dslc_runtime.cuda import Device
from dslc_runtime.device_call import on_host
from dslc_runtime.dtypes import Array, DType, numpy_dtype
from dslc_runtime.errors import ArgumentError
from dslc_runtime.manifest import Limit, TensorInfo


@dataclass(frozen=True, slots=True)
class Bound:
    """What the input at a position may hold in calls with certain dims: `low` to `high`, and what
    `limit` allows besides."""

    limit: Limit
    position: int
    dtype: DType
    low: int
    high: int
    known: Mapping[str, int]
    device: Device | None

    @staticmethod
    def of(
        limit: Limit, inputs: Sequence[TensorInfo], values: Mapping[str, int], device: Device | None
    ) -> Bound:
        """DimError when a side has no value."""
        position = [t.name for t in inputs].index(limit.input)
        dtype = numpy_dtype(inputs[position].dtype)
        low, high = dims.evaluate(limit.low, values), dims.evaluate(limit.high, values)
        known = {name: values[name] for name in sorted(dims.variables(limit.high))}
        return Bound(limit, position, dtype, low, high, known, device)

    def check(self, value: Any) -> None:
        """ArgumentError when a number of the input, whose dtype is right, is not allowed."""
        if isinstance(value, int):
            value = self.dtype.type(value)
        elif not isinstance(value, np.ndarray | np.generic):
            if self.limit.on_host and is_on_cuda(value):
                return
            value = on_host(self.device, value, self.dtype)
        if value.size == 0:
            return
        if self.low == 0 and isinstance(value, np.ndarray):
            # Negative numbers are the greatest of all as unsigned ones: one look is enough.
            if _greatest(value.view(_UNSIGNED[value.dtype]), axis=None) <= self.high:
                return
        elif _least(value, axis=None) >= self.low and _greatest(value, axis=None) <= self.high:
            return
        self._refuse(np.asarray(value))

    def _refuse(self, array: Array) -> None:
        """ArgumentError for the first number that is not allowed, if there is one."""
        limit, low, high = self.limit, self.low, self.high
        wrong = (array < low) | (array > high)
        for allowed in limit.besides:
            wrong &= array != allowed
        if not wrong.any():
            return
        place = np.unravel_index(int(wrong.argmax()), array.shape)
        bounds = f"{low}..{high}" if high >= low else "nothing: there is no room"
        if self.known:
            sizes = ", ".join(f"{name} = {size}" for name, size in self.known.items())
            bounds += f" ({dims.text(limit.high)} with {sizes})"
        bounds += "".join(f" or {dims.text(allowed)}" for allowed in limit.besides)
        found = f"it is {array[place]}"
        if place:
            found = f"it has {array[place]} at [{', '.join(map(str, place))}]"
        raise ArgumentError(f"{limit.input} must be {bounds}, but {found}: {limit.reason}")


_least, _greatest = np.minimum.reduce, np.maximum.reduce
_UNSIGNED = {
    np.dtype(name): np.dtype(name.replace("int", "uint") if name[0] == "i" else name)
    for name in ("int64", "int32", "int16", "int8", "uint8")
}
