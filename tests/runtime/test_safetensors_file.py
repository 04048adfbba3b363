"""Weights as `.safetensors`."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dslc_runtime import safetensors
from dslc_runtime.atomic import replacing
from dslc_runtime.safetensors import SafetensorsError

ARRAYS = {
    "b": np.arange(3, dtype=np.float32),
    "big": np.arange(64, dtype=np.float32).reshape(8, 8),
    "scalar": np.array(2.5),
    "none": np.zeros((0, 3), np.float16),
    "flags": np.array([True, False]),
    "count": np.array([[1], [2]], np.int64),
    "small": np.arange(5, dtype=np.uint8),
    "half": np.array([1, 2], ml_dtypes.bfloat16),
}


def encoded(arrays: Any, metadata: Any = None) -> bytes:
    return b"".join(bytes(part) for part in safetensors.encode(arrays, metadata or {}))


def test_round_trip() -> None:
    arrays, metadata = safetensors.parse(memoryview(encoded(ARRAYS, {"k": "é"})))
    assert metadata == {"k": "é"}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_the_reference_implementation_agrees(tmp_path: Path) -> None:
    reference = pytest.importorskip("safetensors.numpy")
    arrays = {name: array for name, array in ARRAYS.items() if name != "half"}
    safetensors.save(tmp_path / "w.safetensors", arrays, {})
    loaded = reference.load_file(tmp_path / "w.safetensors")
    assert loaded.keys() == arrays.keys()
    for name, array in loaded.items():
        np.testing.assert_array_equal(array, arrays[name])
    ours, _ = safetensors.parse(memoryview(reference.save(arrays)))
    for name, array in ours.items():
        np.testing.assert_array_equal(array, arrays[name])


def test_big_tensors_are_aligned_and_read_in_place() -> None:
    data = memoryview(bytearray(encoded(ARRAYS)))
    arrays, _ = safetensors.parse(data)
    start = np.frombuffer(data, np.uint8).ctypes.data
    assert (arrays["big"].ctypes.data - start) % 64 == 0
    for name, array in arrays.items():
        assert (array.ctypes.data - start) % array.dtype.itemsize == 0 or array.size == 0, name
    arrays["big"][0, 0] = 99
    assert safetensors.parse(data)[0]["big"][0, 0] == 99


def header(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short"),
        (b"\xff" * 8 + b"x", "header does not fit"),
        ((3).to_bytes(8, "little") + b"abc", "not JSON"),
        ((2).to_bytes(8, "little") + b"[]", "not an object"),
        ((200_000).to_bytes(8, "little") + b"[" * 200_000, "not JSON"),
        (header(__metadata__={"a": 1}), "metadata"),
        (header(w=1), "malformed"),
        (header(w={**GOOD, "shape": [-2]}) + bytes(8), "malformed"),
        (header(w={**GOOD, "shape": [True, 2]}) + bytes(8), "malformed"),
        (header(w={**GOOD, "dtype": "C64"}) + bytes(8), "C64"),
        (header(w={**GOOD, "shape": [3]}) + bytes(8), "does not fit its shape"),
        (header(w={**GOOD, "shape": [2**40, 2**40]}) + bytes(8), "does not fit its shape"),
        (header(w=GOOD), "does not fit its shape"),
        (header(w={**GOOD, "data_offsets": [-8, 0]}) + bytes(8), "does not fit its shape"),
        (header(w=GOOD) + bytes(9), "belong to no tensor"),
        (header(w=GOOD, v=GOOD) + bytes(8), "overlap"),
        (header(w={**GOOD, "data_offsets": [4, 12]}) + bytes(12), "holes"),
    ],
)
def test_malformed_files_say_why(data: bytes, why: str) -> None:
    with pytest.raises(SafetensorsError, match=why):
        safetensors.parse(memoryview(data))


@given(st.data())
def test_changed_bytes_never_crash(data: st.DataObject) -> None:
    changed = bytearray(encoded(ARRAYS))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        arrays, _ = safetensors.parse(memoryview(changed))
    except SafetensorsError:
        return
    for array in arrays.values():
        array.tobytes()  # reads all of it


def test_an_error_while_writing_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as stream:
            stream.write(b"new")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_are_written_through_and_devices_stay_devices(tmp_path: Path) -> None:
    path, link, pipe = tmp_path / "w", tmp_path / "link", tmp_path / "pipe"
    path.write_bytes(b"old")
    link.symlink_to(path)
    with replacing(link) as stream:
        stream.write(b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with replacing(pipe) as stream:  # as /dev/null
        stream.write(b"sent")
    assert os.read(reader, 10) == b"sent"
    os.close(reader)
    assert pipe.is_fifo()
    with pytest.raises(IsADirectoryError), replacing(tmp_path):
        pass
    with pytest.raises(IsADirectoryError), replacing(Path(".")):
        pass
    assert sorted(tmp_path.iterdir()) == [link, pipe, path]
