"""A GPU's memory and the libraries that reach it.

Input: nothing but the machine: NVIDIA's driver, libcudart 13, and the runtime libraries of an
installed apache-tvm (the extra `dslc-runtime[cuda]`); its Python package is not imported. Output:
`Cuda`, which moves arrays to and from the device. Imported only when CUDA code is to be run.
Non-goals: several GPUs, streams, CUDA graphs.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dslc_runtime import launcher
from dslc_runtime._ffi import tvm_ffi
from dslc_runtime.dtypes import Array
from dslc_runtime.errors import DeviceError

_CUDART = "libcudart.so.13"
_MOST_KINDS = 64  # shapes of which memory is kept between calls
_COMPUTE_VERSION = 4  # TVM's kComputeVersion


class Device:
    """Memory of one device, through the functions that TVM's runtime library registers."""

    def __init__(self, name: str) -> None:
        self.device = tvm_ffi.device(name, 0)
        self._empty = tvm_ffi.get_global_func("runtime.TVMTensorAllocWithScope")
        self._from_bytes = tvm_ffi.get_global_func("runtime.TVMTensorCopyFromBytes")
        self._to_bytes = tvm_ffi.get_global_func("runtime.TVMTensorCopyToBytes")
        self._synchronize = tvm_ffi.get_global_func("runtime.Device_StreamSync")
        self._free: dict[tuple[tuple[int, ...], np.dtype[Any]], list[Any]] = {}
        self._lock = threading.Lock()

    def capability(self) -> str:
        """Compute capability of a GPU: "9.0"."""
        attribute = tvm_ffi.get_global_func("runtime.GetDeviceAttr")
        kind = self.device.dlpack_device_type()
        return str(attribute(kind, self.device.index, _COMPUTE_VERSION))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """An uninitialised tensor on the device."""
        name = "bfloat16" if dtype.name == "bfloat16" else dtype.name
        return self._empty(tvm_ffi.Shape(shape), tvm_ffi.dtype(name), self.device, None)

    def borrow(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """The same, kept from an earlier use where there is one: asking the driver for memory
        takes as long as a small model, and freeing it waits for the GPU."""
        with self._lock:
            free = self._free.get((shape, dtype))
            if free:
                return free.pop()
        return self.empty(shape, dtype)

    def give_back(self, tensor: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        """Keeps what was borrowed for a later use."""
        key = shape, dtype
        with self._lock:
            if len(self._free) >= _MOST_KINDS and key not in self._free:
                self._free.pop(next(iter(self._free)))
            self._free.setdefault(key, []).append(tensor)

    def synchronize(self) -> None:
        """Waits until the GPU has done what it was given."""
        self._synchronize(self.device, 0)

    def upload(self, array: Array) -> Any:
        """A copy of a C-contiguous array on the device."""
        made = self.empty(array.shape, array.dtype)
        self.write(made, array)
        return made

    def write(self, target: Any, array: Array) -> None:
        """Overwrites a tensor on the device."""
        if array.nbytes:
            self._from_bytes(target, ctypes.c_void_p(array.ctypes.data), array.nbytes)

    def download(self, source: Any, into: Array) -> None:
        """Copies a tensor on the device into a C-contiguous array, when the device has made it."""
        if into.nbytes:
            self._to_bytes(source, ctypes.c_void_p(into.ctypes.data), into.nbytes)


def check_architecture(names: str, capability: str) -> None:
    """DeviceError unless code for one of `names` ("sm_80,sm_90a") runs on a GPU of the capability.

    Later GPUs run it too, because the driver compiles the PTX that stands beside the machine code;
    with a suffix it is for that architecture alone.
    """
    gpu = int(capability.replace(".", ""))
    for name in names.split(","):
        number = name.removeprefix("sm_").rstrip("af")
        alone = name.endswith(("a", "f"))
        if number.isdecimal() and (gpu == int(number) if alone else gpu >= int(number)):
            return
    raise DeviceError(f"the artifact has code for {names}; this GPU is sm_{gpu}")


def host_array(value: Any, dtype: np.dtype[Any]) -> Array:
    """A NumPy array over what `arrays.Slot.take` returned; valid as long as that is."""
    if isinstance(value, np.ndarray):
        return value
    memory: Any = (ctypes.c_char * (value.numel() * dtype.itemsize)).from_address(value.data_ptr())
    return np.ndarray(tuple(value.shape), dtype, memory)


def open_device() -> Device:
    """The first GPU. DeviceError when a library or the GPU is missing, saying which."""
    folder = _tvm_libraries()
    _open_first(_CUDART, _cudart_candidates())
    for name in ("libtvm_runtime.so", "libtvm_runtime_cuda.so"):
        try:
            ctypes.CDLL(str(folder / name), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise DeviceError(f"CUDA can't be used: {name} does not open: {error}") from None
    launcher.install(tvm_ffi.LIB, renew=True)
    device = Device("cuda")
    try:
        device.upload(np.zeros(1, np.float32))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise DeviceError(f"CUDA can't be used: no GPU answers: {reason}") from None
    return device


def _tvm_libraries() -> Path:
    found = importlib.util.find_spec("tvm")
    for root in (found.submodule_search_locations or []) if found else []:
        folder = Path(root) / "lib"
        if (folder / "libtvm_runtime_cuda.so").exists():
            return folder
    raise DeviceError(
        "CUDA can't be used: libtvm_runtime_cuda.so is not installed; "
        "pip install 'dslc-runtime[cuda]' brings it"
    )


def _cudart_candidates() -> Iterator[str]:
    found = importlib.util.find_spec("nvidia")
    for root in (found.submodule_search_locations or []) if found else []:
        yield str(Path(root) / "cu13" / "lib" / _CUDART)
    for variable in ("CUDA_PATH", "CUDA_HOME"):
        if os.environ.get(variable):
            yield str(Path(os.environ[variable]) / "lib64" / _CUDART)
    yield _CUDART
    yield f"/usr/local/cuda/lib64/{_CUDART}"


def _open_first(name: str, candidates: Iterator[str]) -> None:
    for path in candidates:
        try:
            ctypes.CDLL(path, ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return
    raise DeviceError(
        f"CUDA can't be used: {name} (the CUDA 13 runtime) is not on this machine; "
        "pip install nvidia-cuda-runtime brings it"
    )
