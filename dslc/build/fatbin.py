"""Fat binaries: several CUDA images (cubins and PTX) in one, of which the driver picks.

Input: images. Output: the bytes that `fatbinary --compress-mode=none --create` writes for them
(CUDA 13; the layout is not documented by NVIDIA, a test compares with the program where there is
one). Also reads such bytes back. Non-goals: compressed images.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Literal

from dslc._frozen import dataclass
from dslc.diagnostics import InternalError

MAGIC = 0xBA55ED50
_HEADER = struct.Struct("<IHHQ")  # magic, version, bytes of this header, bytes of all entries
# kind, version, header bytes, code bytes, compressed bytes, options' offset, minor, major,
# architecture, name offset, name bytes, flags (64-bit Linux), 0, uncompressed bytes
_ENTRY = struct.Struct("<HHIQIIHHIIIQQQ")
_PTX_TAIL = struct.pack("<QQ", 0x48, 0)  # where the compiler's options would stand: none
_FLAGS = 0x11
_KINDS: dict[int, Literal["cubin", "ptx"]] = {1: "ptx", 2: "cubin"}


@dataclass(frozen=True, slots=True)
class Image:
    """Machine code ("cubin") or assembly text ("ptx") for one compute capability (90 = 9.0)."""

    kind: Literal["cubin", "ptx"]
    capability: int
    code: bytes


def pack(images: Sequence[Image]) -> bytes:
    """One fatbin of all `images`, in their order."""
    body = b"".join(map(_entry, images))
    return _HEADER.pack(MAGIC, 1, _HEADER.size, len(body)) + body


def _entry(image: Image) -> bytes:
    if image.kind == "cubin":
        code = _padded(image.code)
        version = (image.code[8], 1)  # the ELF's ABI version
        number, tail, options = 2, b"", 0
    else:
        code = _padded(image.code.rstrip(b"\0") + b"\0")
        version = _ptx_version(image.code)
        number, tail, options = 1, _PTX_TAIL, _ENTRY.size
    size = _ENTRY.size + len(tail)
    head = _ENTRY.pack(
        number, 0x101, size, len(code), 0, options, *version, image.capability, 0, 0, _FLAGS, 0, 0
    )
    return head + tail + code


def _padded(code: bytes) -> bytes:
    return code + b"\0" * (-len(code) % 8)


def _ptx_version(code: bytes) -> tuple[int, int]:
    """(minor, major) of the text's `.version 9.0`."""
    for line in code.splitlines():
        if line.startswith(b".version "):
            major, _, minor = line.split()[1].partition(b".")
            return int(minor), int(major)
    raise InternalError("PTX without a .version line")


def unpack(data: bytes) -> Iterator[Image]:
    """The images of the fatbin at the start of `data`; InternalError when there is none."""
    if len(data) < _HEADER.size or _HEADER.unpack_from(data)[0] != MAGIC:
        raise InternalError("not a fatbin")
    _, _, offset, size = _HEADER.unpack_from(data)
    end = offset + size
    while offset < end:
        number, _, header, length, *rest = _ENTRY.unpack_from(data, offset)
        code = data[offset + header : offset + header + length]
        yield Image(_KINDS[number], rest[4], code)
        offset += header + length
