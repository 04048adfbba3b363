"""Wrong arguments: each is refused before native code runs, in a sentence that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import dslc_runtime
from dslc_runtime import ArgumentError, Model
from dslc_runtime.arrays import Slot, tensor
from dslc_runtime.manifest import TensorInfo

X = np.ones((3, 4), np.float32)
NEED = r"x must be f32\[N, 4\], but"


@pytest.fixture
def model(toy_path: Path) -> Model:
    return dslc_runtime.load(toy_path)


def unaligned() -> Any:
    return np.frombuffer(bytes(49), np.uint8)[1:].view(np.float32).reshape(3, 4)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (X.astype(np.float64), r"f64\[3, 4\] was given: its dtype is f64; x.astype\(np.float32\)"),
        (X.astype(">f4"), r"its dtype is float32 \(of the other byte order\)"),
        (X.astype(np.complex64), "its dtype is complex64"),
        (X.astype(object), "its dtype is object"),
        (X.astype(ml_dtypes.bfloat16), "its dtype is bf16"),
        (X[0], "it has 1 dims, not 2"),
        (X[None].astype(np.float64), "it has 3 dims, not 2"),
        (np.ones((3, 5), np.float32), "dim 1 is 5, not 4"),
        (np.ones((4, 3), np.float32).T, "not contiguous.*np.ascontiguousarray"),
        (np.ones((3, 8), np.float32)[:, ::2], "not contiguous"),
        (np.ma.masked_less(np.ones((3, 4), np.float32), 0), "a masked f32.*mask would be ignored"),
        (unaligned(), "no multiple of 4; x.copy()"),
        ([[1.0] * 4] * 3, r"a list was given: np.asarray\(x, np.float32\) makes an array of it"),
        (None, "None was given: pass a NumPy array"),
        ("text", "a str was given"),
        (3.0, "a float was given"),
    ],
)
def test_a_wrong_array(model: Model, value: Any, why: str) -> None:
    with pytest.raises(ArgumentError, match=f"{NEED}.*{why}"):
        model(value)
    with pytest.raises(ArgumentError, match=why):
        model(x=value)


def test_the_same_mistake_again_after_a_right_call(model: Model) -> None:
    model(X)
    for _ in range(2):
        with pytest.raises(ArgumentError, match="dim 1 is 5, not 4"):
            model(np.ones((3, 5), np.float32))


def test_a_dim_out_of_bounds(model: Model) -> None:
    with pytest.raises(ArgumentError, match=r"N is 0 \(from dim 0 of x\), but it must be 1..4096"):
        model(np.ones((0, 4), np.float32))
    with pytest.raises(ArgumentError, match="N is 4097"):
        model(np.ones((4097, 4), np.float32))


def test_dims_that_do_not_agree(model: Model) -> None:
    a = np.ones((3, 2), np.float32)
    with pytest.raises(
        ArgumentError, match=r"dim 0 of b must be N \+ K = 5 \(with K = 2, N = 3\), but it is 6"
    ):
        model.pair(a, np.ones(6, np.float32), 1)
    with pytest.raises(ArgumentError, match=r"3 is not even \(with K = 3, N = 3\)"):
        model.pair(np.ones((3, 3), np.float32), np.ones(6, np.float32), 1)


def test_wrong_names_and_counts(model: Model) -> None:
    with pytest.raises(ArgumentError, match="forward has no argument 'y'; it takes"):
        model(y=X)
    with pytest.raises(ArgumentError, match="pair has no argument 'bb'; did you mean 'b'"):
        model.pair(X, bb=X, c=1)
    with pytest.raises(ArgumentError, match=r"forward needs x: f32\[N, 4\], which was not given"):
        model()
    with pytest.raises(ArgumentError, match=r"forward takes 1 argument .* but 2 were given"):
        model(X, X)
    with pytest.raises(ArgumentError, match="forward was given 'x' twice"):
        model(X, x=X)


def test_wrong_scalars(model: Model) -> None:
    a, b = np.ones((1, 2), np.float32), np.ones(3, np.float32)
    with pytest.raises(ArgumentError, match=r"c must be i32, but the float 1.5 was given"):
        model.pair(a, b, 1.5)
    with pytest.raises(ArgumentError, match=r"c must be i32, but the number .* out of range"):
        model.pair(a, b, 2**40)
    with pytest.raises(ArgumentError, match=r"c must be i32, but i64.* was given"):
        model.pair(a, b, np.int64(1))


def test_wrong_out(model: Model) -> None:
    with pytest.raises(ArgumentError, match=r"y must be f32\[3, 4\], but it is f32\[4, 3\]"):
        model(X, out=np.empty((4, 3), np.float32))
    with pytest.raises(ArgumentError, match="contiguous and writable"):
        model(X, out=np.empty((4, 3), np.float32).T)
    x = X.copy()
    with pytest.raises(ArgumentError, match="shares memory"):
        model(x, out=x)
    with pytest.raises(ArgumentError, match="out has 1 arrays; there are 2"):
        model.pair(np.ones((1, 2), np.float32), np.ones(3, np.float32), 1, out=[X])
    with pytest.raises(ArgumentError, match=r"out for y must be f32\[3, 4\], but it is an int"):
        model(X, out=5)


class Tensor:
    """Of another library, on memory of NumPy's."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__(**options)


def test_a_tensor_of_the_memory_of_out(model: Model) -> None:
    x = X.copy()
    with pytest.raises(ArgumentError, match="shares memory"):
        model(Tensor(x), out=x)
    out = np.empty_like(X)
    assert model(Tensor(x), out=out) is out


def test_a_tensor_of_numbers_that_there_are_not(model: Model) -> None:
    with pytest.raises(ArgumentError, match=r"a \w+ Tensor .*its dtype is complex64|can't be read"):
        model(Tensor(X.astype(np.complex64)))


def test_tensors_as_weights(model: Model) -> None:
    model.load_weights({"weight": Tensor(np.full(4, 3, np.float32))})
    assert model.weights["weight"].tolist() == [3, 3, 3, 3]


def test_a_masked_weight(model: Model) -> None:
    with pytest.raises(ArgumentError, match="the weight weight is a masked array: its mask would"):
        model.load_weights({"weight": np.ma.masked_less(np.ones(4, np.float32), 0)})


def test_a_tensor_that_is_elsewhere(model: Model) -> None:
    class OnGpu:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("no")

    with pytest.raises(ArgumentError, match="it is not in CPU memory"):
        model(OnGpu())


def test_a_tensor_that_is_nowhere(model: Model) -> None:
    class Meta:  # as torch.empty(3, 4, device="meta")
        def __dlpack_device__(self) -> tuple[int, int]:
            raise ValueError("Unknown device type meta for Dlpack")

        def __dlpack__(self, **options: Any) -> Any:
            raise ValueError("no")

    with pytest.raises(ArgumentError, match="its memory can't be read"):
        model(Meta())


def test_a_tensor_that_refuses(model: Model) -> None:
    class Refuses:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 1, 0

        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("it requires grad")

    with pytest.raises(ArgumentError, match="its memory can't be read: it requires grad"):
        model(Refuses())


def test_threads_must_be_positive(toy_path: Path) -> None:
    with pytest.raises(ArgumentError, match="threads must be at least 1, not 0"):
        dslc_runtime.load(toy_path, threads=0)


@pytest.mark.parametrize(
    "dtype", ["f64", "f32", "f16", "bf16", "i64", "i32", "i16", "i8", "u8", "bool"]
)
def test_every_dtype_is_handed_over_without_a_copy(dtype: Any) -> None:
    slot = Slot(TensorInfo("x", dtype, ("N",)))
    array = np.arange(4).astype(slot.dtype)
    made, shape = slot.take(array)
    assert shape == (4,)
    assert made.data_ptr() == array.ctypes.data
    array.flags.writeable = False
    assert tensor(array).data_ptr() == array.ctypes.data
    assert str(made.dtype) == slot.dtype.name
