"""What is handed to a call: checked against what the model declares, without copies.

Input: NumPy arrays, anything with `__dlpack__` in CPU memory (PyTorch, JAX, CuPy) or in that of the
GPU the model runs on, Python numbers for scalars. Output: what tvm_ffi takes, or an `ArgumentError`
that names the argument, what it is and what it must be. Also memory for results. Non-goals:
equations between dims (`session.py`).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import mmap
import sys
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, NoReturn

import numpy as np

from dslc_runtime import dims
from dslc_runtime._ffi import tvm_ffi
from dslc_runtime.dtypes import Array, DType, described, name_of, numpy_dtype, show_type
from dslc_runtime.errors import ArgumentError
from dslc_runtime.manifest import FLOATS, TensorInfo

ALIGNMENT = 64
SMALL = 64 << 10  # bytes of a result whose memory is not aligned, and not used again
UNMASK = "its mask would be ignored; x.filled(0) makes an array that has zeros there"
UNSEEN = 2  # references to what only a variable and the call that counts them refer to
KEPT = 2  # memories of a result: a loop over `y = model(x)` holds one while the next is filled
_CPU, _CUDA = 1, 2  # DLPack's kDLCPU and kDLCUDA
_CUDA_ALIGNMENT = 16  # of what kernels read as vectors
_BFLOAT_CODE = 4  # DLPack's kDLBfloat
_DTYPE_CODE_OFFSET = 20  # in a DLManagedTensor: data (8), device (8), ndim (4), then the dtype


def declared(info: TensorInfo) -> str:
    """`f32[N, 3]`; a scalar is `f32`."""
    inside = ", ".join(map(dims.text, info.dims))
    return f"{info.dtype}[{inside}]" if info.dims else info.dtype


def aligned_empty(shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int) -> Array:
    """An uninitialised array that starts at a multiple of 64 bytes."""
    return _aligned(np.empty(nbytes + ALIGNMENT, np.uint8), shape, dtype)


def _aligned(raw: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    # NumPy's own ways to the address take several times as long.
    start = -ctypes.addressof(ctypes.c_char.from_buffer(raw)) % ALIGNMENT
    return np.ndarray(shape, dtype, raw, start)


def result_empty(
    shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int, kept: list[Any]
) -> Array:
    """An uninitialised array for a result; to align a small one takes longer than it saves.

    A larger one takes the memory of an earlier result, of those `kept`, if nobody sees that any
    more: the system clears new pages, which takes longer than most kernels need to fill them, and
    `malloc` gives its uppermost pages back at each call when much lies below them by chance.
    """
    if nbytes <= SMALL:
        return np.empty(shape, dtype)
    for _ in range(KEPT):
        try:
            raw = kept.pop(0)  # first of all: other threads take from them, too
        except IndexError:
            break
        free = sys.getrefcount(raw) <= UNSEEN
        if raw.nbytes == nbytes + ALIGNMENT:
            kept.append(raw)
            if free:
                return _aligned(raw, shape, dtype)
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    kept.append(raw)
    del kept[:-KEPT]
    return _aligned(raw, shape, dtype)


def result_on(device: Any, shape: tuple[int, ...], dtype: DType, kept: list[Any]) -> Any:
    """The same on a GPU, of whatever size: to ask for memory there takes longer than most kernels,
    and to free it waits for all of them."""
    for _ in range(KEPT):
        try:
            made = kept.pop(0)
        except IndexError:
            break
        free = sys.getrefcount(made) <= UNSEEN and _holders(made) == 1
        if made.shape == shape:
            kept.append(made)
            if free:
                return made
    made = device.empty(shape, dtype)
    kept.append(made)
    del kept[:-KEPT]
    return made


def _holders(tensor: Any) -> int:
    """How many hold a tensor's object of tvm_ffi: its variable in Python, and whoever took it
    through DLPack. The strong count is where each object begins (`TVMFFIObject` in c_api.h)."""
    return ctypes.c_uint32.from_address(tensor.__chandle__()).value


def zeros_together(types: Iterable[tuple[tuple[int, ...], DType, int]]) -> list[Array]:
    """Zeros of shapes, dtypes and sizes in bytes, each at a multiple of 64 bytes of one block of
    large pages: the system makes them when they are touched, which page by page takes longer than
    to fill them."""
    wanted = list(types)
    starts = [0, *accumulate(-(-nbytes // ALIGNMENT) * ALIGNMENT for *_, nbytes in wanted)]
    # Memory that could be shared, as `mmap` makes it if not told, has small pages.
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    block = mmap.mmap(-1, max(starts[-1], 1), private)
    with contextlib.suppress(OSError, AttributeError):  # a system without them
        block.madvise(mmap.MADV_HUGEPAGE)
    return [
        np.ndarray(shape, dtype, block, start) for (shape, dtype, _), start in zip(wanted, starts)
    ]


def aligned_copy(array: Array) -> Array:
    """A copy of `array` that owns its memory and starts at a multiple of 64 bytes."""
    copy = aligned_empty(array.shape, array.dtype, array.nbytes)
    copy[...] = array
    return copy


def is_aligned(array: Array) -> bool:
    return array.size == 0 or array.ctypes.data % ALIGNMENT == 0


def tensor(array: Array) -> Any:
    """A `tvm_ffi.Tensor` over a C-contiguous array's memory; read-only arrays and bf16, which
    NumPy does not export, included."""
    if array.dtype.name == "bfloat16":
        return tvm_ffi.from_dlpack(_BFloat(writable(array).view(np.uint16)))
    return tvm_ffi.from_dlpack(writable(array))


def writable(array: Array) -> Array:
    """The array, or for a read-only one another view of its memory. Compiled code writes only to
    outputs and to variables that it updates, so the promise is kept all the same."""
    if array.flags.writeable:
        return array
    memory: Any = (ctypes.c_char * array.nbytes).from_address(array.ctypes.data)
    memory._owner = array  # lives as long as its alias
    return np.ndarray(array.shape, array.dtype, memory)


def array_of(value: Any) -> Array:
    """An array over the memory of a tensor with `__dlpack__`, its gradient left aside.
    BufferError, RuntimeError, TypeError or ValueError when it can't be read from here."""
    plain = value.detach() if hasattr(value, "detach") else value
    if plain.__dlpack_device__()[0] != _CPU:
        raise BufferError("it is not in CPU memory; move it there first")
    try:
        return np.from_dlpack(plain)
    except (BufferError, RuntimeError):
        made = tvm_ffi.from_dlpack(plain)
        if str(made.dtype) != "bfloat16" or not made.is_contiguous():
            raise
    shape = tuple(made.shape)
    memory: Any = (ctypes.c_char * (2 * math.prod(shape))).from_address(made.data_ptr())
    memory._owner = made  # lives as long as the array
    return np.ndarray(shape, numpy_dtype("bf16"), memory)


def shares_memory(array: Array, other: object) -> bool:
    """Whether the array has bytes of another array, or of a tensor of another library."""
    if not isinstance(other, np.ndarray) and hasattr(other, "__dlpack__"):
        try:
            other = array_of(other)
        except (BufferError, RuntimeError, TypeError, ValueError):
            return False  # on a GPU
    return isinstance(other, np.ndarray) and bool(np.may_share_memory(array, other))


def given_kind(value: object) -> str:
    """What a value is, for messages: `f64[3]`, `a torch Tensor`, `an int`, `None`."""
    if isinstance(value, np.ndarray):
        return described(value)
    if value is None:
        return "None"
    module, name = type(value).__module__.partition(".")[0], type(value).__name__
    if hasattr(value, "__dlpack__") and not isinstance(value, np.generic):
        return f"a {module} {name}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def is_on_cuda(value: Any) -> bool:
    """Whether an array or tensor lies in a GPU's memory."""
    return not isinstance(value, np.ndarray) and value.__dlpack_device__()[0] == _CUDA


def takes(info: TensorInfo, tensor: Any) -> bool:
    """Whether a tensor on a GPU has the dtype, and memory that kernels can write to."""
    aligned = tensor.data_ptr() % _CUDA_ALIGNMENT == 0 or not tensor.numel()
    return tensor.dtype == _LONG[info.dtype] and tensor.is_contiguous() and aligned


class _BFloat:
    """Exports a u16 array as bf16 through DLPack."""

    def __init__(self, bits: Array) -> None:
        self.bits = bits

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CPU, 0

    def __dlpack__(self, **options: object) -> Any:
        capsule = self.bits.__dlpack__()
        get = ctypes.pythonapi.PyCapsule_GetPointer
        get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        address = get(capsule, b"dltensor") + _DTYPE_CODE_OFFSET
        ctypes.c_uint8.from_address(address).value = _BFLOAT_CODE
        return capsule


class Slot:
    """One input of an entry: checks what is given for it.

    `take(value)` returns (what tvm_ffi takes, its shape). Rank and dtype are right then, and dims
    that are numbers; the others are left to who binds them.
    """

    __slots__ = ("_name", "_numbers", "dtype", "info", "on_cuda", "rank")

    def __init__(self, info: TensorInfo, on_cuda: bool = False) -> None:
        self.info = info
        self.on_cuda = on_cuda  # whether it may lie in a GPU's memory
        self.dtype = numpy_dtype(info.dtype)
        self.rank = len(info.dims)
        self._name = _LONG[info.dtype]
        self._numbers = [(i, dim) for i, dim in enumerate(info.dims) if isinstance(dim, int)]

    def take(self, value: object) -> tuple[Any, tuple[int, ...]]:
        """ArgumentError when the value doesn't fit."""
        if isinstance(value, int | float | np.generic) and self.rank == 0:
            made = self._scalar(value)
            if not isinstance(value, np.generic) and self.info.dtype != "bf16":
                return made, ()  # fits, and is taken as it is: a training step has two of them
            value = made
        if isinstance(value, np.ndarray):
            return self._array(value)
        if hasattr(value, "__dlpack__"):
            return self._foreign(value)
        advice = "pass a NumPy array, or anything with __dlpack__"
        if isinstance(value, list | tuple):
            advice = f"np.asarray(x, np.{self.dtype.name}) makes an array of it"
        raise self.error(given_kind(value), advice)

    def error(self, given: str, why: str) -> ArgumentError:
        need = declared(self.info)
        return ArgumentError(f"{self.info.name} must be {need}, but {given} was given: {why}")

    def _scalar(self, value: float | np.generic[Any]) -> Array:
        if isinstance(value, np.generic):
            return np.array(value)
        if isinstance(value, float) and self.info.dtype not in FLOATS:
            raise self.error(f"the float {value!r}", "it would be rounded")
        try:
            return np.array(value, self.dtype)
        except OverflowError:
            raise self.error(f"the number {value}", "it is out of range") from None

    def _array(self, array: Array) -> tuple[Any, tuple[int, ...]]:
        given = described(array)
        self._check(given, array.shape, array.dtype == self.dtype, name_of(array.dtype))
        if isinstance(array, np.ma.MaskedArray):
            raise self.error(f"a masked {given}", UNMASK)
        if not array.flags.c_contiguous:
            why = "it is not contiguous in memory; np.ascontiguousarray(x) makes a copy that is"
            raise self.error(given, why)
        if not array.flags.aligned:
            address = f"it starts at an address that is no multiple of {self.dtype.itemsize}"
            raise self.error(given, f"{address}; x.copy() makes a copy that fits")
        return tensor(array), array.shape

    def _foreign(self, value: Any) -> tuple[Any, tuple[int, ...]]:
        try:
            made = tvm_ffi.from_dlpack(value)
            dtype = made.dtype
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            where = _CPU
            with contextlib.suppress(BufferError, RuntimeError, TypeError, ValueError):
                where = value.__dlpack_device__()[0]
            self._check_place(value, where)
            reason = str(error).splitlines()[0]
            raise self.error(given_kind(value), f"its memory can't be read: {reason}") from None
        where = made.__dlpack_device__()[0]
        if where != _CPU:
            self._check_place(value, where)
        shape = made.shape
        if not (dtype == self._name and self._fits(shape) and made.is_contiguous()):
            self._refuse(given_kind(value), made)
        alignment = _CUDA_ALIGNMENT if where == _CUDA else self.dtype.itemsize
        if made.data_ptr() % alignment and made.numel():
            raise self.error(given_kind(value), "its memory is not aligned")
        return made, shape

    def _check_place(self, value: Any, where: int) -> None:
        if where != _CPU and not (where == _CUDA and self.on_cuda):
            raise self.error(given_kind(value), "it is not in CPU memory; move it there first")

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the rank is right, and dims that are numbers."""
        if len(shape) != self.rank:
            return False
        for axis, dim in self._numbers:  # noqa: SIM110 - half the time of `all`
            if shape[axis] != dim:
                return False
        return True

    def _refuse(self, kind: str, made: Any) -> NoReturn:
        """ArgumentError for a tensor that doesn't fit."""
        dtype = _SHORT.get(made.dtype, str(made.dtype))
        given = f"{kind} {show_type(dtype, made.shape)}"
        torch = kind.startswith("a torch ")
        convert = f"{self.info.name}.to(torch.{self.dtype.name})" if torch else ""
        self._check(given, made.shape, dtype == self.info.dtype, dtype, convert)
        advice = f"; {self.info.name}.contiguous() makes a copy that is" * torch
        raise self.error(given, f"it is not contiguous in memory{advice}")

    def _check(
        self, given: str, shape: tuple[int, ...], same: bool, dtype: str, convert: str = ""
    ) -> None:
        if len(shape) != self.rank:
            raise self.error(given, f"it has {len(shape)} dims, not {self.rank}")
        if not same:
            known = dtype in _SHORT.values() and self.info.dtype != "bf16"
            convert = convert or f"{self.info.name}.astype(np.{self.dtype.name})" * known
            advice = f"; {convert} converts it" if convert else ""
            raise self.error(given, f"its dtype is {dtype}{advice}")
        for axis, (size, dim) in enumerate(zip(shape, self.info.dims)):
            if isinstance(dim, int) and size != dim:
                raise self.error(given, f"dim {axis} is {size}, not {dim}")


_SHORT = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64",
    "int32": "i32", "int16": "i16", "int8": "i8", "uint8": "u8", "bool": "bool",
}  # fmt: skip
_LONG = {short: long for long, short in _SHORT.items()}
