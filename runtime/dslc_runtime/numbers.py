"""Numbers as a user gives them: Python's or NumPy's. `True` is none."""

from __future__ import annotations

from typing import Any, TypeGuard

import numpy as np

from dslc_runtime.errors import ArgumentError


def is_whole(value: object) -> TypeGuard[int]:
    return (isinstance(value, int | np.integer) and not isinstance(value, bool)) or (
        isinstance(value, np.ndarray) and value.ndim == 0 and value.dtype.kind in "iu"
    )


def whole(name: str, value: Any) -> int:
    """The value as an int. ArgumentError where it is no whole number."""
    if not is_whole(value):
        raise ArgumentError(f"{name} must be a whole number, not {shown(value)}")
    return int(value)


def seed_of(value: Any) -> int:
    """A seed as compiled code takes it. ArgumentError."""
    seed = whole("seed", value)
    if not -(2**63) <= seed < 2**63:
        raise ArgumentError(f"seed must be a number of 64 bits, not {shown(value)}")
    return seed


def number(name: str, value: Any) -> float:
    """The value as a float. ArgumentError where it is no number."""
    if not is_whole(value) and not isinstance(value, float | np.floating):
        raise ArgumentError(f"{name} must be a number, not {shown(value)}")
    return float(value)


def shown(value: object) -> str:
    """The value in few words."""
    return repr(value)[:40]
