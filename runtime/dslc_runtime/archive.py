"""The container of an artifact: an uncompressed zip in one canonical form.

Input and output: names and contents. Any zip tool lists and extracts it (zip64 records throughout,
fixed dates), but the reader accepts only the exact bytes that the writer would have made for the
same names, sizes and checksums. So no byte of a header can change unnoticed, every content starts
at a multiple of 64 bytes (it is memory-mapped, never unpacked), and equal contents are equal files.
Non-goals: compression, appending, archives made by other tools. Format: PKWARE APPNOTE 6.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

ALIGNMENT = 64
MAX_MEMBERS = 10_000

_DATE = 0x0021  # 1980-01-01, the format's first day
_UTF8 = 0x0800
_PADDING = 0xD935  # the extra field that zipalign uses for the same purpose
_ALL = 0xFFFFFFFF
_LOCAL = struct.Struct("<IHHHHHIIIHH")
_CENTRAL = struct.Struct("<IHHHHHHIIIHHHHHII")
_END64 = struct.Struct("<IQHHIIQQQQ")
_LOCATOR = struct.Struct("<IIQI")
_END = struct.Struct("<IHHHHIIH")
_TAIL = _END64.size + _LOCATOR.size + _END.size

Buffer = bytes | bytearray | memoryview


class ArchiveError(ValueError):
    """Not an archive in canonical form; the text says what was found."""


@dataclass(frozen=True, slots=True)
class Member:
    """One content: `size` bytes at `offset` in the file, with zlib's crc32."""

    name: str
    offset: int
    size: int
    crc: int


def layout(contents: Sequence[tuple[str, int, int]]) -> list[Member]:
    """Places contents, given as (name, size, crc), one after the other."""
    members, position = [], 0
    for name, size, crc in contents:
        offset = _aligned(position + _LOCAL.size + len(name.encode()) + 20 + 4)
        members.append(Member(name, offset, size, crc))
        position = offset + size
    return members


def write(put: Callable[[Buffer], object], contents: Mapping[str, Sequence[Buffer]]) -> None:
    """Writes an archive through `put`. A content may come in parts, one after the other."""
    measured = []
    for name, parts in contents.items():
        crc = 0
        for part in parts:
            crc = zlib.crc32(part, crc)
        measured.append((name, sum(memoryview(part).nbytes for part in parts), crc))
    members = layout(measured)
    position = 0
    for member in members:
        put(_local(member, position))
        for part in contents[member.name]:
            put(part)
        position = member.offset + member.size
    put(_directory(members, position))


def read(data: memoryview) -> dict[str, Member]:
    """The members of an archive. ArchiveError unless all headers are canonical; contents are not
    read, so their checksums are the caller's to check."""
    size = len(data)
    if size < _TAIL:
        raise ArchiveError("it is too short")
    (magic, *_, count, _, length, start) = _END64.unpack_from(data, size - _TAIL)
    if magic != 0x06064B50:
        raise ArchiveError("its end is missing: it is cut short or not an artifact")
    if count > MAX_MEMBERS or start + length + _TAIL != size:
        raise ArchiveError("its directory does not fit its length")
    members = layout(_contents(data[start : start + length], count))
    position = 0
    for member in members:
        header = _local(member, position)
        if member.offset + member.size > start or data[position : member.offset] != header:
            raise ArchiveError(f"the header of {member.name!r} is damaged")
        position = member.offset + member.size
    if position != start or data[start:] != _directory(members, start):
        raise ArchiveError("its directory is damaged")
    if len({member.name for member in members}) != count:
        raise ArchiveError("a name occurs twice in it")
    return {member.name: member for member in members}


def _contents(directory: memoryview, count: int) -> list[tuple[str, int, int]]:
    """(name, size, crc) of each record; what else records hold is checked by writing them anew."""
    found: list[tuple[str, int, int]] = []
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise ArchiveError("its directory is damaged")
        fields = _CENTRAL.unpack_from(directory, position)
        crc, name_length, extra_length = fields[7], fields[10], fields[11]
        name_end = position + _CENTRAL.size + name_length
        if extra_length != 28 or name_end + 28 > len(directory):
            raise ArchiveError("its directory is damaged")
        try:
            name = str(directory[position + _CENTRAL.size : name_end], "utf-8")
        except UnicodeDecodeError:
            raise ArchiveError("its directory is damaged") from None
        found.append((name, struct.unpack_from("<Q", directory, name_end + 4)[0], crc))
        position = name_end + 28
    return found


def _local(member: Member, position: int) -> bytes:
    name = member.name.encode()
    padding = member.offset - position - _LOCAL.size - len(name) - 20 - 4
    extra = struct.pack("<HHQQ", 1, 16, member.size, member.size)
    extra += struct.pack("<HH", _PADDING, padding) + bytes(padding)
    return (
        _LOCAL.pack(
            *(0x04034B50, 45, _UTF8, 0, 0, _DATE, member.crc, _ALL, _ALL, len(name), len(extra))
        )
        + name
        + extra
    )


def _directory(members: Sequence[Member], start: int) -> bytes:
    """Everything after the last content: records, then the three end marks."""
    records = []
    position = 0
    for member in members:
        name = member.name.encode()
        extra = struct.pack("<HHQQQ", 1, 24, member.size, member.size, position)
        fields = (0x02014B50, 0x032D, 45, _UTF8, 0, 0, _DATE, member.crc, _ALL, _ALL)
        records.append(
            _CENTRAL.pack(*fields, len(name), len(extra), 0, 0, 0, 0o100644 << 16, _ALL)
            + name
            + extra
        )
        position = member.offset + member.size
    body = b"".join(records)
    count = len(members)
    return (
        body
        + _END64.pack(0x06064B50, 44, 0x032D, 45, 0, 0, count, count, len(body), start)
        + _LOCATOR.pack(0x07064B50, 0, start + len(body), 1)
        + _END.pack(0x06054B50, 0, 0, min(count, 0xFFFF), min(count, 0xFFFF), _ALL, _ALL, 0)
    )


def _aligned(position: int) -> int:
    return -(-position // ALIGNMENT) * ALIGNMENT
