"""The user's cache: folders that only they can read and write.

Input: a name. Output: a folder under `$XDG_CACHE_HOME/dslc` (or `~/.cache/dslc`), or None where
none can be kept safely; then there is no cache. What is in it is a copy, never a source.
"""

from __future__ import annotations

import os
import stat


def folder(name: str) -> str | None:
    """The cache folder `name`: made with mode 0700, used only if it is the user's alone."""
    root = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    path = os.path.join(root, "dslc", name)
    if not os.path.isabs(path) or not hasattr(os, "getuid"):
        return None
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        os.makedirs(path, mode=0o700, exist_ok=True)
        status = os.lstat(path)
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o700
    return path if private and status.st_uid == os.getuid() else None
