"""A call of an entry on a GPU: arrays are copied there and back, tensors that are there stay there.

Input: checked arguments and where results go. Output: results: NumPy arrays, or, where an argument
or `out` is a tensor in the GPU's memory, such tensors (anything with DLPack takes them). Then
nothing waits for the GPU, and the call is in order with what else runs on its default stream.
Working memory is kept from call to call. Non-goals: checking arguments (`arrays.py`, `entry.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dslc_runtime._ffi import tvm_ffi
from dslc_runtime.arrays import Slot, aligned_empty, declared, is_on_cuda, takes
from dslc_runtime.cuda import Device, host_array
from dslc_runtime.dtypes import Array, DType
from dslc_runtime.errors import ArgumentError
from dslc_runtime.manifest import TensorInfo

Sizes = Sequence[tuple[tuple[int, ...], DType, int]]
Invoke = Callable[[list[Any], list[Any], Any], None]  # (inputs, outputs, arena)
_U8 = np.dtype(np.uint8)


def run(
    device: Device, lock: Any, slots: Sequence[Slot], inputs: Sequence[Any], results: list[Any],
    arena_bytes: int, invoke: Invoke,
) -> None:  # fmt: skip
    """Fills `results`; one call at a time."""
    lent: list[Any] = []

    def borrowed(shape: tuple[int, ...], dtype: DType) -> Any:
        lent.append(device.borrow(shape, dtype))
        return lent[-1]

    def given(value: Any, slot: Slot) -> Any:
        if is_on_cuda(value):
            return value
        array = host_array(value, slot.dtype)
        made = borrowed(array.shape, array.dtype)
        device.write(made, array)
        return made

    with lock:
        try:
            taken = [given(value, slot) for value, slot in zip(inputs, slots)]
            made = [
                borrowed(result.shape, result.dtype) if isinstance(result, np.ndarray) else result
                for result in results
            ]
            invoke(taken, made, borrowed((arena_bytes,), _U8))
            for source, result in zip(made, results):
                if isinstance(result, np.ndarray):
                    device.download(source, result)
        finally:
            for tensor in lent:
                device.give_back(tensor)


def fresh(device: Device, inputs: Sequence[Any], sizes: Sizes) -> list[Any]:
    """Memory for results: on the GPU if an input is there."""
    if any(map(is_on_cuda, inputs)):
        return [device.empty(shape, dtype) for shape, dtype, _ in sizes]
    return [aligned_empty(*size) for size in sizes]


def check_out(out: Any, infos: Sequence[TensorInfo], sizes: Sizes) -> list[Any] | None:
    """The tensors of `out` if they are on the GPU; None if they are not. ArgumentError when they
    don't fit."""
    given = list(out) if isinstance(out, tuple | list) else [out]
    if not any(map(_is_foreign_cuda, given)):
        return None
    if len(given) != len(infos):
        raise ArgumentError(f"out has {len(given)} tensors; there are {len(infos)}")
    found = []
    for value, info, (shape, _, _) in zip(given, infos, sizes):
        tensor = tvm_ffi.from_dlpack(value) if _is_foreign_cuda(value) else None
        if tensor is None or tuple(tensor.shape) != shape or not takes(info, tensor):
            need = f"{declared(info)} = {list(shape)}"
            raise ArgumentError(f"out for {info.name} must be contiguous, {need}, on the GPU")
        found.append(tensor)
    return found


def _is_foreign_cuda(value: Any) -> bool:
    return hasattr(value, "__dlpack_device__") and is_on_cuda(value)


def on_host(device: Device | None, value: Any, dtype: DType) -> Array:
    """An input as an array in CPU memory: it was checked."""
    if isinstance(value, np.ndarray):
        return value
    if device is None or not is_on_cuda(value):
        return np.asarray(np.from_dlpack(value))
    made = np.empty(tuple(value.shape), dtype)
    device.download(tvm_ffi.from_dlpack(value), made)
    return made
