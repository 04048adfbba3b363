"""What `dslc tune` measured on this machine, kept for the builds that come.

Input and output: choices of templates' parameters by what kernels are (`lowering/measured.py`), as
JSON in the user's cache, for the CPU that they were measured on. A file that is damaged or of
another CPU is not used and does no harm; a note says so. Non-goals: measuring (`tune.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dslc import _cache
from dslc._frozen import dataclass
from dslc.build.target import Target
from dslc_runtime.device import cpu_flags

FORMAT = 1
# A choice as it stands in the file: fields of a plan.
Choice = tuple[tuple[str, int], ...]
Choices = Mapping[str, Choice]


@dataclass(frozen=True, slots=True)
class Tuned:
    """`note` tells why a file is not used."""

    choices: Choices
    note: str = ""


def read(target: Target) -> Tuned:
    """What was measured for a target: for `native` alone, on this machine."""
    path = location()
    if target.cpu != "native" or path is None:
        return Tuned({})
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT or data["cpu"] != cpu():
            return Tuned({}, f"{path} was not measured on this machine: it is not used")
        return Tuned({str(key): _choice(choice) for key, choice in data["choices"].items()})
    except FileNotFoundError:
        return Tuned({})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Tuned({}, f"{path} is damaged: it is not used")


def _choice(data: Mapping[str, Any]) -> Choice:
    """ValueError unless it is names and numbers."""
    if not all(type(value) is int for value in data.values()):
        raise ValueError("a parameter is no number")
    return tuple((str(name), value) for name, value in data.items())


def keep(target: Target, found: Choices) -> Path | None:
    """Adds to what was measured; where it was written, None where nothing can be kept."""
    path = location()
    if path is None:
        return None
    choices = {**read(target).choices, **found}
    data = {
        "format": FORMAT,
        "cpu": cpu(),
        "choices": {key: dict(choice) for key, choice in sorted(choices.items())},
    }
    handle, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)
    try:
        with open(handle, "w") as stream:
            json.dump(data, stream, indent=1)
        os.rename(temporary, path)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    return path


def cpu() -> str:
    """Tells CPUs of different abilities apart."""
    return hashlib.sha256(" ".join(sorted(cpu_flags())).encode()).hexdigest()[:16]


def location() -> Path | None:
    """The file; None where the user has no cache of their own."""
    folder = _cache.folder("tuned")
    return None if folder is None else Path(folder) / "choices.json"
