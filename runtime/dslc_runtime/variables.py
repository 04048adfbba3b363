"""The tensors of a model that live between calls: weights, states, optimiser states, prepared ones.

Input: what a manifest declares and arrays that fit it (`loading.py`). Output: a `Store` of arrays
and of the handles that compiled code takes. Non-goals: locking, running `prepare` (`session.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from dslc_runtime.arrays import aligned_copy, aligned_empty, is_aligned, tensor
from dslc_runtime.cuda import Device
from dslc_runtime.dtypes import ITEMSIZE, Array, numpy_dtype
from dslc_runtime.manifest import VariableInfo


class Store:
    """Current values by name. Never changed except through `handles` by compiled code: new weights
    make a new Store, so that calls under way keep theirs."""

    __slots__ = ("arrays", "device", "handles", "infos", "stale")

    def __init__(
        self,
        infos: Mapping[str, VariableInfo],
        arrays: Mapping[str, Array],
        handles: Mapping[str, Any],
        device: Device | None,
    ) -> None:
        self.infos = infos
        self.arrays = arrays  # empty on a GPU
        self.handles = handles
        self.device = device
        self.stale = True  # prepared variables don't match the others (yet)

    def read(self, name: str) -> Array:
        """A read-only view of a variable; on a GPU, of a copy."""
        if self.device is None:
            view = self.arrays[name].view()
        else:
            info = self.infos[name]
            view = np.empty(info.dims, numpy_dtype(info.dtype))
            self.device.download(self.handles[name], view)
        view.flags.writeable = False
        return view

    def replaced(self, given: Mapping[str, Array]) -> Store:
        """A store with copies of the given arrays; prepared variables get new memory, the others
        are shared."""
        new = {info.name for info in self.infos.values() if info.kind == "prepared"} | set(given)
        kept = {name: array for name, array in self.arrays.items() if name not in new}
        handles = {name: handle for name, handle in self.handles.items() if name not in new}
        made = make(
            {name: self.infos[name] for name in new},
            {name: aligned_copy(array) for name, array in given.items()},
            self.device,
        )
        arrays = {**kept, **made.arrays}
        return Store(self.infos, arrays, {**handles, **made.handles}, self.device)


def make(
    infos: Mapping[str, VariableInfo], values: Mapping[str, Array], device: Device | None
) -> Store:
    """A store that takes over the given arrays where their memory is fit; variables without a
    value start as zeros."""
    arrays = {name: _fit(info, values.get(name)) for name, info in infos.items()}
    if device is None:
        return Store(infos, arrays, {name: tensor(a) for name, a in arrays.items()}, None)
    return Store(infos, {}, {name: device.upload(a) for name, a in arrays.items()}, device)


def _fit(info: VariableInfo, value: Array | None) -> Array:
    if value is None:
        nbytes = prod(info.dims) * ITEMSIZE[info.dtype]
        zeros = aligned_empty(info.dims, numpy_dtype(info.dtype), nbytes)
        zeros[...] = 0
        return zeros
    return value if value.flags.carray and is_aligned(value) else aligned_copy(value)
