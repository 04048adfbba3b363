"""Which kernels a compiled CUDA library holds, and what each needs of the GPU.

Input: the path of a library (or the bytes of a cubin or fatbin). Output: one `KernelInfo` for
each kernel and architecture. Reads NVIDIA's ELF: `.text.NAME` is the code, `.nv.shared.NAME` its
static shared memory, `.nv.info` the registers (the layout is not documented; `cuobjdump
--dump-resource-usage` prints the same figures). Non-goals: PTX, disassembly.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path

from dslc._frozen import dataclass

_ELF = b"\x7fELF"
_MACHINE_CUDA = 190
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_TEXT, _SHARED, _INFO = ".text.", ".nv.shared.", ".nv.info"
_SYMTAB = 2
_ABI_CUDA_13 = 8  # since then the architecture stands in the second byte of the flags
_RESERVED = (
    1024  # of each block's shared memory the system keeps, from sm_90 on, first in the section
)
# Attributes in .nv.info: a format byte (4: sized), an attribute byte, a size, (symbol, value).
_SIZED, _REGISTERS, _FRAME = 4, 0x2F, 0x11


@dataclass(frozen=True, slots=True)
class KernelInfo:
    """One kernel for one architecture ("sm_90"): registers per thread, bytes of static shared
    memory per block, bytes of stack per thread (spills and local arrays), bytes of code."""

    name: str
    architecture: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    code_bytes: int


@dataclass(frozen=True, slots=True)
class _Section:
    name: str
    type: int
    offset: int
    size: int
    link: int


def kernels_of(library: Path | bytes) -> list[KernelInfo]:
    """The kernels of every cubin inside, by name (numbers in it as numbers), then architecture."""
    data = library if isinstance(library, bytes) else library.read_bytes()
    found = [info for cubin in cubins_of(data) for info in _kernels(cubin)]
    return sorted(found, key=lambda info: (_natural(info.name), info.architecture))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts `forward_2_relu` before `forward_10_relu`."""
    return [(int(p), "") if p.isdecimal() else (0, p) for p in re.split(r"(\d+)", name)]


def cubins_of(data: bytes) -> Iterator[bytes]:
    """The cubins embedded in a library, a fatbin or a cubin, each from its ELF header on."""
    start = data.find(_ELF)
    while start >= 0:
        rest = data[start:]
        if len(rest) >= _HEADER.size and _HEADER.unpack_from(rest)[2] == _MACHINE_CUDA:
            yield rest
        start = data.find(_ELF, start + 1)


def _kernels(cubin: bytes) -> Iterator[KernelInfo]:
    sections = _sections(cubin)
    registers, frames = _attributes(cubin, sections)
    reserved = _RESERVED if any(s.name == _SHARED + "reserved.0" for s in sections) else 0
    shared = {
        s.name.removeprefix(_SHARED): s.size - reserved
        for s in sections
        if s.name.startswith(_SHARED) and s.size > 0
    }
    for section in sections:
        if section.name.startswith(_TEXT):
            name = section.name.removeprefix(_TEXT)
            yield KernelInfo(
                name=name,
                architecture=_architecture(cubin),
                registers=registers.get(name, 0),
                shared_bytes=shared.get(name, 0),
                stack_bytes=frames.get(name, 0),
                code_bytes=section.size,
            )


def _architecture(cubin: bytes) -> str:
    ident, *rest = _HEADER.unpack_from(cubin)
    flags: int = rest[6]
    number = (flags >> 8) & 0xFF if ident[8] >= _ABI_CUDA_13 else flags & 0xFF
    return f"sm_{number}"


def _sections(cubin: bytes) -> list[_Section]:
    header = _HEADER.unpack_from(cubin)
    offset, count, names = header[6], header[12], header[13]
    raw = [_SECTION.unpack_from(cubin, offset + i * _SECTION.size) for i in range(count)]
    text = raw[names][4]
    return [_Section(_string(cubin, text + s[0]), s[1], s[4], s[5], s[6]) for s in raw]


def _string(data: bytes, offset: int) -> str:
    return data[offset : data.index(b"\0", offset)].decode()


def _attributes(cubin: bytes, sections: list[_Section]) -> tuple[dict[str, int], dict[str, int]]:
    """Registers and stack bytes by function name."""
    info = next((s for s in sections if s.name == _INFO), None)
    table = next((s for s in sections if s.type == _SYMTAB), None)
    found: dict[int, dict[str, int]] = {_REGISTERS: {}, _FRAME: {}}
    if info is not None and table is not None:
        strings = sections[table.link].offset
        at, end = info.offset, info.offset + info.size
        while at < end:
            form, attribute, size = struct.unpack_from("<BBH", cubin, at)
            if form == _SIZED:
                if attribute in found:
                    symbol, value = struct.unpack_from("<II", cubin, at + 4)
                    place = table.offset + symbol * _SYMBOL.size
                    name = _string(cubin, strings + _SYMBOL.unpack_from(cubin, place)[0])
                    found[attribute][name] = value
                at += size
            at += 4
    return found[_REGISTERS], found[_FRAME]
