"""Folders for what a build makes on its way, such as objects for the linker; those that killed
builds left are removed.

Input: a word for the name. Output: a folder of the caller's own, which is gone at the end. In it
lies a file that the process has locked, and the system gives locks up when a process ends, however
that comes. So a folder whose file can be locked belongs to nobody any more, and whoever makes the
next one removes it. Folders without such a file are left alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LOCK = ".dslc-lock"


@contextmanager
def scratch_folder(word: str) -> Iterator[Path]:
    """A new folder `dslc-WORD-...` among the temporary files. OSError where there is no room."""
    prefix = f"dslc-{word}-"
    _remove_left(prefix)
    path, descriptor = _made(prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(descriptor)


def _made(prefix: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix))
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with suppress(OSError):  # a system without locks, where nothing is removed either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_in(descriptor, path):
            return path, descriptor
        os.close(descriptor)  # another process took the folder for one that was left


def _remove_left(prefix: str) -> None:
    """Removes the folders that no process has."""
    with suppress(OSError):
        for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            descriptor = _taken(path) if _is_ours(path) else None
            if descriptor is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(descriptor)


def _is_ours(path: Path) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()


def _taken(path: Path) -> int | None:
    """A descriptor that holds the folder's lock; None when another process has it, or there is
    none."""
    try:
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _is_in(descriptor: int, path: Path) -> bool:
    """Whether the folder still has the lock that was opened."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path / _LOCK))
    except OSError:
        return False
