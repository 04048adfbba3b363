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
from dslc_runtime.arrays import Slot, aligned_empty, declared, is_on_cuda, result_on, takes
from dslc_runtime.cuda import Device, host_array
from dslc_runtime.dtypes import Array, DType
from dslc_runtime.errors import ArgumentError
from dslc_runtime.manifest import TensorInfo

Sizes = Sequence[tuple[tuple[int, ...], DType, int]]
Invoke = Callable[[list[Any], list[Any], Any], None]  # (inputs, outputs, arena)
_U8 = np.dtype(np.uint8)


def run(
    device: Device, lock: Any, slots: Sequence[Slot], inputs: list[Any], results: list[Any],
    arena_bytes: int, invoke: Invoke,
) -> None:  # fmt: skip
    """Fills `results`; one call at a time."""
    if all(map(_is_tensor, results)) and all(map(is_on_cuda, inputs)):
        arena = device.borrow((arena_bytes,), _U8)
        try:
            with lock:
                invoke(inputs, results, arena)
        finally:
            device.give_back(arena, (arena_bytes,), _U8)
        return
    lent: list[tuple[Any, tuple[int, ...], DType]] = []

    def borrowed(shape: tuple[int, ...], dtype: DType) -> Any:
        tensor = device.borrow(shape, dtype)
        lent.append((tensor, shape, dtype))
        return tensor

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
                device.give_back(*tensor)


def fresh(
    device: Device, inputs: Sequence[Any], sizes: Sizes, kept: Sequence[list[Any]]
) -> list[Any]:
    """Memory for results: on the GPU if an input is there. `kept`: see `result_on`."""
    if any(map(is_on_cuda, inputs)):
        return [result_on(device, *size[:2], held) for size, held in zip(sizes, kept)]
    return [aligned_empty(*size) for size in sizes]


def check_out(out: Any, infos: Sequence[TensorInfo], sizes: Sizes) -> list[Any] | None:
    """The tensors of `out` if they are on the GPU; None if they are not. ArgumentError when they
    don't fit."""
    given = out if isinstance(out, tuple | list) else (out,)
    found = [_there(value) for value in given]
    if found.count(None) == len(found):
        return None
    if len(found) != len(infos):
        raise ArgumentError(f"out has {len(found)} tensors; there are {len(infos)}")
    for tensor, info, (shape, _, _) in zip(found, infos, sizes):
        if tensor is None or tensor.shape != shape or not takes(info, tensor):
            need = f"{declared(info)} = {list(shape)}"
            raise ArgumentError(f"out for {info.name} must be contiguous, {need}, on the GPU")
    return found


def _is_tensor(value: Any) -> bool:
    return not isinstance(value, np.ndarray)


def _there(value: Any) -> Any:
    """The tensor, if it lies in the GPU's memory."""
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack__"):
        return None
    try:
        made = tvm_ffi.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError):
        return None
    return made if is_on_cuda(made) else None


def on_host(device: Device | None, value: Any, dtype: DType) -> Array:
    """An input as an array in CPU memory: it was checked."""
    if isinstance(value, np.ndarray):
        return value
    if device is None or not is_on_cuda(value):
        return np.asarray(np.from_dlpack(value))
    made = np.empty(tuple(value.shape), dtype)
    device.download(tvm_ffi.from_dlpack(value), made)
    return made
