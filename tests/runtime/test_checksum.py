"""The fast sum is zlib's, whatever the CPU can do."""

from __future__ import annotations

import ctypes
import zlib

import numpy as np
import pytest

from dslc_runtime import checksum, launcher

LENGTHS = (0, 1, 255, 256, 257, checksum.LEAST - 1, checksum.LEAST, checksum.LEAST + 777, 1 << 20)


def contents(length: int) -> memoryview:
    return np.random.default_rng(length).integers(0, 256, length, np.uint8).data


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("start", [0, 3])
def test_it_is_the_sum_of_zlib(length: int, start: int) -> None:
    data = contents(length + start)[start:]
    assert checksum.crc32(data) == zlib.crc32(data)


def test_without_the_library_zlib_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    checksum._fold.cache_clear()
    monkeypatch.setattr(launcher, "library", lambda: None)
    data = contents(checksum.LEAST)
    assert checksum.crc32(data) == zlib.crc32(data)
    checksum._fold.cache_clear()


def test_bytes_that_are_no_whole_blocks_are_refused() -> None:
    fold = checksum._fold()
    if fold is None:
        pytest.skip("no C compiler")
    folded = ctypes.create_string_buffer(16)
    for size in (0, 64, 300):
        assert fold(np.zeros(512, np.uint8).ctypes.data, size, folded) == 0
    assert folded.raw == bytes(16)
