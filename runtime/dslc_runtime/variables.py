"""The tensors of a model that live between calls: weights, states, optimiser states, prepared ones.

Input: what a manifest declares and arrays that fit it (`loading.py`). Output: a `Store` of arrays
and of the tables of addresses that compiled code takes. Non-goals: locking, running `prepare`
(`session.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from math import prod
from typing import Any

import numpy as np

from dslc_runtime.arrays import aligned_copy, is_aligned, tensor, zeros_together
from dslc_runtime.cuda import Device
from dslc_runtime.dtypes import ITEMSIZE, Array, DType, numpy_dtype
from dslc_runtime.manifest import EntryCode, VariableInfo


class Store:
    """Current values by name: `arrays`, or on a GPU `tensors`. Never changed except by compiled
    code: new weights make a new Store, so that calls under way keep theirs. `first`: what states
    begin with, if not with zeros."""

    __slots__ = ("_tables", "arrays", "device", "first", "infos", "stale", "tensors")

    def __init__(
        self,
        infos: Mapping[str, VariableInfo],
        arrays: Mapping[str, Array],
        tensors: Mapping[str, Any],
        device: Device | None,
        first: Mapping[str, Array],
    ) -> None:
        self.first = first
        self.infos = infos
        self.arrays = arrays
        self.tensors = tensors
        self.device = device
        self._tables: dict[str, Any] = {}
        self.stale = True  # prepared variables don't match the others (yet)

    def table(self, code: EntryCode) -> Any:
        """The addresses of the variables that compiled code takes."""
        made = self._tables.get(code.symbol)
        if made is None:
            places = [self._address(name) for name in code.variables]
            made = self._tables[code.symbol] = tensor(np.array(places, np.int64))
        return made

    def _address(self, name: str) -> int:
        if self.device is not None:
            return int(self.tensors[name].data_ptr())
        return int(self.arrays[name].ctypes.data)

    def read(self, name: str) -> Array:
        """A read-only view of a variable; on a GPU, of a copy."""
        if self.device is None:
            view = self.arrays[name].view()
        else:
            info = self.infos[name]
            view = np.empty(info.dims, numpy_dtype(info.dtype))
            self.device.download(self.tensors[name], view)
        view.flags.writeable = False
        return view

    def replaced(self, given: Mapping[str, Array]) -> Store:
        """A store with copies of the given arrays; prepared variables get new memory, the others
        are shared."""
        new = {info.name for info in self.infos.values() if info.kind == "prepared"} | set(given)
        return self._with(new, {name: aligned_copy(array) for name, array in given.items()})

    def renewed(self) -> Store:
        """A store whose states are what they were at first; all else is shared."""
        states = {info.name for info in self.infos.values() if info.kind == "state"}
        store = self._with(states, self.first)
        store.stale = self.stale
        return store

    def _with(self, new: AbstractSet[str], values: Mapping[str, Array]) -> Store:
        """A store that shares all but the variables in `new`."""
        kept = {name: array for name, array in self.arrays.items() if name not in new}
        tensors = {name: made for name, made in self.tensors.items() if name not in new}
        made = make({name: self.infos[name] for name in new}, values, self.device)
        arrays, first = {**kept, **made.arrays}, {**self.first, **made.first}
        return Store(self.infos, arrays, {**tensors, **made.tensors}, self.device, first)


def make(
    infos: Mapping[str, VariableInfo], values: Mapping[str, Array], device: Device | None
) -> Store:
    """A store that takes over the given arrays where their memory is fit (of states, copies);
    variables without a value start as zeros."""
    first = {n: values[n] for n, info in infos.items() if info.kind == "state" and n in values}
    missing = [info for name, info in infos.items() if name not in values]
    zeros = zeros_together(map(_type_of, missing))
    made = {info.name: array for info, array in zip(missing, zeros)}
    arrays = {n: made[n] if n in made else _fit(v, values[n]) for n, v in infos.items()}
    if device is None:
        return Store(infos, arrays, {}, None, first)
    return Store(infos, {}, {name: device.upload(a) for name, a in arrays.items()}, device, first)


def _type_of(info: VariableInfo) -> tuple[tuple[int, ...], DType, int]:
    return info.dims, numpy_dtype(info.dtype), prod(info.dims) * ITEMSIZE[info.dtype]


def _fit(info: VariableInfo, value: Array) -> Array:
    if info.kind == "state":
        return aligned_copy(value)
    return value if value.flags.carray and is_aligned(value) else aligned_copy(value)
