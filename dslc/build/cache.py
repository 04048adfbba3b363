"""What was compiled, by content: equal kernels and equal libraries are compiled once.

Input: a key, which is a hash of all that the content depends on. Output: bytes, if they were kept
under that key on this machine. One file for each, written under another name and renamed, with its
own hash in front: an interrupted build, a damaged file or two builds at once cost a compilation, no
more. Those not used for longest are removed when all take more than `MOST` bytes. `DSLC_CACHE=0`
switches it off.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from dslc import _cache
from dslc_runtime.device import cpu_flags

MOST = 1 << 29
# How much is left when old content was removed, so that this is not done at each build.
LEFT = MOST * 3 // 4
_DIGEST = hashlib.sha256().digest_size


def find(key: str) -> bytes | None:
    """What was kept under a key."""
    path = _path(key)
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    with suppress(OSError):  # a folder that can only be read
        os.utime(path)
    if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
        with suppress(OSError):
            path.unlink()
        return None
    return content[_DIGEST:]


def keep(key: str, content: bytes) -> None:
    """Keeps content; a full disk or a folder that can't be written is no error."""
    path = _path(key)
    if path is None:
        return
    temporary = ""
    with suppress(OSError):
        handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
        with open(handle, "wb") as stream:
            stream.write(hashlib.sha256(content).digest())
            stream.write(content)
        os.rename(temporary, path)
        return
    if temporary:
        with suppress(OSError):
            os.unlink(temporary)


def prune() -> None:
    """Removes what was not used for longest, when there is too much."""
    folder = _folder()
    if folder is None:
        return
    found: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        with suppress(OSError):  # another build may have removed it
            status = path.lstat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    if total <= MOST:
        return
    for _, size, path in sorted(found):
        if total <= LEFT:
            return
        with suppress(OSError):
            path.unlink()
            total -= size


def key_of(parts: Sequence[str]) -> str:
    """The key of content that depends on these texts."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:40]


def _path(key: str) -> Path | None:
    folder = _folder()
    return None if folder is None else folder / key


def _folder() -> Path | None:
    folder = None if os.environ.get("DSLC_CACHE") == "0" else _cache.folder("code")
    return None if folder is None else Path(folder)


@cache
def compiler_identity() -> str:
    """Changes with everything that a library depends on besides its job."""
    package = Path(__file__).parents[1]
    sources = [
        f"{path.relative_to(package).as_posix()} {path.read_text()}"
        for path in sorted(package.rglob("*.py"))
    ]
    return key_of([*sources, back_end_identity(), " ".join(sorted(cpu_flags()))])


@cache
def back_end_identity() -> str:
    """Changes with everything that the object of a kernel depends on besides its TIR and target."""
    here = Path(__file__).parent
    names = ("apache-tvm", "apache-tvm-ffi")
    versions = [f"{name} {version(name)}" for name in names]
    sources = [(here / name).read_text() for name in ("compiler.py", "bindings.py")]
    return key_of([*versions, *sources])
