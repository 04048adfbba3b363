"""The zip container."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dslc_runtime import archive
from dslc_runtime.archive import ArchiveError

CONTENTS = {"a.txt": [b"hello ", b"world"], "lib/é.so": [bytes(100)], "empty": [b""]}


def written(contents: dict[str, list[bytes]]) -> bytes:
    stream = io.BytesIO()
    archive.write(stream.write, contents)
    return stream.getvalue()


def test_what_is_written_is_read() -> None:
    data = written(CONTENTS)
    members = archive.read(memoryview(data))
    assert {n: data[m.offset : m.offset + m.size] for n, m in members.items()} == {
        name: b"".join(parts) for name, parts in CONTENTS.items()
    }


def test_any_zip_tool_reads_it(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(written(CONTENTS))
    with zipfile.ZipFile(tmp_path / "x.zip") as file:
        assert file.testzip() is None
        assert {n: file.read(n) for n in file.namelist()} == {
            name: b"".join(parts) for name, parts in CONTENTS.items()
        }


def test_contents_are_aligned() -> None:
    members = archive.read(memoryview(written(CONTENTS)))
    assert {member.offset % 64 for member in members.values()} == {0}


def test_an_archive_of_nothing() -> None:
    assert archive.read(memoryview(written({}))) == {}


def test_every_changed_byte_outside_contents_is_noticed() -> None:
    data = bytearray(written(CONTENTS))
    members = archive.read(memoryview(data)).values()
    inside = {i for m in members for i in range(m.offset, m.offset + m.size)}
    for position in range(len(data)):
        if position in inside:
            continue
        data[position] ^= 0x10
        with pytest.raises(ArchiveError):
            archive.read(memoryview(data))
        data[position] ^= 0x10


def test_every_truncation_is_noticed() -> None:
    data = written(CONTENTS)
    for length in range(len(data)):
        with pytest.raises(ArchiveError):
            archive.read(memoryview(data)[:length])


def test_appended_bytes_are_noticed() -> None:
    with pytest.raises(ArchiveError):
        archive.read(memoryview(written(CONTENTS) + b"x"))


def test_an_ordinary_zip_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a.txt", "hello")
    with pytest.raises(ArchiveError):
        archive.read(memoryview(stream.getvalue()))


def test_a_name_twice_is_refused() -> None:
    data = written({"ab": [b"1"], "cd": [b"1"]}).replace(b"cd", b"ab")
    with pytest.raises(ArchiveError):
        archive.read(memoryview(data))


@given(st.binary(max_size=300))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ArchiveError):
        archive.read(memoryview(data))
